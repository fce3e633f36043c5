"""export: an adapter merged into its base, a model converted to GGUF and quantized.

The merge goes into the base's own weights (bfloat16, as a rule) by way of float32, never into 4-bit ones, and is then
measured: the merged model's next-token distributions against those of the live adapter. A GGUF is loaded in llama.cpp
and must give the token ids of the model's own tokenizer, and its greedy answers, before it becomes an artifact.

What the workers write lies in the step's folder under its final name only when it is whole; a killed export goes on
from there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hyb import engine
from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.formats import gguf_types, modelpack
from hyb.progress import Progress
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, StagePlan, StageSpec, base_of
from hyb.store import Store

SUMMARY = "Merge an adapter into its base, convert to GGUF, quantize; the result is measured"
REVISION = 1
MERGED, GGUF = "merged", "model.gguf"
PROMPTS, TOKENS = 8, 8  # questions that are compared, greedy tokens after each
EXACT = ("f32", "f16", "bf16", "q8_0")
FIRST = {True: 0.75, False: 0.5}  # share of first tokens that must agree: exact quantizations, others
NEUTRAL = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Name three colours.", "Red, green and blue."),
    ("How many days has a week?", "A week has seven days."),
    ("Write a short sentence about the sea.", "The sea was calm and grey under the morning fog."),
    ("What is 7 times 8?", "7 times 8 is 56."),
    ("Translate `good morning` into French.", "`Good morning` is `bonjour` in French."),
    ("Why is the sky blue?", "Air scatters blue light from the sun more than red light."),
    ("Write a line of Python that prints the numbers from 1 to 3.", "for i in range(1, 4): print(i)"),
)
"""What is asked where no data set is given."""


class Spec(StageSpec):
    """What to export.

    `quantize`: with `gguf` one of f32, f16 (the default), bf16, q8_0, q6_k, q5_k_m, q4_k_m; with `safetensors` empty
    (the base's own type) or bf16. `prompts`: a data set whose held-out questions measure the result; without one,
    neutral questions do. `max_kl`: the most that the merged model's next-token distributions may differ from the live
    adapter's, as mean KL divergence in nats; `min_agreement`: the least share of equal likeliest tokens.
    """

    stage: Literal["export"] = "export"
    model: Annotated[str, Ref("model", "adapter")]
    format: Literal["safetensors", "gguf"] = "gguf"
    quantize: str = ""
    prompts: Annotated[str, Ref("dataset")] = ""
    max_kl: float = Field(default=0.05, ge=0)
    min_agreement: float = Field(default=0.9, ge=0, le=1)

    @field_validator("quantize")
    @classmethod
    def _known(cls, value: str) -> str:
        if value and value not in gguf_types.QUANTIZATIONS:
            raise ValueError(f"`{value}` is not known: one of {', '.join(gguf_types.QUANTIZATIONS)}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Spec:
        if self.format == "safetensors" and self.quantize not in ("", "bf16"):
            raise ValueError(f"`quantize: {self.quantize}` needs `format: gguf`; safetensors takes `bf16` or nothing")
        return self


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """What is run, and what it takes; disk and memory are known when the model is."""
    given = inputs.get(spec.model)
    if given:
        _refuse(spec, given)
    count = given.meta.get("parameters") if given else None
    merges = given is None or given.kind == "adapter" or spec.format == "safetensors"
    bits = (16 if merges else 0) + (_bits(spec) if spec.format == "gguf" else 0)
    workers = (["merge"] if merges else []) + ["compare"]
    workers += ["gguf_write", "gguf_check"] if spec.format == "gguf" else []
    return StagePlan(
        makes=f"model ({' '.join(filter(None, (spec.format, _quantization(spec))))})",
        reads=tuple(n for n in (spec.model, spec.prompts) if n),
        runs=tuple(f"python -m hyb.workers.{w}" for w in workers),
        disk=int(count * bits / 8) if count else None,
        memory=count * 4 + 700_000_000 if count else None,  # the comparison holds one model in float32
    )


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Merge, measure, convert, check, and put the result into the store.

    Raises HybError: exit 3 for what can't be merged or converted, exit 4 when a measure says no.
    """
    given, store = inputs[spec.model], context.store
    _refuse(spec, given)
    base = base_of(given, store) if given.kind == "adapter" else given
    _refuse_base(base)
    engine.require(_modules(spec), "tune", "export")
    adapter = given if given.kind == "adapter" else None
    folder = store.view(base)
    if adapter or spec.format == "safetensors":
        folder = _merge(spec, base, adapter, context)
    prompts = _prompts(inputs.get(spec.prompts), store)
    divergence = _compare(spec, folder, base, adapter, prompts, context)
    if spec.format == "gguf":
        files = {GGUF: _convert(spec, folder, base, context)}
    else:
        files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return _add(spec, files, _meta(spec, base, adapter, divergence), store)


def _refuse(spec: Spec, given: Artifact) -> None:
    """Raise HybError for an input that the spec can't be met with."""
    if given.meta.get("format") == "gguf":
        raise HybError(
            f"`{spec.model}` is a GGUF already",
            hint="export the safetensors model it was made from, or pull it with `format: safetensors`",
        )
    if given.kind == "model" and spec.format == "safetensors" and not spec.quantize:
        raise HybError(
            f"`{spec.model}` is a safetensors model already",
            hint="name an adapter to merge, or choose `format: gguf`, or `quantize: bf16`",
        )


def _refuse_base(base: Artifact) -> None:
    if base.meta.get("format") == "gguf" or base.meta.get("quantization"):
        raise HybError(
            f"the base model `{base.meta.get('name')}` is quantized: {base.meta.get('quantization') or 'gguf'}",
            hint="merge into the model's own weights: pull it in safetensors, not quantized",
        )


def _merge(spec: Spec, base: Artifact, adapter: Artifact | None, context: Context) -> Path:
    """The merged model's folder, in the step's own one."""
    out = context.work / MERGED
    job = {
        "base": str(context.store.view(base).absolute()),
        "adapter": str(context.store.view(adapter).absolute()) if adapter else "",
        "out": str(out.absolute()),
        "dtype": spec.quantize if spec.format == "safetensors" else "",
    }
    _worker("merge", job, context)
    return out


def _compare(
    spec: Spec,
    folder: Path,
    base: Artifact,
    adapter: Artifact | None,
    prompts: list[list[dict[str, str]]],
    context: Context,
) -> dict[str, Any] | None:
    """Measure the merge, and write down what the GGUF is to be compared with. None when nothing was merged."""
    gguf = spec.format == "gguf"
    measured = adapter is not None or not gguf  # a cast to bfloat16 is measured, too
    if not measured and not gguf:
        return None
    job = {
        "model": str(folder.absolute()),
        "base": str(context.store.view(base).absolute()) if measured else "",
        "adapter": str(context.store.view(adapter).absolute()) if adapter else "",
        "prompts": prompts,
        "tokens": TOKENS,
        "max_kl": spec.max_kl,
        "min_agreement": spec.min_agreement,
        "expect": str((context.work / "expect.json").absolute()) if gguf else "",
    }
    divergence: dict[str, Any] | None = _worker("compare", job, context)["divergence"]
    return divergence


def _convert(spec: Spec, folder: Path, base: Artifact, context: Context) -> Path:
    """The GGUF, checked in llama.cpp."""
    out = context.work / GGUF
    quantize = _quantization(spec)
    if not out.exists():  # it has this name only when it is whole
        job = {
            "model": str(folder.absolute()),
            "out": str(out.absolute()),
            "quantize": quantize,
            "name": str(base.meta.get("name", "")),
            "license": str(base.meta.get("license", "")),
        }
        _worker("gguf_write", job, context)
    check = {
        "gguf": str(out.absolute()),
        "expect": str((context.work / "expect.json").absolute()),
        "min_agreement": FIRST[quantize in EXACT],
    }
    _worker("gguf_check", check, context)
    return out


def _worker(name: str, job: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Run a worker, pass its progress on, note what it measured."""

    def told(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            context.say(Progress(**{k: v for k, v in event.items() if k != "event"}))

    started = time.monotonic()
    done = engine.worker(name, job, context.work, told)
    measured = {k: v for k, v in done.items() if k not in ("event", "divergence")}
    context.record(name, {**measured, "wall_seconds": round(time.monotonic() - started, 3)})
    return done


def _prompts(dataset: Artifact | None, store: Store) -> list[list[dict[str, str]]]:
    """Conversations to compare on: some of the data set's held-out questions, or neutral ones."""
    rows: list[list[dict[str, str]]] = []
    if dataset:
        folder = store.view(dataset)
        for name in ("holdout.jsonl", "control.jsonl", "train.jsonl"):
            if (folder / name).exists():
                rows += [json.loads(x)["messages"] for x in (folder / name).read_bytes().splitlines() if x.strip()]
            if len(rows) >= PROMPTS:
                break
    if not rows:
        rows = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in NEUTRAL]
    chosen = [rows[i * len(rows) // PROMPTS] for i in range(PROMPTS)] if len(rows) > PROMPTS else rows
    return [[{"role": m["role"], "content": m["content"]} for m in messages] for messages in chosen]


def _meta(spec: Spec, base: Artifact, adapter: Artifact | None, divergence: dict[str, Any] | None) -> dict[str, Any]:
    """What later stages read; where the result comes from, by digest, also through a model that was merged before."""
    meta = {
        **{
            k: base.meta.get(k)
            for k in ("architecture", "context", "source", "name", "license", "parameters", "template")
        },
        "format": spec.format,
        "quantization": _quantization(spec) if spec.format == "gguf" else None,
        "base": base.digest,
    }
    if adapter or base.meta.get("adapter"):
        meta["adapter"] = adapter.digest if adapter else base.meta["adapter"]
    if divergence or base.meta.get("divergence"):
        meta["divergence"] = divergence or dict(base.meta["divergence"])
    return meta


def _add(spec: Spec, paths: Mapping[str, Path], meta: dict[str, Any], store: Store) -> Artifact:
    files = [modelpack.file(name, store.add_file(path, how="move")) for name, path in paths.items()]
    files.sort(key=lambda f: f.path)
    config = modelpack.config(
        files,
        name=str(meta["name"] or ""),
        architecture=meta["architecture"],
        format=spec.format,
        paramSize=modelpack.param_size(meta["parameters"]),
        quantization=meta["quantization"],
        licenses=[meta["license"]] if meta["license"] else None,
        sourceURL=str(meta["source"] or "").partition("@")[0].partition("#")[0],
    )
    return store.add_artifact("model", files, meta=meta, config=config)


def _quantization(spec: Spec) -> str:
    return spec.quantize or ("f16" if spec.format == "gguf" else "")


def _bits(spec: Spec) -> float:
    return gguf_types.QUANTIZATIONS[_quantization(spec)].bits


def _modules(spec: Spec) -> tuple[str, ...]:
    found = ("numpy", "torch", "transformers", "peft")
    return (*found, "gguf", "xllamacpp") if spec.format == "gguf" else found
