"""A file's bytes, unpacked by its name (`.gz`, `.zst`), and what it is by its first ones where its name is wrong."""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import Any

from hyb.formats import recognise

HEAD = 64  # bytes that tell what a file is
_UNPACKED = 1 << 16  # bytes unpacked at once
_TABLES = {
    b"PAR1\x15": "Parquet; name it `….parquet`", b"ARROW1\0": "Arrow; name it `….arrow`",
    b"SQLite format 3\0": "an SQLite database", b"%PDF-": "a PDF",
}  # fmt: skip


class PackedError(ValueError):
    """A packed file is damaged, or needs more memory than one should."""


def opened(path: Path) -> io.BufferedReader:
    """The bytes of a file, unpacked when its name ends in `.gz` or `.zst`. Raises OSError; reading, PackedError."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        import gzip
        import zlib

        return io.BufferedReader(_Packed(gzip.open(path, "rb"), (gzip.BadGzipFile, zlib.error)), _UNPACKED)
    if suffix == ".zst":
        from backports import zstd

        return io.BufferedReader(_Packed(zstd.open(path, "rb"), (zstd.ZstdError,)), _UNPACKED)
    return path.open("rb")


class _Packed(io.RawIOBase):
    """What `reader` unpacks; its `errors`, and the end of a file where none should be, become PackedError."""

    def __init__(self, reader: Any, errors: tuple[type[Exception], ...]) -> None:
        self.reader = reader
        self.errors: tuple[type[Exception], ...] = (*errors, EOFError)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.reader.read(len(buffer))
        except self.errors as error:
            raise PackedError(str(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        return int(self.reader.tell())

    def close(self) -> None:
        self.reader.close()
        super().close()


def inner_suffix(name: str) -> str:
    """`.jsonl` for `a.jsonl` and for `a.jsonl.gz`; lower case."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix


def foreign(start: bytes) -> str:
    """What a file is that begins so, where its rows can't be read as text; "" where nothing speaks against it."""
    half_empty = len(start) >= 4 and not (any(start[:16:2]) and any(start[1:16:2]))
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or half_empty:
        return "is UTF-16; save the file as UTF-8"
    if packed := recognise.container(start):
        known = {"gzip": "; name it `….gz`", "zstd": "; name it `….zst`"}
        return f"is packed ({packed}){known.get(packed, '; unpack it')}"
    if start.startswith(b"version https://git-lfs"):
        return "is only Git LFS's pointer to the file; fetch the file itself (`git lfs pull`)"
    if start.lstrip()[:6].lower() in (b"<!doct", b"<html>", b"<html "):
        return "is a web page, not data; was it downloaded from the page about the file?"
    table = next((what for mark, what in _TABLES.items() if start.startswith(mark)), "")
    return f"is {table}" if table else ""
