"""`hyb export --compare`: what each quantization of a model costs, as a report in the store.

The models and the exams on them are ordinary steps, made before. What is done here is the perplexity of each, in
llama.cpp. It goes on where it was killed: each number is kept in the work folder until the report is whole.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import engine, fs, receipt
from hyb.artifact import Artifact, File
from hyb.errors import HybError
from hyb.formats import comparison as table
from hyb.formats.prose import TEXTS
from hyb.progress import Progress, Say
from hyb.store import Store

REVISION = 1
DEFAULT = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")


@dataclass(frozen=True)
class Candidate:
    """A quantized model, and the report of the exam on it where there was one."""

    quantization: str
    model: Artifact
    exam: Artifact | None = None


def compare(
    store: Store, name: str, subject: Artifact, candidates: list[Candidate], say: Say, *, data: str = ""
) -> Artifact:
    """The report, tagged `name`, from the store when it is there. `data`: digest of the data set that was asked.

    Raises HybError: the worker's own (exit 4 when llama.cpp can't load a model).
    """
    inputs = {c.quantization: c.model.digest for c in candidates}
    inputs |= {f"{c.quantization}-exam": c.exam.digest for c in candidates if c.exam}
    spec = {"stage": "comparison", "revision": REVISION, "texts": dg.of_json(list(TEXTS))}
    key = dg.of_json({**spec, "subject": subject.digest, "inputs": inputs, "data": data})
    with store.in_use(), store.locked_step(key, lambda: say(f"{name}: another hyb is at it; waiting")):
        done = next((d for d in store.outputs(key) if store.has(d)), None)
        report = store.artifact(done) if done else _measure(store, name, subject, candidates, key, spec, say, data)
        store.tag(name, report.digest)
        return report


def _measure(
    store: Store,
    name: str,
    subject: Artifact,
    candidates: list[Candidate],
    key: str,
    spec: Mapping[str, Any],
    say: Say,
    data: str,
) -> Artifact:
    engine.require(("xllamacpp",), "tune", "export --compare")
    work, begun = store.work(key), receipt.now()
    facts = {c.quantization: _perplexity(store, c, work, say) for c in candidates}
    lines = [
        table.entry(
            c.quantization,
            c.model.meta,
            c.model.size,
            c.model.digest,
            facts[c.quantization]["perplexity"],
            c.exam.meta if c.exam else None,
        )
        for c in candidates
    ]
    title = str(candidates[0].model.meta.get("name") or "model")
    tokens = next(iter(facts.values()))["tokens"]
    found = table.document(title, subject.digest, data, TEXTS, tokens, lines)
    files = [
        File(
            "report.json",
            store.add_bytes((json.dumps(found, indent=1, sort_keys=True) + "\n").encode()),
            "application/json",
        ),
        File("report.html", store.add_bytes(table.page(found).encode()), "text/html"),
    ]
    meta = {
        "compares": [c.quantization for c in candidates],
        "perplexity": {x["quantization"]: x["perplexity"] for x in lines},
    }
    report = store.add_artifact("report", files, meta=meta, subject=subject)
    statement = receipt.statement(
        name=name, stage="comparison", key=key, spec=spec, pins={}, output=report,
        inputs={c.quantization: c.model.digest for c in candidates}, started=begun, ended=receipt.now(), facts=facts,
    )  # fmt: skip
    receipt.add(store, statement, report)
    store.record_step(key, "comparison", report.digest)
    shutil.rmtree(work, ignore_errors=True)
    return report


def _perplexity(store: Store, candidate: Candidate, work: Path, say: Say) -> dict[str, Any]:
    """What the worker measured; kept, so that it is not measured twice."""
    kept = work / f"{candidate.quantization}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_bytes())
        return found
    path = next((f.path for f in candidate.model.files if f.path.endswith(".gguf")), "")
    if not path:
        raise HybError(f"`{candidate.quantization}` has no GGUF file")

    def told(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            task = f"{candidate.quantization}: {event['task']}"
            say(Progress(task, event["done"], event["total"], event["unit"], event["note"]))

    started = time.monotonic()
    job = {"gguf": str((store.view(candidate.model) / path).absolute()), "texts": list(TEXTS)}
    done = engine.worker("perplexity", job, work, told)
    found = {k: v for k, v in done.items() if k != "event"} | {"wall_seconds": round(time.monotonic() - started, 3)}
    fs.write_atomic(kept, json.dumps(found).encode())
    return found
