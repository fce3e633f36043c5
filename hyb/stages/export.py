"""export: an adapter merged into its base or written as GGUF beside it, a model converted to GGUF and quantized.

The merge goes into the values that the adapter was trained on: the base's own weights (bfloat16, as a rule), or for an
adapter trained in NF4 those 4-bit values unpacked; by way of float32, never into 4-bit weights. It is then measured:
the merged model's next-token distributions against those of the live adapter. A GGUF is loaded in llama.cpp and must
give the token ids of the model's own tokenizer, and its greedy answers, before it becomes an artifact. An adapter's
GGUF is loaded there on its base's, and must answer as the live adapter does.

What the workers write lies in the step's folder under its final name only when it is whole; a killed export goes on
from there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hyb import digest as dg
from hyb import engine
from hyb.artifact import Artifact, File
from hyb.errors import HybError
from hyb.formats import gguf_types, modelpack, nearness
from hyb.progress import Progress
from hyb.stages import asked, pinned
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, StagePlan, StageSpec, base_of
from hyb.store import Store

SUMMARY = "Merge an adapter into its base, convert to GGUF, quantize; the result is measured"
REVISION = 2
MERGED, GGUF, LORA, IMATRIX = "merged", "model.gguf", "adapter.gguf", "imatrix.safetensors"
TOKENS = 8  # greedy tokens that are compared after each question
EXACT = ("f32", "f16", "bf16", "q8_0")
TAKES = {"safetensors": ("bf16", "f16"), "gguf": tuple(gguf_types.QUANTIZATIONS), "lora-gguf": ("f16", "f32")}
WEIGHED = ("q6_k", "q5_k_m", "q4_k_m")
"""Quantizations that an importance matrix changes."""

FIRST = {True: 0.75, False: 0.5}  # share of first tokens that must agree: exact quantizations, others


class Spec(StageSpec):
    """What to export.

    `format`: `safetensors` and `gguf` are whole models; `lora-gguf` is the adapter alone, for llama.cpp to put on its
    base while it runs. `quantize`: with `gguf` one of f32, f16 (the default), bf16, q8_0, q6_k, q5_k_m, q4_k_m; with
    `safetensors` empty (the base's own type), bf16 or f16; with `lora-gguf` f16 (the default) or f32. `prompts`: a data
    set whose held-out questions measure the result; without one, neutral questions do. `imatrix`: a data set whose
    training and control rows say which columns of the weights matter most to q6_k, q5_k_m and q4_k_m. `merge`:
    `trained` merges into what the adapter was trained on, the 4-bit values of the base (as 16-bit numbers) if it was
    so; `base` into the base's own weights whatever it was trained on. `max_kl`: the most that the merged model's
    next-token distributions may differ from the live adapter's, as mean KL divergence in nats; `min_agreement`: the
    least share of equal likeliest tokens.
    """

    stage: Literal["export"] = "export"
    model: Annotated[str, Ref("model", "adapter")]
    format: Literal["safetensors", "gguf", "lora-gguf"] = "gguf"
    quantize: str = ""
    prompts: Annotated[str, Ref("dataset")] = ""
    imatrix: Annotated[str, Ref("dataset")] = ""
    merge: Literal["trained", "base"] = "trained"
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
        takes = TAKES[self.format]
        if self.quantize not in ("", *takes):
            either = " or ".join(f"`{t}`" for t in takes)
            raise ValueError(
                f"`quantize: {self.quantize}` needs `format: gguf`; {self.format} takes {either} or nothing"
            )
        if self.imatrix and (self.format != "gguf" or self.quantize not in WEIGHED):
            raise ValueError(f"`imatrix` changes nothing here: it is for GGUF in {', '.join(WEIGHED)}")
        return self

    def makes(self) -> str:
        """An adapter stays one."""
        return "adapter" if self.format == "lora-gguf" else ""


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """What is run, and what it takes; disk and memory are known when the model is."""
    given = inputs.get(spec.model)
    if given:
        _refuse(spec, given)
    count = given.meta.get("parameters") if given else None
    whole = spec.format != "lora-gguf"
    merges = whole and (given is None or given.kind == "adapter" or spec.format == "safetensors")
    bits = (16 if merges or not whole else 0) + (_bits(spec) if spec.format == "gguf" else 0)
    workers = (["merge"] if merges else []) + (["imatrix"] if spec.imatrix else []) + ["compare"]
    workers += ["gguf_write", "gguf_check"] if spec.format == "gguf" else []
    workers += [] if whole else ["gguf_lora", "gguf_write", "gguf_check"]
    return StagePlan(
        makes=f"{spec.makes() or 'model'} ({' '.join(filter(None, (spec.format, _quantization(spec))))})",
        reads=tuple(n for n in (spec.model, spec.prompts, spec.imatrix) if n),
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
    engine.require(_modules(spec, _values(spec, given)), "tune", "export")
    adapter = given if given.kind == "adapter" else None
    dataset = inputs.get(spec.prompts)
    prompts = asked.questions(store.view(dataset) if dataset else None)
    if spec.format == "lora-gguf":
        return _adapter(spec, base, given, prompts, context)
    folder = store.view(base)
    if adapter or spec.format == "safetensors":
        folder = _merge(spec, base, adapter, context)
    divergence = _compare(spec, folder, base, adapter, prompts, context)
    weighed = inputs.get(spec.imatrix)
    if spec.format == "gguf":
        files = {GGUF: _convert(spec, folder, given, base, weighed, context)}
    else:
        files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    if divergence and adapter:
        for line in nearness.sentences(divergence):
            context.say(line)
    meta = _meta(spec, base, adapter, divergence, weighed)
    if family := pinned.pair(base, store):
        meta |= {"template": family.as_json()["inference"], "family": family.family}
    return _add(spec, files, meta, store)


def _values(spec: Spec, given: Artifact) -> str:
    """What a merge goes into: "nf4" for the base's 4-bit values, "" for its own weights."""
    quantized = given.kind == "adapter" and given.meta.get("quantize") == "nf4"
    return "nf4" if quantized and spec.merge == "trained" and spec.format != "lora-gguf" else ""


def _refuse(spec: Spec, given: Artifact) -> None:
    """Raise HybError for an input that the spec can't be met with."""
    if given.meta.get("format") == "gguf":
        raise HybError(
            f"`{spec.model}` is a GGUF already",
            hint="export the safetensors model it was made from, or pull it with `format: safetensors`",
        )
    if given.kind == "model" and spec.format == "lora-gguf":
        raise HybError(
            f"`{spec.model}` is a model, and `format: lora-gguf` writes an adapter",
            hint="name an adapter, or choose `format: gguf`",
        )
    if spec.format == "lora-gguf" and given.meta.get("dora"):
        raise HybError(
            f"`{spec.model}` was trained with DoRA, and llama.cpp can put only plain LoRA on a base",
            hint="merge it: `format: gguf`",
        )
    if given.kind == "model" and spec.format == "safetensors" and not spec.quantize:
        raise HybError(
            f"`{spec.model}` is a safetensors model already",
            hint="name an adapter to merge, or choose `format: gguf`, or `quantize: bf16` or `f16`",
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
        "values": _values(spec, adapter) if adapter else "",
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
        "quantize": "nf4" if adapter and _values(spec, adapter) else "none",
        "trained": "nf4" if adapter and adapter.meta.get("quantize") == "nf4" and spec.merge == "base" else "",
    }
    divergence: dict[str, Any] | None = _worker("compare", job, context)["divergence"]
    return divergence


def _convert(
    spec: Spec, folder: Path, given: Artifact, base: Artifact, weighed: Artifact | None, context: Context
) -> Path:
    """The GGUF, checked in llama.cpp. `weighed`: the data set of the importance matrix."""
    out, quantize = context.work / GGUF, _quantization(spec)
    importance = _importance(folder, given, base, weighed, context) if weighed and not out.exists() else ""
    _write(out, quantize, folder, base, context, imatrix=importance, dataset=weighed.digest if weighed else "")
    _check(out, "", FIRST[quantize in EXACT], context)
    return out


def _write(
    out: Path, quantize: str, folder: Path, base: Artifact, context: Context, *, imatrix: str = "", dataset: str = ""
) -> None:
    """Write the GGUF of a model's folder; one that has its name is whole already."""
    if not out.exists():
        job = {
            "model": str(folder.absolute()),
            "out": str(out.absolute()),
            "quantize": quantize,
            "name": str(base.meta.get("name", "")),
            "license": str(base.meta.get("license", "")),
            "imatrix": imatrix,
            "dataset": dataset,
        }
        _worker("gguf_write", job, context)


def _check(gguf: Path, lora: str, least: float, context: Context) -> None:
    """Load it in llama.cpp and compare. Raises HybError (exit 4)."""
    check = {
        "gguf": str(gguf.absolute()),
        "lora": lora,
        "expect": str((context.work / "expect.json").absolute()),
        "min_agreement": least,
    }
    _worker("gguf_check", check, context)


def _importance(folder: Path, model: Artifact, base: Artifact, dataset: Artifact, context: Context) -> str:
    """The importance matrix's path, measured on the data set's training and control rows.

    It is kept in the store: all quantizations of one model share it. `model`: what is exported.
    """
    store = context.store
    key = dg.of_json({"imatrix": REVISION, "model": model.digest, "base": base.digest, "data": dataset.digest})
    known = next((d for d in store.outputs(key) if store.has(d)), None)
    if known is None:
        out, view = context.work / IMATRIX, store.view(dataset)
        rows = [str((view / n).absolute()) for n in ("train.jsonl", "control.jsonl") if (view / n).exists()]
        _worker("imatrix", {"model": str(folder.absolute()), "rows": rows, "out": str(out.absolute())}, context)
        meta = {"model": model.digest, "data": dataset.digest}
        known = store.add_artifact("imatrix", [File(IMATRIX, store.add_file(out, how="move"))], meta=meta).digest
        store.record_step(key, "imatrix", known)
    return str((store.view(store.artifact(known)) / IMATRIX).absolute())


def _adapter(
    spec: Spec, base: Artifact, adapter: Artifact, prompts: list[list[dict[str, str]]], context: Context
) -> Artifact:
    """The adapter as GGUF, held in llama.cpp on its base's GGUF against the live adapter."""
    store, out = context.store, (context.work / LORA).absolute()
    folder, name = store.view(base).absolute(), str(base.meta.get("name", ""))
    job = {"model": str(folder), "adapter": str(store.view(adapter).absolute()), "out": str(out), "name": name}
    done = _worker("gguf_lora", {**job, "quantize": _quantization(spec)}, context)
    live = {"model": str(folder), "base": "", "adapter": job["adapter"], "prompts": prompts, "tokens": TOKENS}
    expect = str((context.work / "expect.json").absolute())
    _worker("compare", {**live, "max_kl": spec.max_kl, "min_agreement": 0, "expect": expect}, context)
    _write(context.work / "base.gguf", "f16", folder, base, context)
    _check(context.work / "base.gguf", str(out), FIRST[True], context)
    meta = {
        "format": "gguf", "base": base.digest, "adapter": adapter.digest, "rank": done["rank"], "alpha": done["alpha"],
        "architecture": base.meta.get("architecture"), "name": name, "quantization": _quantization(spec),
        "license": base.meta.get("license", ""),
    }  # fmt: skip
    files = [modelpack.file(LORA, store.add_file(out, how="move"))]
    config = modelpack.config(files, name=name, architecture=meta["architecture"], format="gguf")
    return store.add_artifact("adapter", files, meta=meta, needs=[base.digest], config=config)


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


def _meta(
    spec: Spec, base: Artifact, adapter: Artifact | None, divergence: dict[str, Any] | None, weighed: Artifact | None
) -> dict[str, Any]:
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
    if adapter:
        meta["merged_into"] = _values(spec, adapter) or "base"
    if divergence or base.meta.get("divergence"):
        meta["divergence"] = divergence or dict(base.meta["divergence"])
    if weighed:
        meta["imatrix"] = weighed.digest
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
    return spec.quantize or ("" if spec.format == "safetensors" else "f16")


def _bits(spec: Spec) -> float:
    return gguf_types.QUANTIZATIONS[_quantization(spec)].bits


def _modules(spec: Spec, values: str) -> tuple[str, ...]:
    found = ("numpy", "torch", "transformers", "peft", *(["bitsandbytes"] if values else []))
    return found if spec.format == "safetensors" else (*found, "gguf", "xllamacpp")
