"""One stream of bytes, looked at in windows: rows of data, keys, models that begin anywhere, prompts in a log.

A window is a chunk and the tail of the one before, so that nothing is cut in two; memory does not grow with the
stream. What is only zeros is passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hyb.boundary.targets import ENCODED, Targets
from hyb.formats import leaked_keys, needles, prompts, recognise

TAIL = leaked_keys.LONGEST
KEPT = 8 << 20
"""Bytes of a text that are kept, to be read as a document."""
MOST = 1000
"""Texts in one window that are told apart; more are of no use to anybody."""


@dataclass(frozen=True)
class Hit:
    """Something found: where it begins in the stream, in bytes and (of a text) as a line. `value`: a key itself."""

    kind: str
    what: str
    offset: int
    line: int | None
    value: bytes = field(default=b"", repr=False)


class Watcher:
    """What is looked for, made ready once."""

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        self.machine, self.needles, self.longest = targets.automaton()

    def texts(self, window: bytes) -> list[tuple[int, needles.Needle]]:
        """(offset in the window, needle) of every text."""
        found = self.machine.find_matches_as_indexes(needles.squeeze(window), overlapping=True)
        hits = sorted((start, number) for number, start, _ in found)[:MOST]
        places = needles.offsets_of(window, (start for start, _ in hits))
        return [(at, self.needles[number]) for at, (_, number) in zip(places, hits, strict=True)]


class Watch:
    """Looks at one stream; `feed` it from its start to its end."""

    def __init__(self, watcher: Watcher, tell: Callable[[Hit], None], *, text: bool, log: bool, hashed: bool) -> None:
        self.watcher, self.tell, self.text, self.log = watcher, tell, text, log
        self.hasher = hashlib.sha256() if hashed else None
        self.size = self.seen = 0
        self.kept: bytearray | None = bytearray() if text else None
        self._tail, self._lines, self._seen = b"", 1, set[Any]()

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        if self.hasher:
            self.hasher.update(chunk)
        if self.kept is not None:
            self.kept += chunk
            if len(self.kept) > KEPT:
                self.kept = None
        start = self.size - len(self._tail)
        self.size += len(chunk)
        self.seen += len(chunk)
        if chunk.count(0) == len(chunk):
            self._tail = b""
            return
        window = self._tail + chunk
        self._look(window, start)
        kept = window[-TAIL:]
        if self.text:
            self._lines += window[: len(window) - len(kept)].count(b"\n")
        self._tail = kept

    def skip(self, count: int) -> None:
        """Bytes that are zeros, and were not read: a hole of a sparse file."""
        self.size += count
        self._tail = b""

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of all, or "" when it was not asked for."""
        return f"sha256:{self.hasher.hexdigest()}" if self.hasher else ""

    def _look(self, window: bytes, start: int) -> None:
        for at, kind, what in recognise.embedded(window):
            self._hit(window, start, at, kind, what)
        for key in leaked_keys.find(window):
            self._key(window, start, key)
        for at, needle in self.watcher.texts(window):
            if needle is not ENCODED:
                self._hit(window, start, at, needle.kind, needle.what)
            else:
                for key in leaked_keys.in_base64(window, at):
                    self._key(window, start, key)
        if self.log:
            for at, what in prompts.find(window):
                self._hit(window, start, at, "prompts", what)

    def _key(self, window: bytes, start: int, key: leaked_keys.Found) -> None:
        known = self.watcher.targets.api_keys.get(hashlib.sha256(key.value).hexdigest())
        self._hit(window, start, key.at, "credential", known or key.what, key.value)

    def _hit(self, window: bytes, start: int, at: int, kind: str, what: str, value: bytes = b"") -> None:
        line = self._lines + window[:at].count(b"\n") if self.text else None
        key = (start + at if line is None else line, kind, what)
        if key in self._seen:
            return  # found already: in the tail of the window before, or by another part of the same line
        if len(self._seen) > 10_000:
            self._seen.clear()
        self._seen.add(key)
        self.tell(Hit(kind, what, start + at, line, value))
