"""Signatures that lie beside an OCI artifact: sigstore bundles among its referrers, in a registry or a layout.

Whoever gives them is not believed: they are kept, and judged by the trust policy. A registry that has none, or can't
list any, is no error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb.artifact import INDEX
from hyb.errors import HybError
from hyb.formats.oci import SIGSTORE_BUNDLE as BUNDLE
from hyb.hub.names import OCI
from hyb.hub.registry import MAX_MANIFEST, Registry
from hyb.hub.types import Place

MOST = 64  # referrers that are looked at
MOST_BYTES = 64 << 20  # of all bundles together
TAKEN = frozenset(range(200, 600)) - {408, 429, 503}
"""Answers to a question for referrers: whatever a registry says that has none is no reason to fail."""


def beside(source: OCI, place: Place) -> list[bytes]:
    """The bundles whose subject is the manifest `source.digest`. Raises HybError (exit 5) when the registry fails."""
    if not source.remote:
        return _bounded(_in_layout(place.folder / source.where, source.digest))
    with Registry(source.where) as registry:
        return _bounded(_in_registry(registry, source.digest))


def _bounded(bundles: Iterator[bytes]) -> list[bytes]:
    found: list[bytes] = []
    for bundle in bundles:
        if sum(map(len, found)) + len(bundle) > MOST_BYTES:
            break
        found.append(bundle)
    return found


def _in_registry(registry: Registry, subject: str) -> Iterator[bytes]:
    for entry in _referrers(registry, subject):
        try:
            digest, kind = str(entry["digest"]), entry.get("artifactType")
            if kind != BUNDLE or not dg.is_digest(digest):
                continue
            layer = _layer(json.loads(registry.manifest(digest)[1]), subject)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # somebody else's referrer: no concern of ours
        if layer:
            answer = registry.ask("GET", registry.url("blobs", layer), f"blob `{layer}`")
            if dg.of_bytes(answer.content) == layer:
                yield answer.content


def _referrers(registry: Registry, subject: str) -> list[Any]:
    """What the referrers API lists, or, where there is none, the index under the tag that stands in for it."""
    for parts in (("referrers", subject), ("manifests", subject.replace(":", "-"))):
        found = registry.ask("GET", registry.url(*parts), f"the referrers of `{subject}`", ok=TAKEN,
                             headers={"Accept": INDEX})  # fmt: skip
        try:
            if found.status_code == 200 and (entries := json.loads(found.content)["manifests"]):
                return list(entries)[:MOST]
        except (ValueError, KeyError, TypeError):
            continue
    return []


def _in_layout(layout: Path, subject: str) -> Iterator[bytes]:
    try:
        entries = json.loads((layout / "index.json").read_bytes())["manifests"]
        digests = list(dict.fromkeys(str(e["digest"]) for e in entries if dg.is_digest(str(e["digest"]))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    for digest in digests:
        try:
            layer = _layer(json.loads(_blob(layout, digest)), subject)
            if layer:
                yield _blob(layout, layer)
        except (OSError, HybError, ValueError, KeyError, TypeError, AttributeError):
            continue


def _layer(manifest: Any, subject: str) -> str:
    """The digest of a signature's bundle, or "" for a manifest that is no signature of `subject`."""
    if manifest.get("subject", {}).get("digest") != subject or len(manifest["layers"]) != 1:
        return ""
    layer = manifest["layers"][0]
    fits = layer["mediaType"] == BUNDLE and 0 < int(layer["size"]) <= MAX_MANIFEST
    return str(layer["digest"]) if fits and dg.is_digest(layer["digest"]) else ""


def _blob(layout: Path, digest: str) -> bytes:
    path = layout / "blobs" / "sha256" / digest.removeprefix("sha256:")
    if path.stat().st_size > MAX_MANIFEST or dg.of_bytes(data := path.read_bytes()) != digest:
        raise HybError(f"`{path}` is damaged")
    return data
