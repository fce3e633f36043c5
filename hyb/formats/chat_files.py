"""Files of a chat data set, read row by row in bounded memory; every mistake kept with its file and line.

`.jsonl`: an object a line. `.json`: an array of objects, the same as `.jsonl`, or one object that holds rows. `.csv`,
`.tsv`, `.parquet`, `.arrow`: see `hyb.formats.tables`, where that one object is, too. Any but the columnar ones may be
packed, `.gz` or `.zst`. A folder: all such files in it, by name, hidden ones and the notes of `datasets` left out; with
LLaMA-Factory's `dataset_info.json` in it, the files that it names. A line (or an array's element, or that one object)
over the limit is reported and skipped unread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from hyb import fs
from hyb.errors import HybError
from hyb.formats import chat, chat_shapes, columns, json_array, packed, strict_json, tables

MAX_LINE = 16 << 20  # bytes of one row
SHOWN = 20  # mistakes that are listed; the rest is counted
_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_LINES = (".jsonl", ".json", ".ndjson")
INFO = "dataset_info.json"
_NOTES = (INFO, "dataset_infos.json", "dataset_dict.json", "state.json")
"""What the library `datasets` writes beside rows."""
_SPACE = b" \t\r\n"


@dataclass(frozen=True)
class Located:
    """A row and where it came from: `source` is a path relative to what was read, `line` counts from 1."""

    row: chat.Row
    source: str
    line: int

    def as_json(self) -> dict[str, Any]:
        """The line of a data set's file."""
        return self.row.as_json(self.source, self.line)


@dataclass
class Mistakes:
    """All mistakes found so far: the first `SHOWN` in words, the rest as a number."""

    shown: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, source: str, line: int, text: str) -> None:
        """Note one mistake."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{source}:{line}: {text}")

    def error(self, what: str) -> HybError:
        """All of them as one error."""
        more = self.count - len(self.shown)
        details = [*self.shown, *([f"and {more} more"] if more else [])]
        many = "1 mistake" if self.count == 1 else f"{self.count} mistakes"
        hint = f"each row is one JSON object with {chat_shapes.ACCEPTED}"
        if any("unknown shape" in line for line in self.shown):
            hint += "; other names: `columns: {question: NAME}`, `--column question=NAME`"
        return HybError(f"{what} has {many}", hint=hint, details=details)


@dataclass(frozen=True)
class Named:
    """A file to read: what it is called in messages, where it is, and how its columns are renamed."""

    name: str
    path: Path
    mapper: columns.Mapper | None = None


def files(path: Path) -> list[Named]:
    """What is to be read at `path`, a file or a folder. Raises HybError when there is nothing."""
    if path.is_file():
        if not _is_read(path.name):
            raise HybError(
                f"`{path}` is no data set that hyb reads",
                hint=f"it reads {', '.join(_KINDS)} (also .gz, .zst); others can be written as JSON lines",
            )
        return [Named(path.name, path)]
    if path.exists() and not path.is_dir():
        raise HybError(
            f"`{path}` is no file that can be read again, but a pipe or device", hint="save it as a file first"
        )
    if not path.is_dir():
        raise HybError(f"`{path}` is not there", hint="paths start at the recipe's folder")
    if (path / INFO).is_file() and (entries := _entries(path)):
        return _told(path, entries)
    found = sorted(p for p in path.rglob("*") if _is_read(p.name) and p.name not in _NOTES and p.is_file())
    named = [Named(p.relative_to(path).as_posix(), p) for p in found]
    named = [n for n in named if not any(part.startswith(".") for part in n.name.split("/"))]
    if not named:
        raise HybError(f"the folder `{path}` has no file of {', '.join(_KINDS)}")
    return named


_KINDS = (*_LINES, *tables.CSV, *tables.COLUMNAR)


def _is_read(name: str) -> bool:
    """True for a name that tells a kind of file that is read; a columnar file is packed within, never around."""
    suffix = packed.inner_suffix(name)
    return suffix in _KINDS and not (suffix in tables.COLUMNAR and not name.lower().endswith(suffix))


def _entries(folder: Path) -> list[dict[str, Any]]:
    """The entries of a dataset_info.json; none where it is not LLaMA-Factory's, but of the library `datasets`, which
    describes a data set's columns. Raises HybError."""
    try:
        found = json.loads((folder / INFO).read_bytes())
    except (ValueError, RecursionError) as error:
        raise HybError(f"`{folder / INFO}` is no JSON: {error}") from error
    if not isinstance(found, dict) or isinstance(found.get("features"), dict):
        return []
    return [e for e in found.values() if isinstance(e, dict)]


def _told(folder: Path, entries: list[dict[str, Any]]) -> list[Named]:
    """The files that LLaMA-Factory's dataset_info.json names, those that are here. Raises HybError."""
    named: list[Named] = []
    for entry in entries:
        name = entry.get("file_name")
        if not isinstance(name, str) or ".." in Path(name).parts or Path(name).is_absolute():
            continue
        if not isinstance(entry.get("columns") or {}, dict) or not isinstance(entry.get("tags") or {}, dict):
            raise HybError(f"`{folder / INFO}`: `columns` and `tags` of `{name}` must be objects")
        for path in sorted((folder / name).iterdir()) if (folder / name).is_dir() else [folder / name]:
            if path.is_file() and _is_read(path.name):
                named.append(Named(path.relative_to(folder).as_posix(), path, columns.llama_factory(entry)))
    if not named:
        raise HybError(
            f"`{folder / INFO}` names no file that is here", hint="data sets of a hub must be downloaded first"
        )
    return named


