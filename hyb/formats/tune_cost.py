"""What a tuning run will cost on a machine: memory, tokens a second, minutes; and what to change when it does not fit.

Pure arithmetic on a model's shape. A frozen base of N weights costs 2 N operations a token forwards and 2 N backwards
(its weights have no gradient), and 2 N more where activations are computed twice; attention, LoRA and the head come on
top. How many operations a second a machine does is a guess until its first run has measured one real step (`Measured`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from hyb.formats import memory

CPU_RATE = 60e9  # operations a second of a core, float32
GPU_RATES = {
    "H200": 300e12, "H100": 300e12, "B200": 500e12, "A100": 140e12, "L40": 110e12, "A10": 50e12, "L4": 35e12,
    "5090": 110e12, "4090": 90e12, "3090": 40e12, "T4": 15e12,
}  # fmt: skip
OTHER_GPU = 30e12
PROCESS = 0.6e9  # bytes: Python, torch and the libraries; on a GPU, CUDA's context
LOGITS = {"cpu": 64 << 20, "cuda": 512 << 20}
CALLS = 3e-3  # seconds a layer and micro-step that are spent on starting operations, whatever their size
START = {"cpu": 15.0, "cuda": 30.0}  # seconds until the first step
LEARNT = 0.5  # share of the tokens that have a label


@dataclass(frozen=True)
class Measured:
    """What a real run gave: operations a second, and its peak of memory as a share of what had been predicted."""

    rate: float
    memory: float


@dataclass(frozen=True)
class Machine:
    """Where a run would go. `free`: bytes that may be taken; `cores`: of the CPU. `measured`: by `key`. `taken`: bytes
    of a GPU that others have."""

    device: str
    name: str
    free: int
    cores: int
    measured: Mapping[str, Measured] = field(default_factory=dict)
    taken: int = 0

    def crowded(self) -> str:
        """What others have of the GPU, said; "" when it is next to nothing (a driver's own, a screen)."""
        return f"; {self.taken / 1e9:.1f} GB are taken by other programs (`nvidia-smi`)" if self.taken > 1e9 else ""


@dataclass(frozen=True)
class Wanted:
    """What of a spec and its data a run's cost depends on. `tokens`: of a mean row; `rows` 0: not known."""

    quantize: str = "nf4"
    rank: int = 16
    mode: str = "auto"
    pack: str | int = "auto"
    resident: str | bool = "auto"
    batch: int = 8
    rows_a_step: int = 8
    rows: int = 0
    tokens: int = 64
    epochs: float = 3
    dpo: bool = False
    gpus: int = 1
    shard: bool = False


@dataclass(frozen=True)
class Cost:
    """`memory`: bytes at the peak of a process; `rate`: tokens a second of all processes; `seconds`: of the run, None
    when the rows are not known; `micro`: tokens computed at once; `mode`: of activation checkpointing; `split`: what
    splitting the weights gives, where it is asked for."""

    memory: int
    rate: float
    seconds: float | None
    micro: int
    mode: str
    measured: bool
    fits: bool
    advice: str = ""
    split: str = ""


def shape(config: Mapping[str, Any], device: str, fused: bool) -> memory.Shape | None:
    """The shape of a model with this config.json, or None for one that says too little."""
    text = config.get("text_config") or config
    try:
        return memory.Shape.of(SimpleNamespace(**text), 2 if device == "cuda" else 4, fused)
    except (AttributeError, TypeError):
        return None


def key(machine: Machine, model: memory.Shape, wanted: Wanted) -> str:
    """What measurements are kept by: the device, the model's shape, and what changes its speed."""
    sizes = "-".join(str(value) for value in asdict(model).values())
    split = "/shard" if _split(wanted) else ""
    method = "dpo" if wanted.dpo else "sft"
    return f"{machine.name}/{machine.cores}/{sizes}/{wanted.quantize}/{method}/{wanted.gpus}{split}"


def cost(model: memory.Shape, wanted: Wanted, machine: Machine) -> Cost:
    """The cost, and, where it does not fit, what would."""
    found = replace(_cost(model, wanted, machine), split=_gain(model, wanted, machine))
    return found if found.fits else replace(found, advice=_advice(model, wanted, machine, found))


def _split(wanted: Wanted) -> bool:
    """Whether each process holds a part of the weights alone."""
    return wanted.shard and wanted.gpus > 1


def _gain(model: memory.Shape, wanted: Wanted, machine: Machine) -> str:
    """What `shard` does for this run, said; "" when it is not asked for."""
    if not wanted.shard:
        return ""
    if wanted.gpus == 1:
        return "`shard` splits weights among several processes: set `gpus`, or give a TrainJob several pods"
    apart, whole = (_cost(model, replace(wanted, shard=flag), machine) for flag in (True, False))
    said = f"`shard`: each of {wanted.gpus} processes takes {apart.memory / 1e9:.1f} GB, not {whole.memory / 1e9:.1f}"
    return f"{said}; it would fit without, and be faster" if whole.fits else said


def operations(model: memory.Shape, wanted: Wanted, mode: str) -> float:
    """Floating point operations of one trained token."""
    linear, adapter = _linear(model), _adapter(model, wanted.rank)
    attention = 2 * model.layers * model.hidden * wanted.tokens
    forward = 2 * linear + 2 * adapter + attention
    again = {"none": 0.0, "selective": 0.15, "full": 1.0}[mode] + (1.0 / wanted.epochs if wanted.dpo else 0.0)
    backward = 2 * linear + 4 * adapter + 2.5 * attention
    return forward * (1 + again) + backward + LEARNT * 4 * model.vocabulary * model.hidden


def rate(model: memory.Shape, wanted: Wanted, mode: str, tokens: float, seconds: float) -> float:
    """Operations a second of a step that took `seconds` for `tokens`."""
    return tokens * operations(model, wanted, mode) / max(seconds, 1e-9)


def _cost(model: memory.Shape, wanted: Wanted, machine: Machine) -> Cost:
    still = _still(model, wanted, machine.device)
    length = wanted.tokens * (2 if wanted.dpo else 1)
    chosen = memory.plan(
        model, device=machine.device, free=max(0, machine.free - still), parameters=_linear(model) + _embedded(model),
        pack=wanted.pack, mode=wanted.mode, resident=False if _split(wanted) else wanted.resident,
        rows=[length] * wanted.rows_a_step,
        quantized=wanted.quantize == "nf4", batch=wanted.batch,
    )  # fmt: skip
    step = length * wanted.rows_a_step
    micro = min(step, chosen.pack or length * wanted.batch)
    kept = memory.linear_bytes(model) if chosen.resident else 0
    peak = still + memory.activations(model, micro, chosen.checkpointing) + kept + 2 * LOGITS[machine.device]
    seen = machine.measured.get(key(machine, model, wanted))
    peak = int(peak * (seen.memory if seen else 1))
    each = operations(model, wanted, chosen.checkpointing)
    speed = seen.rate / each if seen else _guessed(model, machine, micro, each) * wanted.gpus
    seconds = START[machine.device] + wanted.rows * length * wanted.epochs / speed if wanted.rows else None
    context = PROCESS if machine.device == "cuda" else 0
    return Cost(peak, speed, seconds, micro, chosen.checkpointing, seen is not None, peak + context <= machine.free)


def _guessed(model: memory.Shape, machine: Machine, micro: int, each: float) -> float:
    """Tokens a second of a process that nothing was measured of: small models wait for their many small operations."""
    return micro / (micro * each / guess(machine) + CALLS * model.layers)


def guess(machine: Machine) -> float:
    """Operations a second that a machine may do, by its name alone."""
    if machine.device == "cpu":
        return CPU_RATE * machine.cores
    return next((value for name, value in GPU_RATES.items() if name in machine.name), OTHER_GPU)


def _still(model: memory.Shape, wanted: Wanted, device: str) -> int:
    """Bytes that are taken whatever a step is: weights, adapter with its optimizer, on the CPU the process."""
    linear, embedded = _linear(model), _embedded(model)
    nf4 = wanted.quantize == "nf4"
    if _split(wanted):  # a part, the scales, and three layers: one fetched, one computed, one let go
        scales, part = (0.016 if nf4 else 0.0), (0.5 if nf4 else model.size)
        weights = model.size * embedded + linear * (scales + part * (1 / wanted.gpus + min(1, 3 / model.layers)))
    else:
        weights = loaded(model, wanted.quantize)
    if device == "cpu":  # the 16-bit file is resident while it is read
        weights += PROCESS + (2 * (linear + embedded) if wanted.quantize == "nf4" else 0)
    return int(weights + 16 * _adapter(model, wanted.rank))


def loaded(model: memory.Shape, quantize: str) -> int:
    """Bytes of a whole base as it is kept for training."""
    return int(model.size * _embedded(model) + (0.516 if quantize == "nf4" else model.size) * _linear(model))


def _linear(model: memory.Shape) -> int:
    return memory.linear_bytes(model) // model.size


def _embedded(model: memory.Shape) -> int:
    return model.vocabulary * model.hidden * (1 if model.tied else 2)


def _adapter(model: memory.Shape, rank: int) -> int:
    h, keys, inner = model.hidden, model.keys, model.inner
    return rank * model.layers * (4 * h + 2 * (h + keys) + 3 * (h + inner))


def _advice(model: memory.Shape, wanted: Wanted, machine: Machine, found: Cost) -> str:
    lacking = f"needs {found.memory / 1e9:.1f} GB and {machine.free / 1e9:.1f} GB are free on {machine.name}"
    tries = list(_changes(wanted, more=machine.device == "cuda"))
    for text, changed in tries:
        other = _cost(model, changed, machine)
        if other.fits:
            each = " each" if changed.gpus > 1 else ""
            return f"{lacking}: with {text} it needs {other.memory / 1e9:.1f} GB{each}"
    least = min(_cost(model, changed, machine).memory for _, changed in tries)
    return f"{lacking}: no setting fits, the least is {least / 1e9:.1f} GB; take a smaller model or free some memory"


def _changes(wanted: Wanted, more: bool) -> Iterable[tuple[str, Wanted]]:
    """Ever less memory, the cheapest first. `more`: there may be more GPUs."""
    yield from _tried(
        wanted,
        ("`gradient_checkpointing: full`", {"mode": "full"}),
        ("`shard: true`", {"shard": wanted.gpus > 1 or wanted.shard}),
        ("`quantize: nf4`", {"quantize": "nf4"}),
        ("`pack: 1024`", {"pack": 1024, "resident": False}),
        ("`batch: 1` with as much more `grad_accum`", {"batch": 1}),
        ("`rank: 8`", {"rank": min(8, wanted.rank)}),
    )
    if more and wanted.gpus == 1:
        least = ("`quantize: nf4`", {"quantize": "nf4"}), ("`gradient_checkpointing: full`", {"mode": "full"})
        for count in (2, 4, 8):
            shard = f"`gpus: {count}` and `shard: true`", {"gpus": count, "shard": True}
            yield list(_tried(wanted, *least, shard))[-1]


def _tried(wanted: Wanted, *changes: tuple[str, Mapping[str, Any]]) -> Iterable[tuple[str, Wanted]]:
    """The changes, one after the other, each on top of those before it; at least one."""
    words: list[str] = []
    for text, change in changes:
        changed = replace(wanted, **change)
        if changed != wanted:
            words.append(text)
            wanted = changed
            yield " and ".join(words), wanted
    if not words:
        yield "nothing changed", wanted
