"""Where the elements of a JSON array end, in one pass and without parsing them: arrays larger than memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

_CHUNK = 1 << 16
_STRUCTURE = re.compile(rb'[\[\]{}",]')
_IN_STRING = re.compile(rb'["\\\n]')


class Scanner:
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
