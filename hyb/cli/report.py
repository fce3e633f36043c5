"""A report of `eval` as a table for the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hyb.cli.output import columns

if TYPE_CHECKING:
    from hyb.artifact import Artifact
    from hyb.store import Store

SETS = {"holdout": "held out", "control": "general", "probe": "probe", "unrelated": "unrelated"}


def report_text(artifact: Artifact, store: Store) -> str:
    """Question, what was expected, and the answers before (where there is a before) and after; then the scores."""
    if "compares" in artifact.meta:
        from hyb.cli.compare import comparison_text

        return comparison_text(artifact, store)
    report = json.loads(store.read(artifact.file("report.json").blob.digest))
    passes = [p for p in ("before", "after") if p in report["questions"][0]]
    rows = [
        (SETS[q["set"]], _clip(q["question"], 44), _clip(q["expected"], 18), *(_answer(q[p]) for p in passes))
        for q in report["questions"]
    ]
    other = report.get("compared", {}).get("name", "")
    heads = [_clip(other, 40) if p == "before" and other else p.upper() for p in passes]
    table = columns(rows, ("SET", "QUESTION", "EXPECTED", *heads))
    word = "passed" if report["passed"] else "FAILED"
    return "\n".join([table, _scores(report), *_changes(report), *report.get("notes", ()), word])


def _scores(report: dict[str, Any]) -> str:
    """The scores; where luck has its part, what each could be."""
    reach = report.get("intervals", {})
    return "  ".join(
        f"{name} {value:g}" + (f" ({reach[name][0]:.3g} to {reach[name][1]:.3g})" if name in reach else "")
        for name, value in sorted(report["scores"].items())
    )


def _changes(report: dict[str, Any]) -> list[str]:
    return [
        f"{score}: {c['gained']} gained, {c['lost']} lost, {c['gain']:+g} ({c['low']:.2g} to {c['high']:.2g}),"
        f" p {c['p']:.2g}"
        for score, c in report.get("paired", {}).items()
    ]


def _answer(said: dict[str, Any]) -> str:
    return ("+ " if said["passed"] else "- ") + _clip(said["answer"], 40)


def _clip(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
