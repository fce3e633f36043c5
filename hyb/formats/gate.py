"""Gates: what a report's scores must be. `{recall: ">= 0.9", control_lost: "== 0"}`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SCORES = {
    "recall": "held-out questions answered right, 0 to 1",
    "control": "control questions answered right, 0 to 1",
    "recall_before": "the same, by the model before tuning",
    "control_before": "the same, by the model before tuning",
    "control_lost": "control questions right before and wrong after, a count",
}
"""Every score that a report can have."""

BEFORE = ("recall_before", "control_before", "control_lost")
"""The scores that need the model before tuning."""

_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq
}  # fmt: skip
_BOUND = re.compile(r"\s*(>=|<=|==|>|<)\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+))\s*(%?)\s*")


@dataclass(frozen=True)
class Bound:
    """One score's bound: `sign` is one of `>= > <= < ==`."""

    score: str
    sign: str
    value: float

    def holds(self, score: float) -> bool:
        """True when a score is within the bound; equality allows for rounding (1e-9)."""
        if math.isclose(score, self.value, rel_tol=0, abs_tol=1e-9):
            return "=" in self.sign
        return _SIGNS[self.sign](score, self.value)

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"


def parse(gate: Mapping[str, object]) -> tuple[Bound, ...]:
    """The bounds of a gate. Raises ValueError naming every mistake in it."""
    bounds, wrong = [], []
    for score, text in gate.items():
        found = _BOUND.fullmatch(text) if isinstance(text, str) else None
        if score not in SCORES:
            wrong.append(f"there is no score `{score}`; scores are {', '.join(SCORES)}")
        elif not found:
            wrong.append(f'`{score}: {text}` is no bound; write for example `{score}: ">= 0.9"` (>= > <= < ==)')
        else:
            value = float(found[2]) / (100 if found[3] else 1)
            bounds.append(Bound(score, found[1], value))
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(bounds)
