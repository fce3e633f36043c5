"""pack: a model → an OCI image that Podman and Kubernetes mount, or, on a base image, run; or the model as it is.

The model itself is an OCI artifact in the store already (`shape: artifact`); this makes the image beside it. Each
weight file is one uncompressed layer (weights hardly compress, and a layer that is there already is then never written
again), all small files are one more on top, each adapter one more on top of these: an adapter that changes rewrites
its own layer alone. A layer that any image of the store has is taken, not written (hyb.layers writes the others).

Nothing in the image depends on the time or the machine, so the same model gives the same digest everywhere; but not in
a sealed one (`encrypt_to`), whose layers are encrypted with keys that are new each time. Its config, and the digest
that it would have had unsealed, which it notes, are the same everywhere. A layer that an image of the store has for the
same recipients is taken from there. The lock pins the sealed image: the bytes that travel.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from hyb import digest as dg
from hyb import fs, layers, layout
from hyb.artifact import KIND, META, NEEDS, Artifact, Blob, File, short
from hyb.encryption.keys import recipients
from hyb.encryption.layers import seal, sealed_layers
from hyb.errors import HybError
from hyb.formats import modelpack, oci, sealed, tar
from hyb.lineage import check_adapters, check_gates
from hyb.progress import Progress
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, Source, StagePlan, StageSpec
from hyb.store import Store

SUMMARY = "a model as an OCI image that Podman and Kubernetes can mount or run"
REVISION = 2
ADAPTERS = oci.ADAPTERS  # a folder an adapter
FOLDER = oci.MODELS  # where KServe, RamaLama and llama.cpp's images look
BIG = 64 << 20  # bytes from which a file that is no weight has a layer of its own, too
RATE = 400e6  # bytes/s for the plan: read, sha256 and write on a plain disk
RATE_SEALED = 80e6  # the same, with skopeo's encryption
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*")


class Spec(StageSpec):
    """What a person wrote for a pack stage."""

    stage: Literal["pack"] = "pack"
    model: Annotated[str, Ref("model")]
    """The model to pack."""
    adapters: Annotated[list[str], Ref("adapter")] = Field(default_factory=list)
    """LoRA adapters to put beside it, each under its own name: as GGUF for a GGUF, as PEFT for safetensors."""
    require: Annotated[list[str], Ref("report")] = Field(default_factory=list)
    """Exams that this model, or one of the adapters, must have passed."""
    shape: Literal["artifact", "image", "runnable"] = "image"
    """`artifact`: the model as it is in the store; `image`: to be mounted; `runnable`: on a base image, to be run."""
    name: str = ""
    """The image's name, `lab/bot`; default: the model's own name."""
    base: Annotated[str, Source("path")] = ""
    """Of a runnable image: a folder with the OCI image layout to build on."""
    base_of: Annotated[str, Ref("image")] = ""
    """Instead of `base`: a runnable image in the store, whose base is taken."""
    encrypt_to: Annotated[list[str], Source("path")] = Field(default_factory=list)
    """Public keys or certificates (PEM) of those who may read the image; none: everybody may."""
    encrypt: Literal["all", "adapter"] = "all"
    """With `encrypt_to`: all that hyb puts in, or the adapters alone, on a model that anybody may have."""
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

    @field_validator("encrypt_to", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value else value

    @model_validator(mode="before")
    @classmethod
    def _on_a_base(cls, values: Any) -> Any:
        """A base says by itself that the image runs."""
        if isinstance(values, dict) and "shape" not in values and (values.get("base") or values.get("base_of")):
            return {**values, "shape": "runnable"}
        return values

    @model_validator(mode="after")
    def _fits_the_shape(self) -> Self:
        if (self.shape == "runnable") != bool(self.base or self.base_of):
            raise ValueError("`shape: runnable` and `base` go together: the base is what runs the model")
        if self.base and self.base_of:
            raise ValueError("`base` and `base_of` exclude each other")
        if self.shape == "artifact" and self.adapters:
            raise ValueError("`shape: artifact` is one model; `adapters` need `shape: image` or `runnable`")
        if self.encrypt_to and self.shape == "artifact":
            raise ValueError("`encrypt_to` seals the layers of an image; a `shape: artifact` has none of its own")
        if self.encrypt == "adapter" and not (self.encrypt_to and self.adapters):
            raise ValueError("`encrypt: adapter` needs `adapters` to seal, and `encrypt_to` to say to whom")
        if len(set(self.adapters)) < len(self.adapters):
            raise ValueError("`adapters` names one twice")
        return self

    @model_serializer(mode="wrap")
    def _stable(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Adapters lie in the image under the names that they have here, so these names are a part of the step."""
        values: dict[str, Any] = serialize(self)
        return {**values, "adapter_names": self.adapters} if self.adapters else values

    def makes(self) -> str:
        """The model itself, when that is the shape."""
        return "model" if self.shape == "artifact" else ""


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """What will be read and written, when no layer is in the store yet."""
    model = inputs.get(spec.model)
    given = {name: inputs.get(name) for name in spec.adapters}
    groups = _groups(model, {n: a for n, a in given.items() if a}) if model else []
    disk = sum(tar.length(_entries(g)) for g in groups) if model and all(given.values()) else None
    reads = [f"model `{spec.model}`", *(f"adapter `{name}`" for name in spec.adapters)]
    reads += [f"gate `{name}`" for name in spec.require]
    if spec.base or spec.base_of:
        reads.append(f"base image `{spec.base or spec.base_of}`")
    if spec.shape == "artifact":
        return StagePlan(makes=f"`{spec.model}` itself, an OCI artifact already", reads=tuple(reads), disk=0, seconds=0)
    reads += [f"public key `{path}`" for path in spec.encrypt_to]
    kind = "sealed image" if spec.encrypt_to else "image"
    beside = f", {len(spec.adapters)} adapters at `/{ADAPTERS}`" if spec.adapters else ""
    return StagePlan(
        makes=f"{kind} `{image_name(spec, model)}`, linux/{spec.architecture}, the model at `/{FOLDER}`{beside}",
        reads=tuple(reads),
        runs=("skopeo copy --encryption-key",) if spec.encrypt_to else (),
        disk=disk * (2 if spec.encrypt_to else 1) if disk is not None else None,
        memory=64 << 20,
        seconds=disk / (RATE_SEALED if spec.encrypt_to else RATE) if disk is not None else None,
    )


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Write the image into the store.

    Raises HybError: exit 4 when a required exam was failed or is of something else, exit 3 for an adapter that does
    not fit the model, or a recipient that is none; exit 5 when skopeo can't encrypt.
    """
    model, store = inputs[spec.model], context.store
    adapters = {name: inputs[name] for name in spec.adapters}
    check_adapters(adapters, spec.model, model, store)
    check_gates({name: inputs[name] for name in spec.require}, spec.model, model, store, adapters.values())
    if spec.shape == "artifact":
        return model
    to = recipients([context.path(p) for p in spec.encrypt_to])
    started = time.monotonic()
    base = _base(spec, inputs, context)
    own = list(_write_layers(_groups(model, adapters), context))
    stack = [*(base.layers if base else ()), *own]
    name = image_name(spec, model)
    said = labels(name, model, base, adapters)
    config = store.add_bytes(
        dg.canonical_json(oci.image_config(stack, architecture=spec.architecture, labels=said, base=base))
    )
    annotations = {
        KIND: "image",
        META: dg.canonical_json(meta(spec, name, model, base, adapters)).decode(),
        NEEDS: ",".join(sorted({model.digest, *(a.digest for a in adapters.values())})),
        "org.opencontainers.image.title": name,
    }
    if to:
        chosen = own if spec.encrypt == "all" else own[-len(adapters) :]
        plain = oci.image_manifest(config, stack, annotations)
        stack = seal(stack, chosen, to, store, context.work, context.say)
        annotations = sealed.notes_of(plain, spec.encrypt, [r.key_id for r in to], [model, *adapters.values()])
    image = store.add_manifest(oci.image_manifest(config, stack, annotations))
    context.record("seconds", round(time.monotonic() - started, 3))
    context.record("bytes", image.size)
    return image


def image_name(spec: Spec, model: Artifact | None) -> str:
    """What the image is called: as written, or the model's own name in the letters that an image may have."""
    own = str(model.meta.get("name", "")) if model else ""
    return spec.name or "-".join(re.findall(r"[a-z0-9]+(?:\.[a-z0-9]+)*", own.lower())) or spec.model.rpartition("/")[2]


