"""The held-out loss now and then; the best adapter by it is kept, and training stops when it gets no better."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

PREFIX = "best."


@dataclass
class HeldOut:
    """`items`: rows or pairs that are not trained; `every`: steps between two looks; `patience`: looks without a better
    loss after which training stops. `seen`: (step, loss) of each look."""

    items: tuple[Any, ...]
    patience: int
    every: int = 1
    seen: list[tuple[int, float]] = field(default_factory=list)
    kept: dict[str, torch.Tensor] = field(default_factory=dict)

    def due(self, step: int, total: int) -> bool:
        """Whether to look after `step` (from 1); the last step is always looked at."""
        return bool(self.items) and (step % self.every == 0 or step == total)

    @property
    def best(self) -> tuple[int, float]:
        """Step and loss of the best look; a loss that is no number is none."""
        return min(self.seen, key=lambda s: (s[1] if math.isfinite(s[1]) else math.inf, s[0]))

    @property
    def over(self) -> bool:
        """Whether the last `patience` looks were no better than the best one."""
        return bool(self.seen) and sum(step > self.best[0] for step, _ in self.seen) >= self.patience

    def look(self, step: int, loss: float, trainable: dict[str, torch.Tensor]) -> None:
        """Note a loss; keep the adapter when it is the best one yet."""
        self.seen.append((step, loss))
        if self.best[0] == step:
            self.kept = {name: p.detach().cpu().clone() for name, p in trainable.items()}

    def restore(self, trainable: dict[str, torch.Tensor]) -> None:
        """Make the adapter the best one again."""
        with torch.no_grad():
            for name, p in trainable.items():
                p.copy_(self.kept[name])

    def tensors(self) -> dict[str, torch.Tensor]:
        """For a checkpoint."""
        return {PREFIX + name: value for name, value in self.kept.items()}

    def resume(self, tensors: dict[str, torch.Tensor], seen: list[list[Any]]) -> None:
        """From a checkpoint."""
        self.seen = [(int(step), float(loss)) for step, loss in seen]
        self.kept = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
