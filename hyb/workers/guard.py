"""When a run must stop: a loss that is no number or explodes, memory that does not suffice; and how that is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hyb.formats import memory
from hyb.workers import checkpoints, labels, models
from hyb.workers.protocol import Failed

WINDOW = 5  # steps
ABOVE = 2.0  # nats


def exploding(losses: Sequence[float]) -> bool:
    """Whether the last WINDOW losses are all above each of the first WINDOW by more than ABOVE."""
    return len(losses) >= 2 * WINDOW and min(losses[-WINDOW:]) > max(losses[:WINDOW]) + ABOVE


def broken(why: str, step: int, rows: Sequence[Any], good: int, job: dict[str, Any]) -> Failed:
    """The error for a run that went wrong at `step` (from 1) on `rows`. `good`: the last step after which the numbers
    were still right; checkpoints after it are dropped, since no run should go on from them."""
    left = checkpoints.drop_after(Path(job["checkpoints"]), good)
    kept = (
        f"the last good checkpoint, after step {left[0]}, is `{left[1]}`" if left else "there is no good checkpoint yet"
    )
    return Failed(
        f"{why} at step {step}", hint=f"lower `lr` (it is {job['lr']:g}), or look at these rows; {kept}",
        details=labels.first(list(dict.fromkeys(row.where for row in rows))),
    )  # fmt: skip


def guilty(rows: Sequence[Any], loss: Callable[[list[Any]], torch.Tensor]) -> list[Any]:
    """Those of the rows whose loss, computed alone, is no number; all of them when each is one by itself."""
    with torch.no_grad():
        found = [row for row in rows if not math.isfinite(float(loss([row])))]
    return found or list(rows)


def out_of_memory(error: BaseException) -> bool:
    """Whether torch says that there is no memory: on the GPU, or (under a limit of the address space) on the CPU."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)


def halved(plan: memory.Plan, tokens: Sequence[int]) -> memory.Plan:
    """A plan with micro-steps of half the tokens; `tokens`: of the rows of the largest one."""
    return replace(plan, pack=max(*tokens, sum(tokens) // 2)) if plan.pack else plan


def too_large(device: torch.device, batch: int, *, alone: bool = False) -> Failed:
    """The error for a micro-batch of `batch` rows that can't be computed; `alone`: in this process, of several."""
    return Failed(
        f"the memory does not suffice for {batch} row(s) at once: {models.room(device)}",
        hint="lower `pack` (tokens to a micro-step) or `max_length`, or set `gradient_checkpointing: full`",
        alone=alone,
    )
