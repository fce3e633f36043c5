"""Files of a chat data set, read row by row in bounded memory; every mistake kept with its file and line.

`.jsonl`: an object a line. `.json`: an array of objects, or the same as `.jsonl`. A folder: all such files in it, by
name, hidden ones left out. A line (or an array's element) over the limit is reported and skipped unread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from hyb.errors import HybError
from hyb.formats import chat

MAX_LINE = 16 << 20  # bytes of one row
SHOWN = 20  # mistakes that are listed; the rest is counted
_CHUNK = 1 << 16
_BOM = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_NOT_READ = {".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".zip", ".xlsx"}
_SPACE = b" \t\r\n"
_STRUCTURE = re.compile(rb'[\[\]{}",]')
_IN_STRING = re.compile(rb'["\\\n]')


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
        hint = f"each row is one JSON object with {chat.ACCEPTED}"
        return HybError(f"{what} has {many}", hint=hint, details=details)


def files(path: Path) -> list[tuple[str, Path]]:
    """(name, file) of what is to be read at `path`, a file or a folder. Raises HybError when there is nothing."""
    if path.is_file():
        if path.suffix.lower() in _NOT_READ:
            hint = "write it as JSON lines: one object a line, in a file that ends in `.jsonl`"
            raise HybError(f"`{path}` is no file of JSON lines", hint=hint)
        return [(path.name, path)]
    if not path.is_dir():
        raise HybError(f"`{path}` is not there", hint="paths start at the recipe's folder")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in (".jsonl", ".json") and p.is_file())
    named = [(p.relative_to(path).as_posix(), p) for p in found]
    named = [(name, p) for name, p in named if not any(part.startswith(".") for part in name.split("/"))]
    if not named:
        raise HybError(f"the folder `{path}` has no `.jsonl` or `.json` file")
    return named


def rows(
    path: Path, name: str, mistakes: Mistakes, *, answered: bool = True, only: str = "auto", limit: int = MAX_LINE
) -> Iterator[Located]:
    """The good rows of one file, in order; the bad ones go into `mistakes`. `answered`, `only`: see `chat.normalise`.

    `limit`: bytes of a row. Raises HybError when the file can't be opened.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise HybError(f"`{path}` can't be read: {(error.strerror or '').lower()}") from error
    with stream:
        start = stream.read(64)
        stream.seek(3 if start.startswith(_BOM) else 0)
        if start.startswith(_WIDE):
            mistakes.add(name, 1, "is UTF-16; save the file as UTF-8")
            return
        array = path.suffix.lower() == ".json" and start.removeprefix(_BOM).lstrip(_SPACE).startswith(b"[")
        pieces = _elements(stream, limit, name, mistakes) if array else _lines(stream, limit, name, mistakes)
        for line, offset, data in pieces:
            try:
                row = chat.normalise(_value(data, offset), answered=answered, only=only)
            except chat.RowError as mistake:
                mistakes.add(name, line, str(mistake))
            else:
                yield Located(row, name, line)


def _value(data: bytes, offset: int) -> Any:
    """The JSON value in `data`, which starts at byte `offset` of its file. Raises chat.RowError."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise chat.RowError(f"is not UTF-8: byte 0x{byte:02x} at offset {offset + error.start}") from error
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise chat.RowError(f"is broken JSON: {error.msg.lower()} (character {error.pos + 1} of the row)") from error
    except RecursionError as error:
        raise chat.RowError("is nested too deep") from error
    except ValueError as error:  # a number of thousands of digits, NaN
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
    scanner = _Scanner()
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


class _Scanner:
    """Finds where a JSON array's elements end, in one pass, without parsing them.

    A line's end closes an open string: JSON has no line ends in strings, so one missing quote spoils one row.
    """

    def __init__(self) -> None:
        self.depth, self.in_string, self.closed, self.escaped = 0, False, False, 0
        self.line, self.offset = 1, 0  # just behind the last cut

    def pieces(self, stream: BinaryIO) -> Iterator[tuple[bytes, bool]]:
        """(bytes, whether an element ends behind them); the separators themselves are left out."""
        base, line = stream.tell(), 1
        while chunk := stream.read(_CHUNK):
            place = 0
            for cut in self._cuts(chunk):
                line += chunk.count(b"\n", place, cut)
                self.line, self.offset = line, base + cut + 1
                yield chunk[place:cut], True
                place = cut + 1
            yield chunk[place:], False
            line += chunk.count(b"\n", place)
            base += len(chunk)

    def _cuts(self, chunk: bytes) -> Iterator[int]:
        place, self.escaped = self.escaped, 0
        while not self.closed:
            found = (_IN_STRING if self.in_string else _STRUCTURE).search(chunk, place)
            if not found:
                return
            sign, place = found[0], found.end()
            if self.in_string and sign == b"\\":
                place += 1
                self.escaped = max(0, place - len(chunk))  # what is escaped is the next chunk's first byte
            elif self.in_string or sign == b'"':
                self.in_string = not self.in_string
            elif self._bracket(sign):
                yield found.start()

    def _bracket(self, sign: bytes) -> bool:
        """Count depth; True when an element begins or ends here."""
        if sign in b"[{":
            self.depth += 1
            return self.depth == 1
        if sign in b"]}":
            self.depth -= 1
            self.closed = self.depth == 0
            return self.closed
        return self.depth == 1
