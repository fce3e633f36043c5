"""One layer of an image, written into the store: a tar stream over blobs, read and hashed once, copied by the kernel.

The content of a big file never passes through this process on its way to the disk. The kernel copies it (or shares its
blocks, where the file system can: then nothing is written), a step ahead of the hash; what was copied goes to the disk
while the next step is hashed. So a layer takes as long as the slower of the two, not as both.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from hyb import digest as dg
from hyb import fs
from hyb.artifact import Blob
from hyb.formats import tar
from hyb.store import Store

STEP = 64 << 20  # bytes copied at a time; a multiple of tar.ALIGN
AHEAD = 2  # steps that may be copied and not hashed yet: they are still in memory then
_NOT_HERE = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def write(store: Store, work: Path, entries: Sequence[tar.Entry], tell: Callable[[int], None]) -> Blob:
    """Write the tar stream of `entries` into the store; `tell` is told the bytes so far.

    A kill or a full disk leaves a partial file in `work`, and nothing in the store. Raises HybError: exit 3 when it
    can't be written, exit 4 when a file is not as long as its entry says.
    """
    path = work / "layer.partial"
    with fs.explained(f"can't write a layer in `{work}`"):
        with path.open("wb", buffering=0) as out, ThreadPoolExecutor(1) as pool:
            stream = _Stream(out.fileno(), pool, tell)
            for piece in tar.pieces(entries):
                if isinstance(piece, bytes):
                    stream.put(piece)
                elif piece.size < tar.ALIGN_FROM:
                    for chunk in tar.content(piece):
                        stream.put(chunk)
                else:
                    stream.file(piece)
        return store.add_file(path, how="move", trusted=stream.digest)


class _Stream:
    """A file that is written from its start, and the hash of what is in it."""

    def __init__(self, target: int, pool: ThreadPoolExecutor, tell: Callable[[int], None]) -> None:
        self.target, self.pool, self.tell = target, pool, tell
        self.hasher, self.at = hashlib.sha256(), 0
        self.buffer = memoryview(bytearray(dg.CHUNK))

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of all so far."""
        return "sha256:" + self.hasher.hexdigest()

    def put(self, data: bytes) -> None:
        """Write bytes."""
        done = 0
        while done < len(data):
            done += os.pwrite(self.target, data[done:], self.at + done)
        self._counted(data)

    def file(self, entry: tar.Entry) -> None:
        """Write a file's content. Raises HybError (exit 4) when it is shorter or longer than its entry says."""
        assert entry.open
        with entry.open() as stream:
            source = stream.fileno()
            if os.fstat(source).st_size != entry.size:
                raise tar.changed(entry)
            steps: deque[tuple[int, int, Future[None]]] = deque()
            begin, last = self.at, None
            try:
                for start in range(0, entry.size, STEP):
                    size = min(STEP, entry.size - start)
                    last = self.pool.submit(_copy, source, self.target, start, begin + start, size)
                    steps.append((start, size, last))
                    if len(steps) > AHEAD:
                        self._hash(source, entry, *steps.popleft())
                while steps:
                    self._hash(source, entry, *steps.popleft())
            finally:  # one thread copies, in order: when the last step is over, nobody uses the descriptors any more
                if last:
                    wait([last])

    def _hash(self, source: int, entry: tar.Entry, start: int, size: int, copying: Future[None]) -> None:
        done = 0
        while done < size:
            count = os.preadv(source, [self.buffer[: min(len(self.buffer), size - done)]], start + done)
            if count == 0:
                raise tar.changed(entry)
            self._counted(self.buffer[:count])
            done += count
        copying.result()

    def _counted(self, data: bytes | memoryview) -> None:
        self.hasher.update(data)
        self.at += len(data)
        self.tell(self.at)


def _copy(source: int, target: int, start: int, to: int, size: int) -> None:
    """Copy bytes from one file into another, and have the disk begin with them."""
    done = 0
    try:
        while done < size:
            count = os.copy_file_range(source, target, size - done, start + done, to + done)
            if count == 0:
                break
            done += count
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    while done < size and (data := os.pread(source, min(dg.CHUNK, size - done), start + done)):
        done += os.pwrite(target, data, to + done)
    os.fdatasync(target)
