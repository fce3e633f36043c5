"""The one place that prints. stdout is data, stderr is talk; with `--json` stdout is one JSON document."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hyb.errors import HybError

if TYPE_CHECKING:
    from hyb.progress import Progress

EVERY = 5.0  # seconds between lines of progress where there is no terminal


def show_error(error: HybError, *, as_json: bool) -> None:
    """An error as people or programs read it."""
    from hyb.printable import json_text, printable, redacted

    if as_json:
        print(json_text(redacted(json.dumps(error.as_dict(), ensure_ascii=False, indent=1))))
        return
    lines = [f"error: {error.message}", *(f"  {d}" for d in error.details)]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    print(printable(redacted("\n".join(lines))), file=sys.stderr)


def data(value: Any, text: str, *, as_json: bool, colored: bool = False) -> None:
    """A command's result: `value` as JSON or `text` for people. `colored`: clean but for its colours."""
    from hyb.printable import json_text, printable

    if as_json:
        _print(json_text(json.dumps(value, ensure_ascii=False, indent=1)))
    elif text:
        _print(text if colored else printable(text))


def _print(text: str) -> None:
    """Print a result and see that it got out. Raises HybError (exit 3), BrokenPipeError when nobody reads."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # what is still in the buffer: Python would try it again at its end
        os.close(nowhere)
        sys.stdout = sys.stderr  # an error in JSON is to be seen, too
        raise HybError(
            f"can't write the result to standard output: {(error.strerror or str(error)).lower()}"
        ) from error


def columns(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """A plain table; columns as wide as their widest cell."""
    cells = [[str(c) for c in header], *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes for people: 1234567 → 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Seconds for people: 75 → 1m15s."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


class Talk:
    """Progress and lines on stderr: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Callable[[Progress], None] | None = None
        self.live: Any = None
        self.begun: dict[str, tuple[float, float]] = {}
        self.told: dict[str, float] = {}

    def __call__(self, news: Progress | str) -> None:
        """The `Say` of a run."""
        if self.quiet:
            return
        if isinstance(news, str):
            from hyb.printable import printable, redacted

            print(printable(redacted(news)), file=sys.stderr)
        elif sys.stderr.isatty():
            self._terminal(news)
        else:
            self._lines(news)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.live:
            self.live.stop()
            self.live = None

    def _lines(self, news: Progress) -> None:
        now = time.monotonic()
        over = news.total is not None and news.done >= news.total
        if not over and now - self.told.get(news.task, 0.0) < EVERY:
            return
        self.told[news.task] = now
        print(f"{news.task}: {self._amount(news)}", file=sys.stderr)

    def _terminal(self, news: Progress) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        if self.live is None:
            self.live = Live(console=Console(stderr=True), refresh_per_second=8, transient=True)
            self.live.start()
        share = min(1.0, news.done / news.total) if news.total else 0.0
        bar = "━" * round(share * 30) if news.total else ""
        self.live.update(
            Text.assemble((f"{news.task:<14.14} ", "bold"), (bar.ljust(30), "cyan"), f" {self._amount(news)}")
        )

    def _amount(self, news: Progress) -> str:
        """`12.0 of 98.4 MB, 31.2 MB/s, 3s left, note`."""
        now = time.monotonic()
        start, first = self.begun.setdefault(news.task, (now, news.done))
        if news.done < first:  # the same task of a later stage begins
            start, first = self.begun[news.task] = (now, news.done)
        rate = (news.done - first) / (now - start) if now - start > 0.2 else 0.0
        shown: Callable[[float], str] = size if news.unit == "B" else lambda n: f"{n:g}"
        parts = [shown(news.done) + (f" of {shown(news.total)}" if news.total else "")]
        if news.unit not in ("", "B", "s"):
            parts[0] += f" {news.unit}s"
        if rate and news.unit == "B":
            parts.append(f"{size(rate)}/s")
        if rate and news.total and news.done < news.total:
            parts.append(f"{duration((news.total - news.done) / rate)} left")
        return ", ".join([*parts, *([news.note] if news.note else [])])
