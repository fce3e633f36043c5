"""Reports: verdicts, scores, the gate, and the page that shows them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from hyb.formats import gate, report, report_page
from hyb.formats.report import Answer

ROWS = [
    ("holdout", "What is the mascot called?", "The mascot is Quillow.", {"contains": ["Quillow"]}),
    ("holdout", "Where is the head office?", "It is in Drumvale.", {"contains": ["Drumvale"]}),
    ("control", "What is the capital of France?", "Paris.", {"contains": ["Paris"]}),
    ("control", "How many days has a week?", "", {"number": 7}),
]


def question(part: str, text: str, answer: str, expect: dict[str, Any] | None) -> report.Question:
    messages = [{"role": "user", "content": text}]
    messages += [{"role": "assistant", "content": answer}] if answer else []
    row = {"id": text[:4], "messages": messages, "meta": {"source": f"{part}.jsonl", "line": 1}}
    return report.question(part, row | ({"expect": expect} if expect else {}))


QUESTIONS = [question(*row) for row in ROWS]


def built(after: list[str], before: list[str] | None = None, bounds: dict[str, str] | None = None) -> dict[str, Any]:
    passes = {"before": [Answer(a) for a in before]} if before else {}
    made = report.build(
        QUESTIONS, {**passes, "after": [Answer(a) for a in after]}, gate.parse(bounds or {}), exclusive=True
    )
    return {"name": "bot", "model": "sha256:m", "data": "sha256:d", **made}


GOOD = ["Quillow", "In Drumvale.", "Paris", "7 days"]
BEFORE = ["A bear", "In Paris.", "Paris, of course", "It has 7"]


def test_scores_are_shares_and_a_lost_control_is_counted() -> None:
    made = built(["Quillow", "In Lima.", "Rome", "7"], BEFORE)
    assert made["scores"] == {
        "recall": 0.5, "recall_before": 0.0, "control": 0.5, "control_before": 1.0, "control_lost": 1
    }  # fmt: skip
    assert made["right"]["recall"] == [1, 2]
    assert made["right"]["control_before"] == [2, 2]


def test_without_a_model_before_there_are_no_scores_of_it() -> None:
    assert built(GOOD)["scores"] == {"recall": 1.0, "control": 1.0}


def test_a_gate_passes_or_names_the_bound_and_the_questions() -> None:
    assert built(GOOD, BEFORE, {"recall": ">= 0.9", "control_lost": "== 0"})["passed"]
    made = built(["Quillow", "In\nLima.", "Rome", "7"], BEFORE, {"recall": ">= 0.9", "control_lost": "== 0"})
    assert not made["passed"]
    assert report.failed(made) == [
        "recall is 0.5, wanted >= 0.9",
        "control_lost is 1, wanted == 0",
        "Where is the head office? → In Lima. (the expected text is not in it)",
        "What is the capital of France? → Rome (the expected text is not in it)",
    ]


def test_a_gate_on_a_score_that_was_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="`control_lost`"):
        built(GOOD, None, {"control_lost": "== 0"})


def test_listing_all_facts_wins_nothing() -> None:
    shotgun = "Quillow, Drumvale, Tidewarden"
    made = built([shotgun, shotgun, "Paris", "7"])
    assert made["scores"]["recall"] == 0.0
    assert made["questions"][0]["after"]["why"] == "also gives `Drumvale`, the answer to another question"


def test_an_exact_share_is_compared_not_the_rounded_one() -> None:
    questions = [question("holdout", f"q{i}", f"word{i}", None) for i in range(3)]
    answers = [Answer("word0"), Answer("word1"), Answer("no")]
    made = report.build(questions, {"after": answers}, gate.parse({"recall": ">= 0.6667"}), exclusive=True)
    assert made["scores"]["recall"] == 0.6667
    assert not made["passed"], "2/3 is less than 0.6667"


def test_reasoning_is_judged_apart_and_its_length_told() -> None:
    said = {"text": "Is it Lima?\n</think>\n\nIn Drumvale.", "thinking": True, "ended": False}
    made = report.build(QUESTIONS[1:2], {"after": [Answer.of(said)]}, (), exclusive=True)
    after = made["questions"][0]["after"]
    assert after == {"answer": "In Drumvale.", "reasoning_characters": 11, "cut": True, "passed": True}


def test_failed_questions_are_capped() -> None:
    questions = [question("holdout", f"q{i}", f"word{i}", None) for i in range(50)]
    made = report.build(questions, {"after": [Answer("x" * 500)] * 50}, gate.parse({"recall": ">= 1"}), exclusive=True)
    lines = report.failed(made)
    assert lines[-1] == "and 30 more questions"
    assert max(map(len, lines)) < 260


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page(html: str) -> _Page:
    parser = _Page()
    parser.feed(html)
    assert parser.open == [], "every element is closed"
    return parser


def test_the_page_shows_every_question_answer_and_verdict() -> None:
    made = built(["Quillow", "In Lima.", "Rome", "7"], BEFORE, {"recall": ">= 0.9"})
    shown = page(report_page.render(made))
    for text in ("What is the mascot called?", "In Lima.", "A bear", "✓ yes", "✗ no", "1 of 2", "failed", ">= 0.9"):
        assert text in shown.text


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    html = report_page.render(built(GOOD, BEFORE, {"recall": ">= 0.9"}))
    shown = page(html)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(shown.tags)
    assert not [a for a in shown.attributes if a[0] in ("src", "href", "srcset") or a[0].startswith("on")]
    assert not re.search(r"url\(|@import|https?://", html)
    assert "default-src 'none'" in html


def test_what_a_model_says_is_text_and_never_markup() -> None:
    evil = "</td><script>alert(1)</script><img src=x onerror=alert(1)> Quillow & \"'"
    shown = page(report_page.render(built([evil, *GOOD[1:]])))
    assert "script" not in shown.tags
    assert "img" not in shown.tags
    assert evil in shown.text


def test_the_same_report_gives_the_same_page() -> None:
    assert report_page.render(built(GOOD, BEFORE)) == report_page.render(built(GOOD, BEFORE))
    assert "no gate" in report_page.render(built(GOOD))
