"""OCI image documents (image-spec v1.1) as data. No time of making is in them: the same facts give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyb.artifact import INDEX, MANIFEST, REF, Blob
from hyb.errors import HybError

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CREATED = "1970-01-01T00:00:00Z"
"""The time that every image bears: tools want one, and a real one would change the digest."""
ARCHITECTURES = ("amd64", "arm64", "ppc64le", "s390x")
KEY = "io.hyb.layer"
"""Annotation of a layer that hyb made: see Layer."""
SIGSTORE_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""A signature: the media type of a bundle, and by which cosign finds it among an artifact's referrers."""
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
"""What cosign's older form signs of an image: the layer of a manifest under the tag `sha256-<hex>.sig`."""
MODELS, ADAPTERS = "models", "adapters"
"""Folders of an image that hyb packs: its model, and one folder an adapter."""
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True)
class Layer:
    """One layer: its blob, the digest of its tar stream (the blob's own when it is not compressed), what it holds.

    `key`: the digest of its files' paths and contents, where hyb made it: by it a later pack finds the layer again.
    """

    blob: Blob
    diff_id: str
    holds: str
    media_type: str = LAYER
    key: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Annotations beside KEY: what an encrypted layer needs."""


@dataclass(frozen=True)
class Base:
    """An image to build on: its config document, its layers, the digest of its manifest."""

    config: Mapping[str, Any]
    layers: tuple[Layer, ...]
    digest: str


def image_config(
    layers: Sequence[Layer], *, architecture: str, labels: Mapping[str, str], base: Base | None = None
) -> dict[str, Any]:
    """The config document over all `layers` (the base's first). What a base says of user, command and paths stays."""
    inherited = dict(base.config.get("config") or {}) if base else {}
    history = list((base.config.get("history") or []) if base else [])
    own = layers[len(base.layers) :] if base else layers
    return {
        "architecture": architecture,
        "os": "linux",
        "created": CREATED,
        "config": {**inherited, "Labels": {**(inherited.get("Labels") or {}), **labels}},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": history + [{"created": CREATED, "created_by": f"hyb pack: {layer.holds}"} for layer in own],
    }


def image_manifest(config: Blob, layers: Sequence[Layer], annotations: Mapping[str, str]) -> dict[str, Any]:
    """The manifest of an image."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size},
        "layers": [
            {"mediaType": x.media_type, "digest": x.blob.digest, "size": x.blob.size}
            | ({"annotations": {**({KEY: x.key} if x.key else {}), **x.notes}} if x.key or x.notes else {})
            for x in layers
        ],
        "annotations": dict(annotations),
    }


def single_index(manifest: Blob, name: str) -> dict[str, Any]:
    """An index.json that lists one image under one name (older skopeo and Podman find an image by name only)."""
    entry = {"mediaType": MANIFEST, "digest": manifest.digest, "size": manifest.size, "annotations": {REF: name}}
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}


def base_layers(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The layers of a base image. Raises HybError when its manifest and its config disagree."""
    diff_ids = (config.get("rootfs") or {}).get("diff_ids") or []
    if len(diff_ids) != len(manifest["layers"]):
        raise HybError(f"the base image's config names {len(diff_ids)} layers, its manifest {len(manifest['layers'])}")
    return tuple(
        Layer(Blob(x["digest"], x["size"]), diff_id, "base", x["mediaType"])
        for x, diff_id in zip(manifest["layers"], diff_ids, strict=True)
    )


def base_of(manifest: Mapping[str, Any], config: Mapping[str, Any], digest: str) -> Base | None:
    """The base that a runnable image of hyb's was made on: what lies below its first own layer; None without one."""
    own = [bool((x.get("annotations") or {}).get(KEY)) for x in manifest["layers"]]
    below = own.index(True) if True in own else len(own)
    if not below:
        return None
    layers = base_layers(manifest, config)[:below]
    inner = dict(config.get("config") or {})
    inner["Labels"] = {k: v for k, v in (inner.get("Labels") or {}).items() if not k.startswith("io.hyb.")}
    history = list(config.get("history") or [])[: -(len(own) - below)]
    return Base({**config, "config": inner, "history": history}, layers, digest)


def choose(index: Mapping[str, Any], architecture: str) -> Mapping[str, Any] | None:
    """The entry of an index for an architecture: the only one that fits, or None. Attestations are no images."""
    entries = [e for e in index.get("manifests", []) if (e.get("platform") or {}).get("architecture") != "unknown"]
    fitting = [e for e in entries if (e.get("platform") or {}).get("architecture", architecture) == architecture]
    unique = {e["digest"]: e for e in fitting}
    return next(iter(unique.values())) if len(unique) == 1 else None
