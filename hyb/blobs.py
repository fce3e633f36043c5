"""The store's bytes: blobs by digest, written once, whole or not at all.

A blob is read-only and has a fixed modification time: whoever changes it moves that time, so that a later use sees in
O(1) that it must be hashed again. `hyb verify` hashes always.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hyb import digest as dg
from hyb import fs
from hyb.artifact import INDEX, Blob
from hyb.errors import Exit, HybError

FORMAT = 1
FOLDERS = ("blobs/sha256", "steps", "views", "work", "locks", "tmp")
ANOTHER = "or give another store with `--store DIR`"
BLOB_MTIME = 1  # seconds: see the module's docstring


class Blobs:
    """The blobs of the store at `root`. Opening it writes nothing; the first write lays it out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self._check_format()
        self.open_to_all = _open_to_all(self.root) or _open_to_all(self.blobs)
        """Anybody may put other files in place of ours: no blob's time is believed then."""

    @property
    def read_only(self) -> bool:
        """True for a store that is there and that this user can't write."""
        locks = self.root / "locks"
        place = locks if locks.is_dir() else self.root
        return (self.root / "hyb.json").exists() and not os.access(place, os.W_OK)

    def blob_path(self, digest: str) -> Path:
        """Where a blob lies, whether or not it is there."""
        return self.blobs / digest.removeprefix("sha256:")

    def has_blob(self, blob: Blob) -> bool:
        """True when the blob is there with its size (its content is not read)."""
        try:
            return self.blob_path(blob.digest).stat().st_size == blob.size
        except OSError:
            return False

    def add_bytes(self, data: bytes) -> Blob:
        """Put bytes into the store; nothing is written when they are there."""
        blob = Blob(dg.of_bytes(data), len(data))
        if not self._untouched(blob):
            with self.writing(), self._incoming() as temporary:
                temporary.write_bytes(data)
                self._publish(temporary, blob)
        return blob

    def add_stream(
        self, stream: BinaryIO, *, expected: str | None = None, progress: Callable[[int], None] | None = None
    ) -> Blob:
        """Put a stream's bytes into the store, hashed while they are written (one pass).

        Raises HybError (exit 4) when `expected` is given and the digest is another; nothing is kept then.
        """
        with self.writing(), self._incoming() as temporary:
            with temporary.open("wb") as out:
                digest, size = dg.of_stream(_Tee(stream, out), progress)  # type: ignore[arg-type]
            _expect(expected, digest, "the stream")
            blob = Blob(digest, size)
            self._publish(temporary, blob)
        return blob

    def add_file(
        self,
        path: Path,
        *,
        how: str = "copy",
        expected: str | None = None,
        trusted: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Blob:
        """Put a file into the store.

        `how`: "copy" (one pass), "link" (a hard link where the file system can: no bytes written) or "move".
        `expected`: refuse another digest (exit 4). `trusted`: the digest, just computed by the caller.
        """
        if how == "copy" and expected and self._untouched(blob := Blob(expected, path.stat().st_size)):
            return blob
        if how == "copy":
            with path.open("rb") as stream:
                return self.add_stream(stream, expected=expected, progress=progress)
        digest, size = (trusted, path.stat().st_size) if trusted else dg.of_file(path, progress)
        _expect(expected, digest, f"`{path}`")
        blob = Blob(digest, size)
        if self._untouched(blob):
            if how == "move":
                path.unlink()
            return blob
        with self.writing(), self._incoming() as temporary:
            try:
                if how == "link":
                    temporary.hardlink_to(path)
                else:
                    path.replace(temporary)
            except OSError:  # another file system, or one without links: copy
                shutil.copyfile(path, temporary)
                if how == "move":
                    path.unlink()
            self._publish(temporary, blob)
        return blob

    def read(self, digest: str) -> bytes:
        """A small blob's bytes, checked. Raises HybError (exit 4) when it is missing or damaged."""
        try:
            data = self.blob_path(digest).read_bytes()
        except FileNotFoundError as error:
            raise self._missing(digest) from error
        if dg.of_bytes(data) != digest:
            raise self._damaged(digest)
        return data

    def check(self, blob: Blob, *, thorough: bool = False, progress: Callable[[int], None] | None = None) -> None:
        """Raise HybError (exit 4) when a blob is missing or damaged; hashed only when touched, or `thorough`."""
        path = self.blob_path(blob.digest)
        try:
            found = path.stat()
        except FileNotFoundError as error:
            raise self._missing(blob.digest) from error
        if found.st_size != blob.size:
            raise self._damaged(blob.digest)
        if found.st_mtime == BLOB_MTIME and not thorough and not self.open_to_all:
            return
        if dg.of_file(path, progress)[0] != blob.digest:
            raise self._damaged(blob.digest)
        with contextlib.suppress(OSError):  # a read-only store: it will be hashed again next time
            os.utime(path, (BLOB_MTIME, BLOB_MTIME))

    # -- inside ------------------------------------------------------------------------------------------

    def _check_format(self) -> None:
        path = self.root / "hyb.json"
        try:
            found = json.loads(path.read_bytes())["store"]
        except FileNotFoundError:
            return
        except NotADirectoryError as error:
            raise HybError(f"the store `{self.root}` is a file", hint="give a folder with `--store DIR`") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            hint = "if it was damaged, remove it: hyb writes it anew; or give another store with `--store DIR`"
            raise HybError(f"`{path}` can't be read: {error}", hint=hint, code=Exit.CHECK) from error
        if found != FORMAT:
            raise HybError(
                f"the store `{self.root}` has format {found}; this hyb knows format {FORMAT}",
                hint="use the hyb that wrote it, or give another store with `--store DIR`; nothing was changed",
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Around every write: lays the store out first, and says what is wrong in words."""
        with fs.explained(f"can't write to the store `{self.root}`", also=ANOTHER):
            for name in FOLDERS:  # each time: whoever copies a store may leave its empty folders behind
                if not (self.root / name).is_dir():
                    (self.root / name).mkdir(parents=True, exist_ok=True)
            if not (self.root / "hyb.json").exists():
                fs.sync_folder(self.blobs.parent)
                with fs.locked(self.root / "locks" / "index"):
                    if not (self.root / "index.json").exists():
                        self.write_index([])
                    fs.write_atomic(self.root / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
                    fs.write_atomic(self.root / "hyb.json", dg.canonical_json({"store": FORMAT}))
            yield

    def write_index(self, entries: list[dict[str, Any]]) -> None:
        """Write index.json; the caller holds its lock."""
        data = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        fs.write_atomic(self.root / "index.json", json.dumps(data, indent=1).encode())

    @contextlib.contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A name in tmp/ that is gone afterwards, unless it was published."""
        path = self.root / "tmp" / secrets.token_hex(8)
        try:
            yield path
        finally:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _untouched(self, blob: Blob) -> bool:
        """True when the blob is there as it was written; one that was changed since is written anew."""
        try:
            found = self.blob_path(blob.digest).stat()
        except OSError:
            return False
        return found.st_size == blob.size and found.st_mtime == BLOB_MTIME and not self.open_to_all

    def _publish(self, temporary: Path, blob: Blob) -> None:
        target = self.blob_path(blob.digest)
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)  # never what a link in its place leads to
        try:
            os.fchmod(descriptor, 0o444)
            os.utime(descriptor, (BLOB_MTIME, BLOB_MTIME))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)  # over a damaged one of that name, too
        fs.sync_folder(self.blobs)

    def _missing(self, digest: str) -> HybError:
        hint = "`hyb verify` lists all that is missing; `hyb repair` makes or fetches it again"
        return HybError(f"blob `{digest}` is not in the store `{self.root}`", hint=hint, code=Exit.CHECK)

    def _damaged(self, digest: str) -> HybError:
        return HybError(
            f"blob `{self.blob_path(digest)}` is damaged: its content is not `{digest}`",
            hint="`hyb repair` sets it aside and makes or fetches it again",
            code=Exit.CHECK,
        )


def _open_to_all(folder: Path) -> bool:
    """True for a folder in which everybody may rename and remove what is not theirs."""
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


class _Tee:
    """Reads from one stream and writes what it read to another."""

    def __init__(self, source: BinaryIO, out: BinaryIO) -> None:
        self.source, self.out = source, out

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        self.out.write(data)
        return data


def _expect(expected: str | None, digest: str, what: str) -> None:
    if expected and expected != digest:
        raise HybError(
            f"{what} has digest `{digest}`, expected `{expected}`",
            hint="it was changed or damaged on the way; fetch it again",
            code=Exit.CHECK,
        )
