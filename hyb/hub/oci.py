"""Models as OCI artifacts (CNCF ModelPack, one raw layer a file): from a layout, or from a registry.

A manifest that a hyb wrote comes in as it is, with its digest, name and facts; of any other the files are taken that a
causal LM needs, and what its ModelPack config says of name and licence. A sealed image of hyb's comes in as it is, too,
encrypted: only `hyb serve` with its key makes a model of it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb.artifact import FILEPATH, KIND, MANIFEST, MODEL_CONFIG, REF, Blob, parse, safe_path
from hyb.errors import Exit, HybError
from hyb.formats import bundle, sealed
from hyb.hub import local, select
from hyb.hub.download import Download, Meter, Wanted, parallel
from hyb.hub.names import OCI
from hyb.hub.push import Places
from hyb.hub.registry import MAX_MANIFEST, Registry
from hyb.hub.types import Fetched, Place
from hyb.offline import PINNED, THERE
from hyb.progress import Progress, Say

TITLE = "org.opencontainers.image.title"  # where a packer names a layer's file, when not by ModelPack
LICENCES = "org.opencontainers.image.licenses"
WORKERS = 4  # layers at a time
NOTE = "manifest.json"


@dataclass(frozen=True)
class Brought:
    """What a manifest says of the model beside its files. `own`: a hyb wrote it, and it may be kept as it is."""

    manifest: bytes
    config: bytes
    own: bool

    @property
    def facts(self) -> dict[str, str]:
        """`name` and `license` as the packer wrote them, "" where they are not."""
        notes = json.loads(self.manifest).get("annotations") or {}
        said: Any = {}
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            said = json.loads(self.config).get("descriptor")
        said = said if isinstance(said, dict) else {}
        licences = said.get("licenses")
        first = str(licences[0]) if isinstance(licences, list) and licences else str(notes.get(LICENCES, ""))
        return {"name": str(said.get("name") or notes.get(TITLE, "")), "license": first.lower()}


def pin(source: OCI, *, offline: bool, say: Say, folder: Path) -> OCI:
    """The manifest's digest. Raises HybError: exit 6 for a registry when offline."""
    if source.immutable:
        return source
    if not source.remote:
        return OCI(source.where, digest=_chosen(folder / source.where, source)[0])
    if offline:
        raise HybError(
            f"`{source}` is a tag in a registry, and hyb is offline",
            hint=PINNED.format("digest", source),
            code=Exit.OFFLINE,
        )
    say(f"asking the registry which manifest `{source.where}:{source.ref}` is")
    with Registry(source.where) as registry:
        return OCI(source.where, digest=registry.manifest(source.ref)[0], remote=True)


def fetch(source: OCI, place: Place) -> list[Fetched]:
    """The layers that a causal LM needs, hashed against the manifest. Raises HybError."""
    if not source.remote:
        return layers(place.folder / source.where, source, place)
    if place.offline:
        raise HybError(
            f"`{source}` is not in the store, and hyb is offline",
            hint=f"{THERE.format(source)}; or `skopeo copy` it to a folder, carry that over, and pull `oci:DIR`",
            details=[f"missing: the manifest {source.digest}"],
            code=Exit.OFFLINE,
        )
    with Registry(source.where) as registry:
        manifest = parsed(registry.manifest(source.digest)[1], source.digest)
        named = _files(manifest, source)
        config = Blob(manifest["config"]["digest"], manifest["config"]["size"])
        if config.size > MAX_MANIFEST:
            raise HybError(f"the config of `{source}` has {config.size} bytes; that is no config", code=Exit.CHECK)
        blobs = {b.digest: b for b in [config, *named.values()]}
        meter = Meter(place.say, f"pull {source.where}", sum(b.size for b in blobs.values()))
        stop = threading.Event()
        ordered = sorted(blobs.values(), key=lambda b: -b.size)
        take = functools.partial(_downloaded, registry, place, meter, stop)
        got = parallel([functools.partial(take, b) for b in ordered], stop, WORKERS)
    here = {b.digest: path for b, path in zip(ordered, got, strict=True)}
    place.record("fetched_bytes", meter.fetched)
    _note(place, manifest, here[config.digest])
    host, _, repository = source.where.partition("/")
    Places(place.store.root / "registries.json", host).add(repository, blobs)
    files = []
    for path, blob in named.items():
        how = "link" if place.store.has_blob(blob) else "move"
        files.append(Fetched(path, here[blob.digest], blob.digest, how))
    return _own_copies(files) if _is_sealed(manifest, source.digest) else _checked(_own_copies(files), source)


