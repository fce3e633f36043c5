"""Tar streams whose bytes depend on nothing but names, modes and contents.

Written here and not with `tarfile`, so that a layer's digest can't move with a Python version: POSIX ustar headers
with mtime 0, uid and gid 0, no owner names; a pax record only where ustar has no room (a long or non-ASCII name,
8 GiB and more). Files are streamed: a layer of many gigabytes needs no temporary copy and no memory.

The content of a file of a mebibyte and more begins at a multiple of 4096 bytes: a pax comment before it fills the gap.
So file systems that can share blocks (XFS, btrfs) give a layer of weights without writing them once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from hyb.errors import Exit, HybError

BLOCK = 512
END = bytes(2 * BLOCK)
CHUNK = 1 << 20  # bytes read at a time
ALIGN = 4096  # bytes: the blocks of every file system that shares them
ALIGN_FROM = 1 << 20  # bytes of a file
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


def pieces(entries: Iterable[Entry]) -> Iterator[bytes | Entry]:
    """The tar stream as bytes to be written as they are, and entries whose content comes there."""
    at = 0
    for entry in entries:
        head = header(entry, at)
        yield head
        at += len(head)
        if entry.open:
            yield entry
            if padding := -entry.size % BLOCK:
                yield bytes(padding)
            at += entry.size + padding
    yield END


def chunks(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The tar stream, in pieces of at most a megabyte.

    Raises HybError (exit 4) when a file is not as long as its entry says.
    """
    for piece in pieces(entries):
        if isinstance(piece, bytes):
            yield piece
        else:
            yield from content(piece)


def length(entries: Iterable[Entry]) -> int:
    """Bytes of the whole stream, without reading a file."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in pieces(entries))


def header(entry: Entry, at: int = 0) -> bytes:
    """The header block or blocks of one entry, `at` bytes into the stream: mode 0444 for a file, 0555 for a folder."""
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
    data = b"".join(_record(k, v) for k, v in sorted(records.items()))
    if entry.open and entry.size >= ALIGN_FROM:
        data = _filler(data, at) + data
    if not data:
        return block
    return _ustar(b"pax", 0o444, len(data), b"x") + data + bytes(-len(data) % BLOCK) + block


def _filler(data: bytes, at: int) -> bytes:
    """The record that moves the content after the header to a multiple of ALIGN; `data`: the header's own records."""
    if (at + BLOCK + (BLOCK + _blocks(data) if data else 0)) % ALIGN == 0:
        return b""
    gap = -(at + 2 * BLOCK + _blocks(data)) % ALIGN or (0 if data else ALIGN)
    room = gap + _blocks(data) - len(data)  # the record ends in the last block of the header's data
    return _record("comment", "." * (room - 16)) if gap else b""


def _blocks(data: bytes) -> int:
    return len(data) + -len(data) % BLOCK


def content(entry: Entry) -> Iterator[bytes]:
    """A file's content. Raises HybError (exit 4) when it is not as long as its entry says."""
    if entry.open is None:
        return
    left = entry.size
    with entry.open() as stream:
        while left and (chunk := stream.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk
        if left or stream.read(1):
            raise changed(entry)


def changed(entry: Entry) -> HybError:
    """The error for a file that is not as long as its entry says."""
    return HybError(f"`{entry.path}` is not {entry.size} bytes long any more", code=Exit.CHECK)


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
