"""Tables of a data set (.csv, .tsv, .parquet, .arrow, a JSON object of columns) → one object a row, in bounded memory.

A cell of CSV is a text: an empty one is no value, one that should be a list or an object is JSON, and the verdict of a
judged row is true or false. The delimiter is the one that the header has most of: `,`, `;` or a tab. A spreadsheet's
`sep=;` before the header, and empty columns without a name, are passed over.

Of a columnar file's nested values those that are null are left out: in a column every object has the keys of all.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hyb import fs
from hyb.errors import HybError
from hyb.formats import packed
from hyb.formats.chat import RowError, clip, json_of

CSV = (".csv", ".tsv")
COLUMNAR = (".parquet", ".arrow", ".feather")
_BATCH = 256  # rows of a columnar file that are made Python values at once
_JSON = ("messages", "conversations", "tools", "history", "completions", "labels", "segments", "input_ids", "expect",
         "chosen", "rejected", "prompt", "completion")  # fmt: skip
_SEPARATORS = ("sep=,", "sep=;", "sep=\t")
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
    above = 1 if first.rstrip("\r\n") in _SEPARATORS else 0
    first = text.readline(limit) if above else first
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True)
    try:
        names = [n.strip() for n in next(reader, [])]
        if not any(names):
            return
        if twice := _twice(names):
            yield 1 + above, RowError(f"names the column `{twice}` more than once")
            return
        while True:
            line = reader.line_num + 1 + above
            try:
                cells = next(reader)
            except StopIteration:
                return
            if any(c.strip() for c in cells):
                yield line, _row(names, cells)
    except csv.Error as error:
        yield reader.line_num + above, RowError(f"is broken CSV: {error}")


def _twice(names: Iterable[str]) -> str:
    """The first name that stands twice; "" where none does."""
    return next((name for name, many in Counter(names).items() if name and many > 1), "")


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
        if not name and names.count("") > 1:
            return RowError("has a cell in a column without a name")
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
            if not number and (twice := _twice(batch.schema.names)):
                raise HybError(f"`{path}` names the column `{twice}` more than once")
            for start in range(0, batch.num_rows, _BATCH):
                for row in batch.slice(start, _BATCH).to_pylist():
                    number += 1
                    yield number, _without_nulls(row)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        with fs.explained(f"can't read `{path}`"), path.open("rb") as file:
            told = packed.foreign(file.read(packed.HEAD))
        if told and path.suffix.lower() not in told:
            raise HybError(f"`{path}` {told}") from error
        raise HybError(f"`{path}` can't be read: {said[:200]}", hint="is it whole, and a table?") from error


def _without_nulls(value: Any) -> Any:
    """Objects without the keys whose value is null, all the way down. Lists of numbers are left as they are."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return [_without_nulls(v) for v in value]
    return value


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


def object_rows(value: dict[str, Any]) -> Iterator[Located]:
    """(number of the row from 1, row) of a JSON object that is a whole file: a list of objects under one of its keys
    (`{"version": 1, "data": [{…}]}`), columns (`{"question": […], "answer": […]}`, also as pandas writes them), or
    itself a row."""
    lists = [k for k, v in value.items() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)]
    if wrapped := [k for k in lists if k not in _JSON]:
        if len(wrapped) > 1:
            yield 1, RowError(f"has rows under {' and '.join(f'`{clip(k)}`' for k in wrapped)}; give each a file")
            return
        yield from enumerate(value[wrapped[0]], 1)
    elif (columns := _columns(value)) is not None:
        for number, cells in enumerate(zip(*columns.values(), strict=True), 1):
            yield number, {k: v for k, v in zip(columns, cells, strict=True) if v is not None}
    else:
        yield 1, value


def _columns(value: dict[str, Any]) -> dict[str, list[Any]] | None:
    """The columns that an object is: all of them lists of one length, or objects with the same keys. None: it is none.

    A row of tokens, and steps with their labels, are lists of one length, too.
    """
    if not value or not value.keys().isdisjoint(("input_ids", "completions")):
        return None
    if all(isinstance(v, dict) for v in value.values()):
        first = next(iter(value.values()))
        same = first and all(v.keys() == first.keys() for v in value.values())
        return {k: list(v.values()) for k, v in value.items()} if same else None
    one_length = all(isinstance(v, list) for v in value.values()) and len({len(v) for v in value.values()}) == 1
    return value if one_length and any(isinstance(x, str) for v in value.values() for x in v) else None
