"""The artifact store: an OCI image layout in plain files, which skopeo and podman read as it is.

    STORE/
      oci-layout  index.json  blobs/sha256/<hex>    the OCI image layout (image-spec v1.1)
      hyb.json                                      {"store": 1}: the format, so that an older hyb can refuse
      steps/<hex of key>.json                       step key → digests of its outputs
      views/<hex>/                                  an artifact as a folder of hard links to blobs, made when asked for
      work/<hex of key>/                            what a step that is running (or was killed) keeps for itself
      generations/<recipe>.json                     what runs of a recipe gave, one after the other (hyb.generations)
      locks/  tmp/

Blobs are in `hyb.blobs`, what an artifact is in `hyb.artifact`; here they get manifests, names and steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import fs
from hyb.artifact import (
    EMPTY,
    MANIFEST,
    REF,
    Artifact,
    Blob,
    File,
    blobs_of,
    document,
    parse,
    safe_path,
    short,
    unreadable,
)
from hyb.blobs import BLOB_MTIME, Blobs
from hyb.errors import Exit, HybError


class Store(Blobs):
    """The store at `root`: artifacts, their names, and what steps gave."""

    def add_artifact(
        self,
        kind: str,
        files: Iterable[File],
        *,
        meta: Mapping[str, Any] | None = None,
        needs: Iterable[str] = (),
        subject: Artifact | None = None,
        config: tuple[str, Mapping[str, Any]] | None = None,
    ) -> Artifact:
        """Write a manifest over files that are in the store, and list it in the index.

        `config`: (media type, JSON) of the OCI config; default the empty config. Models and adapters give
        (MODEL_CONFIG, …), see hyb.formats.modelpack. `subject`: the artifact that this one speaks of (OCI referrer).
        """
        config_type, config_data = config or (EMPTY, {})
        config_blob = self.add_bytes(dg.canonical_json(config_data))
        of = Blob(subject.digest, self._size_of(subject.digest)) if subject else None
        manifest = document(kind, files, (config_type, config_blob), meta=meta or {}, needs=needs, subject=of)
        return self.add_manifest(manifest)

    def add_manifest(self, manifest: Mapping[str, Any]) -> Artifact:
        """Write any OCI image manifest whose blobs are in the store, and list it in the index."""
        data = dg.canonical_json(manifest)
        blob = self.add_bytes(data)
        with self.index() as entries:
            if not any(e["digest"] == blob.digest for e in entries):
                entries.append({"mediaType": MANIFEST, "digest": blob.digest, "size": blob.size})
        return parse(blob.digest, json.loads(data))

    def artifact(self, digest: str) -> Artifact:
        """The artifact with this manifest digest. Raises HybError (exit 4) when it is missing or damaged."""
        data = self.read(digest)
        try:
            return parse(digest, json.loads(data))
        except (ValueError, RecursionError) as error:
            raise unreadable(digest, error) from error

    def has(self, digest: str) -> bool:
        """True when the manifest and all its blobs are there with their sizes."""
        if not self.blob_path(digest).exists():
            return False
        artifact = self.artifact(digest)
        return all(self.has_blob(b) for b in blobs_of(artifact))

    def artifacts(self) -> list[Artifact]:
        """All artifacts that the index lists, in its order, once each."""
        return [self.artifact(d) for d in self.digests()]

    def digests(self) -> list[str]:
        """The manifest digests that the index lists, in its order, once each."""
        return list(dict.fromkeys(e["digest"] for e in self.entries()))

    def referrers(self, digest: str) -> list[Artifact]:
        """Artifacts whose subject is `digest`: receipts and reports."""
        return [a for a in self.artifacts() if a.subject == digest]

    def view(self, artifact: Artifact) -> Path:
        """The artifact as a folder of hard links to its blobs: no copy. Do not write to it.

        Every blob is checked first (hashed only when it was touched). Raises HybError (exit 4).
        """
        for f in artifact.files:
            self.check(f.blob)
        target = self.root / "views" / artifact.digest.removeprefix("sha256:")
        if _is_view(target, artifact):
            return target
        with self.writing(), self._incoming() as temporary:
            temporary.mkdir()
            for f in artifact.files:
                place = temporary / safe_path(f.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                fs.link_or_copy(self.blob_path(f.blob.digest), place)
            target.parent.mkdir(exist_ok=True)
            with fs.locked(self.root / "locks" / "views"):
                if not _is_view(target, artifact):  # nobody else has made it meanwhile
                    if target.is_dir():
                        shutil.rmtree(target)
                    temporary.replace(target)
        return target

    def tags(self) -> dict[str, str]:
        """Name → manifest digest."""
        return {e["annotations"][REF]: e["digest"] for e in self.entries() if REF in e.get("annotations", {})}

    def tag(self, name: str, digest: str) -> None:
        """Give an artifact a name; the name moves if another artifact had it."""
        if self.tags().get(name) == digest:
            return
        size = self._size_of(digest)
        with self.index() as entries:
            entries[:] = [e for e in entries if e.get("annotations", {}).get(REF) != name]
            if not any(e["digest"] == digest and REF not in e.get("annotations", {}) for e in entries):
                entries.append({"mediaType": MANIFEST, "digest": digest, "size": size})
            entries.append({"mediaType": MANIFEST, "digest": digest, "size": size, "annotations": {REF: name}})

    def move_names(self, names: Mapping[str, str], gone: Iterable[str] = ()) -> None:
        """Give many names to artifacts that are here, and take names away: all in one write of the index."""
        if {n: self.tags().get(n) for n in names} == dict(names) and not self.tags().keys() & set(gone):
            return
        sizes = {digest: self._size_of(digest) for digest in names.values()}
        away = {*names, *gone}
        with self.index() as entries:
            entries[:] = [e for e in entries if e.get("annotations", {}).get(REF) not in away]
            listed = {e["digest"] for e in entries if REF not in e.get("annotations", {})}
            new = [{"mediaType": MANIFEST, "digest": d, "size": size} for d, size in sizes.items()]
            entries += [e for e in new if e["digest"] not in listed]
            entries += [
                {"mediaType": MANIFEST, "digest": d, "size": sizes[d], "annotations": {REF: n}}
                for n, d in names.items()
            ]

    def untag(self, name: str) -> str:
        """Take a name away and return the digest it stood for; the artifact stays until `gc`. Raises HybError."""
        digest = self.tags().get(name)
        if digest is None:
            raise unknown_name(name, self.tags())
        with self.index() as entries:
            entries[:] = [e for e in entries if e.get("annotations", {}).get(REF) != name]
        return str(digest)

    def resolve(self, name: str) -> str:
        """A tag, a full digest, the start of one (8 digits or more), or the last part of `recipe/stage`, to a digest.

        Raises HybError when nothing or more than one thing has that name.
        """
        tags = self.tags()
        if name in tags:
            return tags[name]
        digests = set(self.digests())
        prefix = name.removeprefix("sha256:")
        hits = {d for d in digests if len(prefix) >= 8 and d.startswith("sha256:" + prefix)}
        hits |= {d for t, d in tags.items() if t.endswith("/" + name)}
        if len(hits) == 1:
            return hits.pop()
        if hits:
            names = ", ".join(sorted(t for t in tags if t.endswith("/" + name))) or ", ".join(sorted(map(short, hits)))
            raise HybError(
                f"`{name}` is the name of several artifacts: {names}", hint="give the whole name or the digest"
            )
        raise unknown_name(name, tags)

    def outputs(self, key: str) -> list[str]:
        """The outputs that a step key gave here, newest first: more than one where a step is not bit-exact.

        A damaged record counts as none.
        """
        try:
            found = json.loads(self._step_path(key).read_bytes())["outputs"]
            return [d for d in found if isinstance(d, str) and dg.is_digest(d)]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return []

    def record_step(self, key: str, stage: str, output: str) -> None:
        """Remember that a step key gave `output`."""
        outputs = list(dict.fromkeys([output, *self.outputs(key)]))
        with self.writing():
            fs.write_atomic(self._step_path(key), dg.canonical_json({"stage": stage, "outputs": outputs}))

    def work(self, key: str) -> Path:
        """The folder that a step keeps until it is done; it outlives a kill."""
        folder = self.root / "work" / key.removeprefix("sha256:")
        with self.writing():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self, key: str) -> None:
        """Remove what a step kept that was killed after its result was recorded, unless another process is at it."""
        folder = self.root / "work" / key.removeprefix("sha256:")
        if folder.exists():
            with contextlib.suppress(OSError), fs.locked(self._step_lock(key), wait=False):
                shutil.rmtree(folder)

    @contextlib.contextmanager
    def locked_step(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold a step, so that two processes never do the same one; `waiting` is called when another has it."""
        path = self._step_lock(key)
        with self.writing():  # a lock that can't be made is told here: what the step raises itself is its own
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        try:
            with fs.locked(path, wait=False):
                yield
                return
        except BlockingIOError:
            if waiting:
                waiting()
        with fs.locked(path):
            yield

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Held (shared) by whoever reads or adds, so that `gc` never takes what a run is about to name."""
        if self.read_only:
            yield  # nobody can collect here, and nothing will be added
            return
        with self.writing():
            pass
        with fs.locked(self.root / "locks" / "store", shared=True):
            yield

    def entries(self) -> list[dict[str, Any]]:
        """The descriptors of index.json. Raises HybError (exit 4) when it is damaged."""
        path = self.root / "index.json"
        try:
            entries = json.loads(path.read_bytes())["manifests"]
            if not all(dg.is_digest(e["digest"]) for e in entries):
                raise ValueError("an entry has no digest")
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise HybError(
                f"`{path}` is damaged: {error}",
                hint="`hyb repair` writes it anew from the blobs and receipts",
                code=Exit.CHECK,
            ) from error
        return list(entries)

    @contextlib.contextmanager
    def index(self) -> Iterator[list[dict[str, Any]]]:
        """The index's entries, to be changed in place; written back if they were."""
        with self.writing(), fs.locked(self.root / "locks" / "index"):
            entries = self.entries()
            before = list(entries)
            yield entries
            if entries != before:
                self.write_index(entries)

    def _step_lock(self, key: str) -> Path:
        return self.root / "locks" / key.removeprefix("sha256:")

    def _step_path(self, key: str) -> Path:
        return self.root / "steps" / (key.removeprefix("sha256:") + ".json")

    def _size_of(self, digest: str) -> int:
        try:
            return self.blob_path(digest).stat().st_size
        except FileNotFoundError as error:
            raise self._missing(digest) from error


def _is_view(folder: Path, artifact: Artifact) -> bool:
    """True when the folder has all files, none of them touched since it was linked."""
    try:
        stats = [(folder / f.path).stat() for f in artifact.files]
    except OSError:
        return False
    pairs = zip(stats, artifact.files, strict=True)
    return folder.is_dir() and all(s.st_size == f.blob.size and s.st_mtime == BLOB_MTIME for s, f in pairs)


def unknown_name(name: str, tags: Iterable[str]) -> HybError:
    """The error for a name that the store doesn't know, with the nearest one it does."""
    import difflib

    near = difflib.get_close_matches(name, list(tags), n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? `hyb ls` lists all" if near else "`hyb ls` lists what is there"
    return HybError(f"nothing in the store is called `{name}`", hint=hint)
