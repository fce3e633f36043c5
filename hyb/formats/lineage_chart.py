"""A lineage as one SVG: what came from outside on top, what was asked for at the bottom. No script, no font file.

Layers by the longest way from a source; an edge over several layers passes through a place of its own in each, so that
no line runs behind a box; boxes of a layer are ordered by where their neighbours stand (Sugiyama's method, short).
Pure and deterministic; light or dark as its reader's system is.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape

from hyb.formats.lineage import Lineage, boxes, clean, edges

WIDE, TALL = 212, 66  # pixels of a box
APART, DOWN, AROUND = 22, 46, 16
THIN = 14  # the place of a passing line
SWEEPS = 8
LETTERS = 30  # of a line in a box

_STYLE = (
    ".back{fill:#fff}text{font:12px system-ui,sans-serif;fill:#4a535c}.name{font-weight:600;fill:#1f2328}"
    ".box{fill:#f5f7f9;stroke:#8c959f}.source{fill:#fff;stroke:#8c959f;stroke-dasharray:4 3}"
    ".report{fill:#e9f6ee;stroke:#1a7f37}.broken{fill:#fdeceb;stroke:#b3261e;stroke-width:2.5}"
    ".edge{fill:none;stroke:#8c959f;stroke-width:1.4}.tip{fill:#8c959f}"
    "@media(prefers-color-scheme:dark){.back{fill:#0d1117}text{fill:#b1bac4}.name{fill:#f0f6fc}"
    ".box{fill:#1d2127;stroke:#6e7681}.source{fill:#0d1117;stroke:#6e7681}.report{fill:#12281a;stroke:#56d364}"
    ".broken{fill:#3a1512;stroke:#ff8a80}.edge{stroke:#6e7681}.tip{fill:#6e7681}}"
)
_Places = dict[str, tuple[float, int]]


def svg(lineage: Lineage, title: str) -> str:
    """The picture, with `title` as its name for those who can't see it."""
    drawn = {name: (label.split("\n"), broken, kind) for name, label, broken, kind in boxes(lineage)}
    lines = edges(lineage)
    layers, ways = _layered(list(drawn), lines)
    layers = _ordered(layers, ways)
    places, width = _placed(layers, drawn)
    height = len(layers) * (TALL + DOWN) - DOWN + 2 * AROUND
    said = f"{clean(title)}: {len(drawn)} boxes from {_count(drawn, 'source')} sources to {len(lineage.roots)} results"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" role="img" '
        f'aria-label="{escape(said)}">',
        f"<title>{escape(said)}</title><style>{_STYLE}</style>",
        f'<rect class="back" width="{width:g}" height="{height}" rx="6"/>',
        *(_edge(way, places, drawn) for way in ways),
        *(_box(name, *drawn[name], places) for name in drawn),
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _count(drawn: Mapping[str, tuple[list[str], bool, str]], kind: str) -> int:
    return sum(k == kind for _, _, k in drawn.values())


def _layered(names: Sequence[str], lines: Sequence[tuple[str, str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Layer → what stands in it, places for passing lines among it; and each edge as the chain of what it touches."""
    above: dict[str, list[str]] = {n: [] for n in names}
    for a, b in lines:
        above[b].append(a)
    rank: dict[str, int] = {}
    for name in names:  # each stands behind all that it was made from
        rank[name] = 1 + max((rank.get(a, -1) for a in above[name]), default=-1)
    below = {n: [rank[b] for a, b in lines if a == n] for n in names}
    for name in names:  # a source stands right above its first use
        if not above[name] and below[name]:
            rank[name] = min(below[name]) - 1
    layers: list[list[str]] = [[] for _ in range(max(rank.values(), default=0) + 1)]
    for name in names:
        layers[rank[name]].append(name)
    ways = []
    for number, (a, b) in enumerate(lines):
        passing = [f"\0{number}.{r}" for r in range(rank[a] + 1, rank[b])]
        for r, place in zip(range(rank[a] + 1, rank[b]), passing, strict=True):
            layers[r].append(place)
        ways.append([a, *passing, b])
    return layers, ways


def _ordered(layers: list[list[str]], ways: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each layer by the mean place of its neighbours in the layer before, down and up some times."""
    up: dict[str, list[str]] = {}
    down: dict[str, list[str]] = {}
    for way in ways:
        for a, b in itertools.pairwise(way):
            up.setdefault(b, []).append(a)
            down.setdefault(a, []).append(b)
    for sweep in range(SWEEPS):
        order = range(1, len(layers)) if sweep % 2 == 0 else range(len(layers) - 2, -1, -1)
        near, step = (up, -1) if sweep % 2 == 0 else (down, 1)
        for r in order:
            at = {name: i for i, name in enumerate(layers[r + step])}
            was = {name: float(i) for i, name in enumerate(layers[r])}
            mean = {n: _mean([at[m] for m in near.get(n, ()) if m in at], was[n]) for n in layers[r]}
            layers[r] = sorted(layers[r], key=lambda n: (mean[n], was[n]))
    return layers


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _placed(layers: Sequence[Sequence[str]], drawn: Mapping[str, object]) -> tuple[_Places, float]:
    """Name → (middle, layer), and the width of all. Each layer is centred."""
    sizes = [[WIDE if n in drawn else THIN for n in layer] for layer in layers]
    widths = [sum(size) + APART * max(0, len(size) - 1) for size in sizes]
    whole = max([*widths, 2 * WIDE]) + 2 * AROUND
    places: _Places = {}
    for r, (layer, size) in enumerate(zip(layers, sizes, strict=True)):
        x = (whole - widths[r]) / 2
        for name, wide in zip(layer, size, strict=True):
            places[name] = (round(x + wide / 2, 1), r)
            x += wide + APART
    return places, whole


def _top(r: int) -> int:
    return AROUND + r * (TALL + DOWN)


def _edge(way: Sequence[str], places: _Places, drawn: Mapping[str, object]) -> str:
    x, r = places[way[0]]
    path = f"M{x:g} {_top(r) + TALL}"
    for name in way[1:]:
        before, (x, r) = x, places[name]
        y, end = _top(r) - DOWN, _top(r) - (6 if name in drawn else 0)
        path += f"C{before:g} {y + DOWN / 2:g} {x:g} {y + DOWN / 2:g} {x:g} {end}"
        path += "" if name in drawn else f"V{_top(r) + TALL}"
    tip = f"{x - 4:g},{_top(r) - 7} {x + 4:g},{_top(r) - 7} {x:g},{_top(r)}"
    return f'<path class="edge" d="{path}"/><polygon class="tip" points="{tip}"/>'


def _box(name: str, lines: Sequence[str], broken: bool, kind: str, places: _Places) -> str:
    x, r = places[name]
    left, top = x - WIDE / 2, _top(r)
    look = "broken" if broken else kind if kind in ("source", "report") else "box"
    texts = [
        f'<text class="{"line" if i else "name"}" x="{x:g}" y="{top + 20 + 17 * i}" text-anchor="middle">'
        f"{escape(_clip(line))}</text>"
        for i, line in enumerate(lines[:3])
    ]
    corner = 2 if kind == "source" else 8
    rect = f'<rect class="{look}" x="{left:g}" y="{top}" width="{WIDE}" height="{TALL}" rx="{corner}"/>'
    whole = " · ".join(lines)
    return f"<g><title>{escape(whole)}</title>{rect}{''.join(texts)}</g>"


def _clip(line: str) -> str:
    return line if len(line) <= LETTERS else line[: LETTERS - 1] + "…"
