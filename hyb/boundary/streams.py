"""Streams: decompression a piece at a time, with a limit on what a few bytes may become.

Every decompressor of the standard library (and zstd's) has the same shape, but zlib's; here all have. A stream may be
several compressed ones in a row; what stands behind the last is handed out as `rest`.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from backports import zstd

from hyb.formats.tar_read import Reader

CHUNK = 1 << 20
RATIO = 200
"""Bytes out for one byte in, above FLOOR: more is a bomb. Weights and text stay far below."""
FLOOR = 1 << 30
_XZ_MEMORY = 256 << 20


class BrokenError(ValueError):
    """A stream that can't be looked into to its end; why, for people."""


class SpentError(Exception):
    """One file has become too much; it is not looked into any further."""


class Budget:
    """What one file on disk may become, all its archives together. `size`: its bytes."""

    def __init__(self, size: int) -> None:
        self.most, self.out = max(FLOOR * 4, size * RATIO), 0

    def spend(self, count: int) -> None:
        """Count bytes. Raises SpentError when they are too many."""
        self.out += count
        if self.out > self.most:
            raise SpentError(f"its archives expand to more than {self.most >> 30} GiB: not looked into further")


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _Gzip:
    """zlib's decompressor in the shape of the others."""

    def __init__(self) -> None:
        self._of = zlib.decompressobj(wbits=31)
        self._left = b""
        self._full = False

    @property
    def eof(self) -> bool:
        return self._of.eof

    @property
    def unused_data(self) -> bytes:
        return self._of.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._left and not self._full

    def decompress(self, data: bytes, max_length: int = CHUNK, /) -> bytes:
        found = self._of.decompress(self._left + data, max_length)
        self._left, self._full = self._of.unconsumed_tail, len(found) == max_length
        return found


_MAKE: dict[str, tuple[Callable[[], Any], tuple[bytes, ...]]] = {
    "gzip": (_Gzip, (b"\x1f\x8b",)),
    "bzip2": (bz2.BZ2Decompressor, (b"BZh",)),
    "xz": (lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), (b"\xfd7zXZ",)),
    "zstd": (zstd.ZstdDecompressor, (b"\x28\xb5\x2f\xfd", *(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60)))),
}
_FAULTS = (zlib.error, OSError, EOFError, lzma.LZMAError, zstd.ZstdError, ValueError, MemoryError)


class Decompressed:
    """The content of a compressed stream. `read` raises BrokenError for what is damaged, cut off or a bomb."""

    def __init__(self, source: Reader, kind: str, budget: Budget) -> None:
        self.source, self.budget = source, budget
        self._make, self._starts = _MAKE[kind]
        self._of: _Decompressor = self._make()
        self._in = self._out = 0
        self.rest = b""
        """What stands behind the compressed data, as far as it was read; the source has more."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""
        while True:
            if self._of.eof and not self._next():
                return b""
            given = b""
            if self._of.needs_input:
                given = self.rest or self.source.read(CHUNK)
                self.rest = b""
                if not given:
                    raise BrokenError("it is cut off")
                self._in += len(given)
            try:
                found = self._of.decompress(given, min(size, CHUNK))
            except _FAULTS as error:
                raise BrokenError(f"it is damaged ({error})") from error
            if found:
                self._counted(len(found))
                return found

    def _next(self) -> bool:
        """Begin with the next compressed stream, if there is one."""
        self.rest = self._of.unused_data or self.rest
        while len(self.rest) < 8 and (more := self.source.read(CHUNK)):
            self.rest += more
        if not self.rest.startswith(self._starts):
            return False
        self._of = self._make()
        return True

    def _counted(self, count: int) -> None:
        self._out += count
        self.budget.spend(count)
        if self._out > FLOOR and self._out > RATIO * self._in:
            raise BrokenError(f"it expands more than {RATIO} times: not looked into further")
