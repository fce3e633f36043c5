"""How far what one model says is from what another says, position by position. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_LEAST = 1e-9  # of what is left for all other tokens


def divergence(known: Sequence[tuple[int, float]], said: Mapping[int, float]) -> float:
    """The least KL divergence (known ‖ said) in nats that two lists of likeliest tokens allow.

    `known`, `said`: token → log-probability. Of tokens on both lists all is known; those on the second list alone are
    taken together, and so are all others. With dozens of tokens on the lists next to nothing is left to be guessed.
    """
    total, left, alone = 0.0, 1.0, sum(map(math.exp, said.values()))
    missing = 0.0
    for token, log in known:
        left -= math.exp(log)
        if token in said:
            total += math.exp(log) * (log - said[token])
            alone -= math.exp(said[token])
        else:
            missing += math.exp(log)
    left, alone = max(left, 0.0), max(alone, 0.0)
    others = max(1.0 - sum(map(math.exp, said.values())), _LEAST)
    taken = min(left, (missing + left) * alone / (alone + others))  # the split that makes the divergence least
    return max(0.0, total + _term(taken, alone) + _term(missing + left - taken, others))


def _term(p: float, q: float) -> float:
    return p * math.log(p / q) if p > _LEAST and q > 0 else 0.0


def sentences(divergence: Mapping[str, Any]) -> list[str]:
    """The measure of a merge for people; of an artifact of an older hyb, less."""
    lines = []
    measured = (("the live adapter", divergence), ("the adapter as it was trained", divergence.get("as_trained")))
    for name, found in measured:
        if found and "perplexity" in found:
            said = found["perplexity"]
            lines.append(
                f"merged, against {name}: KL divergence {found['mean_kl']:g} nats (at most {found['max_kl']:g}),"
                f" logits {found['mean_logit']:g} apart (at most {found['max_logit']:g}), same likeliest token at"
                f" {found['agreement']:.0%} of {found['positions']} positions;"
                f" perplexity {said['live']:g} live, {said['merged']:g} merged"
            )
    return lines
