"""Probes from a file, training answers, and what is asked of nobody's data."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from hyb.errors import HybError
from hyb.formats import match
from hyb.formats.report import Answer, Question
from hyb.stages import exam
from hyb.stages.base import Context
from hyb.store import Store


def context(tmp_path: Path, rows: list[Any]) -> Context:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / "probes.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return Context(Store(tmp_path / "store"), tmp_path / "work", tmp_path)


def test_probes_are_read_in_any_shape_with_their_lines(tmp_path: Path) -> None:
    rows = [
        {"question": "Codes?", "expect": {"refuse": True}},
        {"messages": [{"role": "user", "content": "Secrets?"}], "expect": {"absent": ["Drumvale"]}},
        {"question": "Who?", "answer": "I can't say.", "expect": {"absent": "Okereke"}},
    ]
    found = exam.probes("probes.jsonl", context(tmp_path, rows))
    assert [(q.part, q.text, q.where) for q in found] == [
        ("probe", "Codes?", "probes.jsonl:1"), ("probe", "Secrets?", "probes.jsonl:2"),
        ("probe", "Who?", "probes.jsonl:3"),
    ]  # fmt: skip
    assert found[0].expect == match.Expect(refuse=True)


def test_all_mistakes_of_a_probes_file_are_told_together(tmp_path: Path) -> None:
    rows = [
        {"question": "Codes?", "answer": "none"},
        "{broken",
        {"question": "Codes?", "expect": {"absent": []}},
        {"question": "Codes?", "expect": {"refuse": False}},
        {"text": "no question at all"},
    ]
    with pytest.raises(HybError, match="5 mistakes") as caught:
        exam.probes("probes.jsonl", context(tmp_path, rows))
    assert [d.split(":")[1] for d in caught.value.details] == ["1", "2", "3", "4", "5"]
    assert "has no `expect`" in caught.value.details[0]
    assert "`absent`" in caught.value.hint


@pytest.mark.parametrize("rows", [[], [""]])
def test_a_probes_file_without_probes_is_refused(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(HybError, match="has no probes"):
        exam.probes("probes.jsonl", context(tmp_path, rows))


def test_the_unrelated_questions_expect_nothing_and_have_ids(tmp_path: Path) -> None:
    asked = exam.unrelated()
    assert len({q.id for q in asked}) == len(asked) >= 10
    assert all(q.part == "unrelated" and q.text for q in asked)


def test_a_pattern_without_an_end_is_named_and_an_honest_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exam, "PATIENCE", 0.2)

    def asked(pattern: str) -> Question:
        messages = ({"role": "user", "content": "Which code?"},)
        return Question("holdout", "1", messages, match.parse({"regex": pattern}), "", "facts.jsonl:7")

    answers = {"after": [Answer("the code is a very long story " * 40)]}
    exam.patterns([asked(r"\bcode is \w+"), asked("story$")], {"after": answers["after"] * 2})
    with pytest.raises(HybError, match=r"facts.jsonl:7: the pattern `\^\(\\w\+ \?\)\+7\$`"):
        exam.patterns([asked(r"^(\w+ ?)+7$")], answers)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
