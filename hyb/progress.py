"""What a stage says while it works: plain data, shown by `hyb.cli.output` and by nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`done` of `total` in `unit` ("B" bytes, "step", "question", …); `total` None when it is not known."""

    task: str
    done: float
    total: float | None = None
    unit: str = ""
    note: str = ""  # e.g. "loss 0.41  312 tok/s  1.9 GB"


Say = Callable[[Progress | str], None]  # a str is one line of talk
"""Told of progress; called from the thread of the work, cheap, never raises."""


def silent(_: Progress | str) -> None:
    """A Say that says nothing."""