def brought(source: OCI, place: Place) -> Brought | None:
    """What `fetch` learnt of the model from its manifest."""
    try:
        manifest = (place.work / NOTE).read_bytes()
        config = (place.work / f"config-{NOTE}").read_bytes()
    except FileNotFoundError:
        return None
    document = json.loads(manifest)
    own = _is_own(document, source.digest) or _is_sealed(document, source.digest)
    return Brought(manifest, config, own)


def layers(layout: Path, source: OCI, place: Place) -> list[Fetched]:
    """The files of the manifest that `source` names in an image layout, each blob hashed."""
    manifest = _chosen(layout, source)[1]
    named = _files(manifest, source)
    total, done, files = sum(b.size for b in named.values()), 0, []
    for path, wanted in named.items():
        blob = _blob(layout, wanted.digest)
        try:
            found, size = dg.of_file(blob)
        except OSError as error:
            raise HybError(
                f"`{source}` is not whole: blob `{blob}` for `{path}` is not there", code=Exit.CHECK
            ) from error
        if found != wanted.digest:
            raise HybError(f"blob `{blob}` is damaged: its content is not `{wanted.digest}`", code=Exit.CHECK)
        done += size
        place.say(Progress("check layers", done, total, "B"))
        files.append(Fetched(path, blob, found, "copy"))
    config = _blob(layout, str(manifest["config"]["digest"]))
    _note(place, manifest, config if config.is_file() else None)
    return files if _is_sealed(manifest, source.digest) else _checked(files, source)


def parsed(data: bytes, digest: str) -> dict[str, Any]:
    """The manifest of a model. Raises HybError for a document that is none, exit 4 for one that is damaged."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HybError(f"`{digest}` is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("mediaType", MANIFEST) != MANIFEST:
        raise HybError(
            f"`{digest}` is not an OCI image manifest", hint="hyb takes ModelPack artifacts, one raw layer a file"
        )
    layers, config = manifest.get("layers"), manifest.get("config")
    whole = isinstance(layers, list) and all(map(_is_descriptor, [config, *layers]))
    if not whole or not _are_notes(manifest.get("annotations")):
        raise HybError(f"the manifest `{digest}` is damaged", hint="take it from where it was made", code=Exit.CHECK)
    return manifest


def _is_descriptor(entry: Any) -> bool:
    if not isinstance(entry, dict) or not _are_notes(entry.get("annotations")):
        return False
    digest, size = entry.get("digest"), entry.get("size")
    sized = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return isinstance(digest, str) and dg.is_digest(digest) and sized and isinstance(entry.get("mediaType"), str)


def _are_notes(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(v, str) for v in value.values()))


def _downloaded(registry: Registry, place: Place, meter: Meter, stop: threading.Event, blob: Blob) -> Path:
    """A blob's file: in the store already, or fetched into the step's folder, from where it was cut."""
    if place.store.has_blob(blob):
        place.store.check(blob)
        meter.add(blob.size, fetched=False)
        return place.store.blob_path(blob.digest)
    name = blob.digest.removeprefix("sha256:")
    done, partial = place.work / f"{name}.blob", place.work / f"{name}.partial"
    if done.exists() and dg.of_file(done) == (blob.digest, blob.size):
        meter.add(blob.size, fetched=False)
        return done
    wanted = Wanted(name, blob.size, "", name)

    def refused(status: int, headers: Mapping[str, str], wanted: Wanted) -> HybError:  # noqa: ARG001
        if status == 404:
            return HybError(f"`{registry.host}` has the manifest, but not its blob `{blob.digest}`", code=Exit.BELOW)
        return HybError(f"`{registry.host}` answered {status} for blob `{blob.digest}`", code=Exit.BELOW)

    url = registry.url("blobs", blob.digest)
    try:
        Download(registry.client, url, wanted, partial, meter, refused, stop).run()
    except HybError as error:
        if error.code is not Exit.CHECK:
            raise
        raise HybError(
            f"`{registry.host}` gave other bytes than `{blob.digest}`",
            hint="the registry or a proxy holds a damaged copy; nothing of it was kept",
            details=error.details,
            code=Exit.CHECK,
        ) from error
    partial.replace(done)
    return done


def _own_copies(files: list[Fetched]) -> list[Fetched]:
    """Two paths with the same bytes: only the last may move the file, the others copy it first."""
    last = {f.file: f for f in files}
    return [f if f is last[f.file] or f.how == "link" else Fetched(f.path, f.file, f.digest, "copy") for f in files]


def _checked(files: list[Fetched], source: OCI) -> list[Fetched]:
    local.check_files(files, str(source))
    local.check_whole(files, str(source))
    return files


def _note(place: Place, manifest: Mapping[str, Any], config: Path | None) -> None:
    (place.work / f"config-{NOTE}").write_bytes(config.read_bytes() if config else b"{}")
    (place.work / NOTE).write_bytes(json.dumps(manifest).encode())


def _is_own(manifest: dict[str, Any], digest: str) -> bool:
    """True when a hyb wrote a model's manifest, byte for byte as this one would, and what it notes can be read."""
    if (manifest.get("annotations") or {}).get(KIND) != "model" or manifest["config"]["mediaType"] != MODEL_CONFIG:
        return False
    try:
        artifact, same = parse(digest, manifest), dg.of_json(manifest) == digest
    except (HybError, ValueError, TypeError, RecursionError):
        return False
    texts = all(
        isinstance(artifact.meta.get(k, ""), str) for k in ("name", "format", "license", "base", "architecture")
    )
    return texts and same and not artifact.needs


