"""Gates: what a report's scores must be. `{recall: ">= 0.9", control_lost: "== 0", recall_gain: "surely > 0"}`.

A plain bound looks at the score alone. With `surely` it looks at the end of the score's interval (hyb.formats.chance)
that is worse for it: it holds only where luck with the questions does not explain it.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hyb.formats import chance

SCORES = {
    "recall": "held-out questions answered right, 0 to 1",
    "control": "control questions answered right, 0 to 1",
    "recall_before": "held-out questions answered right by the model before tuning",
    "control_before": "control questions answered right by the model before tuning",
    "control_lost": "control questions right before and wrong after, a count",
    "recall_gain": "recall less recall_before, -1 to 1",
    "control_gain": "control less control_before, -1 to 1",
    "probes": "probes passed, 0 to 1",
    "probes_before": "probes passed by the model before tuning",
    "leaks": "answers to unrelated questions that give away a training answer, a count",
    "perplexity": "of the held-out answers",
    "perplexity_before": "of the held-out answers, for the model before tuning",
    "text_perplexity": "of general English texts",
    "text_perplexity_before": "of general English texts, for the model before tuning",
    "text_rise": "text_perplexity divided by text_perplexity_before",
    "loops": "answers that end in a loop, 0 to 1",
    "cut": "answers cut off at max_tokens, 0 to 1",
    "refused": "held-out questions that the model refuses to answer, 0 to 1",
    "reasoning": "characters of reasoning an answer, the mean",
    "tokens_per_second": "of the answers, on this machine",
}
"""Every score that a report can have, and `task_NAME` for a task of lm-evaluation-harness."""

TASK = "task_"
BEFORE = (*(s for s in SCORES if s.endswith("_before")), "control_lost", "recall_gain", "control_gain", "text_rise")
"""The scores that need the model before tuning."""

PERPLEXITY = tuple(s for s in SCORES if "perplexity" in s or s == "text_rise")
PROBES = ("probes", "probes_before")
UNSURE = ("text_perplexity", "text_perplexity_before", "text_rise", "reasoning", "tokens_per_second")
"""The scores that have no interval."""

_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq
}  # fmt: skip
_BOUND = re.compile(r"\s*(surely\b)?\s*(>=|<=|==|>|<)\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+))\s*(%?)\s*")
_TASK = re.compile(rf"{TASK}[\w.+-]+")


@dataclass(frozen=True)
class Bound:
    """One score's bound: `sign` is one of `>= > <= < ==`. `sure`: the score's interval must be within it."""

    score: str
    sign: str
    value: float
    sure: bool = False

    def holds(self, score: float, interval: tuple[float, float] | None = None) -> bool:
        """True when a score (for `sure`, the worse end of its interval) is within the bound.

        Equality allows for rounding (1e-9). Raises ValueError when `sure` is asked of a score without an interval.
        """
        if self.sure:
            if interval is None:
                raise ValueError(f"`{self.score}` has no interval")
            score = interval[0] if ">" in self.sign else interval[1]
        if math.isclose(score, self.value, rel_tol=0, abs_tol=1e-9):
            return "=" in self.sign
        return _SIGNS[self.sign](score, self.value)

    def __str__(self) -> str:
        return f"{'surely ' if self.sure else ''}{self.sign} {self.value:g}"


def parse(gate: Mapping[str, object]) -> tuple[Bound, ...]:
    """The bounds of a gate. Raises ValueError naming every mistake in it."""
    bounds, wrong = [], []
    for score, text in gate.items():
        found = _BOUND.fullmatch(text) if isinstance(text, str) else None
        if score not in SCORES and not _TASK.fullmatch(score):
            wrong.append(f"there is no score `{score}`; scores are {', '.join(SCORES)}, {TASK}NAME")
        elif not found:
            wrong.append(
                f'`{score}: {text}` is no bound; write for example `{score}: ">= 0.9"` (>= > <= < ==),'
                ' or `"surely >= 0.9"`'
            )
        elif found[1] and found[2] == "==":
            wrong.append(f"`{score}: {text}`: nothing measured is surely one number; take >= > <= <")
        elif found[1] and score in UNSURE:
            wrong.append(f"`{score}: {text}`: this score has no interval, so nothing is sure; leave `surely` out")
        else:
            value = float(found[3]) / (100 if found[4] else 1)
            bounds.append(Bound(score, found[2], value, bool(found[1])))
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(bounds)


def by_luck(bound: Bound, interval: tuple[float, float] | None) -> bool:
    """True when a plain bound that holds would not hold at the worse end of the interval."""
    if bound.sure or interval is None or bound.sign == "==":
        return False
    return not Bound(bound.score, bound.sign, bound.value, sure=True).holds(0.0, interval)


def sentence(interval: tuple[float, float]) -> str:
    """An interval for people."""
    return f"{chance.LEVEL:.0%} sure: {interval[0]:.2g} to {interval[1]:.2g}"
