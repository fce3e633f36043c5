"""A document → passages to ask about: Markdown by its headings, plain text by its paragraphs. Pure.

A passage is whole paragraphs, about `WORDS` words of them, under the headings that it stands below. Fenced code, tables
and lists are paragraphs like any other: none is cut, unless it alone is longer than twice that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

WORDS = 250
LEAST = 15
"""Words of a passage that is worth a question; a shorter one joins what follows it or is left out."""
_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*\s*$")
_FENCE = re.compile(r"\s*(```+|~~~+)")
_FRONT = re.compile(r"\A---\n.*?\n(---|\.\.\.)\n", re.DOTALL)


@dataclass(frozen=True)
class Passage:
    """`heading`: the headings above it, joined by ` > `. `line`: where it begins, from 1."""

    heading: str
    text: str
    line: int

    @property
    def whole(self) -> str:
        """Headings and text, as a reader needs them."""
        return f"{self.heading}\n\n{self.text}" if self.heading else self.text


def split(text: str, *, words: int = WORDS) -> list[Passage]:
    """The passages of a document, in order; those with too few words are left out."""
    found: list[Passage] = []
    held: list[str] = []
    heading, line = "", 0
    for above, block, at in _blocks(text):
        size = sum(len(b.split()) for b in held)
        if held and (above != heading or size + len(block.split()) > words):
            found.append(Passage(heading, "\n\n".join(held), line))
            held = []
        if not held:
            heading, line = above, at
        held.append(block)
    if held:
        found.append(Passage(heading, "\n\n".join(held), line))
    pieces = [piece for passage in found for piece in _cut(passage, 2 * words)]
    return [p for p in pieces if len(p.text.split()) >= LEAST]


def _cut(passage: Passage, most: int) -> Iterator[Passage]:
    """A passage of one endless paragraph, at the ends of sentences."""
    if len(passage.text.split()) <= most:
        yield passage
        return
    held: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", passage.text):
        if held and sum(len(s.split()) for s in held) + len(sentence.split()) > most // 2:
            yield Passage(passage.heading, " ".join(held), passage.line)
            held = []
        held.append(sentence)
    if held:
        yield Passage(passage.heading, " ".join(held), passage.line)


def _blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """(headings above, paragraph, its first line)."""
    skipped = _FRONT.match(text)
    start = text[: skipped.end()].count("\n") if skipped else 0
    titles: list[tuple[int, str]] = []
    held: list[str] = []
    begun, fence = 0, ""
    for number, line in enumerate(text.splitlines()[start:], start + 1):
        mark = _FENCE.match(line)
        if mark:
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
        heading = None if fence or mark else _HEADING.match(line)
        if heading or (not line.strip() and not fence):
            if held:
                yield _path(titles), "\n".join(held), begun
            held = []
        if heading:
            titles = [t for t in titles if t[0] < len(heading[1])]
            titles.append((len(heading[1]), heading[2]))
        elif line.strip() or fence:
            begun = begun if held else number
            held.append(line.rstrip())
    if held:
        yield _path(titles), "\n".join(held), begun


def _path(titles: list[tuple[int, str]]) -> str:
    return " > ".join(t for _, t in titles)
