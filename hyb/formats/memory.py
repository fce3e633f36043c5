"""How a training run uses the memory that there is: tokens to a micro-step, activations kept or computed again, weights
kept dequantised. Pure arithmetic on a model's config; the same config, job and free memory give the same plan.

None of it changes what is learnt: on the CPU not one bit, so a run may be resumed under another plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MODES = ("none", "selective", "full")  # of activation checkpointing: ever less memory, ever more computed again
PACKS = {"cuda": (16384, 8192, 4096, 2048, 1024), "cpu": (512,)}
"""Tokens to a micro-step that `auto` tries. More gain nothing on two CPU cores, see docs/stages/tune.md."""
SHARE = 0.6  # of the free memory that activations may take
RESIDENT = 0.25  # of what is then left, that dequantised weights may take
LARGE = 500_000_000  # parameters; above, `auto` computes activations again on the CPU


@dataclass(frozen=True)
class Shape:
    """What memory depends on: layers, widths, vocabulary; bytes of an activation; whether LoRA is one function; whether
    embeddings and head are one."""

    layers: int
    hidden: int
    inner: int
    keys: int
    vocabulary: int
    size: int
    fused: bool = True
    tied: bool = False

    @classmethod
    def of(cls, config: Any, size: int, fused: bool) -> Shape:
        """The shape of a model with this (text) config."""
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            config.num_hidden_layers, config.hidden_size,
            getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            width * (getattr(config, "num_key_value_heads", None) or heads), config.vocab_size, size, fused,
            bool(getattr(config, "tie_word_embeddings", False)),
        )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """`pack`: most tokens of a micro-step, 0 for padded rows."""

    pack: int
    checkpointing: str
    resident: bool


def activations(shape: Shape, tokens: int, mode: str) -> int:
    """About the bytes that the backward pass of a micro-step finds kept, and one layer's work."""
    narrow = 8 * shape.hidden + 4 * shape.keys
    kept = {"none": narrow + 2 * shape.inner, "selective": narrow, "full": shape.hidden}[mode]
    if not shape.fused and mode != "full":
        kept = 3 * (narrow + 2 * shape.inner)
    work = (1 if shape.fused else 3) * (narrow + 6 * shape.inner)
    return tokens * shape.size * (shape.layers * kept + work)


def linear_bytes(shape: Shape) -> int:
    """About the bytes of the dequantised linear layers."""
    layer = shape.hidden * (2 * shape.hidden + 2 * shape.keys + 3 * shape.inner)
    return shape.layers * layer * shape.size


def plan(
    shape: Shape, *, device: str, free: int, parameters: int, pack: str | int, mode: str, resident: str | bool,
    quantized: bool, rows: Sequence[int], batch: int,
) -> Plan:  # fmt: skip
    """`rows`: tokens of the longest rows of a step; `batch`: rows of a padded micro-step; `free`: bytes.

    The largest pack that fits with the least computed again; a pack is never less than the longest row.
    """
    longest = max(rows)
    whole = sum(sorted(rows)[-batch:])  # no step has more
    sizes = [0] if pack == "off" else PACKS[device] if pack == "auto" else (int(pack),)
    modes: tuple[str, ...] = MODES if mode == "auto" else (mode,)
    if device == "cpu" and mode == "auto":
        modes = ("none",) if parameters <= LARGE else ("full",)
    if not shape.fused and len(modes) > 1:
        modes = ("none", "full")
    tries = [(size, how) for size in sizes for how in modes]
    need = {
        (size, how): activations(shape, max(longest, min(size, whole)) if size else longest * batch, how)
        for size, how in tries
    }
    chosen = next((t for t in tries if need[t] <= SHARE * free), tries[-1])
    left = free - need[chosen]
    kept = quantized and (linear_bytes(shape) <= RESIDENT * left if resident == "auto" else bool(resident))
    return Plan(max(chosen[0], longest) if chosen[0] else 0, chosen[1], kept)
