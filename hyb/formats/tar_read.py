"""Reading a tar stream without trusting it: names and contents in their order, nothing written, nothing skipped.

Not with `tarfile`: it takes the first header that it does not understand for the end, and what stands behind is not
seen. Here all content is handed out: a member's, or the rest of the stream as a member of its own (REST). ustar, pax
(path, size) and GNU (long names, base-256 numbers, old sparse files) are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from hyb.formats.recognise import is_tar_header

BLOCK = 512
MAX_RECORDS = 1 << 20
"""Bytes of one member's pax records or long name."""
REST = "what stands after the end"


class Reader(Protocol):
    """Anything with `read`."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; b"" at the end."""
        ...


class TarError(ValueError):
    """Not a tar that can be read to its end."""


@dataclass
class Member:
    """One member. `size`: bytes of its content; None where the stream says it by ending. `content`: to be read before
    the next member is asked for; what is left of it is passed over."""

    name: str
    kind: str
    size: int | None
    content: Reader
    link: str = ""


class _Slice:
    """The next `size` bytes of a stream."""

    def __init__(self, source: Reader, size: int) -> None:
        self.source, self.left, self.cut = source, size, False

    def read(self, size: int, /) -> bytes:
        data = self.source.read(min(size, self.left)) if self.left else b""
        self.cut = self.left > 0 and not data
        self.left -= len(data)
        return data


class _Rest:
    """Some bytes, and the stream after them."""

    def __init__(self, first: bytes, source: Reader) -> None:
        self.first, self.source = first, source

    def read(self, size: int, /) -> bytes:
        if self.first:
            data, self.first = self.first[:size], self.first[size:]
            return data
        return self.source.read(size)


def members(source: Reader) -> Iterator[Member]:
    """The members of a tar stream. Raises TarError where it ends too early."""
    records: dict[str, bytes] = {}
    ended = False
    while block := _up_to(source, BLOCK):
        if not block.strip(b"\0"):
            ended = True  # what stands behind it is looked at, too
            continue
        if not is_tar_header(block):
            yield Member(REST, "rest", None, _Rest(block, source))
            if not ended:
                raise TarError("it has no end: cut off, or damaged between two members")
            return
        size, kind = _number(block[124:136]), chr(block[156])
        if kind in "xgLK":
            if not 0 <= size <= MAX_RECORDS:
                raise TarError(f"a header of {size} bytes")
            records.update(_records(kind, _padded(source, size)))
            continue
        yield from _member(source, block, kind, size, records)
        records = {}


def read_exactly(source: Reader, size: int) -> bytes:
    """`size` bytes, b"" at the end. Raises TarError when the stream ends in between."""
    data = _up_to(source, size)
    if 0 < len(data) < size:
        raise TarError(f"it ends {size - len(data)} bytes too early")
    return data


def _up_to(source: Reader, size: int) -> bytes:
    """`size` bytes; fewer at the end."""
    data = source.read(size)
    while 0 < len(data) < size and (more := source.read(size - len(data))):
        data += more
    return data


def _member(source: Reader, block: bytes, kind: str, size: int, records: dict[str, bytes]) -> Iterator[Member]:
    name = records.get("path") or _name(block)
    if records.get("size", b"").isdigit():
        size = int(records["size"])
    if kind == "S" and block[482]:  # an old GNU sparse file with more of its map in further blocks
        while (more := read_exactly(source, BLOCK)) and more[504]:
            pass
    if size < 0:
        raise TarError("a member of negative size")
    length = 0 if kind in "123456" else size
    content = _Slice(source, length)
    link = (records.get("linkpath") or block[157:257].split(b"\0")[0]).decode(errors="replace")
    yield Member(name.decode(errors="replace"), kind, length, content, link if kind in "12" else "")
    while content.read(1 << 20):
        pass
    if content.cut:
        raise TarError(f"it ends within `{name.decode(errors='replace')}`")
    if padding := -length % BLOCK:
        read_exactly(source, padding)


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0")[0]
    prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(field: bytes) -> int:
    """A size: octal, or base 256 where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError as error:
        raise TarError("a size that is no number") from error


def _padded(source: Reader, size: int) -> bytes:
    data = read_exactly(source, size) if size else b""
    if padding := -size % BLOCK:
        read_exactly(source, padding)
    return data


def _records(kind: str, data: bytes) -> dict[str, bytes]:
    if kind in "LK":
        return {"path" if kind == "L" else "linkpath": data.rstrip(b"\0")}
    found: dict[str, bytes] = {}
    while data:
        length = data.partition(b" ")[0]
        if not length.isdigit() or not 0 < int(length) <= len(data):
            break
        key, _, value = data[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        found[key.decode(errors="replace")] = value
        data = data[int(length) :]
    return found
