"""Models as OCI artifacts (CNCF ModelPack, one raw layer a file): from a layout, or from a registry by skopeo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import engine
from hyb.artifact import FILEPATH, MANIFEST, REF, safe_path
from hyb.errors import Exit, HybError
from hyb.hub import local, select
from hyb.hub.names import OCI
from hyb.hub.types import Fetched, Place
from hyb.progress import Progress, Say

MAX_MANIFEST = 16 << 20  # bytes
TITLE = "org.opencontainers.image.title"  # where a packer names a layer's file, when not by ModelPack


def pin(source: OCI, *, offline: bool, say: Say, folder: Path) -> OCI:
    """The manifest's digest. Raises HybError: exit 6 for a registry when offline."""
    if source.immutable:
        return source
    if not source.remote:
        return OCI(source.where, digest=_chosen(folder / source.where, source)[0])
    if offline:
        raise HybError(
            f"`{source}` is a tag in a registry, and hyb is offline",
            hint="where there is a network, `hyb run` writes its digest into `hyb.lock`; carry that file over",
            code=Exit.OFFLINE,
        )
    say(f"asking the registry which manifest `{source.where}:{source.ref}` is")
    raw = engine.run(["skopeo", "inspect", "--raw", f"docker://{source.where}:{source.ref}"]).stdout
    return OCI(source.where, digest=dg.of_bytes(raw), remote=True)


def fetch(source: OCI, place: Place) -> list[Fetched]:
    """The layers that a causal LM needs, hashed against the manifest. Raises HybError."""
    if not source.remote:
        return layers(place.folder / source.where, source, "copy", place)
    if place.offline:
        raise HybError(
            f"`{source}` is not in the store, and hyb is offline",
            hint="where there is a network, `skopeo copy` it to a folder, carry that over, and pull `oci:DIR`",
            code=Exit.OFFLINE,
        )
    layout = place.work / "layout"
    place.say(f"skopeo copies {source.where}")
    remote = f"docker://{source.where}@{source.digest}"
    engine.run(["skopeo", "copy", "--quiet", "--preserve-digests", remote, f"oci:{layout}:model"])
    return layers(layout, source, "move", place)


def layers(layout: Path, source: OCI, how: str, place: Place) -> list[Fetched]:
    """The files of the manifest that `source` names in an image layout, each blob hashed."""
    digest, manifest = _chosen(layout, source)
    named = {_name(layer, digest): layer for layer in manifest.get("layers", [])}
    chosen = select.select(named, str(source))
    total, done, files = sum(int(named[p]["size"]) for p in chosen), 0, []
    for path in chosen:
        blob = _blob(layout, named[path]["digest"])
        try:
            found, size = dg.of_file(blob)
        except OSError as error:
            raise HybError(
                f"`{source}` is not whole: blob `{blob}` for `{path}` is not there", code=Exit.CHECK
            ) from error
        if found != named[path]["digest"]:
            raise HybError(f"blob `{blob}` is damaged: its content is not `{named[path]['digest']}`", code=Exit.CHECK)
        done += size
        place.say(Progress("check layers", done, total, "B"))
        files.append(Fetched(path, blob, found, how))
    local.check_files(files, str(source))
    local.check_whole(files, str(source))
    return files


def _chosen(layout: Path, source: OCI) -> tuple[str, dict[str, Any]]:
    """(digest, manifest) of what `source` names by digest or tag, or the only one there is."""
    try:
        entries = json.loads((layout / "index.json").read_bytes())["manifests"]
        known = [(str(e["digest"]), str(e.get("annotations", {}).get(REF, ""))) for e in entries]
    except FileNotFoundError as error:
        raise HybError(f"`{layout}` is no OCI image layout: it has no `index.json`") from error
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
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise HybError(f"`{digest}` in `{layout}` is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("mediaType", MANIFEST) != MANIFEST:
        raise HybError(
            f"`{digest}` is not an OCI image manifest", hint="hyb takes ModelPack artifacts, one raw layer a file"
        )
    return manifest


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
