"""What a step minimises, for whatever its items are: rows with answers here, pairs of answers in `hyb.workers.dpo`.

An objective says how much some items count (`weight`), and gives the sum of their losses (`loss_sum`); a step's loss is
the sum over its micro-steps and processes divided by its weight, so neither their number nor their size changes it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyb.workers import batches
from hyb.workers.labels import Example
from hyb.workers.net import Net
from hyb.workers.noise import Noise


class Answers:
    """The mean cross-entropy over the tokens of all answers."""

    def __init__(self, net: Net, noise: Noise) -> None:
        self.net, self.noise = net, noise

    def weight(self, rows: Sequence[Example]) -> int:
        """How many tokens are learnt."""
        return batches.labelled(rows)

    def loss_sum(self, rows: Sequence[Example]) -> torch.Tensor:
        """A scalar with its gradient."""
        self.noise.length = sum(len(e.ids) for e in rows) / len(rows)
        return self.net.total(rows)
