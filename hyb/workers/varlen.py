"""torch's own variable-length attention, whatever its version: the one file that knows how its signature drifted.

torch 2.10 takes `is_causal` and has neither scale nor window; from 2.11 on a window of (-1, 0) means causal; from 2.12
on keys and values may have fewer heads than queries.
"""

from __future__ import annotations

import functools
import inspect

import torch

from hyb.workers.fused import half


@functools.cache
def parameters() -> frozenset[str]:
    """What this torch's `varlen_attn` takes; empty where there is none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def usable(device: torch.device) -> bool:
    """Whether it runs there: it is flash attention, for CUDA from Ampere on."""
    return bool(parameters()) and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int, scale: float, window: int
) -> torch.Tensor:
    """Causal attention inside each row of a pack. q (tokens, heads, d), k and v (tokens, key heads, d), in half
    precision or under autocast.

    `starts`: where each row starts, and the end, int32; `longest`: tokens of the longest row; `window`: how many tokens
    back are seen, 0 for all.
    """
    from torch.nn.attention.varlen import varlen_attn

    known, options = parameters(), {}
    q, k, v = (half(x) for x in (q, k, v))  # it is none of autocast's own: a norm's wider result would be refused
    if "enable_gqa" in known:
        options["enable_gqa"] = k.shape[1] != q.shape[1]
    elif k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    if "window_size" in known:
        options["window_size"] = (window - 1 if window else -1, 0)
    elif window and longest > window:
        raise NotImplementedError("this torch's varlen_attn has no window")
    else:
        options["is_causal"] = True
    if "scale" in known:
        options["scale"] = scale
    else:
        q = q * (scale * q.shape[-1] ** 0.5)
    return varlen_attn(q, k, v, starts, starts, longest, longest, **options)
