"""A loss curve as one small SVG: no script, no font file, no link; light or dark as its reader's system is.

Pure and deterministic: the same points give the same bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 44, 44  # pixels around the plot
MOST_POINTS = 400  # of the raw line; more would be finer than a pixel

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-size:15px;font-weight:600;fill:#1f2328}"
    ".back{fill:#fff}.grid{stroke:#d8dee4}.raw{stroke:#9ec5f4}.line{stroke:#0b5fc1}.raw,.line{fill:none}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.title{fill:#f0f6fc}.back{fill:#0d1117}"
    ".grid{stroke:#2a313c}.raw{stroke:#28507f}.line{stroke:#6cb0ff}}"
)


def svg(losses: Sequence[float], title: str = "Training loss", *, first_step: int = 1, styled: bool = True) -> str:
    """The SVG document for the loss of each step from `first_step` on. Points that are no number are left out.

    The pale line is each step's loss, the strong one its smoothed course. `styled` False: for a page that has a style
    for `.curve` of its own, since a style within an SVG that stands in a page is the whole page's.
    """
    points = [(first_step + i, loss) for i, loss in enumerate(losses) if math.isfinite(loss)]
    if not points:
        points = [(first_step, 0.0)]
    xs = ticks(points[0][0], max(points[-1][0], points[0][0] + 1), whole=True)
    ys = ticks(min(0.0, *(y for _, y in points)), max(y for _, y in points))
    plot = _Plot(min(points[0][0], xs[0]), max(points[-1][0], xs[-1]), ys[0], ys[-1])
    smooth = list(zip((x for x, _ in points), smoothed([y for _, y in points]), strict=True))
    end = f"{points[-1][1]:.3g}"
    label = f"{title}: loss {points[0][1]:.3g} at step {points[0][0]}, {end} at step {points[-1][0]}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">',
        f"<title>{escape(label)}</title>" + (f"<style>{_STYLE}</style>" if styled else ""),
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
        *(_row(plot, y, ys) for y in ys),
        *(_column(plot, x) for x in xs),
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 8}" text-anchor="middle">step</text>',
        f'<text x="14" y="{(TOP + HEIGHT - BOTTOM) / 2:g}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(TOP + HEIGHT - BOTTOM) / 2:g})">loss</text>',
        _line(plot, _thinned(points), "raw", 1),
        _line(plot, _thinned(smooth), "line", 2),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def smoothed(values: Sequence[float], share: float = 0.1) -> list[float]:
    """The running mean over a window of `share` of all values, centred and cut at the ends."""
    reach = max(1, round(len(values) * share / 2))
    sums = [0.0, *itertools.accumulate(values)]  # a window's sum is the difference of two: one pass, however wide
    ends = [(max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in ends]


def ticks(low: float, high: float, *, count: int = 5, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high] or just around it when not `whole`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(f * power for f in (1, 2, 5, 10) if f * power * count >= span * 0.999)
    if whole:
        step = max(1.0, step)
        start, end = math.ceil(low / step), math.floor(high / step + 1e-9)
    else:
        start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(start, end + 1)]


class _Plot:
    """From values to pixels."""

    def __init__(self, left: float, right: float, low: float, high: float) -> None:
        self.left, self.wide = left, (right - left) or 1.0
        self.low, self.tall = low, (high - low) or 1.0

    def x(self, value: float) -> str:
        return f"{LEFT + (value - self.left) / self.wide * (WIDTH - LEFT - RIGHT):.1f}"

    def y(self, value: float) -> str:
        return f"{HEIGHT - BOTTOM - (value - self.low) / self.tall * (HEIGHT - TOP - BOTTOM):.1f}"


def _row(plot: _Plot, value: float, among: list[float]) -> str:
    y = plot.y(value)
    decimals = max(0, -math.floor(math.log10(among[1] - among[0]) + 1e-9)) if len(among) > 1 else 1
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text x="{LEFT - 8}" y="{y}" dy=".32em" text-anchor="end">{value:.{decimals}f}</text>'
    )


def _column(plot: _Plot, value: float) -> str:
    return f'<text x="{plot.x(value)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'


def _line(plot: _Plot, points: Sequence[tuple[int, float]], name: str, width: int) -> str:
    path = " ".join(f"{plot.x(x)},{plot.y(y)}" for x, y in points)
    return f'<polyline class="{name}" stroke-width="{width}" stroke-linejoin="round" points="{path}"/>'


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """Every n-th point, and the last, so that a long run is no heavier than a short one."""
    stride = -(-len(points) // MOST_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]
