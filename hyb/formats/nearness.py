"""How far what one model says is from what another says, position by position. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_LEAST = 1e-9  # of what is left for all other tokens


def divergence(known: Sequence[tuple[int, float]], said: Mapping[int, float]) -> float:
    """The KL divergence (known ‖ said) in nats, where of both only the likeliest tokens are known: all that are not on
    both lists are taken together.

    `known`, `said`: token → log-probability. Taking tokens together can only make a divergence smaller, and with dozens
    of tokens on the lists next to nothing is left.
    """
    left = [1.0, 1.0]
    total = 0.0
    for token, log in known:
        if token in said:
            total += math.exp(log) * (log - said[token])
            left[0] -= math.exp(log)
            left[1] -= math.exp(said[token])
    p, q = max(left[0], 0.0), max(left[1], _LEAST)
    return max(0.0, total + (p * math.log(p / q) if p > _LEAST else 0.0))


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
