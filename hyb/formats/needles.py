"""Texts to be found again, however they were written down. Pure.

A text is looked for without its white space, in streams whose white space and zero bytes are taken out, too: so it is
found across the folded lines of YAML, wrapped base64, and in UTF-16. Its forms: as it is, as a JSON string, as a JSON
string within one, and as base64 at each of the three places that a byte can have there.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SHORTEST = 20
"""Letters, white space apart, of a line that says enough to be looked for. Shorter ones are in every text."""
LONGEST = 48
"""Bytes of one needle; a longer line is cut into several, so that a part of it is found, too."""
_VARIED = 20
"""Different bytes of a piece: fewer stand in a table of padding, too."""
_BLOCK = 4096
_SHORTEST_BASE64 = 8
_DROPPED = b" \t\r\n\f\v\0"
_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class Needle:
    """One thing to be found: its class and what a person is told, which must not be the text itself."""

    kind: str
    what: str


def squeeze(data: bytes) -> bytes:
    """Bytes without white space and zero bytes."""
    return data.translate(None, _DROPPED)


def distinctive(text: str) -> list[str]:
    """The lines of a text that are long enough to be looked for."""
    return [line.strip() for line in text.splitlines() if _weight(line) >= SHORTEST]


def patterns(text: str, *, whole: bool = False) -> set[bytes]:
    """What to look for in a squeezed stream to find `text`. `whole`: never cut, however long."""
    found: set[bytes] = set()
    for form in _forms(text):
        found |= set(_pieces(squeeze(form), len(form) if whole else LONGEST))
    for piece in _pieces(text.encode(), len(text.encode()) if whole else LONGEST):
        found |= _base64(piece)
    return {p for p in found if p}


def raw_patterns(data: bytes) -> set[bytes]:
    """What to look for to find bytes: as they are, and as base64."""
    return {p for p in (squeeze(data), *_base64(data)) if p}


def piece(block: bytes) -> bytes:
    """The start of a squeezed block of a binary file; b"" for what could stand elsewhere by chance, or is text."""
    found = squeeze(block)[:LONGEST]
    text = found.decode(errors="ignore").encode()
    return found if len(found) == LONGEST and len(set(found)) >= _VARIED and len(text) < LONGEST - 8 else b""


def offsets_of(window: bytes, squeezed: Iterable[int]) -> Iterator[int]:
    """Where bytes of a squeezed window stand in the window itself. `squeezed`: their numbers, ascending."""
    start, before = 0, 0  # where a block begins, in the window and in the squeezed one
    for number in squeezed:
        while (count := len(squeeze(window[start : start + _BLOCK]))) + before <= number and start < len(window):
            start, before = start + _BLOCK, before + count
        low, high = start, min(start + _BLOCK, len(window))
        while low < high:
            middle = (low + high) // 2
            if before + len(squeeze(window[start : middle + 1])) > number:
                high = middle
            else:
                low = middle + 1
        yield low


def _weight(line: str) -> int:
    """How much a line says, in letters; a sign of Chinese or Korean says as much as three."""
    return sum(3 if ord(letter) > 0x2E7F else 1 for letter in _WORD.findall(line))


def _forms(text: str) -> Iterator[bytes]:
    once, plain = json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
    twice = (json.dumps(form, ensure_ascii=ascii_only)[1:-1] for form in (plain, once) for ascii_only in (True, False))
    for form in dict.fromkeys((text, plain, once, *twice)):
        yield form.encode(errors="replace")


def _pieces(data: bytes, size: int) -> Iterable[bytes]:
    """Pieces of `size` bytes; the last one is as long, so it may overlap the one before."""
    if len(data) <= size:
        return [data]
    starts = [*range(0, len(data) - size, size), len(data) - size]
    return [data[s : s + size] for s in starts]


def _base64(data: bytes) -> set[bytes]:
    """The base64 of bytes wherever they begin: the letters that don't depend on their neighbours."""
    found = set()
    for before in range(3):
        text = base64.b64encode(bytes(before) + data)
        skipped = -(-before * 8 // 6)  # letters that hold bits of what stands before
        kept = (before + len(data)) * 8 // 6  # letters without bits of what follows
        found |= {text[skipped:kept], text[skipped:kept].replace(b"+", b"-").replace(b"/", b"_")}
    return {f for f in found if len(f) >= _SHORTEST_BASE64}