def meta(
    spec: Spec, name: str, model: Artifact, base: oci.Base | None, adapters: Mapping[str, Artifact]
) -> dict[str, Any]:
    """What later stages read of an image without opening it."""
    return {
        "model": model.digest,
        "shape": spec.shape,
        "name": name,
        "model_name": model.meta.get("name", ""),
        "format": model.meta.get("format", ""),
        "path": f"/{FOLDER}",
        "weights": [f"/{FOLDER}/{f.path}" for f in model.files if f.media_type == modelpack.WEIGHT],
        "architecture": spec.architecture,
        "runnable": base is not None,
        "base": base.digest if base else "",
        "adapters": [{"name": n, "digest": a.digest} for n, a in sorted(adapters.items())],
    }


def labels(name: str, model: Artifact, base: oci.Base | None, adapters: Mapping[str, Artifact]) -> dict[str, str]:
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
        "io.hyb.adapters": ",".join(f"{n}@{a.digest}" for n, a in sorted(adapters.items())),
    }
    return {k: str(v) for k, v in given.items() if v}


# -- layers --------------------------------------------------------------------------------------------------------


def grouped(model: Artifact) -> list[list[File]]:
    """The files of each layer: every big file alone, then all small ones, so that what weighs least is on top."""
    big = [f for f in model.files if f.media_type == modelpack.WEIGHT or f.blob.size >= BIG]
    small = [f for f in model.files if f not in big]
    return [*([f] for f in big), *([small] if small else [])]


