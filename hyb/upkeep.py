"""Keeping the store in order: what no name and no generation reaches is removed, a damaged index is written anew."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import fs, generations
from hyb.artifact import MANIFEST, REF, Artifact, blobs_of
from hyb.errors import HybError
from hyb.store import Store

SMALL = 4 << 20  # bytes: no manifest is larger (image-spec asks registries to take at least this)


def gc(store: Store, *, dry_run: bool = False) -> tuple[int, int]:
    """Remove what no name and no kept generation reaches; returns (things removed, bytes freed).

    Raises HybError while a run is going on, and for a store that can't be written (a dry run is done there, too).
    """
    if not (store.root / "hyb.json").exists():
        return 0, 0
    if dry_run and store.read_only:
        return _gc(store, dry_run)  # nobody adds here
    with store.writing():
        try:
            with fs.locked(store.root / "locks" / "store", wait=False):
                return _gc(store, dry_run)
        except BlockingIOError as error:
            hint = "wait for it, then try again"
            raise HybError(f"the store `{store.root}` is in use by another hyb", hint=hint) from error


def _gc(store: Store, dry_run: bool) -> tuple[int, int]:
    artifacts = {a.digest: a for a in store.artifacts()}
    kept = reachable(store, artifacts)
    blobs = {b.digest for d in kept for b in blobs_of(artifacts[d])} | kept
    dead = [p for p in _inside(store.blobs) if "sha256:" + p.name not in blobs]
    freed = sum(p.stat().st_size for p in dead)
    dead += [p for p in _inside(store.root / "views") if "sha256:" + p.name not in kept]
    dead += [p for p in _inside(store.root / "steps") if not kept.intersection(store.outputs("sha256:" + p.stem))]
    dead += [*_inside(store.root / "tmp"), *_inside(store.root / "work")]
    if not dry_run:
        with store.index() as entries:
            entries[:] = [e for e in entries if e["digest"] in kept]
        for path in dead:
            remove(path)
    return len(dead), freed


def _inside(folder: Path) -> list[Path]:
    """What lies in a store's folder; nothing where a copy of the store left the empty folder out."""
    return list(folder.iterdir()) if folder.is_dir() else []


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it. Raises OSError."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def reachable(store: Store, artifacts: dict[str, Artifact]) -> set[str]:
    """Digests reached from a name or a kept generation: the artifact itself, what it needs, and what speaks of it."""
    return dragged(artifacts, [*store.tags().values(), *generations.reached(store)])


def dragged(artifacts: dict[str, Artifact], roots: Iterable[str]) -> set[str]:
    """All that the artifacts `roots` drag along: themselves, what they need, what speaks of them, and so on."""
    speak_of: dict[str, list[str]] = {}
    for a in artifacts.values():
        if a.subject:
            speak_of.setdefault(a.subject, []).append(a.digest)
    found: set[str] = set()
    todo = list(roots)
    while todo:
        digest = todo.pop()
        if digest in artifacts and digest not in found:
            found.add(digest)
            todo += [*artifacts[digest].needs, *speak_of.get(digest, ())]
    return found


def rebuild_index(store: Store, *, keep_names: bool = False) -> int:
    """Write index.json anew from the blobs that are manifests; returns how many artifacts were found.

    Names that only the index knew are lost, unless `keep_names` (the index must be readable then).
    """
    named = [e for e in store.entries() if REF in e.get("annotations", {})] if keep_names else []
    entries: list[dict[str, Any]] = [e for p in sorted(_inside(store.blobs)) if (e := _manifest(p))]
    found = {e["digest"] for e in entries}
    with store.writing(), fs.locked(store.root / "locks" / "index"):
        store.write_index([*entries, *(e for e in named if e["digest"] in found)])
    return len(entries)


def _manifest(path: Path) -> dict[str, Any] | None:
    """The index's entry for a blob that is a whole manifest, else None."""
    if path.stat().st_size > SMALL or not (data := path.read_bytes()).startswith(b"{"):
        return None
    with contextlib.suppress(ValueError):
        if json.loads(data).get("mediaType") == MANIFEST and dg.of_bytes(data) == "sha256:" + path.name:
            return {"mediaType": MANIFEST, "digest": "sha256:" + path.name, "size": len(data)}
    return None
