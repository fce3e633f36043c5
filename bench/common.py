"""What the measurements share: CPU seconds of a command, medians, and one way to print and keep a result."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def cost(argv: Sequence[str], env: dict[str, str] | None = None) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of one run of a command; raises when it fails."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(argv, env={**os.environ, **(env or {})}, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - clock


def interleaved(
    commands: dict[str, Sequence[str]], runs: int, env: dict[str, str] | None = None
) -> dict[str, list[tuple[float, float]]]:
    """Several commands in turn, so that a noisy moment hits all of them; one run of each is not counted."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, argv in commands.items():
            measured = cost(argv, env)
            if turn:
                found[name].append(measured)
    return found


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def report(name: str, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table and keep it as bench/results/NAME.json."""
    columns = list(rows[0])
    cells = [
        columns,
        *([f"{row[c]:.3f}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in rows),
    ]
    widths = [max(len(r[i]) for r in cells) for i in range(len(columns))]
    print(title)
    for row in cells:
        print("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    RESULTS.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "processors": os.cpu_count(), "python": platform.python_version()}
    (RESULTS / f"{name}.json").write_text(json.dumps({"title": title, **machine, "rows": list(rows)}, indent=1) + "\n")
