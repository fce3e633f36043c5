"""Texts that are nearly the same, found without comparing each with each. Pure.

MinHash by one permutation (Li, Owen, Zhang: "One Permutation Hashing", 2012; an empty bin borrows from the next one to
its right) over word triples, bands of the signature as buckets, the true Jaccard similarity for what shares a bucket.
Our own, since the libraries for it bring numpy and scipy, and it is forty lines.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

SIMILAR = 0.8
"""Least share of word triples in common."""
_BINS, _BAND = 64, 4
_FULL = 32
"""Texts of a bucket: where more are that much alike, the first ones will do, and a lookup stays short."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Twin:
    """Text `index` is nearly the same as text `of`, which came before it."""

    index: int
    of: int
    similarity: float


def triples(text: str) -> frozenset[int]:
    """64-bit hashes of a text's word triples, without case and punctuation; of a shorter text, the whole."""
    words = _WORD.findall(text.lower())
    joined = [" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))] if words else []
    return frozenset(int.from_bytes(blake2b(j.encode(), digest_size=8).digest()) for j in joined)


class Index:
    """Texts seen so far. `twin` finds the first one that a text is nearly the same as. About 3 kB a text."""

    def __init__(self, similar: float = SIMILAR) -> None:
        self.similar = similar
        self._texts: list[array[int]] = []
        self._buckets: dict[int, array[int]] = {}

    def add(self, text: frozenset[int]) -> None:
        """Remember a text's `triples`; its number is how many came before."""
        for band in _bands(text):
            bucket = self._buckets.setdefault(band, array("I"))
            if len(bucket) < _FULL:
                bucket.append(len(self._texts))
        self._texts.append(array("Q", text))

    def twin(self, text: frozenset[int]) -> tuple[int, float] | None:
        """(number, similarity) of the first text that is nearly the same as one with these `triples`, or None."""
        for number in sorted({n for band in _bands(text) for n in self._buckets.get(band, ())}):
            other = self._texts[number]
            both = len(text.intersection(other))
            similarity = both / (len(text) + len(other) - both)
            if similarity >= self.similar:
                return number, similarity
        return None


def twins(texts: Iterable[str], similar: float = SIMILAR) -> list[Twin]:
    """Each text that is nearly the same as one before it, in order."""
    index, found = Index(similar), []
    for number, text in enumerate(map(triples, texts)):
        if twin := index.twin(text):
            found.append(Twin(number, *twin))
        index.add(text)
    return found


def _bands(hashes: frozenset[int]) -> list[int]:
    """Keys of the buckets that a text falls into."""
    if not hashes:
        return []
    least: list[int | None] = [None] * _BINS
    for value in hashes:
        bin_, rest = value % _BINS, value // _BINS
        known = least[bin_]
        least[bin_] = rest if known is None or rest < known else known
    dense: list[int] = []
    last: int = next(v for v in least if v is not None)
    for held in reversed(least):
        last = last if held is None else held
        dense.append(last)
    return [hash((start, *dense[start : start + _BAND])) for start in range(0, _BINS, _BAND)]
