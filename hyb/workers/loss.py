"""The loss of a micro-step: the head on the positions that have a label, and on no others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


class AnswerHead:
    """Applies the model's head to chosen positions only. A hook, so that whatever a model does to its logits stays."""

    def __init__(self, head: torch.nn.Module) -> None:
        self.positions: torch.Tensor | None = None
        head.register_forward_pre_hook(self._choose)

    @contextlib.contextmanager
    def only(self, positions: torch.Tensor) -> Iterator[None]:
        """Inside, logits are (chosen positions, vocabulary) instead of (batch, positions, vocabulary)."""
        self.positions = positions
        try:
            yield
        finally:
            self.positions = None

    def _choose(self, _head: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return args if self.positions is None else (args[0][self.positions], *args[1:])
