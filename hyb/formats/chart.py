"""Lines over a few named places, in panels side by side, as one small SVG: no script, no font file, no link.

Pure and deterministic, light or dark as its reader's system is, as `hyb.formats.curve` is for a loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from hyb.formats.curve import ticks

WIDE, TALL = 320, 300  # pixels of a panel
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 84, 46
COLOURS = 4

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-size:15px;font-weight:600;fill:#1f2328}"
    ".name{font-weight:600;fill:#1f2328}.back{fill:#fff}.grid{stroke:#d8dee4}polyline{fill:none;stroke-width:2}"
    ".c0{stroke:#0b5fc1}.c1{stroke:#bc4c00}.c2{stroke:#1a7f37}.c3{stroke:#8250df}"
    ".d0{fill:#0b5fc1}.d1{fill:#bc4c00}.d2{fill:#1a7f37}.d3{fill:#8250df}.faint{stroke-dasharray:4 4}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.title,.name{fill:#f0f6fc}.back{fill:#0d1117}"
    ".grid{stroke:#2a313c}.c0{stroke:#6cb0ff}.c1{stroke:#ff9b5a}.c2{stroke:#56d364}.c3{stroke:#c297ff}"
    ".d0{fill:#6cb0ff}.d1{fill:#ff9b5a}.d2{fill:#56d364}.d3{fill:#c297ff}}"
)


@dataclass(frozen=True)
class Line:
    """Values in the order of the places; a value that is no number is left out."""

    label: str
    values: Sequence[float]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot."""

    name: str
    lines: Sequence[Line]


def svg(title: str, places: Sequence[str], axis: str, panels: Sequence[Panel]) -> str:
    """The document: `panels` beside each other, each over the same `places`, whose axis is called `axis`."""
    width = WIDE * len(panels)
    labels = list({line.label: line for panel in panels for line in panel.lines}.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TALL}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="back" width="{width}" height="{TALL}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
        *_legend(labels),
    ]
    for index, panel in enumerate(panels):
        parts.append(f'<g transform="translate({index * WIDE} 0)">')
        parts += _panel(panel, places, axis)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(lines: Sequence[Line]) -> list[str]:
    parts, x = [], LEFT
    for line in lines:
        parts.append(f'<polyline class="{_look(line)}" points="{x},42 {x + 22},42"/>')
        parts.append(f'<text x="{x + 28}" y="46">{escape(line.label)}</text>')
        x += 44 + 7 * len(line.label)
    return parts


def _panel(panel: Panel, places: Sequence[str], axis: str) -> list[str]:
    values = [v for line in panel.lines for v in line.values if math.isfinite(v)]
    marks = ticks(0.0, max([*values, 0.0]) or 1.0)
    step = (WIDE - LEFT - RIGHT) / max(1, len(places))

    def x(index: int) -> float:
        return round(LEFT + step * (index + 0.5), 1)

    def y(value: float) -> float:
        return round(TALL - BOTTOM - value / marks[-1] * (TALL - TOP - BOTTOM), 1)

    decimals = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9))
    parts = [f'<text class="name" x="{LEFT}" y="70">{escape(panel.name)}</text>']
    for mark in marks:
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y(mark)}" y2="{y(mark)}"/>'
            f'<text x="{LEFT - 8}" y="{y(mark)}" dy=".32em" text-anchor="end">{mark:.{decimals}f}</text>'
        )
    for index, place in enumerate(places):
        parts.append(f'<text x="{x(index)}" y="{TALL - BOTTOM + 18}" text-anchor="middle">{escape(place)}</text>')
    parts.append(f'<text x="{(LEFT + WIDE - RIGHT) / 2:g}" y="{TALL - 8}" text-anchor="middle">{escape(axis)}</text>')
    for line in panel.lines:
        points = [(x(i), y(v)) for i, v in enumerate(line.values) if math.isfinite(v)]
        path = " ".join(f"{a},{b}" for a, b in points)
        parts.append(f'<polyline class="{_look(line)}" points="{path}"/>')
        parts += [f'<circle class="d{line.colour % COLOURS}" cx="{a}" cy="{b}" r="3"/>' for a, b in points]
    return parts


def _look(line: Line) -> str:
    return f"c{line.colour % COLOURS}" + (" faint" if line.dashed else "")