def rows(
    named: Named,
    mistakes: Mistakes,
    *,
    answered: bool = True,
    only: str = "auto",
    limit: int = MAX_LINE,
    renamed: columns.Mapper | None = None,
) -> Iterator[Located]:
    """The good rows of one file, in order; the bad ones go into `mistakes`.

    `answered`, `only`: see `chat_shapes.normalise`. `limit`: bytes of a row. `renamed`: how columns are renamed.
    Raises HybError when the file can't be opened.
    """
    mapper = renamed or named.mapper
    for line, value in _values(named.path, named.name, mistakes, limit):
        try:
            if isinstance(value, chat.RowError):
                raise value
            row = chat_shapes.normalise(mapper(value) if mapper else value, answered=answered, only=only)
        except chat.RowError as mistake:
            mistakes.add(named.name, line, str(mistake))
        else:
            yield Located(row, named.name, line)


def _values(path: Path, name: str, mistakes: Mistakes, limit: int) -> Iterator[tuple[int, Any]]:
    """(line, value or RowError) of each row of a file."""
    suffix = packed.inner_suffix(path.name)
    if suffix in tables.COLUMNAR:
        yield from tables.columnar_rows(path)
        return
    try:
        with fs.explained(f"can't read `{path}`"), packed.opened(path) as stream:
            start = stream.peek(packed.HEAD)[: packed.HEAD]
            if told := packed.foreign(start):
                mistakes.add(name, 1, told)
            elif suffix in tables.CSV:
                yield from tables.csv_rows(stream, limit)
            elif suffix == ".json" and (whole := _whole(path, limit)):
                yield from whole
            else:
                stream.read(len(_BOM) if start.startswith(_BOM) else 0)
                array = suffix == ".json" and start.removeprefix(_BOM).lstrip(_SPACE).startswith(b"[")
                pieces = _elements(stream, limit, name, mistakes) if array else _lines(stream, limit, name, mistakes)
                for line, offset, data in pieces:
                    yield line, _value(data, offset)
    except packed.PackedError as error:
        raise HybError(f"`{path}` is packed, but broken: {error}", hint="fetch or pack it again") from error


def _whole(path: Path, limit: int) -> Iterable[tuple[int, Any]]:
    """The rows of a file that is one JSON object; none where it is lines, an array, or longer than `limit`."""
    with packed.opened(path) as stream:
        data = stream.read(limit + 1).removeprefix(_BOM)
    if len(data) > limit or not data.lstrip(_SPACE).startswith(b"{"):
        return ()
    try:
        return tables.object_rows(_parsed(data, 0))
    except chat.RowError as mistake:
        cause, first = mistake.__cause__, data.lstrip(_SPACE).partition(b"\n")[0]
        one = first.strip() == b"{" and isinstance(cause, json.JSONDecodeError) and cause.msg != "Extra data"
        return [(cause.lineno, mistake)] if one and isinstance(cause, json.JSONDecodeError) else ()


def _value(data: bytes, offset: int) -> Any:
    """The JSON value in `data`, which starts at byte `offset` of its file; a RowError where it is none."""
    try:
        return _parsed(data, offset)
    except chat.RowError as mistake:
        return mistake


def _parsed(data: bytes, offset: int) -> Any:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise chat.RowError(f"is not UTF-8: byte 0x{byte:02x} at offset {offset + error.start}") from error
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=strict_json.once)
    except json.JSONDecodeError as error:
        if text.strip() == "{":
            raise chat.RowError("is a bracket alone: a row stands on one line (`jq -c .` writes it so)") from error
        raise chat.RowError(f"is broken JSON: {error.msg.lower()} (character {error.pos + 1} of the row)") from error
    except RecursionError as error:
        raise chat.RowError("is nested too deep") from error
    except ValueError as error:  # a number of thousands of digits, NaN, a key twice
        raise chat.RowError(f"is broken JSON: {str(error).splitlines()[0]}") from error
    if "\\u" in text:
        _refuse_surrogates(value)
    return value


def _refuse_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise chat.RowError("has half a surrogate pair (`\\ud800`…), which is no character") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _lines(stream: BinaryIO, limit: int, name: str, mistakes: Mistakes) -> Iterator[tuple[int, int, bytes]]:
    """(line, byte offset, bytes) of each line that is not blank."""
    number, offset = 0, stream.tell()
    while data := stream.readline(limit + 1):
        number += 1
        length = len(data)
        if length > limit and not data.endswith(b"\n"):
            mistakes.add(name, number, _too_long(limit))
            while data and not data.endswith(b"\n"):
                data = stream.readline(_CHUNK)
                length += len(data)
        elif data.strip():
            yield number, offset, data
        offset += length


def _too_long(limit: int) -> str:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
    return f"is longer than {size} (`max_line`)"


def _elements(stream: BinaryIO, limit: int, name: str, mistakes: Mistakes) -> Iterator[tuple[int, int, bytes]]:
    """(line, byte offset, bytes) of each element of a JSON array: cut at commas of depth one, parsed by the caller."""
    scanner = json_array.Scanner()
    line, offset, element, too_long = 1, stream.tell(), bytearray(), False
    for piece, cut in scanner.pieces(stream):
        body = piece if element or too_long else piece.lstrip()
        lead = piece[: len(piece) - len(body)]  # white space before the element: it starts behind it
        line, offset = line + lead.count(b"\n"), offset + len(lead)
        too_long = too_long or len(element) + len(body) > limit
        element += b"" if too_long else body
        if too_long and cut:
            mistakes.add(name, line, _too_long(limit))
        elif cut and element:
            yield line, offset, bytes(element)
        if cut:
            element, too_long = bytearray(), False
            line, offset = scanner.line, scanner.offset
    if not scanner.closed:
        mistakes.add(name, line, _too_long(limit) if too_long else "starts what is never closed; the array has no end")
    elif element.strip() or too_long:
        mistakes.add(name, scanner.line, "has something after the end of the JSON array")
