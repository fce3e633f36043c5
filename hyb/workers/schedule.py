"""The learning rate of each step: a function of the step alone, so that a resumed run has the same. Pure."""

from __future__ import annotations

import math


def learning_rate(
    step: int, total: int, peak: float, warmup: float, kind: str = "linear", decay: float = 0.2, floor: float = 0.0
) -> float:
    """The rate of step 0, 1, …: up in a line over the first `warmup` (a share of `total`), then by `kind`:

    linear: down in a line · cosine: down in half a cosine · constant: it stays · wsd (warm-up, stable, decay): it stays
    until the last `decay` of all steps, and goes down in a line there. `floor`: the share of `peak` that is kept.
    A falling rate would be at the floor one step after the last, so that no step is for nothing.
    """
    rising = round(total * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    if kind == "wsd":
        rising = max(rising, total - max(1, round(total * decay)))
    left = min(1.0, (total - step) / (total - rising))
    if kind == "constant":
        return peak
    if kind == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return peak * left if not floor else peak * (floor + (1 - floor) * left)
