"""How far what one model says is from what another says, position by position. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_LEAST = 1e-9  # of what is left for all other tokens


def divergence(known: Sequence[tuple[int, float]], said: Sequence[float]) -> float:
    """The least KL divergence (known ‖ said) in nats that the likeliest tokens allow.

    `known`: the likeliest tokens of one model with their log-probabilities. `said`: those of the other for the same
    tokens. All other tokens are taken together: with dozens of them known next to nothing is left.
    """
    logs = [log for _, log in known]
    total = sum(math.exp(p) * (p - q) for p, q in zip(logs, said, strict=True))
    left, others = (1.0 - sum(map(math.exp, some)) for some in (logs, said))
    if left > _LEAST:
        total += left * math.log(left / max(others, _LEAST))
    return max(0.0, total)


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
