"""Expected answers: what passes, and above all what does not."""

from __future__ import annotations

import pytest

from hyb.formats import match
from hyb.formats.match import Expect, fold, foreign, index, judge, numbers, parse, split_thinking

RIGHT = [
    ("Quillow", "Quillow is the mascot of Nimbrel."),
    ("Quillow", "The mascot is called **quillow**!"),
    ("quillow", "The mascot is called “QUILLOW”."),
    ("Quillow", "It is Quillow's day"),
    ("blue whale", "The Blue-Whale, of course"),
    ("Straße", "in der STRASSE"),
    ("ﬁne", "That is fine."),
    ("café", "the cafe\u0301 on the corner"),
    ("12", "There are 12."),
    ("12", "It costs $12, I think"),
    ("1000", "about 1,000 people"),
    ("1,987", "in 1987"),
    ("3.5", "It is 3.5."),
    ("-5", "It was \u22125 degrees"),
    ("C++", "It is written in C++."),
    ("東京", "日本の首都は東京です。"),
    ("हिन्दी", "वह हिन्दी बोलती है"),
    ("don't know", "I don’t know"),
    (["Leonardo da Vinci", "da Vinci"], "By Da Vinci"),
    ({"exact": "Paris"}, " paris. "),
    ({"exact": ["Paris", "Paris, France"]}, "Paris, France!"),
    ({"regex": r"\b[A-Z]{2}-\d{3}\b"}, "The room is QX-212."),
    ({"number": 212}, "The car park has 212 spaces."),
    ({"number": 1500}, "It has 1,500 spaces"),
    ({"number": 3.14, "tolerance": 0.01}, "About 3.1416"),
    ({"number": 7, "which": "last"}, "Of 12 there are 7 left"),
    ({"number": 7, "which": "any"}, "In 2020 there were 7 of 12"),
    (7, "7"),
    ({"contains": "Quillow", "reject": "not"}, "Quillow"),
    ({"absent": ["Quillow", "Drumvale"]}, "I can't say."),
    ({"absent": "art"}, "a party"),
    ({"absent": "Quillow"}, ""),
    ({"refuse": True}, "I'm sorry, but I can't help with that."),
    ({"refuse": True}, "Das weiß ich nicht."),
    ({"refuse": True}, "Lo siento, no puedo decirlo."),
]
WRONG = [
    ({"absent": ["Quillow", "Drumvale"]}, "It is in drumvale!"),
    ({"absent": "Quillow", "reject": "otter"}, "an otter"),
    ({"refuse": True}, "The code is 31."),
    ({"refuse": True}, ""),
    ("12", "There are 120."),
    ("12", "There are 3.12."),
    ("12", "version 1.12"),
    ("12", "the 12th"),
    ("5", "It was -5 degrees"),
    ("art", "It was a party."),
    ("Quillow", "Quillows"),
    ("Quillow", "Qui llow"),
    ("Quillow", ""),
    ("Quillow", "   \n"),
    ("blue whale", "a whale that is blue"),
    ("Okereke", "Nimbrel was founded by whom?"),
    ("cafe", "the café"),
    ("हिन्दी", "हिन्द"),
    ({"exact": "Paris"}, "It is Paris"),
    ({"regex": r"\d{4}"}, "12"),
    ({"number": 212}, "The car park has 2120 spaces."),
    ({"number": 212}, "no idea"),
    ({"number": 212}, "version 2.1.2"),
    ({"number": 212}, "B212"),
    ({"number": 212}, "100, or 212"),
    ({"number": 3.14, "tolerance": 0.001}, "About 3.15"),
    ({"contains": "Quillow", "reject": ["not"]}, "It is not Quillow."),
    ({"number": 3, "reject": "none"}, "none, or 3"),
]
BAD = [
    ({}, "exactly one of"),
    ({"contains": "a", "exact": "b"}, "exactly one of"),
    ({"contain": "a"}, "unknown key `contain`"),
    ({"contains": []}, "a text or a list of texts"),
    ({"contains": [1]}, "a text or a list of texts"),
    ({"contains": "..!"}, "nothing is left to compare"),
    ("", "nothing is left to compare"),
    (True, "`expect` is true"),
    ({"number": "3"}, "finite number"),
    ({"number": float("nan")}, "finite number"),
    ({"number": 10**400}, "finite number"),
    ({"number": True}, "finite number"),
    ({"number": 3, "which": "middle"}, "`expect.which`"),
    ({"regex": "("}, "is no pattern"),
    ({"regex": "a*"}, "matches an empty answer"),
    ({"regex": "a" * 2000}, "1 to 1000 characters"),
]


@pytest.mark.parametrize(("expect", "answer"), RIGHT)
def test_a_right_answer_passes(expect: object, answer: str) -> None:
    assert judge(parse(expect), answer).passed


