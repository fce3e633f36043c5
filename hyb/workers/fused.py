"""LoRA on a frozen linear layer as one function: forward and backward by hand, for layers that read the same input at
once.

    y = x Wᵀ + bias + scale (x Aᵀ) Bᵀ          W frozen, in 4 bits or not; A (rank, in) and B (out, rank) trained

peft computes it as a dozen operations, and autograd keeps what each of them read. Here

- W is dequantised once a pass, or once for all where memory allows (`resident`: the same numbers, kept);
- q, k and v, and gate and up, are one group: their A are one product, their inputs kept once, and what they pass back
  is added up by the products themselves (`addmm`), with no copy of a result;
- an MLP that is down(act(gate(x)) · up(x)) is one function, too. It keeps x, gate and up, and computes their product
  again in its backward pass; or (`keep` False, selective checkpointing) x alone, and gate and up again as well.

A layer that this is not made for (DoRA, dropout, another kind of layer) keeps peft's own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that read the same input, in the models that we know. Others are groups of one."""

Tensors = tuple[torch.Tensor, ...]


class Part:
    """One LoRA layer of peft: what the function needs of it."""

    def __init__(self, layer: Any, resident: bool) -> None:
        (name,) = layer.active_adapters
        self.layer, self.name, self.base = layer, name, layer.get_base_layer()
        self.adapter = (layer.lora_A[name].weight, layer.lora_B[name].weight)
        self.rank, self.scale, self.bias = layer.r[name], layer.scaling[name], self.base.bias
        self.plain: Callable[..., torch.Tensor] = layer.forward
        self.kept: torch.Tensor | None = None
        self.state = getattr(self.base.weight, "quant_state", None) or getattr(self.base, "quant_state", None)
        if resident and self.state is not None:
            self.kept = self.weight(None)

    def weight(self, dtype: torch.dtype | None) -> torch.Tensor:
        """W (out, in), dequantised; in the dtype that it was quantised from, or in `dtype`."""
        weight = self.kept
        if weight is None:
            weight = self.base.weight
            if self.state is not None:
                from bitsandbytes.functional import dequantize_4bit

                weight = dequantize_4bit(weight.data, self.state)
        return weight if dtype is None else weight.to(dtype)

    def active(self) -> bool:
        """Whether the layer is to be computed with the one adapter that we know."""
        layer = self.layer
        return not layer.disable_adapters and not layer.merged_adapters and layer.active_adapters == [self.name]


def usable(layer: Any) -> bool:
    """Whether the function computes what this layer of peft does."""
    import bitsandbytes as bnb
    from peft.tuners import lora

    kinds = (lora.Linear, lora.bnb.Linear4bit)
    if type(layer) not in kinds or type(layer.get_base_layer()) not in (torch.nn.Linear, bnb.nn.Linear4bit):
        return False
    if len(layer.active_adapters) != 1 or len(layer.lora_A) != 1 or layer.merged:
        return False
    (name,) = layer.active_adapters
    return (
        isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and not layer.lora_variant
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
    )


# -- the arithmetic --------------------------------------------------------------------------------------------------


def forward(x: torch.Tensor, parts: Sequence[Part], adapters: Tensors) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The result of each part for x (n, in), and x Aᵀ of all of them, (n, ranks). `adapters`: A, B, A, B, …"""
    low = x @ torch.cat(adapters[::2]).to(x.dtype).t()
    found = []
    for part, up, own in zip(parts, adapters[1::2], low.split([p.rank for p in parts], 1), strict=True):
        bias = None if part.bias is None else part.bias.to(x.dtype)
        out = F.linear(x, part.weight(x.dtype), bias)
        found.append(out.addmm_(own, up.to(x.dtype).t(), alpha=part.scale))
    return found, low


def backward(
    x: torch.Tensor,
    low: torch.Tensor,
    parts: Sequence[Part],
    adapters: Tensors,
    gradients: Sequence[torch.Tensor | None],
    wanted: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """What is passed back to x, when it is `wanted`, and to A, B, A, B, …, for the gradient of each part's result."""
    back: torch.Tensor | None = None
    passed, ups = [], []
    for part, up, own, gradient in zip(
        parts, adapters[1::2], low.split([p.rank for p in parts], 1), gradients, strict=True
    ):
        if gradient is None:
            passed.append(torch.zeros_like(own))
            ups.append(torch.zeros_like(up))
            continue
        passed.append((gradient @ up.to(x.dtype)).mul_(part.scale))
        ups.append((gradient.t() @ own).mul_(part.scale).to(up.dtype))
        if wanted:
            weight = part.weight(x.dtype)
            back = gradient @ weight if back is None else back.addmm_(gradient, weight)
    one = torch.cat(passed, 1)
    downs = (one.t() @ x).split([p.rank for p in parts])
    if back is not None:
        back.addmm_(one, torch.cat(adapters[::2]).to(x.dtype))
    return back, [g for a, d, u in zip(adapters[::2], downs, ups, strict=True) for g in (d.to(a.dtype), u)]


class LoraLinears(torch.autograd.Function):  # type: ignore[misc]
    """The results of the `parts` for x (…, in), each (…, out); `adapters`: A, B, A, B, …"""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, parts: Sequence[Part], *adapters: torch.Tensor) -> Tensors:
        """See `forward`."""
        flat = x.reshape(-1, x.shape[-1])
        found, low = forward(flat, parts, adapters)
        ctx.parts, ctx.shape = parts, x.shape
        ctx.save_for_backward(flat, low, *adapters)
        ctx.set_materialize_grads(False)
        return tuple(out.view(*x.shape[:-1], -1) for out in found)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """See `backward`."""
        flat, low, *adapters = ctx.saved_tensors
        flats = [None if g is None else g.reshape(-1, g.shape[-1]) for g in gradients]
        back, own = backward(flat, low, ctx.parts, tuple(adapters), flats, ctx.needs_input_grad[0])
        return None if back is None else back.view(ctx.shape), None, *own


