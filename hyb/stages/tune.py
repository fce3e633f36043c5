"""Fine-tune a model on a data set: LoRA on a 4-bit (NF4) or unquantised base, on one GPU or on the CPU.

The work is `hyb.workers.sft`, in a child process. The step's folder keeps its checkpoints, so a killed run goes on
from the last one; they are gone when the adapter is in the store.
"""

from __future__ import annotations

import json
import os
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from hyb import engine, places
from hyb.artifact import Artifact, short
from hyb.errors import HybError
from hyb.formats import curve, modelpack
from hyb.progress import Progress
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, StagePlan, StageSpec

SUMMARY = "fine-tune a model on a data set (LoRA, 4-bit or not)"
REVISION = 2

CHECKPOINT_SECONDS = 60.0
MODULES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors")

# For the plan, measured on SmolLM2-135M and a 1.8 B Qwen2: see docs/stages/tune.md.
_CPU_FLOPS = 150e9  # floating point operations per second that training reaches on two cores, float32
_TOKENS_A_ROW = 64  # of a short question and its answer
_FIXED_MEMORY = 0.6e9  # bytes: Python, torch and the libraries
_LARGE = 500_000_000  # parameters; above, activations are computed twice on the CPU


class Speed(BaseModel):
    """Switches of what makes it fast. None changes what is learnt, but for rounding; see docs/stages/tune.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fused: bool = True
    """LoRA, its frozen layer and the MLP as functions of our own."""
    kernels: bool = True
    """Norms and rotary positions as functions of our own, or Liger's on CUDA."""
    share: bool = True
    """What rows of a pack begin with alike is computed once."""
    chunked: bool = True
    """The loss without all logits at once."""
    varlen: bool = True
    """torch's variable-length attention on CUDA."""
    resident: Literal["auto"] | bool = "auto"
    """4-bit weights kept dequantised, beside the 4-bit ones. auto: when memory allows."""
    compile: bool = False
    """Each layer through torch.compile. It needs a C++ compiler, and minutes at the first run."""


class Spec(StageSpec):
    """What to train, on what, and how."""

    stage: Literal["tune"] = "tune"
    model: Annotated[str, Ref("model")]
    data: Annotated[str, Ref("dataset")]
    quantize: Literal["nf4", "none"] = "nf4"
    """nf4: the base in 4 bits with double quantization. none: bfloat16 on CUDA, float32 on the CPU."""
    rank: int = Field(16, ge=1, le=4096)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"
    """`all-linear` (the head left out) or names of linear layers, as `q_proj`."""
    rslora: bool = False
    lr: float = Field(2e-4, gt=0, le=1)
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of all steps over which the learning rate rises; then it falls in a line."""
    epochs: float = Field(3, gt=0, le=1000)
    batch: int = Field(8, ge=1)
    """Rows that are computed at once."""
    grad_accum: int = Field(1, ge=1)
    """Batches to one step of the optimizer."""
    max_length: int = Field(1024, ge=8)
    """Most tokens of a row."""
    long: Literal["error", "skip", "truncate"] = "error"
    """What happens to a row over `max_length`."""
    think: Literal["", "keep", "empty"] = ""
    """For a model whose template has `<think>`. "": every answer must come with its reasoning. keep: answers without
    reasoning are trained with an empty one. empty: the model learns to answer without reasoning."""
    seed: int = Field(0, ge=0, lt=2**32)
    pack: Literal["auto", "off"] | Annotated[int, Field(ge=16)] = "auto"
    """Most tokens of a micro-step: rows are put one after the other into packs, and see nothing of each other. off:
    rows are padded, `batch` at once."""
    gradient_checkpointing: Literal["auto", "none", "selective", "full"] = "auto"
    """What the backward pass computes again: nothing, the inside of each MLP, or each layer. auto: by the memory."""
    speed: Speed = Speed()
    group_by_length: bool = True
    """Rows of like length in one step: less padding."""
    device: Literal["auto", "cuda", "cpu"] = "auto"

    @field_validator("pack", "gradient_checkpointing", mode="before")
    @classmethod
    def _switched(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `on` and `off` as true and false."""
        if isinstance(value, bool):
            return {"pack": ("off", "auto"), "gradient_checkpointing": ("none", "full")}[str(info.field_name)][value]
        return value

    @field_validator("targets")
    @classmethod
    def _named(cls, value: str | list[str]) -> str | list[str]:
        names = [value] if isinstance(value, str) else value
        if not names or not all(n and n.strip() == n for n in names):
            raise ValueError("give `all-linear`, or a list of names of linear layers")
        return value


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """What a run does and an estimate of what it costs, for two CPU cores (a GPU is faster by far)."""
    model, data = inputs.get(spec.model), inputs.get(spec.data)
    if model is not None:
        _trainable(model)
    parameters = model.meta.get("parameters") if model else None
    rows = data.meta.get("counts", {}).get("train") if data else None
    base = "4-bit (NF4) base" if spec.quantize == "nf4" else "unquantised base"
    adapter = adapter_bytes(parameters, spec.rank) if parameters else None
    return StagePlan(
        makes=f"adapter: LoRA of rank {spec.rank} on a {base}, {spec.epochs:g} epoch(s), lr {spec.lr:g}",
        reads=(f"model `{spec.model}`", f"data set `{spec.data}`" + (f" ({rows} rows)" if rows else "")),
        runs=("python -m hyb.workers.sft (torch, transformers, peft, bitsandbytes; no network)",),
        disk=4 * adapter + 3 * 2 * adapter if adapter else None,  # itself, and checkpoints with the optimizer's moments
        memory=memory_bytes(parameters, spec) if parameters else None,
        seconds=cpu_seconds(parameters, rows, spec) if parameters and rows and spec.device != "cuda" else None,
    )


