"""From judged answers and measured losses to scores, their intervals and what they are worth. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyb.formats import chance, gate
from hyb.formats.gate import Bound

PARTS = {"holdout": "recall", "control": "control", "probe": "probes"}
"""A set of questions → the score that it gives."""
NAMES = {"holdout": "held-out question", "control": "control question", "probe": "probe"}

_MOST = math.log(1e9)  # of a perplexity's logarithm
Entry = Mapping[str, Any]
Sums = Sequence[tuple[float, int]]
"""(sum of -log p, tokens) of some texts."""


@dataclass(frozen=True)
class Measured:
    """What was measured beside the answers, pass → value; empty where nothing was."""

    rows: Mapping[str, Sums] = field(default_factory=dict)
    """Of the held-out answers, in order."""
    texts: Mapping[str, Sums] = field(default_factory=dict)
    """Of general texts."""
    tasks: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Task of lm-evaluation-harness → {"metric", "value", "stderr"}."""
    speed: float | None = None
    """Tokens per second of "after"."""


@dataclass
class Scores:
    """`shown`: the scores of the report. `other`: what a gate may name beside them."""

    shown: dict[str, float] = field(default_factory=dict)
    other: dict[str, float] = field(default_factory=dict)
    right: dict[str, list[int]] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    paired: dict[str, dict[str, Any]] = field(default_factory=dict)
    habits: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    """Score → how many different answers its questions expect."""

    @property
    def all(self) -> dict[str, float]:
        """Everything that a gate may name."""
        return {**self.other, **self.shown}


def of(entries: Sequence[Entry], passes: Sequence[str], measured: Measured, *, leaks: bool) -> Scores:
    """All scores. `leaks`: training answers were looked for."""
    found = Scores()
    for part, score in PARTS.items():
        of_part = [e for e in entries if e["set"] == part]
        if of_part:
            _shares(found, of_part, passes, score)
            if "before" in passes and part != "probe":
                _paired(found, of_part, score, lost=part == "control")
    if leaks:
        looked = [e for e in entries if e["set"] in ("control", "unrelated")]
        found.shown["leaks"] = sum("leak" in e for e in looked)
        _count(found, "leaks", [(float("leak" in e), 1) for e in looked])
    for name in passes:
        found.habits[name] = _habits(entries, name)
    _gated_habits(found, entries)
    _perplexities(found, measured)
    for name, tasks in measured.tasks.items():
        for task, value in tasks.items():
            full = f"{gate.TASK}{task}" + ("" if name == "after" else f"_{name}")
            found.shown[full] = value["value"]
            if value.get("stderr"):
                reach = 1.96 * value["stderr"]
                found.intervals[full] = (value["value"] - reach, value["value"] + reach)
    if measured.speed is not None:
        found.shown["tokens_per_second"] = measured.speed
    return found


def notes(found: Scores, bounds: Sequence[Bound]) -> list[str]:
    """What a reader should know before he trusts the numbers, a line each."""
    lines = []
    for part, score in PARTS.items():
        if score in found.right and found.groups[score] < chance.FEW:
            count, low, high = found.right[score][1], *found.intervals[score]
            different = "" if found.groups[score] == count else f" with {found.groups[score]} different answers"
            asked = f"1 {NAMES[part]} says" if count == 1 else f"{count} {NAMES[part]}s{different} say"
            lines.append(
                f"{asked} little: {score} is {found.shown[score]:.2g}, and could be anything from {low:.2g} to"
                f" {high:.2g}"
            )
    for score, change in found.paired.items():
        if change["gain"] and (change["p"] > 1 - chance.LEVEL or change["low"] <= 0 <= change["high"]):
            odds = f"{change['gained']} gained, {change['lost']} lost (p = {change['p']:.2g})"
            reach = f"with other questions it could be {change['low']:+.2g} to {change['high']:+.2g}"
            lines.append(f"the change of {score} may be luck: {odds}; {reach}")
    for bound in bounds:
        interval = found.intervals.get(bound.score)
        if bound.holds(found.all[bound.score], interval) and gate.by_luck(bound, interval):
            assert interval
            lines.append(
                f"the gate `{bound.score} {bound}` holds by the score alone, which could be anything from"
                f" {interval[0]:.2g} to {interval[1]:.2g}; `surely {bound}` asks for more"
            )
    return lines


