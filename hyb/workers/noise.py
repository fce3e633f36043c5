"""NEFTune (arXiv 2310.05914): uniform noise on the embeddings of what is trained, against learning answers by heart.

A token's noise is uniform in ±alpha/√(L·d): L the tokens of a sequence (the mean of a micro-step, pads not counted), d
the width of the model. It is drawn from the device's own generator, which a checkpoint holds.
"""

from __future__ import annotations

import math
from typing import Any

import torch


class Noise:
    """The hook on the embeddings. `length`: L of what is fed next. Off in eval mode and when `alpha` is 0."""

    def __init__(self, model: Any, alpha: float) -> None:
        self.alpha, self.length = alpha, 1.0
        if alpha:
            model.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, layer: torch.nn.Module, _args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        if not layer.training:
            return out
        reach = self.alpha / math.sqrt(self.length * out.shape[-1])
        return out + torch.empty_like(out).uniform_(-reach, reach)
