"""What a step minimises, for whatever its items are: rows with answers here, pairs of answers in `hyb.workers.dpo`.

An objective says how much some items count (`weight`), and gives the sum of their losses (`loss_sum`); a step's loss is
the sum over its micro-steps and processes divided by its weight, so neither their number nor their size changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hyb.workers.labels import IGNORED, Example
from hyb.workers.noise import Noise


class Answers:
    """The mean cross-entropy over the tokens of all answers."""

    def __init__(self, net: Any, noise: Noise) -> None:
        self.net, self.noise = net, noise

    def weight(self, rows: Sequence[Example]) -> int:
        """How many tokens are learnt; the first of a row never is, nothing stands before it."""
        return sum(label != IGNORED for e in rows for label in e.labels[1:])

    def loss_sum(self, rows: Sequence[Example]) -> torch.Tensor:
        """A scalar with its gradient."""
        self.noise.length = sum(len(e.ids) for e in rows) / len(rows)
        return self.net.total(rows)
