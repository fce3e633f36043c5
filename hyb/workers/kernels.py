"""Faster forms of what a model computes besides its products: the norm before a layer and the rotation of positions.

Liger's kernels on CUDA where `liger-kernel` is installed; else our own functions, which read and write each value less
often than the same written as single operations. Each is tried on the model's own module with random numbers before it
takes that module's place: a model that computes something else under the same name keeps its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from hyb.workers.fused import close
from hyb.workers.protocol import emit

Rotation = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def liger(device: torch.device, wanted: bool) -> Any:
    """Liger's functions (`liger_kernel.transformers.functional`), or None where they can't be used.

    They are compiled when first called, by Triton with a C compiler of the machine's, which may be missing: so one is.
    """
    if not wanted or device.type != "cuda":
        return None
    try:
        from liger_kernel.transformers import functional

        one = torch.ones(1, 64, device=device)
        functional.liger_rms_norm(one, one[0], 1e-6, in_place=False)
    except (ImportError, AttributeError, TypeError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        if not isinstance(error, ModuleNotFoundError):
            emit("note", text=f"Liger's kernels can't be used here: {str(error).strip().partition(chr(10))[0]}")
        return None
    return functional


class RmsNorm(torch.autograd.Function):  # type: ignore[misc]
    """x / rms(x) · weight over the last dimension; the weight is frozen. Float32 and float64."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Keeps x and 1 / rms(x)."""
        width = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(width).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """scale · g − x · scale³ · mean(g · x), where g is the gradient by the weight."""
        x, scale, weight = ctx.saved_tensors
        g = gradient * weight
        dot = (g * x).sum(-1, keepdim=True).mul_(scale**3).div_(-x.shape[-1])
        return g.mul_(scale).addcmul_(x, dot), None, None


class Rotate(torch.autograd.Function):  # type: ignore[misc]
    """Rotary positions: x (…, d) turned by cos and sin, whose halves are alike."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Keeps cos and sin."""
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Turned back."""
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, sin, -1), None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, sign: int) -> torch.Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return out


def rotate(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers' modules call `apply_rotary_pos_emb`."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return Rotate.apply(q, cos, sin), Rotate.apply(k, cos, sin)


def install_norms(model: Any, functional: Any) -> int:
    """Replace the RMS norms of `model`; returns how many."""
    found = 0
    for module in model.modules():
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if type(module).__name__.endswith("RMSNorm") and isinstance(eps, float) and module.weight.ndim == 1:
            found += _norm(module, eps, functional)
    return found


def _norm(module: Any, eps: float, functional: Any) -> bool:
    weight = module.weight
    x = torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)

    def by_liger(x: torch.Tensor) -> torch.Tensor:
        return functional.liger_rms_norm(x, weight, eps, in_place=False)

    def by_torch(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, weight.shape, weight, eps).to(x.dtype)  # autocast may widen it

    def ours(x: torch.Tensor) -> torch.Tensor:
        return RmsNorm.apply(x, weight, eps)

    fast = by_liger if functional else by_torch if weight.is_cuda else ours
    with torch.no_grad():
        same = close(fast(x), module(x))
    if same:
        module.forward = fast
    return same


def install_rotation(model: Any, functional: Any) -> bool:
    """Replace the rotation of positions in the file of `model`'s family; returns whether."""
    file = sys.modules[type(model).__module__]
    own: Rotation | None = getattr(file, "apply_rotary_pos_emb", None)
    config = model.config.get_text_config()
    if own is None or own is rotate:
        return own is rotate
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    generator = torch.Generator().manual_seed(0)
    kind, device = model.dtype, model.device
    q, k = (torch.randn(1, heads, 5, width, generator=generator).to(device, kind) for heads in (2, 1))
    angles = torch.randn(1, 5, width // 2, generator=generator).to(device).repeat(1, 1, 2)
    cos, sin = angles.cos().to(kind), angles.sin().to(kind)
    fast: Rotation = functional.liger_rope if functional else rotate
    if _turns_a_part(own, q, k, cos[..., : width // 2], sin[..., : width // 2]):
        return False
    try:
        right, found = own(q, k, cos, sin), fast(q.clone(), k.clone(), cos, sin)
    except (TypeError, ValueError, RuntimeError):  # it takes other arguments: not the rotation that we know
        return False
    if not all(close(f, r) for f, r in zip(found, right, strict=True)):
        return False
    file.apply_rotary_pos_emb = fast  # type: ignore[attr-defined]
    return True


def _turns_a_part(own: Rotation, *narrow: torch.Tensor) -> bool:
    """Whether a rotation takes angles for the first part of a head alone (GPT-NeoX), which ours does not."""
    try:
        own(*narrow)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True
