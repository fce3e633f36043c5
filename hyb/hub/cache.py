"""The cache of huggingface_hub, read and written by its layout, so that neither tool fetches what the other has.

    CACHE/models--ORG--NAME/blobs/<sha256 or git sha1>       the bytes
                            snapshots/<commit>/<path>        links to them
                            refs/<branch or tag>             a commit
    CACHE/.locks/models--ORG--NAME/<blob>.lock               held while a blob is made, by both tools

A download of hyb's own that is not whole is `blobs/<blob>.hyb-incomplete`; one that nobody holds is swept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hyb import fs
from hyb.artifact import safe_path
from hyb.errors import HybError

PARTIAL = ".hyb-incomplete"


def folder(environ: Mapping[str, str]) -> Path | None:
    """Where huggingface_hub keeps models for this environment; None when it names no home."""
    if given := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(given).expanduser()
    if home := environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    if base := environ.get("XDG_CACHE_HOME"):
        return Path(base) / "huggingface" / "hub"
    return Path(environ["HOME"]) / ".cache/huggingface/hub" if environ.get("HOME") else None


def usable(wanted: Path | None, instead: Path) -> Path:
    """`wanted` when it can be written to, made if absent; or else `instead`."""
    if wanted is not None:
        try:
            wanted.mkdir(parents=True, exist_ok=True)
        except OSError:
            return instead
        if os.access(wanted, os.W_OK | os.X_OK):
            return wanted
    return instead


@contextlib.contextmanager
def explained(cache: Path) -> Iterator[None]:
    """Turn an OSError of work in the cache into a HybError that names it."""
    try:
        yield
    except OSError as error:
        place = f"`{error.filename}` in the cache" if error.filename else f"the cache `{cache}`"
        raise HybError(
            f"{place} can't be used: {(error.strerror or str(error)).lower()}",
            hint="free some space, mend its permissions, or name another folder in `HF_HUB_CACHE`; "
            "what has arrived is kept",
        ) from error


@dataclass(frozen=True)
class Repo:
    """One model's folder in the cache at `cache`."""

    cache: Path
    repo: str

    @property
    def root(self) -> Path:
        """`models--ORG--NAME`."""
        return self.cache / f"models--{self.repo.replace('/', '--')}"

    def blob(self, etag: str) -> Path:
        """Where the bytes with this entity tag lie, or would."""
        return self.root / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """Where they arrive."""
        return self.root / "blobs" / f"{etag}{PARTIAL}"

    def pointer(self, commit: str, path: str) -> Path:
        """The link of a snapshot. Raises HybError for a path that leaves its folder."""
        return self.root / "snapshots" / commit / safe_path(path)

    def find(self, commit: str, path: str, etag: str) -> Path | None:
        """A real file that may have the bytes: the blob, or the snapshot's own file where there are no links."""
        for place in (self.blob(etag), self.pointer(commit, path)):
            if place.is_file() and os.access(place, os.R_OK):
                return place.resolve()
        return None

    @contextlib.contextmanager
    def locked(self, etag: str, *, wait: bool = True) -> Iterator[None]:
        """Hold a blob while it is made; huggingface_hub holds the same lock."""
        with fs.locked(self.cache / ".locks" / self.root.name / f"{etag}.lock", wait=wait):
            yield

    def keep(self, commit: str, path: str, etag: str) -> None:
        """Make the snapshot's link to a blob that is there."""
        pointer, blob = self.pointer(commit, path), self.blob(etag)
        if pointer.exists() or not blob.exists():
            return
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)  # a link that leads nowhere
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))

    def name(self, revision: str, commit: str) -> None:
        """Let a branch or tag lead to `commit`, unless it leads to a snapshot that is there."""
        place = self.root / "refs" / safe_path(revision)
        if revision == commit or (place.is_file() and (self.root / "snapshots" / place.read_text().strip()).is_dir()):
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        fs.write_atomic(place, commit.encode())

    def listed(self, commit: str) -> Iterator[tuple[str, int, str]]:
        """(path, size, blob name) of what a snapshot has: what can be known without a network."""
        root = self.root / "snapshots" / commit
        for pointer in sorted(root.rglob("*")):
            if pointer.is_symlink() and pointer.is_file():
                yield pointer.relative_to(root).as_posix(), pointer.stat().st_size, pointer.readlink().name

    def sweep(self) -> int:
        """Remove what killed pulls left of blobs that nobody is making now; returns the bytes freed."""
        freed = 0
        for path in self.root.glob(f"blobs/*{PARTIAL}"):
            with contextlib.suppress(BlockingIOError), self.locked(path.name.removesuffix(PARTIAL), wait=False):
                freed += path.stat().st_size
                path.unlink()
        return freed
