"""What a mirror shows of a store, and under which names.

A model that came from a hub has its old name and commit, so that a client's pin holds. Whatever else has a name in the
store is shown under that name, its commit the first 40 digits of the artifact's digest. Data sets, reports (they
quote data sets), services, links and bundles (the recipe's files, its data with them) are private: shown only when
`everything` is asked for. The wheels of a bundle are an artifact of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import receipt as receipts
from hyb.artifact import MANIFEST, Artifact, Blob, parse
from hyb.errors import HybError
from hyb.formats import intoto
from hyb.hub import names
from hyb.mirror.wheels import Wheel, wheel
from hyb.store import Store

PRIVATE = frozenset(("bundle", "dataset", "report", "service", "link"))
ON_HUB = {"model": "models", "adapter": "models", "dataset": "datasets"}
RESERVED = frozenset(("api", "v2", "simple", "packages", "datasets", "models", "spaces", "resolve"))
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_IMAGE = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass
class Repo:
    """A model or data set of the hub: branches, tags, and the files of each commit."""

    id: str
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    license: str = ""


@dataclass
class Catalog:
    """All that is shown. `documents`: manifests by digest, (media type, size); `blobs`: sizes by digest."""

    models: dict[str, Repo] = field(default_factory=dict)
    datasets: dict[str, Repo] = field(default_factory=dict)
    images: dict[str, dict[str, str]] = field(default_factory=dict)
    documents: dict[str, tuple[str, int]] = field(default_factory=dict)
    blobs: dict[str, int] = field(default_factory=dict)
    referrers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    projects: dict[str, dict[str, Wheel]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    """Digests of manifests that can't be read; `hyb verify` says more."""


def read(store: Store, *, everything: bool = False, wheels: Iterable[Wheel] = ()) -> Catalog:
    """The catalog of a store as it is now. `wheels`: files of the package index beside those in the store.

    Raises HybError (exit 4) when the store's index is damaged; a damaged artifact is left out and named.
    """
    found = Catalog()
    artifacts = {a.digest: a for a in _artifacts(store, found)}
    shown = {d: a for d, a in artifacts.items() if everything or not _private(a, artifacts)}
    tags = {name: digest for name, digest in store.tags().items() if digest in shown}
    found.documents = {d: found.documents[d] for d in shown}
    for artifact in shown.values():
        _registered(artifact, found)
    receipts = [a for a in shown.values() if a.kind == "receipt" and a.subject in shown]
    for artifact in shown.values():
        _origin(artifact, found)
    for name, digest in tags.items():
        _named(name, shown[digest], found)
    for receipt in receipts:
        _recorded(receipt, shown[str(receipt.subject)], found, store)
    inside = [w for a in shown.values() for f in a.files if (w := wheel(f.path.rpartition("/")[2], f.blob))]
    for one in (*inside, *wheels):
        found.projects.setdefault(one.project, {}).setdefault(one.name, one)
    return found


def _artifacts(store: Store, found: Catalog) -> Iterable[Artifact]:
    """All manifests, those that an image index leads to with them."""
    waiting, seen = [(e["digest"], e.get("mediaType", MANIFEST)) for e in store.entries()], set()
    while waiting:
        digest, kind = waiting.pop(0)
        if digest in seen:
            continue
        seen.add(digest)
        try:
            data = store.read(digest)
            document = json.loads(data)
            artifact = parse(digest, document)
            children = [(m["digest"], m.get("mediaType", MANIFEST)) for m in document.get("manifests", ())]
        except (HybError, ValueError, KeyError, TypeError, AttributeError):
            found.damaged.append(digest)
            continue
        found.documents[digest] = (str(document.get("mediaType") or kind), len(data))
        waiting += [c for c in children if dg.is_digest(c[0]) and store.blob_path(c[0]).exists()]
        yield artifact


def _private(artifact: Artifact, all_: Mapping[str, Artifact]) -> bool:
    """Private itself, or said of something that is."""
    subject = all_.get(artifact.subject or "")
    return artifact.kind in PRIVATE or (subject is not None and _private(subject, {}))


