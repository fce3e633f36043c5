"""A model as the tuner computes it: rows in, the loss of each learnt token out, as fast as it can be had.

Every lever is a switch of `Speed`, and none changes what is learnt. Before the first step two rows are computed by the
model as transformers and peft have it, one by one, and once more with every lever that is on, packed: a loss or
gradient that differs by more than rounding ends the run. So a model of which a lever gets something wrong is not
trained on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hyb.formats.memory import Plan
from hyb.workers import attention, batches, fused, kernels, loss, shards, varlen
from hyb.workers.labels import Example
from hyb.workers.protocol import Failed, emit

TRIED = 48  # tokens of each of the rows that are computed twice
SAME = {torch.float64: (1e-6, 1e-6), torch.float32: (1e-3, 1e-3)}
HALF = (0.1, 0.3)
"""How far losses and gradients may be apart, relatively. In bfloat16 rounding alone makes 2 % and 10 % (SmolLM2)."""


@dataclass(frozen=True)
class Speed:
    """The levers, see `hyb.stages.tune.Speed`."""

    fused: bool = True
    kernels: bool = True
    share: bool = True
    chunked: bool = True
    varlen: bool = True
    resident: str | bool = "auto"
    compile: bool = False


class Net:
    """The model with its LoRA layers, computed under a plan. `noisy`: it has dropout, so rows share nothing."""

    def __init__(self, model: Any, device: torch.device, speed: Speed, plan: Plan, noisy: bool = False) -> None:
        self.model, self.device, self.speed, self.plan = model, device, speed, plan
        self.base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.noisy = noisy or bool(getattr(self.base.config.get_text_config(), "attention_dropout", 0))
        self.packed = self.flat = False
        self.head = loss.Head(self.base, chunked=False)

    def install(self, rows: Sequence[Example]) -> dict[str, int | bool]:
        """Put the levers on, and try them on the first two of `rows`. Returns what is on. Raises Failed."""
        tried = [Example(e.ids[:TRIED], e.ids[:TRIED], e.where) for e in rows[:2]]
        with _probing(self.model):
            right = [self._sample([row]) for row in tried]
        found = self._levers()
        with _probing(self.model):
            self._compare(self._fast(tried, found), right)
        if self.plan.checkpointing == "full" or (self.plan.checkpointing == "selective" and not found["mlps"]):
            self.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        if self.speed.compile:
            for layer in self.base.get_decoder().layers:
                layer.compile(dynamic=True)
        return found

    def _levers(self) -> dict[str, int | bool]:
        speed, functional = self.speed, kernels.liger(self.device, self.speed.kernels)
        found: dict[str, int | bool] = {
            "layers": 0,
            "mlps": 0,
            "norms": 0,
            "rotation": False,
            "liger": bool(functional),
        }
        if speed.fused:
            gated, keep = getattr(functional, "liger_swiglu", None), self.plan.checkpointing != "selective"
            resident = self.plan.resident
            for part in shards.each(self.base):
                layers, mlps = fused.install(part, resident=resident, gated=gated, keep=keep)
                found["layers"], found["mlps"] = found["layers"] + layers, found["mlps"] + mlps
        if speed.kernels:
            found["norms"] = kernels.install_norms(self.base, functional)
            found["rotation"] = kernels.install_rotation(self.base, functional)
        self.packed = bool(self.plan.pack) and attention.packable(self.base)
        self.flat = self.packed and speed.varlen and not self.noisy and varlen.usable(self.device)
        if self.packed:
            attention.install(self.base)
        self.head.use(chunked=speed.chunked, liger=getattr(functional, "liger_fused_linear_cross_entropy", None))
        return {**found, "packed": self.packed, "varlen": self.flat}

    def split(self, rows: Sequence[Example], batch: int) -> list[list[Example]]:
        """The micro-steps of a step: see `batches.split`."""
        return batches.split(rows, batch, self.plan.pack if self.packed else 0)

    def losses(self, rows: Sequence[Example]) -> tuple[torch.Tensor, tuple[int, ...]]:
        """The loss of each learnt token of a micro-step, float32, rows in their order; and how many each row has."""
        part = self._micro(rows)
        with self._computed(part) as logits:
            return self.head.losses(logits, part.wanted), part.counts

    def total(self, rows: Sequence[Example]) -> torch.Tensor:
        """The sum of the losses of a micro-step, a scalar with its gradient."""
        part = self._micro(rows)
        with self._computed(part) as logits:
            return self.head.total(logits, part.wanted)

    def _micro(self, rows: Sequence[Example]) -> batches.Micro:
        share = self.speed.share and not self.noisy
        return batches.micro(rows, self.device, packed=self.packed, share=share, flat=self.flat)

    @contextlib.contextmanager
    def _computed(self, part: batches.Micro) -> Any:
        """The model's logits at the learnt positions, while the head still knows them."""
        cuda = self.device.type == "cuda"
        autocast = torch.autocast("cuda", torch.bfloat16) if cuda else contextlib.nullcontext()
        options = {"position_ids": part.positions, "layout": part.layout} if self.packed else {}
        with autocast, self.head.only(part.at):
            yield self.model(input_ids=part.ids, use_cache=False, **options).logits

    def _fast(self, rows: Sequence[Example], found: dict[str, int | bool]) -> tuple[torch.Tensor, torch.Tensor]:
        """`_sample` with the levers on; without the variable-length kernel, where this GPU or this model's width of a
        head is not one that it is made for."""
        try:
            return self._sample(rows)
        except (RuntimeError, ValueError) as error:
            if not self.flat or isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            emit("note", text=f"no variable-length attention: {str(error).strip().partition(chr(10))[0]}")
        self.flat = found["varlen"] = False
        return self._sample(rows)

    def _sample(self, rows: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of rows, and the gradient of their sum by all that is trained."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        losses, _ = self.losses(rows)
        total = self.total(rows) if self.head.liger else losses.sum()  # Liger's loss has only a sum
        found = torch.autograd.grad(total, trained, allow_unused=True)
        kept = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]
        return losses.detach(), torch.cat([g.flatten() for g in kept])

    def _compare(
        self, found: tuple[torch.Tensor, torch.Tensor], right: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        losses, gradient = torch.cat([r[0] for r in right]), torch.stack([r[1] for r in right]).sum(0)
        limits = SAME.get(self.base.dtype, HALF)
        off = [
            float((a - b).norm() / b.norm().clamp(min=1e-30)) for a, b in zip(found, (losses, gradient), strict=True)
        ]
        if not all(o <= limit for o, limit in zip(off, limits, strict=True)):
            raise Failed(
                f"the fast way to compute this model gives another result: loss off by {off[0]:.2g}, gradient by "
                f"{off[1]:.2g}",
                hint="try `speed: {fused: false, kernels: false}`, then `pack: off`; please report the model",
            )


@contextlib.contextmanager
def _probing(model: Any) -> Any:
    """Inside, nothing is random, and every B, which starts as zero and would hide what A does, has some numbers."""
    training, generator = model.training, torch.Generator().manual_seed(0)
    ups = [p for name, p in model.named_parameters() if "lora_B" in name]
    before = [p.detach().clone() for p in ups]
    model.eval()
    with torch.no_grad():
        for p in ups:
            p.copy_(torch.randn(p.shape, generator=generator) * 0.02)
    try:
        yield
    finally:
        model.train(training)
        with torch.no_grad():
            for p, value in zip(ups, before, strict=True):
                p.copy_(value)
