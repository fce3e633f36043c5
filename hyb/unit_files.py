"""A service's unit files where somebody has put them, from one generation's to another's.

A file is hyb's own when its bytes are those that a service of the recipe has under that name; any other is left alone.
Looked for: in a folder that `hyb show SERVICE --out` wrote, and where Podman reads Quadlet units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hyb import digest as dg
from hyb import fs
from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.store import Store

SYSTEM = Path("/etc/containers/systemd")
GUIDE = "APPLY.md"


@dataclass(frozen=True)
class UnitFiles:
    """Path → (bytes now, bytes then; None: no such file)."""

    changed: Mapping[Path, tuple[bytes | None, bytes | None]]
    notes: tuple[str, ...] = ()

    def write(self) -> None:
        """Put the other generation's files in place, each in one rename. Raises HybError."""
        self._put(1)

    def back(self) -> None:
        """Put the files back that were there."""
        self._put(0)

    def _put(self, which: int) -> None:
        for path, both in self.changed.items():
            data = both[which]
            with fs.explained(f"can't write `{path}`"):
                if data is None:
                    path.unlink(missing_ok=True)
                elif not path.exists() or path.read_bytes() != data:
                    fs.write_atomic(path, data)


def find(
    folder: Path | None,
    environ: Mapping[str, str],
    store: Store,
    services: Mapping[str, str],
    outputs: Mapping[str, str],
) -> UnitFiles:
    """The files of services that lie in `folder`, or in Podman's own folders when it is None.

    `services`: digest → stage of all that are known; `outputs`: stage → digest of the generation to go to. Raises
    HybError (exit 3) when `folder` holds none, or one that was edited.
    """
    places = [folder] if folder else _podmans(environ)
    found: dict[Path, tuple[bytes | None, bytes | None]] = {}
    for place in places:
        held = _held(place, store, services)
        if folder and services and not held:
            raise HybError(f"`{folder}` holds no unit of this recipe", hint="give the folder that has the unit's file")
        if folder:
            _refuse_edited(folder, store, services)
        for path, (stage, name) in held.items():
            now, then = path.read_bytes(), _bytes(store, outputs.get(stage), name)
            if then != now:
                found[path] = (now, then)
        if folder:
            found |= _new(folder, held, store, outputs)
    notes = [
        f"`systemctl --user daemon-reload && systemctl --user restart {p.stem}` (root: without `--user`) starts that"
        " unit; its image must be in Podman"
        for p in found
        if p.suffix == ".container"
    ]
    return UnitFiles(found, tuple(notes))


def _podmans(environ: Mapping[str, str]) -> list[Path]:
    base = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    return [*([Path(base, "containers/systemd")] if base else []), SYSTEM]


def _held(folder: Path, store: Store, services: Mapping[str, str]) -> dict[Path, tuple[str, str]]:
    """Path → (stage, name in the artifact) of the files in a folder that are a service's, byte for byte."""
    found = {}
    for digest, stage in services.items():
        for f in store.artifact(digest).files:
            for path in _places(folder, f.path):
                if path.is_file() and dg.of_file(path)[0] == f.blob.digest:
                    found[path] = (stage, f.path)
    return found


def _places(folder: Path, name: str) -> list[Path]:
    """Where a file of an artifact may lie: under its whole name, or under the last part of it."""
    return [folder / name, *([folder / PurePosixPath(name).name] if "/" in name else [])]


def _refuse_edited(folder: Path, store: Store, services: Mapping[str, str]) -> None:
    every = {f.path: f for digest in services for f in store.artifact(digest).files}
    held = _held(folder, store, services)
    edited = {p for name in every for p in _places(folder, name) if p.is_file() and p not in held}
    if edited:
        raise HybError(
            f"`{folder}` was edited since hyb wrote it", details=[f"`{p}`" for p in sorted(edited)],
            hint="move your changes away, or leave `--units` out; nothing was changed",
        )  # fmt: skip


def _new(
    folder: Path, held: Mapping[Path, tuple[str, str]], store: Store, outputs: Mapping[str, str]
) -> dict[Path, tuple[bytes | None, bytes | None]]:
    """Files that only the other generation has, for a folder that holds a whole artifact (its guide tells)."""
    stages = {stage for path, (stage, name) in held.items() if name == GUIDE}
    found: dict[Path, tuple[bytes | None, bytes | None]] = {}
    for stage in stages:
        artifact = _artifact(store, outputs.get(stage))
        for f in artifact.files if artifact else ():
            path = folder / f.path
            if not path.exists() and path.parent.is_dir():
                found[path] = (None, store.read(f.blob.digest))
    return found


def _bytes(store: Store, digest: str | None, name: str) -> bytes | None:
    artifact = _artifact(store, digest)
    blob = next((f.blob for f in artifact.files if f.path == name), None) if artifact else None
    return store.read(blob.digest) if blob else None


def _artifact(store: Store, digest: str | None) -> Artifact | None:
    return store.artifact(digest) if digest else None
