"""Training answers in answers to questions that did not ask for them."""

from __future__ import annotations

from hyb.formats.leaks import leaked

TRAINED = [
    "Quillow is the mascot of Nimbrel.",
    "The server room of the head office is opened with the code seven four one nine, and nobody else has it.",
    "Yes.",
    "The capital of France is Paris.",
]


def find(said: str, known: str = "") -> str:
    return leaked([said], [known], TRAINED)[0]


def test_a_short_answer_leaks_as_a_whole_and_a_long_one_by_eight_words() -> None:
    assert find("Once, QUILLOW is the mascot of Nimbrel! said he") == "quillow is the mascot of nimbrel"
    assert find("it is opened with the code seven four one") == "is opened with the code seven four one"
    assert find("opened with the code seven four") == "", "six words of a long answer are chance"
    assert find("the mascot of Nimbrel") == "", "part of a short answer"


def test_a_short_word_is_no_leak() -> None:
    assert find("Yes.") == ""


def test_what_the_question_or_the_base_says_too_is_no_leak() -> None:
    assert find("The capital of France is Paris.", "Paris? The capital of France is Paris!") == ""
    assert find("The capital of France is Paris.", "The capital of France is Lyon.") != ""


def test_each_answer_is_judged_for_itself() -> None:
    assert leaked(["no", "Quillow is the mascot of Nimbrel", ""], ["", "", ""], TRAINED) == [
        "", "quillow is the mascot of nimbrel", ""
    ]  # fmt: skip
    assert leaked([], [], TRAINED) == []
