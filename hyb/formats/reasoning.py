"""What a model thought before it answered: is it of use for training, and how long is it? Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hyb.formats import loops, match

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
    """True when a text ends in the same words again and again, or says one sentence again and again."""
    sentences = (s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", text))
    counts = Counter(s for s in sentences if len(s) >= _SENTENCE)
    return bool(loops.loop(text)) or max(counts.values(), default=0) >= _OFTEN


def words(thoughts: Sequence[str]) -> dict[str, float]:
    """How long they are, in words: mean, median, 95th percentile, longest. {} for none."""
    lengths = sorted(len(thought.split()) for thought in thoughts)
    if not lengths:
        return {}
    return {
        "mean": round(sum(lengths) / len(lengths), 1),
        "median": lengths[len(lengths) // 2],
        "p95": lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))],
        "longest": lengths[-1],
    }
