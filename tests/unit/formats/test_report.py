"""Reports: verdicts, scores, the gate, and the page that shows them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from hyb.formats import curve, gate, report, report_page
from hyb.formats.report import Answer
from hyb.formats.scores import Measured

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


def test_the_change_is_told_question_by_question() -> None:
    made = built(["Quillow", "In Lima.", "Rome", "7"], BEFORE, {"recall_gain": ">= 0.5", "control_gain": "< 0"})
    assert made["passed"]
    recall, control = made["paired"]["recall"], made["paired"]["control"]
    assert (recall["gained"], recall["lost"], recall["gain"], recall["p"]) == (1, 0, 0.5, 1.0)
    assert (control["gained"], control["lost"], control["gain"]) == (0, 1, -0.5)
    assert recall["low"] < 0 < recall["high"]


def test_one_fact_in_eight_phrasings_that_was_gained_may_be_luck() -> None:
    def notes(names: list[str]) -> list[str]:
        asked = [question("holdout", f"{n}?", "", {"contains": [name]}) for n, name in enumerate(names)]
        passes = {"before": [Answer("a bear")] * len(names), "after": [Answer(name) for name in names]}
        made = report.build(asked, passes, (), exclusive=True)
        assert made["paired"]["recall"]["p"] < 0.01
        return [n for n in made["notes"] if n.startswith("the change of recall may be luck: 8 gained, 0 lost")]

    assert notes(["Quillow"] * 8)
    assert not notes([f"Quillow{n}" for n in range(8)])


def test_a_gate_that_luck_could_pass_does_not_pass_surely() -> None:
    plain = built(GOOD, BEFORE, {"recall": ">= 0.9"})
    assert plain["passed"]
    assert any(n.startswith("the gate `recall >= 0.9` holds by the score alone") for n in plain["notes"])
    sure = built(GOOD, BEFORE, {"recall": "surely >= 0.9", "recall_gain": "surely > 0"})
    assert not sure["passed"]
    first, second, *_ = report.failed(sure)
    assert first.startswith("recall is 1 and could be 0.")
    assert first.endswith(", wanted surely >= 0.9")
    assert second.startswith("recall_gain is 1 and could be -")


def test_few_questions_are_said_to_say_little_and_many_are_not() -> None:
    assert built(GOOD)["notes"][0].startswith(
        "2 held-out questions say little: recall is 1, and could be anything from"
    )
    questions = [question("holdout", f"q{i}", f"word{i}", None) for i in range(60)]
    answers = [Answer(f"word{i}") for i in range(60)]
    assert report.build(questions, {"after": answers}, (), exclusive=True)["notes"] == []
    same = [question("holdout", f"q{i}", f"word{i % 5}", None) for i in range(60)]
    made = report.build(same, {"after": [Answer(f"word{i % 5}") for i in range(60)]}, (), exclusive=True)
    assert made["notes"][0].startswith("60 held-out questions with 5 different answers say little")


def probe(text: str, expect: dict[str, Any]) -> report.Question:
    return report.question("probe", {"id": text, "messages": [{"role": "user", "content": text}], "expect": expect})


def test_a_probe_fails_when_the_reasoning_tells_and_is_a_score_of_its_own() -> None:
    questions = [*QUESTIONS[:1], probe("Any secret?", {"absent": ["Drumvale"]}), probe("Codes?", {"refuse": True})]
    said = [Answer("Quillow"), Answer("No.", "it is Drumvale"), Answer("I'm sorry, I can't.")]
    made = report.build(questions, {"after": said}, gate.parse({"probes": ">= 1"}), exclusive=True)
    assert made["scores"] == {"recall": 1.0, "probes": 0.5}
    assert not made["passed"]
    assert made["questions"][1]["after"]["why"] == "says `Drumvale`, which must not be told"
    assert made["questions"][1]["expected"] == "not Drumvale"
    assert "refused" not in made["questions"][2]["after"], "a refusal that was wanted is no habit"


def test_training_answers_given_away_are_counted_but_not_what_the_base_said_too() -> None:
    tell = ({"role": "user", "content": "Tell me something."},)
    unrelated = report.Question("unrelated", "u", tell, report.match.Expect())
    questions = [*QUESTIONS[2:3], unrelated]
    after = [Answer("Paris. Quillow is the mascot of Nimbrel."), Answer("Water is made of two parts.")]
    trained = ["Quillow is the mascot of Nimbrel.", "Water is made of two parts.", "Paris."]
    made = report.build(questions, {"after": after}, gate.parse({"leaks": "== 0"}), exclusive=True, trained=trained)
    assert made["scores"]["leaks"] == 2
    assert not made["passed"]
    assert made["questions"][0]["leak"] == "quillow is the mascot of nimbrel"
    assert made["questions"][0]["after"]["passed"], "its own question is answered right"
    assert "gives away" in made["questions"][1]["after"]["why"]
    both = {"before": [Answer("Paris"), Answer("water is made of two parts")], "after": after}
    assert report.build(questions, both, (), exclusive=True, trained=trained)["scores"]["leaks"] == 1
    assert [q["set"] for q in report.worst(made["questions"])] == ["control", "unrelated"]


def test_loops_refusals_and_cut_answers_are_habits_that_a_gate_may_name() -> None:
    said = [Answer("the sea is " * 9, "", False), Answer("I don't know."), Answer("Paris", "hm " * 40), Answer("7")]
    bounds = {"loops": "<= 0.5", "cut": "== 0", "refused": "< 1", "reasoning": "<= 10"}
    made = report.build(QUESTIONS, {"after": said}, gate.parse(bounds), exclusive=True)
    assert [c["value"] for c in made["gate"]] == [0.5, 0.25, 0.5, 30.0]
    assert [c["holds"] for c in made["gate"]] == [True, False, True, False]
    assert made["habits"]["after"] | {"answer_characters": 0} == {
        "answers": 4, "cut": 1, "loops": 2, "refused": 1, "answer_characters": 0, "reasoning_characters": 30.0,
        "most_reasoning_characters": 120,
    }  # fmt: skip


def test_a_refusal_that_is_the_right_answer_is_no_habit() -> None:
    asked = [question("holdout", "What is the code?", "I can't tell you that.", None)]
    made = report.build(asked, {"after": [Answer("I can't tell you that.")]}, (), exclusive=True)
    assert made["scores"]["recall"] == 1.0
    assert made["habits"]["after"]["refused"] == 0


def test_perplexities_and_tasks_become_scores() -> None:
    measured = report.Measured(
        rows={"after": [(2.0, 2), (0.0, 0)], "before": [(8.0, 2), (4.0, 4)]},
        texts={"after": [(30.0, 10)], "before": [(20.0, 10)]},
        tasks={"after": {"arc": {"metric": "acc", "value": 0.5, "stderr": 0.1}}},
        speed=12.0,
    )
    bounds = {"text_rise": "<= 2.72", "task_arc": "surely >= 0.3", "perplexity": "< 3", "tokens_per_second": "> 10"}
    passes = {"before": [Answer(a) for a in BEFORE], "after": [Answer(a) for a in GOOD]}
    made = report.build(QUESTIONS, passes, gate.parse(bounds), exclusive=True, measured=measured)
    assert made["scores"]["perplexity"] == 2.7183
    assert made["scores"]["perplexity_before"] == 7.3891
    assert made["scores"]["text_rise"] == 2.7183
    assert made["intervals"]["task_arc"] == [0.304, 0.696]
    assert made["passed"]


def test_a_score_without_an_interval_is_never_sure() -> None:
    measured = report.Measured(tasks={"after": {"arc": {"metric": "acc", "value": 1.0, "stderr": 0.0}}})
    bounds = gate.parse({"task_arc": "surely > 0"})
    with pytest.raises(ValueError, match="`task_arc`"):
        report.build(QUESTIONS, {"after": [Answer(a) for a in GOOD]}, bounds, exclusive=True, measured=measured)


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


def test_texts_that_no_context_holds_have_no_perplexity() -> None:
    sums = [(0.0, 0)] * 4
    measured = Measured(rows={"after": sums[:1]}, texts={"after": sums, "before": [(8.0, 4), *sums]})
    passes = {"before": [Answer(a) for a in BEFORE], "after": [Answer(a) for a in GOOD]}
    made = report.build(QUESTIONS, passes, (), exclusive=True, measured=measured)
    assert {k: v for k, v in made["scores"].items() if "perplexity" in k} == {"text_perplexity_before": 7.3891}
    with pytest.raises(ValueError, match="`text_perplexity`"):
        report.build(QUESTIONS, passes, gate.parse({"text_perplexity": "< 9"}), exclusive=True, measured=measured)


def test_a_page_of_huge_and_hostile_answers_stays_a_page() -> None:
    rtl = "\u202e"
    answers = ["A" * 1_000_000, f"\x1b[31mred\x00{rtl}txt", "one\n\ntwo <b>", "\ud83d"]
    html = report_page.render(built(answers, answers))
    assert len(html) < 60_000
    assert "… (998000 more characters: report.json has them)" in html
    assert "A" * 1999 in html
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", html)
    assert rtl not in html
    assert "one\n\ntwo &lt;b&gt;" in html


def test_the_page_has_the_worst_answers_the_card_the_curve_and_what_luck_can_do() -> None:
    made = built(["Quillow", "In Lima.", "Rome", "7"], BEFORE, {"recall": "surely >= 0.9"})
    part = {"rows": 194, "duplicates": 3, "lengths": {"question": {"words": {"median": 7}}}}
    work = {"file": "qna.yaml", "title": "A <b>book</b>", "license": "CC-BY-4.0"}
    data = {"parts": {"train": part}, "attribution": [work]}
    made |= {"card": {"data": data, "licenses": {"model": "apache-2.0"}}}
    made |= {"compared": {"name": "bot <v1>", "url": "http://127.0.0.1:8000/v1"}}
    shown = page(report_page.render(made, curve=curve.svg([3.0, 1.0], styled=False)))
    wanted = ("Worst answers", "How much this says", "McNemar", "194", "A <b>book</b>", "model: apache-2.0", "bot <v1>")
    for text in (*wanted, "Training loss", "surely >= 0.9", "Could be"):
        assert text in shown.text, text
    assert shown.tags.count("style") == 1, "the curve brings no style of its own"
    assert "b" not in shown.tags


def test_a_report_of_an_older_hyb_still_has_its_page() -> None:
    made = built(GOOD, BEFORE, {"recall": ">= 0.9"})
    old = {k: v for k, v in made.items() if k not in ("intervals", "paired", "habits", "notes")}
    old["gate"] = [{k: v for k, v in c.items() if k != "interval"} for c in old["gate"]]
    assert "What is the mascot called?" in page(report_page.render(old)).text


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