def _shares(found: Scores, entries: Sequence[Entry], passes: Sequence[str], score: str) -> None:
    for name in passes:
        full = score if name == "after" else f"{score}_{name}"
        found.right[full] = [sum(e[name]["passed"] for e in entries), len(entries)]
        found.shown[full] = found.right[full][0] / len(entries)
        groups = _groups(entries, [float(e[name]["passed"]) for e in entries])
        found.intervals[full], found.groups[full] = chance.share(groups), len(groups)


def _paired(found: Scores, entries: Sequence[Entry], score: str, *, lost: bool) -> None:
    changes = [float(e["after"]["passed"]) - float(e["before"]["passed"]) for e in entries]
    gained, gone = changes.count(1.0), changes.count(-1.0)
    if lost:
        found.shown["control_lost"] = gone
        _count(found, "control_lost", _groups(entries, [float(c < 0) for c in changes]))
    low, high = chance.change(_groups(entries, changes))
    gain = f"{score}_gain"
    found.other[gain], found.intervals[gain] = sum(changes) / len(changes), (low, high)
    found.paired[score] = {
        "gain": _round(found.other[gain]), "low": _round(low), "high": _round(high), "gained": gained, "lost": gone,
        "questions": len(entries), "p": float(f"{chance.mcnemar(gained, gone):.3g}"),
    }  # fmt: skip


def _count(found: Scores, score: str, groups: Sequence[chance.Group]) -> None:
    """The interval of a count, from that of its share."""
    if groups:
        low, high = chance.share(groups)
        size = sum(g[1] for g in groups)
        found.intervals[score] = (low * size, high * size)


def _habits(entries: Sequence[Entry], name: str) -> dict[str, Any]:
    """How a pass answered, whatever it said."""
    said = [e[name] for e in entries]
    thought = [a.get("reasoning_characters", 0) for a in said]
    return {
        "answers": len(said),
        "cut": sum(bool(a.get("cut")) for a in said),
        "loops": sum("loop" in a for a in said),
        "refused": sum(bool(e[name].get("refused")) for e in entries if e["set"] == "holdout"),
        "answer_characters": round(sum(len(a["answer"]) for a in said) / len(said), 1),
        "reasoning_characters": round(sum(thought) / len(said), 1),
        "most_reasoning_characters": max(thought),
    }


def _gated_habits(found: Scores, entries: Sequence[Entry]) -> None:
    held = [e for e in entries if e["set"] == "holdout"]
    for score, of_these, mark in (("loops", entries, "loop"), ("cut", entries, "cut"), ("refused", held, "refused")):
        if of_these:
            groups = [(float(bool(e["after"].get(mark))), 1.0) for e in of_these]
            found.other[score] = sum(g[0] for g in groups) / len(groups)
            found.intervals[score] = chance.share(groups)
    found.other["reasoning"] = found.habits["after"]["reasoning_characters"]


def _perplexities(found: Scores, measured: Measured) -> None:
    for name, sums in measured.rows.items():
        if used := [s for s in sums if s[1]]:
            full = "perplexity" if name == "after" else f"perplexity_{name}"
            found.shown[full] = perplexity(used)
            low, high = chance.mean(used)
            found.intervals[full] = (math.exp(min(low, _MOST)), math.exp(min(high, _MOST)))
    for name, sums in measured.texts.items():
        if any(s[1] for s in sums):  # none, where all are longer than the model's context
            found.shown["text_perplexity" if name == "after" else f"text_perplexity_{name}"] = perplexity(sums)
    if {"text_perplexity", "text_perplexity_before"} <= found.shown.keys():
        found.shown["text_rise"] = found.shown["text_perplexity"] / found.shown["text_perplexity_before"]


def perplexity(sums: Sums) -> float:
    """e to the mean -log p of a token, at most 1e9."""
    mean = sum(s[0] for s in sums) / sum(s[1] for s in sums)
    return math.exp(min(mean, _MOST))


def _groups(entries: Sequence[Entry], values: Sequence[float]) -> list[chance.Group]:
    """Questions that expect the same, together."""
    found: dict[str, tuple[float, int]] = {}
    for entry, value in zip(entries, values, strict=True):
        total, count = found.get(entry["expected"], (0.0, 0))
        found[entry["expected"]] = (total + value, count + 1)
    return list(found.values())


def _round(score: float) -> float:
    return round(score, 4)
