"""Which rows a step sees, and in which micro-steps: a function of (seed, epoch) alone, so that a resumed run sees the
same."""

from __future__ import annotations

import torch

from hyb.workers.labels import Example

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