class LoraMlp(torch.autograd.Function):  # type: ignore[misc]
    """down(gated(gate(x), up(x))) for x (…, in); `adapters`: A, B of gate, up and down."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mlp: Mlp, *adapters: torch.Tensor) -> torch.Tensor:
        """Keeps x, and gate and up when `mlp.keep`."""
        flat = x.reshape(-1, x.shape[-1])
        (gate, up), low = forward(flat, mlp.parts[:2], adapters[:4])
        inner = mlp.gated(gate, up)
        (out,), low_down = forward(inner, mlp.parts[2:], adapters[4:])
        ctx.mlp, ctx.shape = mlp, x.shape
        ctx.save_for_backward(flat, low, low_down, *adapters, *((gate, up) if mlp.keep else ()))
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """See the module."""
        flat, low, low_down, *rest = ctx.saved_tensors
        parts, adapters, kept = ctx.mlp.parts, tuple(rest[:6]), rest[6:]
        gate, up = kept or forward(flat, parts[:2], adapters[:4])[0]
        with torch.enable_grad():
            gate, up = gate.detach().requires_grad_(), up.detach().requires_grad_()
            inner = ctx.mlp.gated(gate, up)
        gradient = gradient.reshape(-1, gradient.shape[-1])
        back, own_down = backward(inner.detach(), low_down, parts[2:], adapters[4:], [gradient], True)
        passed = torch.autograd.grad(inner, (gate, up), back)
        back, own = backward(flat, low, parts[:2], adapters[:4], passed, ctx.needs_input_grad[0])
        return None if back is None else back.view(ctx.shape), None, *own, *own_down


# -- put onto a model ------------------------------------------------------------------------------------------------


def half(x: torch.Tensor) -> torch.Tensor:
    """x in the dtype that autocast computes in, where it is on."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class Group:
    """Layers that read the same input: whichever is called first computes all, the others take what is theirs.

    The input is recognised as the same tensor object; a layer that is called with another one is computed alone.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.adapters = tuple(a for p in parts for a in p.adapter)
        self._for: torch.Tensor | None = None
        self._results: dict[int, torch.Tensor] = {}

    def call(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """The result of layer `index` for x."""
        if self._for is x and index in self._results:
            out = self._results.pop(index)
            if not self._results:
                self._for = None
            return out
        found = LoraLinears.apply(half(x), self.parts, *self.adapters)
        self._results = {i: out for i, out in enumerate(found) if i != index}
        self._for = x if self._results else None
        return found[index]


class Mlp:
    """An MLP that is down(gated(gate(x), up(x)))."""

    def __init__(self, module: Any, parts: Sequence[Part], gated: Any, keep: bool) -> None:
        self.parts, self.gated, self.keep = tuple(parts), gated, keep
        self.adapters = tuple(a for p in parts for a in p.adapter)
        self.plain: Callable[..., torch.Tensor] = module.forward

    def call(self, x: torch.Tensor) -> torch.Tensor:
        """Its result for x."""
        if all(part.active() for part in self.parts):
            return LoraMlp.apply(half(x), self, *self.adapters)
        return self.plain(x)


def install(model: Any, *, resident: bool, gated: Any = None, keep: bool = True) -> tuple[int, int]:
    """Compute the LoRA layers of `model` so. Returns how many of them, and how many whole MLPs.

    `gated(gate, up)`: a faster act(gate) · up than the model's own, where there is one for its activation.
    """
    layers, mlps = 0, 0
    for module in list(model.modules()):
        children = {name: child for name, child in module.named_children() if hasattr(child, "lora_A")}
        parts = {name: Part(child, resident) for name, child in children.items() if usable(child)}
        layers += len(parts)
        for names in (*GROUPS, *((name,) for name in parts)):
            group = Group([parts[n] for n in names if n in parts])
            if len(names) > 1 or not any(names[0] in g for g in GROUPS):
                for index, part in enumerate(group.parts):
                    _replace(part, group, index)
        if {"gate_proj", "up_proj", "down_proj"} <= parts.keys() and hasattr(module, "act_fn"):
            mlps += _whole(module, [parts[n] for n in ("gate_proj", "up_proj", "down_proj")], gated, keep)
    return layers, mlps


def _replace(part: Part, group: Group, index: int) -> None:
    """Let the layer of `part` be computed by its group, as long as its adapter is the one that is on."""

    def compute(x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if args or options or not all(p.active() for p in group.parts):
            return part.plain(x, *args, **options)
        return group.call(index, x)

    part.layer.forward = compute


def _whole(module: Any, parts: Sequence[Part], gated: Any, keep: bool) -> bool:
    """Let an MLP be one function, when that gives what its own forward does: tried, not guessed from its name."""
    weight = parts[0].adapter[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, weight.shape[1], generator=generator).to(weight.device, parts[0].weight(None).dtype)

    def own(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return module.act_fn(gate) * up

    mlp = Mlp(module, parts, own, keep)
    with torch.no_grad():
        right = module(x)
        if not close(mlp.call(x), right):
            return False
        if gated is not None:
            mlp.gated = gated
            if not close(mlp.call(x), right):
                mlp.gated = own
    module.forward = mlp.call
    return True


def close(found: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two results are the same but for rounding."""
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(right.dtype, 3e-2)
    return found.shape == right.shape and bool((found - right).abs().max() <= tolerance * right.abs().max())
