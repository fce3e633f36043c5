"""CycloneDX 1.6's model card and data set of an artifact, as JSON: what cyclonedx-python-lib has no classes for. Pure.

Source: https://cyclonedx.org/docs/1.6/json/, `modelCard` and `componentData`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hyb.formats.lineage import clean, mapping

_FACTS = (
    "format", "quantization", "quantize", "parameters", "context", "rank", "alpha", "steps", "loss", "method", "think",
    "merged_into", "template",
)  # fmt: skip
_CHANCE = ("recall", "control", "probes")


def card(
    meta: Mapping[str, Any], data: Sequence[str], exams: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """The model card of a model or an adapter.

    `meta`: its facts, `data`: bom-refs of the data sets that it was trained on, `exams`: (name, the report's JSON or,
    without one, its facts) of the exams that speak of it.
    """
    parameters = {
        "task": "text-generation",
        "approach": {"type": "supervised"} if data else None,
        "architectureFamily": "transformer",
        "modelArchitecture": clean(meta["architecture"]) if meta.get("architecture") else None,
        "datasets": [{"ref": ref} for ref in data] or None,
        "inputs": [{"format": "text"}],
        "outputs": [{"format": "text"}],
    }
    metrics = [m for name, report in exams for m in _metrics(name, report)]
    facts = {k: meta.get(k) for k in _FACTS} | _measured(meta)
    found: dict[str, Any] = {"modelParameters": {k: v for k, v in parameters.items() if v}}
    if metrics:
        found["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    found["properties"] = [
        {"name": f"hyb:{k}", "value": clean(v)} for k, v in facts.items() if v not in (None, "", [], {})
    ]
    return found


def _measured(meta: Mapping[str, Any]) -> dict[str, Any]:
    """How far a merge or a conversion is from what it was made of."""
    divergence = meta.get("divergence")
    return {f"divergence.{k}": v for k, v in divergence.items()} if isinstance(divergence, Mapping) else {}


def sound(report: object) -> dict[str, Any]:
    """An exam's report without what is not of its form (scores that are no numbers): a stranger may have made it."""
    found = dict(mapping(report))
    scores = {str(k): v for k, v in mapping(found.get("scores")).items() if _number(v)}
    failed = found.get("failed")
    return found | {
        "scores": scores,
        "intervals": {k: v for k, v in _pairs(found.get("intervals")).items() if k in scores},
        "right": _pairs(found.get("right")),
        "failed": failed if isinstance(failed, list) else [],
    }


def _pairs(value: object) -> dict[str, Any]:
    return {str(k): v for k, v in mapping(value).items() if isinstance(v, list) and len(v) > 1 and all(map(_number, v))}


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _metrics(name: str, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each score, with its interval where luck has its part."""
    found = []
    reach = report.get("intervals", {})
    for score, value in sorted(report.get("scores", {}).items()):
        metric: dict[str, Any] = {"type": clean(score), "value": f"{value:g}", "slice": clean(name)}
        if score in reach:
            low, high = reach[score][:2]
            metric["confidenceInterval"] = {"lowerBound": f"{low:.3g}", "upperBound": f"{high:.3g}"}
        found.append(metric)
    return found


def data(name: str, meta: Mapping[str, Any], sources: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The `data` of a data set's component. `sources`: {"name", "digest", "rows"} of each file. No row is told."""
    counts = mapping(meta.get("counts"))
    facts = [*((f"hyb:rows.{k}", v) for k, v in counts.items()), ("hyb:format", meta.get("format", ""))]
    facts += [(f"hyb:source.{s['name']}", f"{s['digest']} {s['rows']}".strip()) for s in sources]
    properties = [{"name": clean(k), "value": clean(v)} for k, v in facts if v not in (None, "")]
    said = ", ".join(f"{n} {part}" for part, n in counts.items())
    return [
        {
            "type": "dataset", "name": clean(name), "description": f"chat rows: {said}" if said else "chat rows",
            "contents": {"properties": properties} if properties else {},
        }
    ]  # fmt: skip
