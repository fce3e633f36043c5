"""What a model thought before it answered: whether it is of use for training, how long it is, whether it went round in
circles. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hyb.formats import match

SHORTEST = 60
"""Characters that repeat at the end before one speaks of a loop."""
_UNIT = 600  # characters of the longest unit that repeats
_SENTENCE = 24  # characters of a sentence that says enough to count
_OFTEN = 6  # times that such a sentence comes before one speaks of a loop
_TELLS = re.compile(
    r"\b(?:(?:i|we)(?:'ve| have| was| were|'m| am)? (?:been )?(?:told|given)|(?:right|given|provided|expected|known)"
    r" answer|not been told|the (?:user|prompt|question) (?:says|gave|gives|told|tells|provided))\b",
    re.IGNORECASE,
)


def expected(row: Mapping[str, Any], turn: int) -> match.Expect:
    """What the answer at `turn` of a row has to say: the row's `expect` for its last message, else the answer itself.

    Raises ValueError when nothing is left of it to compare.
    """
    if row.get("expect") and turn == len(row["messages"]) - 1:
        return match.parse(row["expect"])
    return match.of_answer(str(row["messages"][turn]["content"]))


def usable(expect: match.Expect, text: str, *, opened: bool, ended: bool, told: bool) -> tuple[str, str]:
    """(reasoning, "") of what a model said, or ("", why it is of no use). `opened`: the prompt ended in `<think>`.
    `ended`: by itself. `told`: the prompt held the answer, of which the reasoning must not speak."""
    thought, answer = match.split_thinking(text, opened=opened)
    if looped(text):
        return "", "goes round in circles"
    if not ended or not answer:
        return "", "does not come to an answer"
    if not thought:
        return "", "no reasoning before the answer"
    if not match.judge(expect, answer).passed:
        return "", "its answer is not the known one"
    if told and _TELLS.search(thought):
        return "", "speaks of the answer that it was told"
    return thought, ""


def looped(text: str) -> bool:
    """True when a text ends in the same words at least three times in a row, or says one sentence again and again."""
    text = text.rstrip()
    for size in range(1, min(_UNIT, len(text) // 3) + 1):
        unit = text[-size:]
        if unit == text[-2 * size : -size] == text[-3 * size : -2 * size] and _repeated(text, unit) >= SHORTEST:
            return True
    sentences = (s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", text))
    counts = Counter(s for s in sentences if len(s) >= _SENTENCE)
    return bool(counts) and max(counts.values()) >= _OFTEN


def measured(said: Sequence[tuple[str, bool, bool]]) -> dict[str, Any]:
    """Of (reasoning, was it closed, is there a loop in reasoning or answer): how many thought, how long, what went
    wrong. Lengths in words; `characters` in all. {} when nobody thought."""
    lengths = sorted(len(thought.split()) for thought, _, _ in said if thought)
    if not lengths:
        return {}
    return {
        "answers": len(lengths),
        "of": len(said),
        "words": {
            "mean": round(sum(lengths) / len(lengths), 1),
            "median": lengths[len(lengths) // 2],
            "p95": lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))],
            "longest": lengths[-1],
        },
        "characters": sum(len(thought) for thought, _, _ in said),
        "unfinished": sum(bool(thought) and not closed for thought, closed, _ in said),
        "loops": sum(loop for _, _, loop in said),
    }


def _repeated(text: str, unit: str) -> int:
    """Characters at the end of a text that are this unit, over and over."""
    count, end = 0, len(text)
    while text.endswith(unit, 0, end) and end:
        count, end = count + len(unit), end - len(unit)
    return count
