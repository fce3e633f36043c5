"""Is a thought of use, how long is it, and does it go round in circles?"""

from __future__ import annotations

import pytest

from hyb.formats import match, reasoning

SEVEN = match.parse({"number": 7, "which": "last"})


@pytest.mark.parametrize(
    ("text", "ended", "told", "why"),
    [
        ("3 and 4.\n</think>\n\n7", True, False, ""),
        ("I was told nothing.\n</think>\n\n7", True, False, ""),
        ("3 and 4.\n</think>\n\n8", True, False, "its answer is not the known one"),
        ("3 and 4, so 7", True, False, "does not come to an answer"),
        ("3 and 4.\n</think>\n\n7 and", False, False, "does not come to an answer"),
        ("\n</think>\n\n7", True, False, "no reasoning before the answer"),
        ("Wait, let me check again. " * 20, False, False, "goes round in circles"),
        ("The right answer is 7, so it is.\n</think>\n\n7", True, True, "speaks of the answer that it was told"),
        ("We were told 7.\n</think>\n\n7", True, True, "speaks of the answer that it was told"),
        ("3 and 4 make 7.\n</think>\n\n7", True, True, ""),
    ],
)
def test_a_thought_is_kept_only_where_it_comes_to_the_known_answer(
    text: str, ended: bool, told: bool, why: str
) -> None:
    thought, said = reasoning.usable(SEVEN, text, opened=True, ended=ended, told=told)
    assert said == why
    assert bool(thought) == (not why)


def test_the_expectation_is_the_row_s_for_its_last_answer_and_the_answer_itself_for_others() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}, {"role": "assistant", "content": "It is 7."},
        ],
        "expect": {"number": 7},
    }  # fmt: skip
    assert reasoning.expected(row, 3).number == 7
    assert reasoning.expected(row, 1).contains == ("b",)


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("", False),
        ("Once upon a time there was a model that answered and stopped.", False),
        ("ha " * 30, True),
        ("ha ha ha", False),
        ("Let me think. " + "So the sum is 12, which can't be.\n\n" * 4, True),
        ("\n".join(f"Step {n}: the number {n} is checked and it is fine." for n in range(40)), False),
        ("\n".join(f"Try {n}.\nBut that can't be right, since it is odd." for n in range(8)), True),
        ("|---|---|---|", False),
    ],
)
def test_a_loop_is_what_is_said_again_and_again(text: str, loop: bool) -> None:
    assert reasoning.looped(text) is loop


def test_lengths_are_in_words() -> None:
    assert reasoning.words(["one two three", "one"]) == {"mean": 2.0, "median": 3, "p95": 3, "longest": 3}
    assert reasoning.words([]) == {}
