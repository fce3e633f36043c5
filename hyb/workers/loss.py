"""The loss of each learnt token: the head on the positions that have to say one, and on no others.

The head is the widest product of a small model, and its result the largest thing in memory: all of a vocabulary for
each token. `TokenLosses` computes it in chunks and keeps what the backward pass needs, the gradient of the hidden
state, which is as narrow as the model; the head is frozen, so nothing else is needed, and no logits are computed
twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

CHUNK = {"cpu": 64 << 20, "cuda": 512 << 20}  # bytes of float32 logits that exist at once
RESHAPED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""What configs call that a model does to its logits: then they are computed by the model itself, all at once."""


class TokenLosses(torch.autograd.Function):  # type: ignore[misc]
    """Cross-entropy of each position of `hidden` (n, width) with the token `wanted` (n,), in float32: (n,)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, wanted: torch.Tensor, rows: int
    ) -> torch.Tensor:
        """`weight` (vocabulary, width) is frozen. `rows`: positions to a chunk."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        back = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = F.linear(hidden[part], weight, bias).to(wide)
            logits -= logits.amax(-1, keepdim=True)
            said = logits.gather(1, wanted[part, None])
            total = logits.exp_().sum(-1, keepdim=True)
            losses[part] = (total.log() - said)[:, 0]
            if back is not None:
                logits /= total  # the probabilities; less one at the token that was wanted, the gradient
                logits.scatter_add_(1, wanted[part, None], torch.full_like(said, -1.0))
                back[part] = logits.to(weight.dtype) @ weight
        if back is not None:
            ctx.save_for_backward(back)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Each position's gradient by what its loss counts."""
        (back,) = ctx.saved_tensors
        return back * gradients[0][:, None].to(back.dtype), None, None, None, None


class Head:
    """A model's head, computed on chosen positions. A hook, so that whatever a model does to its logits stays.

    `chunked`: by `TokenLosses`, where the model does nothing to its logits. `liger`: Liger's kernel, where there is
    one.
    """

    def __init__(self, model: Any, *, chunked: bool = True, liger: Any = None) -> None:
        self.head = model.get_output_embeddings()
        config = model.config.get_text_config()
        self.plain = all(getattr(config, name, None) in (None, 1, 1.0) for name in RESHAPED)
        self._at: torch.Tensor | None = None
        self._hidden: torch.Tensor | None = None
        self.head.register_forward_pre_hook(self._choose)
        self.use(chunked=chunked, liger=liger)

    def use(self, *, chunked: bool, liger: Any = None) -> None:
        """How the loss is computed from here on."""
        self.chunked = chunked and self.plain
        self.liger = liger if self.chunked else None

    @contextlib.contextmanager
    def only(self, at: torch.Tensor) -> Iterator[None]:
        """Inside, the head sees the positions `at` of (rows × width) alone; chunked, the first of them, to be quick."""
        self._at = at
        try:
            yield
        finally:
            self._at = self._hidden = None

    def losses(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The loss of each position that was chosen, (n,); to be called inside `only`, with what the model gave."""
        if not self.chunked:
            return F.cross_entropy(
                logits[0].to(torch.promote_types(logits.dtype, torch.float32)), wanted, reduction="none"
            )
        assert self._hidden is not None
        weight = self.head.weight
        hidden = self._hidden.to(weight.dtype)
        rows = max(1, CHUNK[hidden.device.type] // (4 * len(weight)))
        return TokenLosses.apply(hidden, weight, self.head.bias, wanted, rows)

    def total(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The sum of `losses`, a scalar."""
        if self.liger is None or self._hidden is None:
            return self.losses(logits, wanted).sum()
        hidden = self._hidden.to(self.head.weight.dtype)
        return self.liger(hidden, self.head.weight, wanted, bias=self.head.bias, reduction="sum")

    def _choose(self, _head: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if self._at is None:
            return args
        self._hidden = args[0].reshape(-1, args[0].shape[-1]).index_select(0, self._at)
        return (self._hidden[None, :1] if self.chunked else self._hidden[None], *args[1:])
