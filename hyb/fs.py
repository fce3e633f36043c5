"""The few file operations that must survive a kill at any byte, and OSError turned into words."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from hyb.errors import HybError

_HINTS = {
    errno.ENOSPC: "free some space there; nothing was lost",
    errno.EDQUOT: "the disk quota is used up: free some space; nothing was lost",
    errno.EROFS: "the file system is read-only; choose a place that can be written",
    errno.EACCES: "give yourself permission there, or choose another place",
    errno.EPERM: "give yourself permission there, or choose another place",
    errno.EIO: "the disk reports a fault; copy what is on it before anything else",
}
_LACKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@contextlib.contextmanager
def explained(doing: str, also: str = "") -> Iterator[None]:
    """Turn an OSError inside the block into a HybError: `doing` is what was being done, with its path.

    `also`: a second thing that one can do about it.
    """
    try:
        yield
    except OSError as error:
        raise _error(doing, error, also) from error


@contextlib.contextmanager
def room(doing: str, also: str = "") -> Iterator[None]:
    """As `explained`, for a whole step: only what the machine lacks (space, a writable disk) becomes a HybError.

    Any other OSError there is a bug and stays one.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _LACKS:
            raise
        raise _error(doing, error, also) from error


def _error(doing: str, error: OSError, also: str) -> HybError:
    number = error.errno or 0
    said = os.strerror(number).lower() if number else str(error)  # gzip's, for one, has no number
    return HybError(f"{doing}: {said}", hint="; ".join(filter(None, (_HINTS.get(number), also))))


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` under a temporary name, fsync, rename to `path`, fsync the folder. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` last. Raises OSError; not where the file system (some of networks) has no such thing."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold an advisory lock on the file `path` (made if absent); freed by the kernel when the process dies.

    Raises BlockingIOError when `wait` is False and another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, kind: int, wait: bool) -> None:
    """Take a lock. Asks again and again rather than blocking: a signal that comes just before a blocking call is lost
    to it, and ^C would do nothing."""
    pause = 0.01
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not wait:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.25)


def copy_new(source: Path, target: Path) -> None:
    """Copy a file to a name that nothing has: never through a link that somebody put there. Raises OSError."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as out, source.open("rb") as stream:
        shutil.copyfileobj(stream, out, 1 << 20)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system can't link; a copy is on the disk before its name counts."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as stream:
            os.fsync(stream.fileno())
        shutil.copystat(source, target)


def read_private(path: Path, what: str) -> bytes:
    """A small file of the user's that holds a secret. Raises HybError when others can get at it: it is not closed, as
    it is the user's, and somebody may have read it."""
    with explained(f"can't read {what} `{path}`"):
        refuse_open(path, what)
        return read_bounded(path)


def refuse_open(path: Path, what: str) -> None:
    """Raise HybError when others can read or write the file `path`, or it is another user's. Raises OSError."""
    status = path.stat()
    if status.st_mode & 0o077:
        raise HybError(f"other users can get at {what} `{path}` (mode {stat.S_IMODE(status.st_mode):04o})",
                       hint=f"`chmod 0600 {path}`, and think whether somebody has read it")  # fmt: skip
    if status.st_uid not in (os.geteuid(), 0):
        raise HybError(f"{what} `{path}` is another user's", hint="take a file of your own")


def read_bounded(path: Path, most: int = 1 << 20) -> bytes:
    """A file that has `most` bytes at most. Raises HybError for a larger one, OSError."""
    with path.open("rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise HybError(f"`{path}` is no such file: it has more than {most >> 20} MB")
    return data