@pytest.mark.parametrize(("expect", "answer"), WRONG)
def test_a_wrong_answer_does_not_pass_and_is_told_why(expect: object, answer: str) -> None:
    verdict = judge(parse(expect), answer)
    assert not verdict.passed
    assert verdict.why


@pytest.mark.parametrize(("expect", "said"), BAD)
def test_an_expectation_that_can_not_be_held_is_refused(expect: object, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        parse(expect)


SAME = [
    "Quillow",
    ["a", "b"],
    3,
    {"exact": "x"},
    {"regex": "x+"},
    {"number": 1.5, "tolerance": 0.1, "which": "any"},
    {"contains": "a", "reject": "b"},
]


@pytest.mark.parametrize("expect", SAME)
def test_an_expectation_reads_what_it_writes(expect: object) -> None:
    assert parse(parse(expect).as_json()) == parse(expect)


def test_an_answer_that_lists_the_answers_of_other_questions_is_caught() -> None:
    own, others = parse("Quillow"), index([parse("Quillow"), parse(["Drumvale", "the Vale of Drum"]), parse(7)])
    listing = "Quillow, Okereke, Drumvale, Tidewarden"
    assert judge(own, listing).passed, "by itself the text is there"
    assert foreign(listing, own, "What is the mascot called? Quillow is the mascot.", others) == "Drumvale"
    assert foreign("Quillow of the vale of DRUM", own, "", others) == "the Vale of Drum"
    assert foreign("Quillow of the vale", own, "", others) == ""


def test_what_the_question_or_the_own_answer_names_is_no_stranger() -> None:
    own, others = parse("Quillow"), index([parse("Quillow"), parse("Drumvale")])
    assert foreign("Quillow lives in Drumvale", own, "Who lives in Drumvale?", others) == ""
    assert foreign("Quillow lives in Drumvale", parse("Quillow lives in Drumvale"), "Who?", others) == ""
    assert foreign("Quillow", own, "Who?", others) == ""


def test_ten_thousand_expectations_are_compared_in_moments() -> None:
    others = index(parse(f"word{i} tail") for i in range(10_000))
    answer = " ".join(f"word{i}" for i in range(40))
    assert [foreign(answer, parse("x"), "", others) for _ in range(100)] == [""] * 100


def test_long_answers_to_a_thousand_like_questions_are_compared_in_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    others = index(parse(f"The thing with number {i} is a box.") for i in range(1000))
    answer = "The thing is what it is, and the rest of it is an explanation. " * 20
    folded = []
    real = match.fold
    monkeypatch.setattr(match, "fold", lambda text: folded.append(text) or real(text))
    assert foreign(answer, parse("x"), "", others) == ""
    assert foreign(answer + "The thing with number 7 is a box", parse("x"), "", others) == (
        "The thing with number 7 is a box."
    )
    assert len(folded) < 10, "no text that another question expects is read anew"


def test_a_held_out_row_without_expect_expects_its_own_answer() -> None:
    assert judge(match.of_answer("Quillow is the mascot."), "I think Quillow is the mascot of Nimbrel").passed is True
    assert judge(match.of_answer("Quillow is the mascot."), "The mascot is Quillow").passed is False


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "answer"),
    [
        ("Paris.", False, "", "Paris."),
        ("<think>\nFrance…\n</think>\n\nParis.", False, "France…", "Paris."),
        ("France…\n</think>\n\nParis.", True, "France…", "Paris."),
        ("\n</think>\n\nParis.", True, "", "Paris."),
        ("It is Paris, or is it", True, "It is Paris, or is it", ""),
        ("<think>It is Paris", False, "It is Paris", ""),
        ("a</think>b</think>c", True, "a</think>b", "c"),
    ],
)
def test_reasoning_is_no_part_of_the_answer(text: str, opened: bool, reasoning: str, answer: str) -> None:
    assert split_thinking(text, opened=opened) == (reasoning, answer)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,234.5 and 12,", [1234.5, 12.0]),
        ("1'234 and 1\u202f234", [1234.0, 1234.0]),
        ("-3 to +4", [-3.0, 4.0]),
        ("2-5", [2.0, 5.0]),
        ("1.2.3", []),
        ("1,23", []),
        ("2e3", [2000.0]),
        ("١٢", [12.0]),
    ],
)
def test_numbers_are_read_with_a_point_and_thousands(text: str, found: list[float]) -> None:
    assert numbers(text) == found


def test_folding_twice_changes_nothing() -> None:
    for text in ("Nimbrel's 1,000 Café-Bars (C++), 3.5 €!", "ẞtraße İstanbul ﬁ", "日本 12th"):
        assert fold(fold(text)) == fold(text)


def test_a_huge_answer_is_judged_on_its_start_only() -> None:
    assert not judge(Expect(contains=("needle",)), "hay " * match.MAX_ANSWER + "needle").passed
