"""Loops at the end of an answer."""

from __future__ import annotations

import pytest

from hyb.formats import match
from hyb.formats.loops import loop


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("The largest ocean is " + "the ocean is " * 6, "the ocean is"),
        ("ha " * 12, "ha"),
        ("So. " + "I do not know, and I think so. " * 3 + "I do not", "and i think so i do not know"),
        ("东京是首都。" * 5, "东京是首都"),
        ("0, " * 40, "0"),
    ],
)
def test_a_loop_is_found_with_what_it_repeats(text: str, repeated: str) -> None:
    assert sorted(loop(text).split()) == sorted(match.fold(repeated).split()), "from whichever word it is told"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ha ha ha!",
        "No, no, no, not that one.",
        "The capital of France is Paris, and the capital of Spain is Madrid, and the capital of Italy is Rome.",
        "the ocean is " * 6 + "what covers most of the Earth, and it ends well.",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
    ],
)
def test_an_answer_that_ends_well_is_no_loop(text: str) -> None:
    assert loop(text) == ""


def test_a_very_long_answer_is_looked_at_only_at_its_end() -> None:
    assert loop("word after word " * 200_000)
