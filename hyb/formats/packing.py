"""Which sequences share a pack: best-fit decreasing, so that few positions stay empty. Pure.

"Fewer Truncations Improve Language Modeling" (arXiv 2404.10830) packs so; no sequence is cut.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Packs of positions in `lengths` (tokens), each pack at most `capacity` tokens; every sequence once.

    A longer one than `capacity` has a pack of its own. Sequences of a pack stand in their own order, packs in the order
    of their first. The same lengths give the same packs.
    """
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens that are free, pack), ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = lengths[index]
        found = bisect.bisect_left(room, (need, -1))
        if found < len(room):
            free, pack = room.pop(found)
            packs[pack].append(index)
        else:
            free, pack = max(capacity, need), len(packs)
            packs.append([index])
        if free - need > 0:
            bisect.insort(room, (free - need, pack))
    return sorted(sorted(pack) for pack in packs)


def efficiency(lengths: Sequence[int], capacity: int) -> float:
    """Share of the packs' positions that hold a token, 0 to 1; 1 for no sequence."""
    packs = best_fit(lengths, capacity)
    return sum(lengths) / sum(max(capacity, sum(lengths[i] for i in p)) for p in packs) if packs else 1.0
