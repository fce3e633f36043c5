"""What is damaged in a store beside its artifacts' blobs, and how to set damage aside.

Everything that hyb writes into a store can be told to be damaged: a blob by its digest, a view by the blobs that it
shows, and each small file by what it must hold. What can be had again from elsewhere is set aside or removed here; who
makes it again is `hyb.repair`. Nothing is deleted that has bytes of its own: it goes to STORE/damaged/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hyb import digest as dg
from hyb import fs, generations
from hyb.artifact import Artifact, Blob, short
from hyb.errors import HybError
from hyb.progress import Progress, Say
from hyb.store import Store

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
ASIDE = "damaged"


@dataclass(frozen=True)
class Damage:
    """A damaged file or folder of the store, what is wrong with it, and whether it can be taken away without loss."""

    path: Path
    text: str
    spare: bool = True


def blobs(store: Store, say: Say) -> Iterator[Path]:
    """The blobs whose content is not what their name says. Every byte is read."""
    paths = sorted(store.blobs.glob("*")) if store.blobs.is_dir() else []
    total, done = sum(p.lstat().st_size for p in paths), 0
    for path in paths:
        done += path.lstat().st_size
        if path.is_symlink() or not path.is_file() or dg.of_file(path)[0] != "sha256:" + path.name:
            yield path
        say(Progress("check", done, total, "B"))


def records(store: Store) -> list[Damage]:
    """What is wrong with the store's small files: layout, step records, generations."""
    found = []
    layout = store.root / "oci-layout"
    if (store.root / "hyb.json").exists() and (not layout.is_file() or layout.read_bytes() != LAYOUT):
        found.append(Damage(layout, f"`{layout}` is not that of an OCI image layout"))
    for path in sorted((store.root / "steps").glob("*.json")):
        if not path.name.startswith(".") and not _is_record(path):
            found.append(Damage(path, f"`{path}` is damaged: no record of a step"))
    for recipe in generations.names(store):
        try:
            generations.read(store, recipe)
        except HybError as error:
            found.append(Damage(generations.path(store, recipe), error.message, spare=False))
    return found


def views(store: Store, artifacts: dict[str, Artifact]) -> list[Damage]:
    """Views that do not show what their artifact holds. A link to a blob is as good as the blob and is not read."""
    found = []
    for folder in sorted((store.root / "views").glob("*")):
        artifact = artifacts.get("sha256:" + folder.name)
        if artifact is None:
            continue  # `gc` takes it, and nobody uses it
        wrong = [f.path for f in artifact.files if not _shows(folder / f.path, store.blob_path(f.blob.digest), f.blob)]
        if wrong:
            found.append(Damage(folder, f"the view `{folder}` is damaged: `{wrong[0]}` is not the artifact's"))
    return found


def set_aside(store: Store, path: Path) -> str:
    """Move a damaged file to STORE/damaged/ and say so in a line. Raises HybError where it can't be written."""
    with store.writing():
        aside = store.root / ASIDE
        aside.mkdir(exist_ok=True)
        path.replace(aside / path.name)
        fs.sync_folder(path.parent)
    name = short("sha256:" + path.name) if path.parent == store.blobs else path.name
    return f"set `{name}` aside in `{aside}`"


def _is_record(path: Path) -> bool:
    try:
        outputs = json.loads(path.read_bytes())["outputs"]
        return isinstance(outputs, list) and all(isinstance(d, str) and dg.is_digest(d) for d in outputs)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _shows(place: Path, blob: Path, wanted: Blob) -> bool:
    """True when a view's file is a link to the blob, or a copy with its content."""
    try:
        if blob.exists() and place.samefile(blob):
            return True
        return dg.of_file(place)[0] == wanted.digest
    except OSError:
        return False
