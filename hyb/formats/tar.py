"""Tar streams whose bytes depend on nothing but names, modes and contents.

Written here and not with `tarfile`, so that a layer's digest can't move with a Python version: POSIX ustar headers
with mtime 0, uid and gid 0, no owner names; a pax record only where ustar has no room (a long or non-ASCII name,
8 GiB and more). Files are streamed: a layer of many gigabytes needs no temporary copy and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from hyb.errors import Exit, HybError

BLOCK = 512
END = bytes(2 * BLOCK)
CHUNK = 1 << 20  # bytes read at a time
_NAME, _SIZE = 100, 8**11  # what fits in the ustar fields


@dataclass(frozen=True)
class Entry:
    """A folder (`open` None) or a file of a tar stream; `size` in bytes, `open` gives its content."""

    path: str
    size: int = 0
    open: Callable[[], BinaryIO] | None = None

    @property
    def name(self) -> str:
        """The name as tar writes it: a folder ends in `/`."""
        return self.path if self.open else f"{self.path.rstrip('/')}/"


def with_folders(entries: Iterable[Entry]) -> list[Entry]:
    """The entries sorted by path, each after the folders that it lies in."""
    files = list(entries)
    folders = {"/".join(parts[:n]) for e in files for parts in [e.path.split("/")] for n in range(1, len(parts))}
    return sorted([*files, *(Entry(f) for f in folders)], key=lambda e: e.path.split("/"))


def chunks(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The tar stream, in pieces of at most a megabyte.

    Raises HybError (exit 4) when a file is not as long as its entry says.
    """
    for entry in entries:
        yield header(entry)
        if entry.open:
            with entry.open() as stream:
                yield from _content(entry, stream)
            if padding := -entry.size % BLOCK:
                yield bytes(padding)
    yield END


def length(entries: Iterable[Entry]) -> int:
    """Bytes of the whole stream, without reading a file."""
    return sum(len(header(e)) + e.size + -e.size % BLOCK for e in entries) + len(END)


def header(entry: Entry) -> bytes:
    """The header block or blocks of one entry: mode 0444 for a file, 0555 for a folder."""
    name = entry.name
    records = {}
    if len(name.encode()) > _NAME or not name.isascii():
        records["path"] = name
    if entry.size >= _SIZE:
        records["size"] = str(entry.size)
    plain = name.encode("ascii", "replace")[:_NAME]
    # With a pax size the field of the header is not read; zero is what GNU tar writes there.
    size = 0 if "size" in records else entry.size
    block = _ustar(plain, 0o444, size, b"0") if entry.open else _ustar(plain, 0o555, 0, b"5")
    if not records:
        return block
    data = b"".join(_record(k, v) for k, v in sorted(records.items()))
    return _ustar(b"pax", 0o444, len(data), b"x") + data + bytes(-len(data) % BLOCK) + block


def _content(entry: Entry, stream: BinaryIO) -> Iterator[bytes]:
    left = entry.size
    while left and (chunk := stream.read(min(CHUNK, left))):
        left -= len(chunk)
        yield chunk
    if left or stream.read(1):
        raise HybError(f"`{entry.path}` is not {entry.size} bytes long any more", code=Exit.CHECK)


def _ustar(name: bytes, mode: int, size: int, kind: bytes) -> bytes:
    """One block as POSIX.1-1988 lays it out: fixed fields, octal numbers, a sum of all bytes."""
    fields = (
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0,  # mode, uid, gid
        b"%011o\0" % size, b"%011o\0" % 0, b" " * 8,  # size, mtime, the sum (blanks while it is computed)
        kind, bytes(100), b"ustar\x0000", bytes(64),  # link name, magic and version, owner names
        b"%07o\0" % 0, b"%07o\0" % 0, bytes(167),  # device numbers, name prefix and padding
    )  # fmt: skip
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(key: str, value: str) -> bytes:
    """`LENGTH key=value`, where LENGTH counts itself."""
    body = f" {key}={value}\n".encode()
    size = len(body)
    while size != len(body) + len(str(size)):
        size = len(body) + len(str(size))
    return str(size).encode() + body