def _groups(model: Artifact, adapters: Mapping[str, Artifact]) -> list[list[File]]:
    """The files of each layer with their places in the image: the model's first, then an adapter a layer, by name."""
    groups = [[File(f"{FOLDER}/{f.path}", f.blob) for f in files] for files in grouped(model)]
    for name, adapter in sorted(adapters.items()):
        files = [f for f in adapter.files if f.path.endswith(".gguf") or f.path.startswith("adapter_")]
        groups.append([File(f"{ADAPTERS}/{name}/{f.path}", f.blob) for f in files])
    return groups


def _entries(files: Iterable[File], store: Store | None = None) -> list[tar.Entry]:
    def opener(file: File) -> Any:
        return functools.partial(store.blob_path(file.blob.digest).open if store else _closed, "rb")

    return tar.with_folders(tar.Entry(f.path, f.blob.size, opener(f)) for f in files)


def _closed(_mode: str) -> Any:
    raise AssertionError("a plan reads no file")


def _write_layers(groups: Sequence[Sequence[File]], context: Context) -> Iterator[oci.Layer]:
    """The layers, written where the store has them not: neither in an image nor from a run that was killed."""
    store, notes = context.store, context.work / "layers.json"
    done: dict[str, Any] = json.loads(notes.read_bytes()) if notes.exists() else {}
    known = {**_known_layers(store), **{key: Blob(**blob) for key, blob in done.items()}}
    total, before, written = float(sum(tar.length(_entries(g)) for g in groups)), 0, 0
    for files in groups:
        key = dg.of_json([REVISION, [[f.path, f.blob.digest] for f in files]])
        blob = known.get(key)
        if blob is None or not store.has_blob(blob):
            for f in files:
                store.check(f.blob)
            tell = functools.partial(_tell, context, before, total)
            blob = layers.write(store, context.work, _entries(files, store), tell)
            done[key] = {"digest": blob.digest, "size": blob.size}
            fs.write_atomic(notes, dg.canonical_json(done))
            written += blob.size
        else:
            store.check(blob)
        before += blob.size
        holds = f"/{files[0].path}" if len(files) == 1 else f"{len(files)} small files"
        yield oci.Layer(blob, blob.digest, holds, key=key)
    context.record("written", written)


def _tell(context: Context, before: int, total: float, done: int) -> None:
    context.say(Progress("pack", before + done, total, "B"))


def _known_layers(store: Store) -> dict[str, Blob]:
    """The layers of all images in the store, by what they hold."""
    found = (layer for a in store.artifacts() if a.kind == "image" for layer in a.manifest.get("layers", []))
    notes = ((layer, (layer.get("annotations") or {}).get(oci.KEY)) for layer in found)
    clear = {x.key: Blob(x.diff_id, x.blob.size) for x in sealed_layers(store)}  # the cipher adds no byte
    return clear | {
        key: Blob(layer["digest"], layer["size"])
        for layer, key in notes
        if key and not layer["mediaType"].endswith(sealed.SUFFIX)
    }


def _base(spec: Spec, inputs: Inputs, context: Context) -> oci.Base | None:
    """What lies below the model. Raises HybError."""
    if spec.base:
        return _add_base(context.path(spec.base), spec.architecture, context)
    if not spec.base_of:
        return None
    image = inputs[spec.base_of]
    config = json.loads(context.store.read(str(image.manifest["config"]["digest"])))
    base = oci.base_of(image.manifest, config, str(image.meta.get("base", "")))
    if base is None:
        raise HybError(f"`{spec.base_of}` is made on no base image", hint="name a runnable image of hyb's, or a `base`")
    if config.get("architecture") != spec.architecture:
        raise HybError(f"`{spec.base_of}` is for {config.get('architecture')}, the recipe says {spec.architecture}")
    return base


def _add_base(folder: Path, architecture: str, context: Context) -> oci.Base:
    """The base image, its layers copied into the store and checked."""
    base = layout.read(folder, architecture)
    for layer in base.layers:
        if not context.store.has_blob(layer.blob):
            context.say(f"copying layer {short(layer.blob.digest)} of the base image")
            with fs.explained(f"can't read the base image `{folder}`"):
                context.store.add_file(layout.blob_path(folder, layer.blob.digest), expected=layer.blob.digest)
    return base
