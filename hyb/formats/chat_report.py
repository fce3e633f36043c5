"""What there is to know of a data set's rows before a model is trained on them. Rows in, plain data out. Pure.

Near twins are found by word triples (`hyb.formats.near`); contamination is a held-out row that is a near twin of a
training row, question and answer together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hyb.formats import near, packing
from hyb.formats.chat_stats import Lengths, spoken

SHOWN = 10
Row = Mapping[str, Any]
Count = Callable[[str], int]


def report(
    parts: Mapping[str, Iterable[Row]],
    *,
    count: Count | None = None,
    max_length: int = 1024,
    pack: int = 8192,
    language: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """All figures of `train`, `holdout` and `control`.

    `count`: tokens of a text; without it nothing is said of truncation and packing. `max_length`: tokens of a row;
    `pack`: of a pack. `language`: the language of a text, a two-letter code.
    """
    found: dict[str, Any] = {}
    trained = near.Index()
    places: list[str] = []
    for name, rows in parts.items():
        part = _Part(count, language)
        index = trained if name == "train" else near.Index()
        seen: list[str] = [] if name != "train" else places
        for row in rows:
            text = near.triples(part.add(row))
            if name != "train" and (twin := trained.twin(text)):
                part.contaminated.append((place(row), places[twin[0]], round(twin[1], 3)))
            if twin := index.twin(text):
                part.near.append((place(row), seen[twin[0]], round(twin[1], 3)))
            index.add(text)
            seen.append(place(row))
        found[name] = part.summary(max_length, pack)
    return found


class _Part:
    """The figures of one part, row by row."""

    def __init__(self, count: Count | None, language: Callable[[str], str] | None) -> None:
        self.count, self.language = count, language
        self.lengths, self.tokens = Lengths(count), list[int]()
        self.ids, self.kinds, self.languages = Counter[str](), Counter[str](), Counter[str]()
        self.empty: list[str] = []
        self.one_word: list[str] = []
        self.reasoned = self.rows = 0
        self.near: list[tuple[str, str, float]] = []
        self.contaminated: list[tuple[str, str, float]] = []

    def add(self, row: Row) -> str:
        """Note a row; its whole text."""
        said = spoken(dict(row))
        text = "\n".join(m["content"] for m in said)
        self.rows += 1
        self.ids[row["id"]] += 1
        self.kinds[kind(row)] += 1
        self.lengths.add(said)
        answers = [m for m in said if m["role"] == "assistant"]
        self.reasoned += any(m.get("reasoning") for m in answers)
        for message in answers if "messages" in row else ():
            if not message["content"].strip() and not message.get("tool_calls"):
                self.empty.append(place(row))
            elif len(message["content"].split()) == 1:
                self.one_word.append(place(row))
        if self.count:
            self.tokens.append(sum(self.count(m.get("reasoning", "") + m["content"]) for m in said))
        if self.language and text.strip():
            self.languages[self.language(text)] += 1
        return text

    def summary(self, max_length: int, pack: int) -> dict[str, Any]:
        """Plain data."""
        found = {
            "rows": self.rows,
            "kinds": dict(self.kinds),
            "lengths": self.lengths.summary(),
            "with_reasoning": self.reasoned,
            "duplicates": {"exact": self.rows - len(self.ids), "near": _some(self.near)},
            "answers": {"empty": _some(self.empty), "one_word": _some(self.one_word)},
            "contaminated": _some(self.contaminated),
        }
        if self.languages:
            found["languages"] = dict(self.languages.most_common())
        if self.count:
            fitting = [n for n in self.tokens if n <= max_length]
            found["tokens"] = {
                "sum": sum(self.tokens),
                "over_max_length": len(self.tokens) - len(fitting),
                "padded_efficiency": round(_padded(fitting), 4),
                "packed_efficiency": round(packing.efficiency(fitting, pack), 4) if sum(fitting) > pack else None,
            }
        return found


def kind(row: Row) -> str:
    """The kind of a row in the normal form (`hyb.formats.chat.KINDS`)."""
    for name in ("text", "segments", "tokens"):
        if name in row:
            return name
    return "preference" if "rejected" in row else "unpaired" if "label" in row else "chat"


def place(row: Row) -> str:
    """`file:line` of a row."""
    meta = row.get("meta", {})
    return f"{meta.get('source', '?')}:{meta.get('line', 0)}"


def _padded(lengths: Sequence[int], batch: int = 8) -> float:
    """Share of real tokens when rows in their order are padded to the longest of their batch."""
    batches = [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
    room = sum(len(b) * max(b) for b in batches)
    return sum(lengths) / room if room else 1.0


def _some(items: Sequence[Any]) -> dict[str, Any]:
    return {"count": len(items), "first": [list(i) if isinstance(i, tuple) else i for i in items[:SHOWN]]}


def text_of(found: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    lines = []
    for name, part in found.items():
        if not part["rows"]:
            continue
        kinds = ", ".join(f"{n} {k}" for k, n in part["kinds"].items())
        lines.append(f"{name}: {part['rows']} rows ({kinds})")
        for side, measures in part["lengths"].items():
            shown = [f"{m} {v['median']} (p95 {v['p95']}, most {v['max']})" for m, v in measures.items()]
            lines.append(f"  {side}: {', '.join(shown)}")
        if part["with_reasoning"]:
            lines.append(f"  with reasoning: {part['with_reasoning']}")
        lines += _told("exact duplicates", part["duplicates"]["exact"], [])
        for what, value in (
            ("near duplicates", part["duplicates"]["near"]),
            ("near twins of training rows", part["contaminated"]),
            ("empty answers", part["answers"]["empty"]),
            ("answers of one word", part["answers"]["one_word"]),
        ):
            lines += _told(what, value["count"], value["first"])
        if "languages" in part:
            lines.append("  languages: " + ", ".join(f"{k} {n}" for k, n in list(part["languages"].items())[:8]))
        if tokens := part.get("tokens"):
            packed = f", packed {tokens['packed_efficiency']:.0%}" if tokens["packed_efficiency"] else ""
            lines.append(f"  tokens: {tokens['sum']}; real ones when padded {tokens['padded_efficiency']:.0%}{packed}")
            lines += _told("rows over `max_length`", tokens["over_max_length"], [])
    return "\n".join(lines)


def _told(what: str, count: int, first: Sequence[Any]) -> list[str]:
    if not count:
        return []
    shown = [f"    {' ~ '.join(map(str, i))}" if isinstance(i, list) else f"    {i}" for i in first[:3]]
    return [f"  {what}: {count}", *shown]
