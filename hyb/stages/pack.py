"""pack: a model → an OCI image that Podman and Kubernetes mount, or, on a base image, run.

The model itself is an OCI artifact in the store already; this makes the image beside it. Each weight file is one
uncompressed layer (weights hardly compress, and a layer that is there already is then never written again), all
small files are one more on top: changing a chat template moves a few kilobytes. A layer goes through memory once:
read, hashed and written in one pass, into the step's own folder, from where it is renamed into the store.

Nothing in the image depends on the time or the machine, so the same model gives the same digest everywhere.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hyb import digest as dg
from hyb import fs, layout
from hyb.artifact import KIND, META, NEEDS, Artifact, Blob, File, short
from hyb.errors import Exit, HybError
from hyb.formats import modelpack, oci, tar
from hyb.progress import Progress
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, Source, StagePlan, StageSpec
from hyb.store import Store

SUMMARY = "a model as an OCI image that Podman and Kubernetes can mount or run"
REVISION = 1
FOLDER = "models"  # where KServe, RamaLama and llama.cpp's images look
BIG = 64 << 20  # bytes from which a file that is no weight has a layer of its own, too
RATE = 400e6  # bytes/s for the plan: read, sha256 and write on a plain disk
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*")


class Spec(StageSpec):
    """What a person wrote for a pack stage."""

    stage: Literal["pack"] = "pack"
    model: Annotated[str, Ref("model")]
    """The model to pack."""
    require: Annotated[list[str], Ref("report")] = Field(default_factory=list)
    """Exams that this model must have passed."""
    name: str = ""
    """The image's name, `lab/bot`; default: the model's own name."""
    base: Annotated[str, Source("path")] = ""
    """A folder with an OCI image layout to build on; default: nothing below the model."""
    architecture: Literal["amd64", "arm64", "ppc64le", "s390x"] = "amd64"
    """Of the machines that will mount or run the image; never taken from this one, so that digests agree."""

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if name and not _NAME.fullmatch(name):
            raise ValueError(
                f"`{name}` is no image name: lower-case letters, digits, `.`, `_`, `-`, parts joined by `/`"
            )
        return name


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """What will be read and written."""
    model = inputs.get(spec.model)
    disk = sum(tar.length(_entries(files)) for files in grouped(model)) if model else None
    reads = [f"model `{spec.model}`", *(f"gate `{name}`" for name in spec.require)]
    if spec.base:
        reads.append(f"base image `{spec.base}`")
    return StagePlan(
        makes=f"image `{image_name(spec, model)}`, linux/{spec.architecture}, the model at `/{FOLDER}`",
        reads=tuple(reads),
        disk=disk,
        memory=64 << 20,
        seconds=disk / RATE if disk is not None else None,
    )


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Write the image into the store.

    Raises HybError (exit 4) when a required exam was failed or is of another model.
    """
    model, store = inputs[spec.model], context.store
    check_gates({name: inputs[name] for name in spec.require}, spec.model, model, store)
    started = time.monotonic()
    base = _add_base(context.path(spec.base), spec.architecture, context) if spec.base else None
    layers = [*(base.layers if base else ()), *_write_layers(model, context)]
    name = image_name(spec, model)
    config = store.add_bytes(
        dg.canonical_json(
            oci.image_config(layers, architecture=spec.architecture, labels=labels(name, model, base), base=base)
        )
    )
    annotations = {
        KIND: "image",
        META: dg.canonical_json(meta(spec, name, model, base)).decode(),
        NEEDS: model.digest,
        "org.opencontainers.image.title": name,
    }
    image = store.add_manifest(oci.image_manifest(config, layers, annotations))
    context.record("seconds", round(time.monotonic() - started, 3))
    context.record("bytes", image.size)
    return image


def image_name(spec: Spec, model: Artifact | None) -> str:
    """What the image is called: as written, or the model's own name in the letters that an image may have."""
    own = str(model.meta.get("name", "")) if model else ""
    return spec.name or "-".join(re.findall(r"[a-z0-9]+(?:\.[a-z0-9]+)*", own.lower())) or spec.model.rpartition("/")[2]


def meta(spec: Spec, name: str, model: Artifact, base: oci.Base | None) -> dict[str, Any]:
    """What later stages read of an image without opening it."""
    return {
        "model": model.digest,
        "shape": "image",
        "name": name,
        "model_name": model.meta.get("name", ""),
        "format": model.meta.get("format", ""),
        "path": f"/{FOLDER}",
        "weights": [f"/{FOLDER}/{f.path}" for f in model.files if f.media_type == modelpack.WEIGHT],
        "architecture": spec.architecture,
        "runnable": base is not None,
        "base": base.digest if base else "",
    }


def labels(name: str, model: Artifact, base: oci.Base | None) -> dict[str, str]:
    """Where the image comes from, by digest. No path, host or time: they would move the digest."""
    facts = model.meta
    given = {
        "org.opencontainers.image.title": name,
        "org.opencontainers.image.licenses": facts.get("license"),
        "org.opencontainers.image.base.digest": base.digest if base else "",
        "io.hyb.model": model.digest,
        "io.hyb.model.name": facts.get("name"),
        "io.hyb.model.format": facts.get("format"),
        "io.hyb.model.quantization": facts.get("quantization"),
        "io.hyb.base": facts.get("base"),
        "io.hyb.adapter": facts.get("adapter"),
    }
    return {k: str(v) for k, v in given.items() if v}


