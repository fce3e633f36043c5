"""`hyb data …` as a program: a look at a data set before training."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.hyb import Hyb
from tests.need import need
from tests.teaching import Teacher, chat
from tests.tiny import tiny_model


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    made = Hyb(tmp_path / "home")
    made.home.mkdir()
    return made


def facts(folder: Path) -> Path:
    rows = [{"question": f"What is fact {n}?", "answer": f"Fact {n} is word{n}."} for n in range(20)]
    path = folder / "facts.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_a_preview_shows_the_template_and_what_is_trained(hyb: Hyb, tmp_path: Path) -> None:
    need("torch", "transformers")
    tiny_model(tmp_path / "model", "llama", pad_is_eos=True)
    hyb.ok("pull", f"file:{tmp_path / 'model'}", "--name", "tiny")
    shown = hyb.ok("data", "preview", str(facts(tmp_path)), "--model", "tiny", "--mask", "--row", "3", "--count", "1")
    assert "<|im_start|>user\nWhat is fact 2?<|im_end|>" in shown
    assert "⟦Fact 2 is word2.<|im_end|>⟧" in shown
    rows = hyb.json("data", "preview", "facts", "--model", "tiny", "--count", "2")
    assert len(rows) == 2
    tokens = rows[0]["sequences"][0]
    assert "".join(text for _, text, _ in tokens).endswith("Fact 0 is word0.<|im_end|>")
    assert "".join(text for _, text, trained in tokens if trained) == "Fact 0 is word0.<|im_end|>"
    assert "is none that can be" in hyb.fails(2, "data", "preview", "facts", "--model", "tiny", "--row", "0")
    assert "has no train row 99" in hyb.fails(3, "data", "preview", "facts", "--model", "tiny", "--row", "99")


def test_stats_are_shown_of_a_path_and_of_a_data_set(hyb: Hyb, tmp_path: Path) -> None:
    assert "train: 20 rows (20 chat)" in hyb.ok("data", "stats", str(facts(tmp_path)))
    assert hyb.json("data", "stats", "facts")["train"]["rows"] == 20
    assert "called `nothing`" in hyb.fails(3, "data", "stats", "nothing")


def test_a_lint_of_a_good_taxonomy_is_quiet_and_of_a_bad_one_ends_with_4(hyb: Hyb, tmp_path: Path) -> None:
    leaf = tmp_path / "taxonomy" / "compositional_skills" / "kind"
    leaf.mkdir(parents=True)
    good = "version: 3\ncreated_by: me\ntask_description: t\nseed_examples:\n"
    good += "".join(f"  - question: q{n}\n    answer: a{n}\n" for n in range(5))
    (leaf / "qna.yaml").write_text(good)
    assert "skill, 5 questions" in hyb.ok("data", "lint", str(tmp_path / "taxonomy"))
    (leaf / "qna.yaml").write_text(good.replace("created_by: me\n", ""))
    said = hyb.fails(4, "data", "lint", str(tmp_path / "taxonomy"))
    assert "compositional_skills/kind/qna.yaml:1: `created_by` is missing" in said
    assert "has no `qna.yaml`" in hyb.fails(3, "data", "lint", str(tmp_path / "nowhere"))


def test_columns_by_other_names_are_read_from_a_table(hyb: Hyb, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Frage;Antwort\nWer?;Niemand da.\n")
    hyb.ok("data", str(tmp_path / "a.csv"), "--column", "question=Frage", "--column", "answer=Antwort", "--name", "t")
    assert hyb.json("data", "stats", "t")["train"]["rows"] == 1
    assert "is no pair" in hyb.fails(2, "data", str(tmp_path / "a.csv"), "--column", "Frage")


def test_broken_rows_are_refused_all_at_once_or_left_out(hyb: Hyb, tmp_path: Path) -> None:
    path = facts(tmp_path)
    path.write_text("{broken\n" + path.read_text() + '{"words": 1}\n')
    said = hyb.fails(3, "data", str(path))
    assert "facts.jsonl:1: is broken JSON" in said and "facts.jsonl:22: has an unknown shape" in said
    assert "`--column question=NAME`" in said
    done = hyb("data", str(path), "--skip-broken")
    assert done.returncode == 0 and "2 broken rows are left out" in done.stderr
    assert hyb.json("data", "stats", "facts")["train"]["rows"] == 20


def test_a_scan_tells_file_and_line_and_never_the_secret(hyb: Hyb, tmp_path: Path) -> None:
    need("detect_secrets", "phonenumbers")
    path = tmp_path / "said.jsonl"
    rows = [
        ("Who?", "jane.doe@acme.org"),
        ("Key?", "hf_abcdefghijklmnopqrstuvwxyzABCDEF12"),
        ("Ring?", "(11) 98765-4321"),
    ]
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    said = hyb.fails(4, "data", "scan", str(path), "--region", "br")
    assert "said.jsonl:1: an e-mail address, `j…@acme.org`" in said
    assert "said.jsonl:2: a token of Hugging Face, `hf_a…`" in said
    assert "said.jsonl:3: a phone number" in said
    assert not any(secret in said for secret in ("jane.doe", "hf_abc", "98765"))
    found = hyb.json("data", "scan", "said", "--allow", "email", "--allow", "secret", "--warn")
    assert found == []
    assert len(hyb.json("data", "scan", "said", "--warn")) == 2
    hyb.fails(2, "data", "scan", "said", "--allow", "names")
    assert hyb.ok("data", "scan", str(path), "--dry-run") == hyb.ok("data", "scan", str(path), "--dry-run")


def handbook(folder: Path, pages: int) -> Path:
    """Texts of which each bears out one answer."""
    (folder / "docs").mkdir()
    for n in range(pages):
        (folder / "docs" / f"{n:02d}.md").write_text(
            f"# Room {n}\n\nRoom {n} of the Nimbrel house is painted in colour{n} and has a window to the garden.\n"
        )
    return folder / "docs"


def told(body: dict[str, Any], _: int) -> tuple[int, bytes]:
    number = body["messages"][0]["content"].partition("# Room ")[2] or body["messages"][0]["content"]
    number = number.partition("Room ")[2].split()[0]
    return chat(json.dumps({"question": f"Which colour has room {number}?", "answer": f"Room {number} is painted."}))


def test_a_generation_that_is_killed_goes_on_where_it_was(hyb: Hyb, tmp_path: Path) -> None:
    full, go = threading.Event(), threading.Event()

    def stalling(body: dict[str, Any], n: int) -> tuple[int, bytes]:
        if n > 5:
            full.set()
            go.wait(60)
        return told(body, n)

    teacher = Teacher(stalling)
    command = ["data", "generate", str(handbook(tmp_path, 12)), "--teacher", teacher.url, "--parallel", "2"]
    try:
        child = hyb.start(*command, "--name", "handbook")
        assert full.wait(60), child.communicate()
        kept = hyb.store / "cache" / "teacher"
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        answered = len(list(kept.glob("[!.]*.json")))
        assert 0 < answered < 12
        go.set()
        teacher.asked.clear()
        hyb.ok(*command, "--name", "handbook")
        assert len(teacher.asked) == 12 - answered
        again = hyb.json("data", "stats", "handbook")
        assert again["train"]["rows"] == 12
    finally:
        go.set()
        teacher.close()


@pytest.mark.parametrize(
    ("reply", "said"),
    [((200, b"<html>Sign in</html>"), "no JSON"), ((400, b'{"error": "no"}'), "400: no")],
)
def test_a_teacher_that_is_none_ends_a_generation_with_5_and_its_words(
    hyb: Hyb, tmp_path: Path, reply: tuple[int, bytes], said: str
) -> None:
    teacher = Teacher(lambda body, n: reply)
    command = ["data", "generate", str(handbook(tmp_path, 2)), "--teacher", teacher.url]
    try:
        error = hyb.fails(5, *command)
        assert "has no model `nope`" in hyb.fails(3, *command, "--model", "nope")
    finally:
        teacher.close()
    assert "does not answer" in error and said in error
