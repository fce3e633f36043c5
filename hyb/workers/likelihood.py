"""How likely a model finds given texts: answers behind their questions, and plain texts alone.

A question is put as in `score`. Where the template opens `<think>`, the reasoning is closed at once, so that what is
measured is the answer: the same for each model that is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hyb.workers import protocol

if TYPE_CHECKING:
    from hyb.workers.score import Asked, Speaker

CLOSED = "\n</think>\n\n"


def of(speaker: Speaker, questions: Sequence[Asked], measure: dict[str, Any], name: str) -> dict[str, Any]:
    """`measure`: {"rows": indices of the questions, "texts"} → the sums of each, see `Speaker.losses`."""
    total = len(measure["rows"]) + len(measure["texts"])
    found: dict[str, list[tuple[float, int]]] = {"rows": [], "texts": []}

    def told() -> None:
        protocol.progress(f"perplexity {name}", sum(map(len, found.values())), total, "text")

    for index in measure["rows"]:
        asked = questions[index]
        found["rows"].append(speaker.losses(asked.messages, asked.reference))
        told()
    for text in measure["texts"]:
        found["texts"].append(speaker.losses(None, text))
        told()
    return {k: [(round(loss, 4), count) for loss, count in sums] for k, sums in found.items()}


def closed(prompt: str) -> str:
    """What stands between a prompt and an answer."""
    return CLOSED if prompt.rstrip().endswith("<think>") else ""


def longest(questions: Sequence[Asked], measure: dict[str, Any] | None) -> int:
    """Tokens that the longest of the texts may have: no more than its bytes."""
    if not measure:
        return 0
    texts = [questions[i].reference for i in measure["rows"]] + list(measure["texts"])
    return max((len(t.encode()) for t in texts), default=0)