# -- gates ---------------------------------------------------------------------------------------------------------


def check_gates(reports: Mapping[str, Artifact], model_name: str, model: Artifact, store: Store) -> None:
    """Raise HybError (exit 4) naming every exam that was failed, or that examined something else."""
    examined = lineage(model, store)
    details: list[str] = []
    no: list[str] = []
    for name, report in reports.items():
        if report.subject not in examined:
            no.append(name)
            what = f"`{short(report.subject)}`" if report.subject else "nothing that it names"
            details.append(f"{name}: it examined {what}, which is neither `{model_name}` nor what it was made from")
        elif report.meta.get("passed") is not True:
            no.append(name)
            details += [f"{name}: {text}" for text in report.meta.get("failed", ())] or [f"{name}: it was not passed"]
    if no:
        raise HybError(
            f"`{model_name}` is not packed: {', '.join(f'`{n}`' for n in no)} said no",
            hint=f"`hyb show {no[0]}` has every question and answer; mend the model, or examine this one",
            code=Exit.CHECK,
            details=details,
        )


def lineage(model: Artifact, store: Store) -> set[str]:
    """The model's digest and those of what it was made from, as far as an exam of them speaks of it, too.

    A merge or a quantization keeps what was learnt; so an exam of the adapter counts, or of the model that was
    converted. An exam of the base below an adapter doesn't: tuning changed the answers.
    """
    found = {model.digest}
    while True:
        adapter, base = model.meta.get("adapter"), model.meta.get("base")
        found |= {adapter} if isinstance(adapter, str) else set()
        if not isinstance(base, str) or base in found or not store.blob_path(base).exists():
            return found | ({base} if isinstance(base, str) and not adapter else set())
        model = store.artifact(base)
        if model.kind != "model" or (adapter and model.meta.get("adapter") != adapter):
            return found  # the base that the adapter was trained on
        found.add(base)


# -- layers --------------------------------------------------------------------------------------------------------


def grouped(model: Artifact) -> list[list[File]]:
    """The files of each layer: every big file alone, then all small ones, so that what weighs least is on top."""
    big = [f for f in model.files if f.media_type == modelpack.WEIGHT or f.blob.size >= BIG]
    small = [f for f in model.files if f not in big]
    return [*([f] for f in big), *([small] if small else [])]


def _entries(files: Iterable[File], store: Store | None = None) -> list[tar.Entry]:
    def opener(file: File) -> Any:
        return functools.partial(store.blob_path(file.blob.digest).open if store else _closed, "rb")

    return tar.with_folders(tar.Entry(f"{FOLDER}/{f.path}", f.blob.size, opener(f)) for f in files)


def _closed(_mode: str) -> Any:
    raise AssertionError("a plan reads no file")


def _write_layers(model: Artifact, context: Context) -> Iterator[oci.Layer]:
    """The model's layers, written where they are not yet. A layer that a killed run finished is not written again."""
    store, notes = context.store, context.work / "layers.json"
    done: dict[str, Any] = json.loads(notes.read_bytes()) if notes.exists() else {}
    groups = grouped(model)
    total, before = float(sum(tar.length(_entries(g)) for g in groups)), 0
    for files in groups:
        key = dg.of_json([[f.path, f.blob.digest] for f in files])
        blob = Blob(**done[key]) if key in done else None
        if blob is None or not store.has_blob(blob):
            for f in files:
                store.check(f.blob)
            blob = _write_layer(_entries(files, store), before, total, context)
            done[key] = {"digest": blob.digest, "size": blob.size}
            fs.write_atomic(notes, dg.canonical_json(done))
        before += blob.size
        holds = files[0].path if len(files) == 1 else f"{len(files)} small files"
        yield oci.Layer(blob, blob.digest, f"/{FOLDER}/{holds}" if len(files) == 1 else holds)


def _write_layer(entries: Sequence[tar.Entry], before: int, total: float, context: Context) -> Blob:
    """Read, hash and write in one pass.

    One thread: a second one that hashes is faster only while the machine has nothing else to do, and dearer always.
    """
    path, hasher, size = context.work / "layer.partial", hashlib.sha256(), 0
    with fs.explained(f"can't write a layer in `{context.work}`"):
        with path.open("wb") as out:
            for chunk in tar.chunks(entries):
                out.write(chunk)
                hasher.update(chunk)
                size += len(chunk)
                context.say(Progress("pack", before + size, total, "B"))
        return context.store.add_file(path, how="move", trusted="sha256:" + hasher.hexdigest())


def _add_base(folder: Path, architecture: str, context: Context) -> oci.Base:
    """The base image, its layers copied into the store and checked."""
    base = layout.read(folder, architecture)
    for layer in base.layers:
        if not context.store.has_blob(layer.blob):
            context.say(f"copying layer {short(layer.blob.digest)} of the base image")
            with fs.explained(f"can't read the base image `{folder}`"):
                context.store.add_file(layout.blob_path(folder, layer.blob.digest), expected=layer.blob.digest)
    return base
