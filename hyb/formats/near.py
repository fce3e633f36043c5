"""Texts that are nearly the same, found without comparing each with each. Pure.

MinHash by one permutation (Li, Owen, Zhang: "One Permutation Hashing", 2012; an empty bin borrows from the next one to
its right) over word triples, bands of the signature as buckets, the true Jaccard similarity for what shares a bucket.
Our own, since the libraries for it bring numpy and scipy, and it is forty lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

SIMILAR = 0.8
"""Least share of word triples in common."""
_BINS, _BAND = 64, 2
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
    """Texts seen so far. `twin` finds the first one that a text is nearly the same as."""

    def __init__(self, similar: float = SIMILAR) -> None:
        self.similar = similar
        self._sets: list[frozenset[int]] = []
        self._buckets: dict[tuple[int, ...], list[int]] = {}

    def add(self, text: str) -> None:
        """Remember a text; its number is how many came before."""
        found = triples(text)
        for band in _bands(found):
            self._buckets.setdefault(band, []).append(len(self._sets))
        self._sets.append(found)

    def twin(self, text: str) -> tuple[int, float] | None:
        """(number, similarity) of the first text that is nearly the same, or None."""
        mine = triples(text)
        candidates = sorted({n for band in _bands(mine) for n in self._buckets.get(band, ())})
        for number in candidates[:1000]:  # thousands of equal texts: the first will do
            other = self._sets[number]
            similarity = len(mine & other) / len(mine | other)
            if similarity >= self.similar:
                return number, similarity
        return None


def twins(texts: Iterable[str], similar: float = SIMILAR) -> list[Twin]:
    """Each text that is nearly the same as one before it, in order."""
    index, found = Index(similar), []
    for number, text in enumerate(texts):
        if twin := index.twin(text):
            found.append(Twin(number, *twin))
        index.add(text)
    return found


def _bands(hashes: frozenset[int]) -> Sequence[tuple[int, ...]]:
    """Keys of the buckets that a text falls into."""
    if not hashes:
        return ()
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
    return [(start, *dense[start : start + _BAND]) for start in range(0, _BINS, _BAND)]