def _registered(artifact: Artifact, found: Catalog) -> None:
    """An artifact for the registry: its blobs, and of what it speaks."""
    config = artifact.manifest.get("config")
    if config:
        found.blobs[config["digest"]] = config["size"]
    found.blobs |= {f.blob.digest: f.blob.size for f in artifact.files}
    if artifact.subject:
        kind, size = found.documents[artifact.digest]
        about = {"artifactType": artifact.manifest.get("artifactType") or (config or {}).get("mediaType", "")}
        said = {"annotations": artifact.manifest["annotations"]} if artifact.manifest.get("annotations") else {}
        entry = {"mediaType": kind, "digest": artifact.digest, "size": size, **about, **said}
        found.referrers.setdefault(artifact.subject, []).append(entry)


def _origin(artifact: Artifact, found: Catalog) -> None:
    """A model that came from a hub, under the name and the commit that it has there; the last one listed is `main`.

    Two pulls of one commit (the weights, and a GGUF beside them) are one commit of more files.
    """
    source = _source(artifact)
    if source is None:
        return
    repo = found.models.setdefault(source.repo, Repo(source.repo))
    files = repo.commits.setdefault(source.revision, {})
    for f in artifact.files:
        files[source.file if source.file and f.path == "model.gguf" else f.path] = f.blob
    repo.refs["main"] = source.revision
    repo.license = artifact.meta.get("license") or repo.license


def _source(artifact: Artifact) -> names.HF | None:
    """Where on a hub a model is from; None for what a chain made, or what has no commit."""
    text = artifact.meta.get("source", "")
    if artifact.kind != "model" or not isinstance(text, str) or not text.startswith("hf://"):
        return None
    try:
        source = names.parse(text)
    except HybError:
        return None
    return source if isinstance(source, names.HF) and source.immutable else None


def _named(name: str, artifact: Artifact, found: Catalog) -> None:
    """An artifact under its name in the store: on the hub, and in the registry."""
    repository, tag = image_name(name)
    if _IMAGE.fullmatch(repository) and _TAG.fullmatch(tag):
        found.images.setdefault(repository, {})[tag] = artifact.digest
    shelf = ON_HUB.get(artifact.kind)
    source = _source(artifact)
    if shelf and source and source.repo in found.models:
        found.models[source.repo].refs.setdefault(name, source.revision)
    if shelf and hub_name(name) and name not in getattr(found, shelf):
        repo = Repo(name, {}, {}, str(artifact.meta.get("license") or ""))
        commit = commit_of(artifact.digest)
        repo.refs["main"], repo.commits[commit] = commit, _files(artifact)
        getattr(found, shelf)[name] = repo


def _recorded(receipt: Artifact, subject: Artifact, found: Catalog, store: Store) -> None:
    """What a receipt knows: which branch a commit was when it was pulled, and what a name stood for before."""
    source = _source(subject)
    shelf: dict[str, Repo] = getattr(found, ON_HUB.get(subject.kind, ""), {})
    if source is None:
        repo = shelf.get(str(receipt.meta.get("name", "")))
        if repo:
            repo.commits.setdefault(commit_of(subject.digest), _files(subject))
        return
    try:
        pins = intoto.pins(receipts.read(store, receipt))
        written = [names.parse(given) for given, pinned in pins.items() if pinned == str(source)]
    except (HybError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return
    for one in written:
        if isinstance(one, names.HF) and not one.immutable:
            found.models[source.repo].refs[one.revision] = source.revision


def _files(artifact: Artifact) -> dict[str, Blob]:
    return {f.path: f.blob for f in artifact.files}


def commit_of(digest: str) -> str:
    """The commit under which an artifact is shown that has none of a hub."""
    return digest.removeprefix("sha256:")[:40]


def hub_name(name: str) -> bool:
    """True when a name of the store can be one of a hub: one word, or two with a slash."""
    return (
        bool(_ID.fullmatch(name)) and name.partition("/")[0] not in RESERVED and ".." not in name and "--" not in name
    )


def image_name(name: str) -> tuple[str, str]:
    """(repository, tag) of a store's name in a registry: small letters, `latest` where the name has no tag."""
    head, slash, last = name.rpartition("/")
    word, colon, tag = last.partition(":")
    return f"{head}{slash}{word}".lower(), tag if colon else "latest"


def folder(path: Path) -> dict[Wheel, Path]:
    """The wheels and source archives in a folder, hashed now. Raises OSError."""
    found = {}
    for file in sorted(path.iterdir()):
        if file.is_file() and wheel(file.name, Blob("", 0)):
            digest, size = dg.of_file(file)
            if one := wheel(file.name, Blob(digest, size)):
                found[one] = file
    return found


def mark(store: Store) -> object:
    """What changes when the store's index does."""
    try:
        found = (store.root / "index.json").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
