"""An artifact: one OCI manifest, its files, and what hyb notes about it. Plain data, no disk.

One file of a model = one raw layer with its path in the annotation `org.cncf.model.filepath` (CNCF ModelPack 0.0.7).
hyb's own facts are JSON in the annotation `io.hyb.meta`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hyb import digest as dg
from hyb.errors import Exit, HybError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
REF = "org.opencontainers.image.ref.name"
FILEPATH = "org.cncf.model.filepath"
KIND = "io.hyb.kind"
META = "io.hyb.meta"
NEEDS = "io.hyb.needs"
MODEL_ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
RAW = "application/vnd.hyb.file.v1.raw"


@dataclass(frozen=True)
class Blob:
    """Bytes in the store: `digest` and `size` in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class File:
    """A file of an artifact: its relative POSIX path, its bytes, its OCI media type."""

    path: str
    blob: Blob
    media_type: str = RAW


@dataclass(frozen=True)
class Artifact:
    """One manifest of the store. `meta` is what its stage wrote about it; `needs` the artifacts it can't do without."""

    digest: str
    kind: str
    files: tuple[File, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    subject: str | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(f.blob.size for f in self.files)

    def file(self, path: str) -> File:
        """The file at `path`. Raises HybError when the artifact has none."""
        for f in self.files:
            if f.path == path:
                return f
        raise HybError(f"{self.kind} `{short(self.digest)}` has no file `{path}`")


def short(digest: str) -> str:
    """The first 12 hex digits, for people."""
    return digest.removeprefix("sha256:")[:12]


def blobs_of(artifact: Artifact) -> list[Blob]:
    """Config and layers of an artifact."""
    config = artifact.manifest["config"]
    return [Blob(config["digest"], config["size"]), *(f.blob for f in artifact.files)]


def document(
    kind: str,
    files: Iterable[File],
    config: tuple[str, Blob],
    *,
    meta: Mapping[str, Any],
    needs: Iterable[str] = (),
    subject: Blob | None = None,
) -> dict[str, Any]:
    """The OCI image manifest of an artifact: the same facts, the same bytes.

    `config`: its media type and where it lies.
    """
    config_type, config_blob = config
    annotations = {KIND: kind, META: dg.canonical_json(dict(meta)).decode()}
    if needed := sorted(set(needs)):
        annotations[NEEDS] = ",".join(needed)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": MODEL_ARTIFACT if config_type == MODEL_CONFIG else f"application/vnd.hyb.{kind}.v1+json",
        "config": {"mediaType": config_type, **_place(config_blob)},
        "layers": [
            {"mediaType": f.media_type, **_place(f.blob), "annotations": {FILEPATH: f.path}}
            for f in sorted(files, key=lambda f: f.path)
        ],
        "annotations": annotations,
    }
    if subject:
        manifest["subject"] = {"mediaType": MANIFEST, **_place(subject)}
    return manifest


def _place(blob: Blob) -> dict[str, Any]:
    return {"digest": blob.digest, "size": blob.size}


def parse(digest: str, manifest: dict[str, Any]) -> Artifact:
    """An artifact from its manifest; a manifest that is not hyb's counts as an image.

    Raises HybError (exit 4) for a manifest that is none: whoever made it may be a stranger.
    """
    try:
        return _parse(digest, manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise unreadable(digest, error) from error


def unreadable(digest: str, error: Exception) -> HybError:
    """The error for a manifest that is none."""
    return HybError(
        f"`{short(digest)}` is no manifest that hyb can read: {type(error).__name__}: {error}",
        hint="whoever made it made it wrong; `hyb verify` lists what else is",
        code=Exit.CHECK,
    )


def _parse(digest: str, manifest: dict[str, Any]) -> Artifact:
    notes = manifest.get("annotations", {})
    files = tuple(
        File(str(layer.get("annotations", {}).get(FILEPATH, layer["digest"])), _blob(layer), str(layer["mediaType"]))
        for layer in manifest.get("layers", [])
    )
    _blob(manifest["config"])
    needs = tuple(d for d in notes.get(NEEDS, "").split(",") if d)
    meta = json.loads(notes.get(META, "{}"))
    if not isinstance(meta, dict):
        raise ValueError(f"its `{META}` is no JSON object")
    subject = manifest.get("subject", {}).get("digest")
    if not all(map(dg.is_digest, (*needs, *([subject] if subject else [])))):
        raise ValueError("it names what is no digest")
    return Artifact(digest, str(notes.get(KIND, "image")), files, MappingProxyType(meta), needs, subject, manifest)


def _blob(place: Mapping[str, Any]) -> Blob:
    """Digest and size of a descriptor: a digest becomes a path, so it must be one. Raises ValueError."""
    digest, size = place["digest"], place["size"]
    if not dg.is_digest(digest) or type(size) is not int or size < 0:
        raise ValueError(f"`{str(digest)[:80]!r}` is no digest, or its size is none")
    return Blob(digest, size)


_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def safe_path(path: str) -> str:
    """A relative POSIX path that stays inside its folder and can be shown. Raises HybError (exit 4) for any other."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or any(p in ("", ".", "..") for p in parts):
        raise HybError(f"unsafe path `{path!r}` in an artifact", code=Exit.CHECK)
    if _UNSEEN.search(path) or any(len(p.encode(errors="replace")) > 255 for p in parts):
        raise HybError(f"unsafe path `{path[:300]!r}` in an artifact: it can't be shown", code=Exit.CHECK)
    return path
