"""How long the questions and answers of a data set are."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Any


class Lengths:
    """Lengths of all questions (everything that is no answer) and all answers, row by row; 8 bytes a number.

    `count`: the tokens of a text, or None to leave tokens out.
    """

    def __init__(self, count: Callable[[str], int] | None = None) -> None:
        self._measures: dict[str, Callable[[str], int]] = {"characters": len, "words": lambda text: len(text.split())}
        if count:
            self._measures["tokens"] = count
        self._found = {(side, m): array("q") for side in ("question", "answer") for m in self._measures}

    def add(self, messages: Iterable[dict[str, Any]]) -> None:
        """One row."""
        texts = {"question": "", "answer": ""}
        for message in messages:
            side = "answer" if message["role"] == "assistant" else "question"
            text = message.get("reasoning", "") + "\n" + message["content"]
            texts[side] = f"{texts[side]}\n{text}".strip()
        for (side, measure), found in self._found.items():
            if texts[side]:
                found.append(self._measures[measure](texts[side]))

    def summary(self) -> dict[str, dict[str, dict[str, int]]]:
        """side → measure → min, median, p95, max (nearest rank), and their sum."""
        result: dict[str, dict[str, dict[str, int]]] = {}
        for (side, measure), found in self._found.items():
            if found:
                result.setdefault(side, {})[measure] = _quantiles(sorted(found))
        return result


def spoken(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row of any kind: what is trained of a text or of segments counts as an answer."""
    if "messages" in row:
        rejected = [row["rejected"]] if row.get("rejected") else []
        return [*row["messages"], *rejected]
    if "segments" in row:
        return [{"role": "assistant" if s["train"] else "user", "content": s["text"]} for s in row["segments"]]
    return [{"role": "assistant", "content": row["text"]}] if "text" in row else []


def _quantiles(ordered: list[int]) -> dict[str, int]:
    last = len(ordered) - 1
    ranks = {"min": 0, "median": last // 2, "p95": -(-last * 95 // 100), "max": last}
    return {name: ordered[rank] for name, rank in ranks.items()} | {"sum": sum(ordered)}
