"""Tables of a data set (.csv, .tsv, .parquet, .arrow) → one object a row, in bounded memory.

A cell of CSV is a text: an empty one is no value, one that should be a list or an object is JSON, and the verdict of a
judged row is true or false. The delimiter is the one that the header has most of: `,`, `;` or a tab.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hyb.errors import HybError
from hyb.formats.chat import RowError, json_of

CSV = (".csv", ".tsv")
COLUMNAR = (".parquet", ".arrow", ".feather")
_BATCH = 256  # rows of a columnar file that are made Python values at once
_JSON = ("messages", "conversations", "tools", "history", "completions", "labels", "segments", "input_ids", "expect",
         "chosen", "rejected", "prompt", "completion")  # fmt: skip
_VERDICTS = ("label", "kto_tag")
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

Located = tuple[int, dict[str, Any] | RowError]


def csv_rows(stream: BinaryIO, limit: int) -> Iterator[Located]:
    """(line, row or what is wrong with it). `limit`: bytes of a cell."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _csv(text, limit)
    finally:
        text.detach()  # who opened the stream closes it


def _csv(text: io.TextIOWrapper, limit: int) -> Iterator[Located]:
    csv.field_size_limit(limit)
    first = text.readline(limit)
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(_then(first, text), delimiter=delimiter, strict=True)
    try:
        names = [n.strip() for n in next(reader, [])]
        if not any(names):
            return
        if twice := sorted({n for n in names if names.count(n) > 1}):
            yield 1, RowError(f"names the column `{twice[0]}` more than once")
            return
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            if any(c.strip() for c in cells):
                yield line, _row(names, cells)
    except csv.Error as error:
        yield reader.line_num, RowError(f"is broken CSV: {error}")


def _then(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _row(names: list[str], cells: list[str]) -> dict[str, Any] | RowError:
    if len(cells) != len(names):
        return RowError(f"has {len(cells)} cells, the header has {len(names)}")
    found: dict[str, Any] = {}
    for name, cell in zip(names, cells, strict=True):
        try:
            cell.encode()
        except UnicodeEncodeError:
            return RowError(f"is not UTF-8 in column `{name}`; save the file as UTF-8")
        if not cell:
            continue
        try:
            found[name] = _cell(name, cell)
        except RowError as mistake:
            return mistake
    return found


def _cell(name: str, cell: str) -> Any:
    if name in _JSON and cell.lstrip()[:1] in ("[", "{"):
        return json_of(cell, name)
    if name in _VERDICTS and cell.strip().lower() in _WORDS:
        return _WORDS[cell.strip().lower()]
    return cell


def columnar_rows(path: Path) -> Iterator[Located]:
    """(number of the row from 1, row). Raises HybError: exit 3 where pyarrow is missing or the file is damaged."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise HybError(f"`{path}` needs the package `pyarrow`", hint="pip install 'hyb[data]'") from error
    number = 0
    try:
        for batch in _batches(pa, pq, path):
            for start in range(0, batch.num_rows, _BATCH):
                for row in batch.slice(start, _BATCH).to_pylist():
                    number += 1
                    yield number, {k: v for k, v in row.items() if v is not None}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise HybError(f"`{path}` can't be read: {said[:200]}", hint="is it whole, and a table?") from error


def _batches(pa: Any, pq: Any, path: Path) -> Iterator[Any]:
    if path.suffix.lower() == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=_BATCH)
        return
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(n) for n in range(reader.num_record_batches))
        except pa.ArrowInvalid:  # the streaming form, which `datasets` writes
            source.seek(0)
            yield from pa.ipc.open_stream(source)


class PackedError(ValueError):
    """A packed file is damaged."""


def opened(path: Path) -> io.BufferedReader:
    """The bytes of a file, unpacked when its name ends in `.gz` or `.zst`. Raises OSError.

    Reading a damaged one raises EOFError, zlib.error, OSError or PackedError.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz":
        import gzip

        return io.BufferedReader(gzip.open(path, "rb"))
    return io.BufferedReader(_Zstandard(path)) if suffix == ".zst" else path.open("rb")


class _Zstandard(io.RawIOBase):
    """A stream of .zst frames; errors are PackedError."""

    def __init__(self, path: Path) -> None:
        from backports import zstd

        self.error, self.reader = zstd.ZstdError, zstd.ZstdFile(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.reader.read(len(buffer))
        except self.error as error:
            raise PackedError(str(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        return self.reader.tell()

    def close(self) -> None:
        self.reader.close()
        super().close()


def inner_suffix(name: str) -> str:
    """`.jsonl` for `a.jsonl` and for `a.jsonl.gz`; lower case."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix


def is_wide(start: bytes) -> bool:
    """True when a file begins as UTF-16 does."""
    return start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