def adapter_bytes(parameters: int, rank: int) -> int:
    """About the bytes of an adapter on all linear layers, float32. Rank 16 has 4.88 M of 135 M, 18.5 M of 1.78 B.

    An adapter grows with the width of the layers, a model with its square: hence the power.
    """
    return int(4 * rank * 305_000 * (parameters / 135e6) ** 0.52)


def memory_bytes(parameters: int, spec: Spec) -> int:
    """About the bytes resident at the peak, on the CPU in float32; on CUDA (bfloat16) it is less."""
    base = parameters * (2.3 if spec.quantize == "nf4" else 4.0)  # nf4: the 16-bit file is resident while it is read
    tokens = spec.batch * min(spec.max_length, _TOKENS_A_ROW)
    a_token = 3.2e6 * (parameters / 135e6) ** 0.72
    if spec.gradient_checkpointing == "full" or (spec.gradient_checkpointing == "auto" and parameters > _LARGE):
        a_token /= 4
    return int(_FIXED_MEMORY + base + 4 * adapter_bytes(parameters, spec.rank) + tokens * a_token)


def cpu_seconds(parameters: int, rows: int, spec: Spec) -> float:
    """About the seconds on two cores. A frozen base costs 4 operations a parameter and token, 6 when computed twice."""
    twice = spec.gradient_checkpointing == "full" or (spec.gradient_checkpointing == "auto" and parameters > _LARGE)
    tokens = rows * spec.epochs * min(spec.max_length, _TOKENS_A_ROW)
    return 15 + tokens * (6 if twice else 4) * parameters / _CPU_FLOPS


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Train, and store the adapter with its metrics and loss curve. Raises HybError."""
    model, data = inputs[spec.model], inputs[spec.data]
    _trainable(model)
    engine.require(MODULES, "tune", "tune")
    store, out = context.store, context.work / "out"
    train = store.view(data) / data.file("train.jsonl").path
    job = {
        **spec.model_dump(exclude={"stage", "model", "data"}),
        "model": str(store.view(model)), "train": str(train), "out": str(out),
        "checkpoints": str(context.work / "checkpoints"), "name": model.meta.get("name") or short(model.digest),
        "checkpoint_seconds": CHECKPOINT_SECONDS, "checkpoint_steps": 0,
    }  # fmt: skip
    begun = time.monotonic()
    kept = {"TORCHINDUCTOR_CACHE_DIR": str(places.data_home(os.environ) / "compiled")} if spec.speed.compile else {}
    done = engine.worker("sft", job, context.work, lambda event: _tell(event, context), env=kept)
    _record(done, time.monotonic() - begun, context)
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    (out / "loss.svg").write_text(curve.svg(losses))
    files = [modelpack.file(p.name, store.add_file(p, how="move")) for p in sorted(out.iterdir())]
    meta = {
        "base": model.digest, "data": data.digest, "rank": spec.rank, "alpha": spec.alpha, "quantize": spec.quantize,
        "think": spec.think, "steps": done["steps"], "loss": done["loss"], "target_modules": done["targets"],
    }  # fmt: skip
    config = modelpack.config(files, name=job["name"] + "-lora", architecture="lora", format="safetensors")
    return store.add_artifact("adapter", files, meta=meta, needs=[model.digest], config=config)


def _trainable(model: Artifact) -> None:
    """Raise HybError for a model that can't be trained on."""
    if model.meta.get("format") != "safetensors":
        raise HybError(
            f"model `{model.meta.get('name') or short(model.digest)}` is {model.meta.get('format', 'unknown')}; "
            "only safetensors can be trained on",
            hint="pull the model's safetensors version; export makes a GGUF from what was trained",
        )


def _tell(event: dict[str, Any], context: Context) -> None:
    """A worker's event, said."""
    if event["event"] == "progress":
        context.say(Progress(event["task"], event["done"], event["total"], event["unit"], event["note"]))
    elif event["event"] == "note":
        context.say(event["text"])


def _record(done: dict[str, Any], seconds: float, context: Context) -> None:
    """Measured facts for the receipt; rows that were not trained whole are said aloud."""
    for name in (
        "tokens", "tokens_per_second", "peak_memory", "plan", "device", "resumed_from_step", "trainable_parameters",
    ):  # fmt: skip
        context.record(name, done[name])
    context.record("train_seconds", done["seconds"])
    context.record("worker_seconds", round(seconds, 3))
    for name in ("skipped", "truncated"):
        if done[name]:
            context.record(name, done[name])
            context.say(f"{len(done[name])} row(s) {name}, being longer than `max_length`: {', '.join(done[name][:5])}")
