"""The learning rate of each step: a function of the step alone, so that a resumed run has the same. Pure."""

from __future__ import annotations


def learning_rate(step: int, total: int, peak: float, warmup: float) -> float:
    """The rate of step 0, 1, …: up in a line over the first `warmup` (a share of `total`), then down in a line."""
    rising = round(total * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * (total - step) / (total - rising)
