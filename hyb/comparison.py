"""`hyb export --compare`: what each quantization of a model costs, as a report in the store.

The models and the exams on them are ordinary steps, made before. What is done here is the perplexity of each in
llama.cpp, and how far each is from the model that it was made of: what that one says in transformers is written down
once. It goes on where it was killed: each number is kept in the work folder until the report is whole.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
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

REVISION = 3
Prompts = Sequence[Sequence[Mapping[str, str]]]
DEFAULT = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")


@dataclass(frozen=True)
class Candidate:
    """A quantized model, and the report of the exam on it where there was one."""

    quantization: str
    model: Artifact
    exam: Artifact | None = None


def compare(
    store: Store,
    name: str,
    subject: Artifact,
    candidates: list[Candidate],
    say: Say,
    *,
    data: str = "",
    source: Artifact | None = None,
    prompts: Prompts = (),
) -> Artifact:
    """The report, tagged `name`, from the store when it is there. `data`: digest of the data set that was asked.

    `source`: what was quantized, where that is not `subject` itself. `prompts`: conversations that measure how far each
    line is from it; none, and that is not measured.

    Raises HybError: the worker's own (exit 4 when llama.cpp can't load a model).
    """
    inputs = {c.quantization: c.model.digest for c in candidates}
    inputs |= {f"{c.quantization}-exam": c.exam.digest for c in candidates if c.exam}
    spec = {"stage": "comparison", "revision": REVISION, "texts": dg.of_json(list(TEXTS))}
    source = source or subject
    key = dg.of_json(
        {
            **spec,
            "subject": subject.digest,
            "source": source.digest,
            "inputs": inputs,
            "data": data,
            "prompts": dg.of_json(list(prompts)),
        }
    )
    with store.in_use(), store.locked_step(key, lambda: say(f"{name}: another hyb is at it; waiting")):
        done = next((d for d in store.outputs(key) if store.has(d)), None)
        report = (
            store.artifact(done)
            if done
            else _measure(store, name, subject, source, prompts, candidates, key, spec, say, data)
        )
        store.tag(name, report.digest)
        return report


def _measure(
    store: Store,
    name: str,
    subject: Artifact,
    source: Artifact,
    prompts: Prompts,
    candidates: list[Candidate],
    key: str,
    spec: Mapping[str, Any],
    say: Say,
    data: str,
) -> Artifact:
    engine.require(("xllamacpp",), "tune", "export --compare")
    work, begun = store.work(key), receipt.now()
    with engine.noting() as programs:
        known = _reference(store, source, prompts, work, say)
        facts = {c.quantization: _perplexity(store, c, known, work, say) for c in candidates}
    lines = [
        table.entry(
            c.quantization,
            c.model.meta,
            c.model.size,
            c.model.digest,
            facts[c.quantization],
            c.exam.meta if c.exam else None,
        )
        for c in candidates
    ]
    title = str(candidates[0].model.meta.get("name") or "model")
    tokens = next(iter(facts.values()))["tokens"]
    positions = next(iter(facts.values())).get("positions", 0)
    merge = source.meta.get("divergence") if source is not subject else None
    found = table.document(title, subject.digest, data, TEXTS, tokens, lines, positions=positions, merge=merge)
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
        programs=programs,
    )  # fmt: skip
    receipt.add(store, statement, report)
    store.record_step(key, "comparison", report.digest)
    shutil.rmtree(work, ignore_errors=True)
    return report


def _reference(store: Store, source: Artifact, prompts: Prompts, work: Path, say: Say) -> Path | None:
    """What the unquantized model says in some conversations, written down once; None without any."""
    if not prompts:
        return None
    engine.require(("torch", "transformers"), "tune", "export --compare")
    out = (work / "reference.json").absolute()
    if not out.exists():
        job = {"model": str(store.view(source).absolute()), "prompts": prompts, "out": str(out)}
        engine.worker("reference", job, work, lambda event: _tell(event, say, "unquantized"))
    return out


def _tell(event: dict[str, Any], say: Say, name: str) -> None:
    if event["event"] == "progress":
        say(Progress(f"{name}: {event['task']}", event["done"], event["total"], event["unit"], event["note"]))


def _perplexity(store: Store, candidate: Candidate, known: Path | None, work: Path, say: Say) -> dict[str, Any]:
    """What the worker measured; kept, so that it is not measured twice."""
    kept = work / f"{candidate.quantization}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_bytes())
        return found
    path = next((f.path for f in candidate.model.files if f.path.endswith(".gguf")), "")
    if not path:
        raise HybError(f"`{candidate.quantization}` has no GGUF file")

    started = time.monotonic()
    job = {"gguf": str((store.view(candidate.model) / path).absolute()), "texts": list(TEXTS)}
    job["reference"] = str(known or "")
    done = engine.worker("perplexity", job, work, lambda event: _tell(event, say, candidate.quantization))
    found = {k: v for k, v in done.items() if k != "event"} | {"wall_seconds": round(time.monotonic() - started, 3)}
    fs.write_atomic(kept, json.dumps(found).encode())
    return found
