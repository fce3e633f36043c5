"""Fine-tune a model on a data set: LoRA on a 4-bit (NF4) or unquantised base, on one GPU or on the CPU.

The work is `hyb.workers.sft`, in a child process. The step's folder keeps its checkpoints, so a killed run goes on
from the last one; they are gone when the adapter is in the store.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from hyb import digest as dg
from hyb import engine, machine, places, templates, tune_container
from hyb.artifact import Artifact, short
from hyb.errors import Exit, HybError
from hyb.formats import curve, modelpack, tune_cost
from hyb.formats.tune_cost import Machine, Measured, Wanted
from hyb.progress import Progress
from hyb.stages import pinned
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, StagePlan, StageSpec

SUMMARY = "fine-tune a model on a data set (LoRA, 4-bit or not)"
REVISION = 2

CHECKPOINT_SECONDS = 60.0
REASONED = "reasoned.jsonl"
DONE = "done.json"
ELSEWHERE = (
    "model", "train", "heldout", "out", "checkpoints", "done", "inputs", "checkpoint_seconds", "checkpoint_steps",
    "gpus", "shard", "device",
)  # fmt: skip
"""What of a job may differ where it runs; `inputs` are compared by themselves."""
MODULES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors")

_TOKENS_A_ROW = 64  # of a short question and its answer
_CALLED: dict[str | bool, str] = {"on": "full", "off": "none", True: "full", False: "none"}


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
    method: Literal["sft", "dpo"] = "sft"
    """sft: learn the answers. dpo: learn which of two answers is better, from rows with `chosen` and `rejected`."""
    beta: float = Field(0.1, gt=0, le=100)
    """dpo: how strongly the model is held to the base; more holds it closer."""
    quantize: Literal["nf4", "none"] = "nf4"
    """nf4: the base in 4 bits with double quantization. none: bfloat16 on CUDA, float32 on the CPU."""
    rank: int = Field(16, ge=1, le=4096)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"
    """`all-linear` (the head left out) or names of linear layers, as `q_proj`."""
    rslora: bool = False
    dora: bool = False
    """Train the length of each weight's rows apart from their direction (DoRA): slower, at times better."""
    neftune: float = Field(0.0, ge=0, le=1000)
    """Noise on the embeddings while training (NEFTune's alpha; 5 is usual)."""
    lr: float = Field(2e-4, gt=0, le=1)
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of all steps over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    """How the rate goes on: down in a line, down in half a cosine, level and down in a line at the end, or level."""
    decay: float = Field(0.2, gt=0, le=1)
    """wsd: share of all steps over which the rate falls."""
    epochs: float = Field(3, gt=0, le=1000)
    batch: int = Field(8, ge=1)
    """Rows that are computed at once."""
    grad_accum: int = Field(1, ge=1)
    """Batches to one step of the optimizer."""
    max_length: int = Field(1024, ge=8)
    """Most tokens of a row."""
    long: Literal["error", "skip", "truncate"] = "error"
    """What happens to a row over `max_length`."""
    think: Literal["", "keep", "empty", "generate"] = ""
    """For a model whose template has `<think>`. "": every answer must come with its reasoning. keep: answers without
    reasoning are trained with an empty one. empty: the model learns to answer without reasoning. generate: the base
    writes the reasoning, and answers that it does not get right are left out."""
    think_tokens: int = Field(1024, ge=16, le=65536)
    """generate: most tokens of reasoning and answer."""
    seed: int = Field(0, ge=0, lt=2**32)
    patience: int = Field(0, ge=0)
    """Looks at the held-out loss without a better one after which training stops; the best adapter is kept. 0: never
    look."""
    evaluate_every: float = Field(0.5, gt=0, le=1000)
    """Epochs between two looks."""
    deterministic: bool = False
    """Refuse kernels that don't give the same bits each time. On the CPU none is used anyway."""
    gpus: int = Field(1, ge=1, le=64)
    """Processes that share each step, one a GPU of this machine."""
    shard: bool = False
    """Split the frozen weights among the processes (FSDP2), for a model that does not fit one GPU. Slower."""
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
        """YAML reads `on` and `off` as true and false; `on` and `off` are what `full` and `none` were called."""
        if info.field_name == "gradient_checkpointing":
            return _CALLED.get(value, value) if isinstance(value, (str, bool)) else value
        return ("off", "auto")[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _together(self) -> Spec:
        if self.shard and (self.speed.compile or self.speed.resident is True):
            raise ValueError("`shard` goes with neither `speed: {compile: true}` nor `speed: {resident: true}`")
        return self

    @field_validator("targets")
    @classmethod
    def _named(cls, value: str | list[str]) -> str | list[str]:
        names = [value] if isinstance(value, str) else value
        if not names or not all(n and n.strip() == n for n in names):
            raise ValueError("give `all-linear`, or a list of names of linear layers")
        return value


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """What a run does; see `on_machine` for what it costs."""
    model, data = inputs.get(spec.model), inputs.get(spec.data)
    if model is not None:
        _trainable(model)
    if data is not None:
        _usable(spec, data)
    parameters = model.meta.get("parameters") if model else None
    rows = data.meta.get("counts", {}).get("train") if data else None
    base = "a 4-bit (NF4) base" if spec.quantize == "nf4" else "an unquantised base"
    kind = ("DoRA" if spec.dora else "LoRA") + (" by preferences (DPO)" if spec.method == "dpo" else "")
    adapter = adapter_bytes(parameters, spec.rank) if parameters else None
    return StagePlan(
        makes=f"adapter: {kind} of rank {spec.rank} on {base}, {spec.epochs:g} epoch(s), lr {spec.lr:g}",
        reads=(f"model `{spec.model}`", f"data set `{spec.data}`" + (f" ({rows} rows)" if rows else "")),
        runs=(
            *(("python -m hyb.workers.think (the base writes reasoning)",) if spec.think == "generate" else ()),
            "python -m hyb.workers.sft (torch, transformers, peft, bitsandbytes; no network)",
        ),
        disk=4 * adapter + 3 * 2 * adapter if adapter else None,  # itself, and checkpoints with the optimizer's moments
    )


def adapter_bytes(parameters: int, rank: int) -> int:
    """About the bytes of an adapter on all linear layers, float32. Rank 16 has 4.88 M of 135 M, 18.5 M of 1.78 B.

    An adapter grows with the width of the layers, a model with its square: hence the power.
    """
    return int(4 * rank * 305_000 * (parameters / 135e6) ** 0.52)


def on_machine(
    spec: Spec,
    inputs: MaybeInputs,
    configs: Mapping[str, Mapping[str, Any] | None],
    plan: StagePlan,
    here: Machine,
) -> StagePlan:
    """The plan with what it costs on a machine, as far as the model's shape and the rows are known."""
    config = configs.get(spec.model)
    shape = tune_cost.shape(config, here.device, _fused(spec)) if config else None
    if shape is None:
        return replace(plan, notes=("what it costs is known when the model is here: its shape is not known yet",))
    found = tune_cost.cost(shape, wanted(spec, inputs.get(spec.data)), here)
    how = "measured by an earlier run" if found.measured else "a guess, until the first run has measured it"
    how += here.crowded()
    said = f"on {here.name}: {found.micro} tokens at once, activation checkpointing {found.mode}; speed is {how}"
    return replace(
        plan, memory=found.memory, seconds=found.seconds, rate=found.rate,
        notes=tuple(note for note in (said, found.split, found.advice) if note),
    )  # fmt: skip


def _fused(spec: Spec) -> bool:
    return spec.speed.fused and not (spec.dropout or spec.dora)


def wanted(spec: Spec, data: Artifact | None) -> Wanted:
    """What of the spec and its data the cost depends on."""
    rows = int(data.meta.get("counts", {}).get("train") or 0) if data else 0
    size = next((f.blob.size for f in data.files if f.path == "train.jsonl"), 0) if data else 0
    # a row's JSON has about 170 bytes that are no text; a token has about four; a template adds about twenty
    tokens = 20 + max(0, size // rows - 170) // 4 if rows and size else _TOKENS_A_ROW
    return Wanted(
        quantize=spec.quantize, rank=spec.rank, mode=spec.gradient_checkpointing, pack=spec.pack,
        resident=spec.speed.resident, batch=spec.batch,
        rows_a_step=spec.batch * spec.grad_accum, rows=rows, tokens=min(tokens, spec.max_length), epochs=spec.epochs,
        dpo=spec.method == "dpo", gpus=spec.gpus, shard=spec.shard,
    )  # fmt: skip


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Train, and store the adapter with its metrics and loss curve. Raises HybError."""
    model, data = inputs[spec.model], inputs[spec.data]
    _trainable(model)
    _usable(spec, data)
    store, out = context.store, context.work / "out"
    job = job_of(spec, model, data, Places.here(context, model, data))
    reasoned: dict[str, Any] = {}
    if spec.think == "generate" and (context.container or context.trained):
        raise HybError("`think: generate` asks the base model on this machine, not in a container or a cluster",
                       hint="leave `--in` and `--from` out; or give rows with reasoning and `think: keep`")  # fmt: skip
    if spec.think == "generate":
        reasoned = {"reasoning": _reasoned(spec, model, Path(job["train"]), job, context)}
        # a row that has grown too long is left out, as one whose reasoning is of no use
        long = "skip" if spec.long == "error" else spec.long
        job |= {"train": str(context.work / REASONED), "think": "keep", "long": long}
    elif spec.think == "empty":
        context.say("`think: empty`: the model learns to answer after an empty reasoning block")
    done = adopted(context.trained, job, out) if context.trained else _trained(spec, model, data, job, context)
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    (out / "loss.svg").write_text(curve.svg(losses))
    files = [modelpack.file(p.name, store.add_file(p, how="move")) for p in sorted(out.iterdir())]
    meta = {
        "base": model.digest, "data": data.digest, "rank": spec.rank, "alpha": spec.alpha, "quantize": spec.quantize,
        "think": spec.think, "method": spec.method, "steps": done["steps"], "loss": done["loss"],
        "target_modules": done["targets"],
        **reasoned, **({"dora": True} if spec.dora else {}),
    }  # fmt: skip
    if family := pinned.pair(model, store):
        meta["templates"] = family.as_json()
    config = modelpack.config(files, name=job["name"] + "-lora", architecture="lora", format="safetensors")
    return store.add_artifact("adapter", files, meta=meta, needs=[model.digest], config=config)


def _reasoned(spec: Spec, model: Artifact, train: Path, job: dict[str, Any], context: Context) -> dict[str, Any]:
    """Have the base write the reasoning that the rows lack. Returns what came of it, for the artifact.

    Raises HybError when nothing of it is of use.
    """
    asked = {
        "model": job["model"], "model_digest": model.digest, "quantize": spec.quantize, "train": str(train),
        "out": str(context.work / REASONED), "cache": str(context.store.root / "cache" / "reasoning"),
        "max_tokens": spec.think_tokens, "batch": spec.batch, "seed": spec.seed, "device": spec.device,
    }  # fmt: skip
    done = engine.worker("think", asked, context.work, lambda event: _tell(event, context))
    context.record("reasoning_from_cache", done["cached"])
    dropped = [f"{n} dropped: {why} ({', '.join(done['examples'][why])})" for why, n in done["dropped"].items()]
    if not done["rows"]:
        raise HybError(
            f"`think: generate`: of {done['asked']} answers none is left with reasoning",
            hint="raise `think_tokens`, take a larger model, or choose `think: empty`",
            details=dropped,
        )
    context.say(f"reasoning for {done['kept']} of {done['asked']} answers, {done['unaided']} of them not told before")
    for line in dropped:
        context.say(line)
    prompt = dg.of_bytes(templates.reasoning_prompt().encode())
    return {**{k: done[k] for k in ("asked", "kept", "unaided", "dropped", "words")}, "prompt": prompt}


def _tell(event: dict[str, Any], context: Context) -> None:
    """A worker's event, said."""
    if event["event"] == "progress":
        context.say(Progress(event["task"], event["done"], event["total"], event["unit"], event["note"]))
    elif event["event"] == "note":
        context.say(event["text"])


def _trainable(model: Artifact) -> None:
    """Raise HybError for a model that can't be trained on."""
    if model.meta.get("format") != "safetensors":
        raise HybError(
            f"model `{model.meta.get('name') or short(model.digest)}` is {model.meta.get('format', 'unknown')}; "
            "only safetensors can be trained on",
            hint="pull the model's safetensors version; export makes a GGUF from what was trained",
        )


def _usable(spec: Spec, data: Artifact) -> None:
    """Raise HybError for a data set that lacks what the spec asks of it."""
    counts = data.meta.get("counts", {})
    if spec.patience and counts.get("holdout") == 0:
        raise HybError(
            f"`patience` stops by the held-out loss, and data set `{spec.data}` holds nothing out",
            hint="give the data stage a `holdout`, or leave `patience` out",
        )


@dataclass(frozen=True)
class Places:
    """Where a worker finds and puts things: paths as it sees them. `heldout`: "" for none."""

    model: str
    train: str
    heldout: str
    out: str
    checkpoints: str
    done: str = ""

    @classmethod
    def here(cls, context: Context, model: Artifact, data: Artifact) -> Places:
        """On this machine, in the step's folder."""
        rows = context.store.view(data)
        heldout = rows / "holdout.jsonl"
        return cls(
            str(context.store.view(model)), str(rows / "train.jsonl"), str(heldout) if heldout.exists() else "",
            str(context.work / "out"), str(context.work / "checkpoints"),
        )  # fmt: skip


def job_of(spec: Spec, model: Artifact, data: Artifact, places: Places) -> dict[str, Any]:
    """What the worker is told, wherever it runs."""
    return {
        **spec.model_dump(exclude={"stage", "model", "data", "think_tokens"}), **asdict(places),
        "name": model.meta.get("name") or short(model.digest), "inputs": {"model": model.digest, "data": data.digest},
        "checkpoint_seconds": CHECKPOINT_SECONDS, "checkpoint_steps": 0,
    }  # fmt: skip


def _trained(spec: Spec, model: Artifact, data: Artifact, job: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run the worker, here or in a container; returns what it did."""
    begun, forecast = time.monotonic(), Forecast(spec, model, data, context)
    if context.container:
        where = tune_container.Where(context.container, spec.gpus, forecast.machine.device == "cuda")
        done = tune_container.worker(job, context.work, where, forecast.hear)
    else:
        engine.require(MODULES, "tune", "tune")
        compiled = str(places.data_home(os.environ) / "compiled")
        kept = {"TORCHINDUCTOR_CACHE_DIR": compiled} if spec.speed.compile else {}
        done = engine.worker("sft", job, context.work, forecast.hear, processes=spec.gpus, env=kept)
    _record(done, time.monotonic() - begun, context)
    forecast.close(done, time.monotonic() - begun)
    return done


def adopted(folder: Path, job: dict[str, Any], out: Path) -> dict[str, Any]:
    """What a run elsewhere gave, as if it had been here; its files are copied to `out`.

    Raises HybError: exit 3 when it is not done, exit 4 when it was another job: another base, other rows or settings.
    """
    try:
        said = json.loads((folder / DONE).read_bytes())
        theirs, done = said["job"], said["done"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HybError(
            f"`{folder}` holds no finished run: there is no `{DONE}` that can be read",
            hint="copy the volume's `out` and `done.json` into it when the job has ended",
        ) from error
    wrong = [
        f"`{name}` is `{theirs.get(name)}` there, `{value}` here"
        for name, value in job.items()
        if name not in ELSEWHERE and theirs.get(name) != value
    ]
    for name, digest in job["inputs"].items():
        if theirs.get("inputs", {}).get(name) != digest:
            what = "another base model" if name == "model" else "another data set"
            wrong.insert(0, f"it was trained on {what}: `{theirs.get('inputs', {}).get(name)}`, not `{digest}`")
    if wrong:
        raise HybError(f"`{folder}` is not what this step would train", details=wrong, code=Exit.CHECK)
    if out.exists():
        shutil.rmtree(out)
    shutil.copytree(folder / "out", out)
    return dict(done)


class Forecast:
    """What a run was expected to cost and what it does: its first real step is measured and kept for the next plan."""

    def __init__(self, spec: Spec, model: Artifact, data: Artifact, context: Context) -> None:
        self.context, self.machine = context, machine.here(spec.device)
        config = json.loads(context.store.blob_path(model.file("config.json").blob.digest).read_bytes())
        self.shape = tune_cost.shape(config, self.machine.device, _fused(spec))
        self.wanted = wanted(spec, data)
        self.expected = tune_cost.cost(self.shape, self.wanted, self.machine) if self.shape else None

    def hear(self, event: dict[str, Any]) -> None:
        """An event of the worker."""
        _tell(event, self.context)
        if event["event"] == "measured":
            self._measured(event["mode"], event["tokens"], event["seconds"], event["length"], event["memory"])

    def close(self, done: dict[str, Any], seconds: float) -> None:
        """Say what was expected and what it was; `seconds`: all of the worker's."""
        if not self.expected or done["resumed_from_step"]:
            return
        was = [self.expected.memory, self.expected.rate, self.expected.seconds or 0]
        became = [done["peak_memory"], done["tokens_per_second"], seconds]
        self.context.record("expected", dict(zip(("memory", "tokens_per_second", "seconds"), was, strict=True)))
        self.context.say(f"expected {_costs(*was)}; it was {_costs(*became)}")

    def _measured(self, mode: str, tokens: int, seconds: float, length: int, memory: int) -> None:
        if not self.shape or not self.expected:
            return
        wanted = replace(self.wanted, tokens=max(1, length))
        key = tune_cost.key(self.machine, self.shape, self.wanted)
        before = self.machine.measured.get(key)
        rate = tune_cost.rate(self.shape, wanted, mode, tokens, seconds)
        ratio = memory / (self.expected.memory / (before.memory if before else 1))
        machine.remember(key, Measured(rate, ratio))


def _costs(memory: float, rate: float, seconds: float) -> str:
    """For people: `2.1 GB, 310 tokens/s, 95 s`."""
    return f"{memory / 1e9:.1f} GB, {rate:.0f} tokens/s, {seconds:.0f} s"


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
