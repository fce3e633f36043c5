"""top, logs: what the services of this machine do now, and what they said."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.serving.live import Figures, Look
    from hyb.serving.service import Service

WINDOW = 5.0  # seconds that a live rate is taken over
POLL = 0.2  # seconds between two looks at a log that is followed
HEADER = ("NAME", "STATE", "RUN", "WAIT", "OUT/s", "IN/s", "TTFT", "GAP", "MEMORY", "REQS", "ERR", "RST", "UP")
"""As a terminal of 80 columns has room for."""


@command
def top(
    s: Session,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One service; without it, all of yours.")] = "",
    once: Annotated[bool, typer.Option("--once", help="One table, and end; so does a pipe or --json.")] = False,
    interval: Annotated[float, typer.Option("--interval", help="Seconds between two looks.")] = 1.0,
) -> None:
    """Show what the services do now: requests that run and wait, tokens/s, time to the first token, memory.

    RUN, WAIT: requests being answered and in the queue. OUT/s, IN/s: tokens a second of answers and prompts. TTFT, GAP:
    milliseconds to the first token and between two. RST: restarts of the engine. A dash: it does not say. On a terminal
    it goes on until ^C.

    Example: hyb top --once
    """
    from hyb.errors import Exit, HybError

    if interval <= 0:
        raise HybError("`--interval` must be more than 0", code=Exit.USAGE)
    services = _services(name)
    if s.dry_run:
        s.show({"would_show": [x.name for x in services]}, "\n".join(f"would show {x.name}" for x in services))
    elif once or s.json or not sys.stdout.isatty():
        _once(s, services, interval)
    else:
        _live(services, name, interval)


@command
def logs(
    s: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A service, also one that has ended.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as it grows, until ^C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", metavar="N", help="Lines from its end; 0: all.")] = 50,
) -> None:
    """Print what a service and its engine said. Prompts and answers are not in it.

    Example: hyb logs quickstart -n 20
    """
    from hyb.errors import HybError
    from hyb.serving import service

    run = service.folder(os.environ)
    path = run / f"{name}.log"
    if "/" in name or not path.is_file():
        known = ", ".join(f"`{p.stem}`" for p in sorted(run.glob("*.log")))
        raise HybError(f"there is no log of `{name}`", hint=f"there are logs of {known}" if known else "`hyb ps`")
    tail, end = _tail(path, lines)
    if s.json or not follow:
        s.show({"name": name, "path": str(path), "lines": tail}, "\n".join(tail))
        return
    _write(tail)
    while True:
        time.sleep(POLL)
        grown, end = _more(path, end)
        _write(grown)


def _services(name: str) -> list[Service]:
    from hyb.errors import HybError
    from hyb.serving import manager

    running = manager.ps(os.environ)
    if name and name not in [x.name for x in running]:
        others = ", ".join(f"`{x.name}`" for x in running)
        hint = f"being served: {others}" if others else "nothing is being served; `hyb serve` does it"
        raise HybError(f"`{name}` is not being served", hint=hint)
    return [x for x in running if name in ("", x.name)]


def _once(s: Session, services: Sequence[Service], interval: float) -> None:
    from hyb.cli.output import columns
    from hyb.serving import live

    before = [live.look(x) for x in services]
    if services:
        time.sleep(interval)
    found = [live.figures(old, live.look(x)) for x, old in zip(services, before, strict=True)]
    value = [{"name": x.name, **asdict(f)} for x, f in zip(services, found, strict=True)]
    rows = [_cells(x.name, f) for x, f in zip(services, found, strict=True)]
    s.show(value, columns(rows, HEADER) if rows else "nothing is being served")


def _live(services: Sequence[Service], name: str, interval: float) -> None:
    from rich.live import Live

    from hyb.serving import live, manager

    seen: dict[str, list[Look]] = {}
    with Live(auto_refresh=False, screen=False) as screen:
        while True:
            rows = []
            for one in services:
                looks = seen.setdefault(one.name, [])
                looks.append(live.look(one))
                while len(looks) > 2 and looks[-1].at - looks[0].at > WINDOW:
                    looks.pop(0)
                rows.append(_cells(one.name, live.figures(looks[0] if len(looks) > 1 else None, looks[-1])))
            screen.update(_table(rows), refresh=True)
            try:
                time.sleep(interval)
            except KeyboardInterrupt:  # the way to end it, not a failure
                return
            services = [x for x in manager.ps(os.environ) if name in ("", x.name)]


def _table(rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, title in enumerate(HEADER):
        table.add_column(title, justify="left" if index < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table if rows else Text("nothing is being served; ^C ends")


def _cells(name: str, found: Figures) -> list[str]:
    from hyb.cli.output import duration, size

    def number(value: float | None, factor: float = 1, decimals: int = 0) -> str:
        return "-" if value is None else f"{value * factor:.{decimals}f}"

    state = {True: "ready", False: "down", None: "-"}[found.ready]
    return [
        name, state, number(found.running), number(found.waiting), number(found.tokens_per_s, decimals=1),
        number(found.prompt_tokens_per_s, decimals=1), number(found.ttft_s, 1000), number(found.inter_token_s, 1000, 1),
        size(found.memory_bytes) if found.memory_bytes else "-", number(found.requests), number(found.errors),
        str(found.restarts), "-" if found.up_s is None else duration(found.up_s),
    ]  # fmt: skip


def _tail(path: Path, count: int) -> tuple[list[str], int]:
    """(the last lines, the place in the file after them)."""
    from hyb import fs

    with fs.explained(f"can't read `{path}`"):
        data = path.read_bytes()
    found = data.decode(errors="replace").splitlines()
    return (found[-count:] if count > 0 else found), len(data)


def _more(path: Path, end: int) -> tuple[list[str], int]:
    """(whole lines after `end`, the place after them). A log that was emptied or begun anew is read from its start."""
    try:
        with path.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) < end:
                end = 0
            stream.seek(end)
            data = stream.read()
    except FileNotFoundError:  # a new start takes the old log away first
        return [], 0
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), end + len(whole)


def _write(lines: Sequence[str]) -> None:
    from hyb.printable import printable

    if lines:
        shown = [printable(x) for x in lines] if sys.stdout.isatty() else lines
        sys.stdout.write("\n".join(shown) + "\n")
        sys.stdout.flush()