def _is_sealed(manifest: dict[str, Any], digest: str) -> bool:
    """True for a sealed image of hyb's, byte for byte as it was written: it says itself what is in it.

    Raises HybError (exit 4) when it says so wrongly.
    """
    if (manifest.get("annotations") or {}).get(KIND) != "image" or dg.of_json(manifest) != digest:
        return False
    try:
        image = parse(digest, manifest)
    except (HybError, ValueError, TypeError, RecursionError):
        return False
    return sealed.is_sealed(image) and bool(sealed.parts(image))


def _files(manifest: dict[str, Any], source: OCI) -> dict[str, Blob]:
    """Path → blob of the layers to take: all of a model that a hyb wrote, else what a causal LM needs."""
    if _is_sealed(manifest, source.digest):
        return {layer["digest"]: Blob(layer["digest"], layer["size"]) for layer in manifest["layers"]}
    if (manifest.get("annotations") or {}).get(KIND, "model") != "model":
        raise HybError(
            f"`{source}` is hyb's, but no model: {manifest['annotations'][KIND]}",
            hint="an image that is not sealed is fetched with `podman pull`; other artifacts with `skopeo copy`",
        )
    named = {_name(layer, source.digest): Blob(layer["digest"], layer["size"]) for layer in manifest["layers"]}
    chosen = select.select(named, str(source))
    if _is_own(manifest, source.digest) and not [p for p in named if p.endswith((*select.PICKLE, ".py"))]:
        return named
    return {path: named[path] for path in chosen}


def _chosen(layout: Path, source: OCI) -> tuple[str, dict[str, Any]]:
    """(digest, manifest) of what `source` names by digest or tag, or the only one there is."""
    try:
        entries = json.loads((layout / "index.json").read_bytes())["manifests"]
        known = [(str(e["digest"]), str(e.get("annotations", {}).get(REF, ""))) for e in entries]
    except FileNotFoundError as error:
        hint = f"it is a bundle: `hyb bundle load {layout}`" if (layout / bundle.FILE).exists() else ""
        raise HybError(f"`{layout}` is no OCI image layout: it has no `index.json`", hint=hint) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HybError(f"`{layout}/index.json` is damaged", code=Exit.CHECK) from error
    if source.digest:
        return source.digest, _manifest(layout, source.digest)
    hits = sorted({d for d, name in known if not source.ref or name == source.ref})
    if len(hits) != 1:
        names = ", ".join(sorted({f"`{n}`" for _, n in known if n})) or "none has a name"
        raise HybError(
            f"`{source}` fits {len(hits)} manifests of the layout", hint=f"say which: `oci:DIR:REF`; there is: {names}"
        )
    return hits[0], _manifest(layout, hits[0])


def _manifest(layout: Path, digest: str) -> dict[str, Any]:
    path = _blob(layout, digest)
    if not path.is_file():
        raise HybError(f"the layout `{layout}` has no manifest `{digest}`", code=Exit.CHECK)
    if path.stat().st_size > MAX_MANIFEST or dg.of_bytes(data := path.read_bytes()) != digest:
        raise HybError(f"`{path}` is damaged: its content is not `{digest}`", code=Exit.CHECK)
    return parsed(data, digest)


def _name(layer: dict[str, Any], digest: str) -> str:
    notes = layer.get("annotations") or {}
    path = notes.get(FILEPATH) or notes.get(TITLE)
    if not path or not str(layer.get("mediaType", "")).endswith(".raw"):
        raise HybError(
            f"`{digest}` has a layer `{layer.get('mediaType')}`, which is no raw file of a model",
            hint="hyb takes ModelPack artifacts, one raw layer a file; unpack this one and pull `file:DIR`",
        )
    return safe_path(path)


def _blob(layout: Path, digest: str) -> Path:
    if not dg.is_digest(digest):
        raise HybError(f"`{digest}` is no sha256 digest", code=Exit.CHECK)
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")
