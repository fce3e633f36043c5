"""What luck can do to a score: intervals by bootstrap, and McNemar's exact test. Pure, and the same on every machine.

Questions that expect the same answer stand or fall together, so a draw takes them together: twenty phrasings of one
fact say less than twenty facts.

A bootstrap alone calls 5 right of 5 certain. So four imagined groups stand beside the real ones, two right and two
wrong (for a change: two gained and two lost), as Agresti and Coull (1998) and Agresti and Min (2005) have it: with five
questions they weigh heavily, with five hundred not at all. An interval always holds the score itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

LEVEL = 0.95
DRAWS = 2000
FEW = 30
"""Groups of questions below which a score says little."""

_WORK = 4_000_000  # numbers drawn for one interval, at most
Group = tuple[float, float]
"""What stands or falls together: (sum, how many)."""


def share(groups: Sequence[Group]) -> tuple[float, float]:
    """The interval of a share. A group: (how many are right, of how many)."""
    return _held(_between(groups, (1.0, 1.0, 0.0, 0.0)), groups, 0.0, 1.0)


def change(groups: Sequence[Group]) -> tuple[float, float]:
    """The interval of a difference of shares, same questions. A group: (gained less lost, of how many)."""
    return _held(_between(groups, (1.0, 1.0, -1.0, -1.0)), groups, -1.0, 1.0)


def mean(groups: Sequence[Group]) -> tuple[float, float]:
    """The interval of a mean of measured numbers. A group: (sum, how many)."""
    return _held(_between(groups, ()), groups, float("-inf"), float("inf"))


def mcnemar(gained: int, lost: int) -> float:
    """How likely so uneven a change is when both models are as good: the exact two-sided p value."""
    count, tail, ways = gained + lost, 0, 1
    for k in range(min(gained, lost) + 1):
        tail += ways
        ways = ways * (count - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << count))


def _between(groups: Sequence[Group], imagined: Sequence[float]) -> tuple[float, float]:
    size = sum(g[1] for g in groups) / len(groups)
    pool = [*groups, *((value * size, size) for value in imagined)]
    rng = random.Random(0)
    draws = max(200, min(DRAWS, _WORK // len(pool)))
    found = []
    for _ in range(draws):
        drawn = rng.choices(pool, k=len(pool))
        found.append(sum(g[0] for g in drawn) / sum(g[1] for g in drawn))
    found.sort()
    cut = round((1 - LEVEL) / 2 * draws)
    return found[cut], found[draws - 1 - cut]


def _held(ends: tuple[float, float], groups: Sequence[Group], least: float, most: float) -> tuple[float, float]:
    """Within what is possible, and around the score itself."""
    score = sum(g[0] for g in groups) / sum(g[1] for g in groups)
    return max(least, min(ends[0], score)), min(most, max(ends[1], score))
