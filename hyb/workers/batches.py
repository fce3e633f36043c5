"""Which rows a step sees, and how they are computed: a function of (seed, epoch) alone, so that a resumed run is the
same.

A step's rows are split into micro-steps. A micro-step is a pack: its rows one after the other as one sequence, no pad
at all, positions counted anew for each row; `hyb.workers.attention` keeps the rows apart. What several rows of a pack
begin with (a system prompt, the same question, an earlier turn) stands in it once: under causal attention a token's
state depends on what is before it alone, so rows that begin alike have the same states there, and what they pass back
adds up. The loss and its gradient are those of the rows computed one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hyb.formats import packing
from hyb.workers import attention
from hyb.workers.labels import IGNORED, Example

MEGABATCH = 16  # batches among which rows of like length are put together


def steps(examples: tuple[Example, ...], size: int, seed: int, group: bool) -> list[list[Example]]:
    """The steps of one epoch. `group`: rows of like length together, so that few pads are fed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator).tolist()
    if group:
        pools = [order[i : i + MEGABATCH * size] for i in range(0, len(order), MEGABATCH * size)]
        order = [i for pool in pools for i in sorted(pool, key=lambda i: -len(examples[i].ids))]
    found = [order[i : i + size] for i in range(0, len(order), size)]
    if group:
        found = [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]
    return [[examples[i] for i in step] for step in found]


def split(rows: Sequence[Example], batch: int, pack: int) -> list[list[Example]]:
    """The micro-steps of a step: packs of at most `pack` tokens, best fit, or `batch` rows each when `pack` is 0."""
    if not pack:
        return [list(rows[i : i + batch]) for i in range(0, len(rows), batch)]
    return [[rows[i] for i in found] for found in packing.best_fit([len(e.ids) for e in rows], pack)]


def labelled(rows: Sequence[Example]) -> int:
    """How many tokens of the rows are learnt; the first of a row never is, nothing stands before it."""
    return sum(label != IGNORED for e in rows for label in e.labels[1:])


@dataclass(frozen=True)
class Micro:
    """A micro-step as tensors. `n`: positions computed, pads counted.

    `ids` and `positions`: (1, n) packed, (rows, width) padded (then no positions). `layout`: of a pack. `at`: for each
    learnt token of each row, rows in their order, the position (of n) that has to say it; `wanted`: the token.
    `counts`: how many of them each row has.
    """

    ids: torch.Tensor
    positions: torch.Tensor | None
    layout: attention.Layout | None
    at: torch.Tensor
    wanted: torch.Tensor
    counts: tuple[int, ...]

    @property
    def n(self) -> int:
        """Positions that are computed."""
        return int(self.ids.numel())


def micro(rows: Sequence[Example], device: torch.device, *, packed: bool, share: bool, flat: bool = False) -> Micro:
    """The rows as one micro-step. `share`: what rows begin with alike is computed once; `flat`: see `layout`."""
    if packed:
        places, ids = _places(rows, share)
        positions = [0] * len(ids)
        for row in places:
            for position, place in enumerate(row):
                positions[place] = position
    else:
        width = max(len(e.ids) for e in rows)
        places = [range(i * width, i * width + len(e.ids)) for i, e in enumerate(rows)]
        ids = [token for e in rows for token in (*e.ids, *[0] * (width - len(e.ids)))]
    at = [
        row[t] for row, e in zip(places, rows, strict=True) for t in range(len(row) - 1) if e.labels[t + 1] != IGNORED
    ]
    wanted = [label for e in rows for label in e.labels[1:] if label != IGNORED]
    return Micro(
        torch.tensor(ids, device=device).view(1 if packed else len(rows), -1),
        torch.tensor([positions], device=device) if packed else None,
        attention.layout(places, len(ids), device, flat=flat) if packed else None,
        torch.tensor(at, device=device, dtype=torch.long),
        torch.tensor(wanted, device=device, dtype=torch.long),
        tuple(labelled([e]) for e in rows),
    )


def _places(rows: Sequence[Example], share: bool) -> tuple[list[Sequence[int]], list[int]]:
    """Where each row stands in the pack, and the pack's tokens. Sorted, rows that begin alike are neighbours."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].ids) if share else range(len(rows))
    places: list[Sequence[int]] = [()] * len(rows)
    ids: list[int] = []
    before: tuple[Sequence[int], Sequence[int]] = ((), ())
    for i in order:
        row = rows[i].ids
        alike = _alike(row, before[0]) if share else 0
        places[i] = [*before[1][:alike], *range(len(ids), len(ids) + len(row) - alike)]
        ids += row[alike:]
        before = (row, places[i])
    return places, ids


def _alike(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens they begin with alike."""
    for count, (a, b) in enumerate(zip(one, two, strict=False)):
        if a != b:
            return count
    return min(len(one), len(two))
