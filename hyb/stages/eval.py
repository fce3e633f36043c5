"""An exam without a judge: held-out and control questions, greedy answers, expected texts, a gate.

`before` is the model before tuning (the adapter switched off), `after` the model that the recipe names. A gate that
does not hold raises nothing here: the report is stored with `passed` false, and whoever needs it is stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hyb import digest as dg
from hyb import engine
from hyb.artifact import Artifact, File
from hyb.errors import HybError
from hyb.formats import gate as gates
from hyb.formats import report as reports
from hyb.formats import report_page
from hyb.formats.report import Answer, Question
from hyb.progress import Progress
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, StagePlan, StageSpec, base_of

SUMMARY = "ask a model held-out and control questions, before and after tuning, and hold a gate against the scores"
REVISION = 1


class Spec(StageSpec):
    """Which model, which questions, which gate."""

    stage: Literal["eval"] = "eval"
    model: Annotated[str, Ref("model", "adapter")]
    data: Annotated[str, Ref("dataset")]
    gate: dict[str, str] = Field(default_factory=dict)
    """Score → bound, such as `recall: ">= 0.9"`. Scores: see hyb.formats.gate."""
    max_tokens: int = Field(default=48, ge=1, le=65536)
    """Tokens of an answer, its reasoning included; the rest is cut off."""
    before: bool = True
    """Ask the model before tuning, too, where there is one."""
    batch: int = Field(default=16, ge=1, le=1024)
    """Questions answered at once."""
    seed: int = 0
    exclusive: bool = True
    """An answer that also gives what another question expects does not count: listing all facts wins nothing."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    reasoning: Literal["strip", "score"] = "strip"
    """strip: only what stands behind `</think>` is the answer. score: what the model thought counts, too."""

    @field_validator("gate")
    @classmethod
    def _gate(cls, value: dict[str, str]) -> dict[str, str]:
        return {b.score: str(b) for b in gates.parse(value)}

    @model_validator(mode="after")
    def _measured(self) -> Spec:
        wanted = [s for s in self.gate if s in gates.BEFORE]
        if wanted and not self.before:
            raise ValueError(f"`gate` needs {', '.join(f'`{w}`' for w in wanted)}, which `before: false` leaves out")
        return self


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """What will be asked; the cost is known when the model and the data are made."""
    model, data = inputs.get(spec.model), inputs.get(spec.data)
    if model and model.kind == "adapter" and model.meta.get("format") == "gguf":
        raise HybError(
            f"`{spec.model}` is an adapter in GGUF, which is examined as the adapter that it was made from",
            hint="name the trained adapter, or a GGUF that it is merged into",
        )
    counts = data.meta.get("counts", {}) if data else {}
    asked = counts.get("holdout", 0) + counts.get("control", 0)
    gguf = model is not None and model.meta.get("format") == "gguf"
    return StagePlan(
        makes="report" + (f" on {asked} questions" if asked else ""),
        reads=(spec.model, spec.data),
        runs=("python -m hyb.workers.score",),
        opens=("a port on 127.0.0.1, closed by a random key, while the GGUF file answers",) if gguf else (),
        disk=1 << 20,
    )


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Ask, judge, report. Raises HybError: no questions, a gate on a score that is not measured, the worker's own."""
    model, data = inputs[spec.model], inputs[spec.data]
    questions = read_questions(data, context)
    passes = _passes(spec, model, context)
    bounds = gates.parse(spec.gate)
    _measurable(spec, questions, passes)
    answers = _ask(spec, questions, passes, context)
    if spec.reasoning == "score":
        answers = {name: [a.whole() for a in said] for name, said in answers.items()}
    report = reports.build(questions, answers, bounds, exclusive=spec.exclusive)
    failed = reports.failed(report)
    subject = {"model": model.digest, "data": data.digest, "name": _name(model, context), "max_tokens": spec.max_tokens}
    document = {**subject, **report, "failed": failed}
    files = [
        _file(context, "report.json", json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"),
        _file(context, "report.html", report_page.render(document)),
    ]
    meta = {k: report[k] for k in ("passed", "scores", "right")} | {"gate": spec.gate, "failed": failed}
    return context.store.add_artifact("report", files, meta=meta, subject=model)


def read_questions(data: Artifact, context: Context) -> list[Question]:
    """The held-out and control questions of a data set. Raises HybError when it has none."""
    folder = context.store.view(data)
    questions: list[Question] = []
    wrong = []
    for part in reports.SETS:
        for row in _rows(folder / f"{part}.jsonl"):
            try:
                questions.append(reports.question(part, row))
            except ValueError as error:
                meta = row.get("meta", {})
                wrong.append(f"{meta.get('source', part)}:{meta.get('line', 0)}: {error}")
    if wrong:
        raise HybError(
            f"{len(wrong)} question(s) expect nothing that can be compared",
            hint="give them `expect`",
            details=wrong[:20],
        )
    if not questions:
        raise HybError(
            "the data set has neither held-out nor control questions, so there is nothing to ask",
            hint="set `holdout` (a number such as 0.2, or a file) or `control` (a file) in the data stage",
        )
    return questions


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


def _passes(spec: Spec, model: Artifact, context: Context) -> list[dict[str, Any]]:
    """The worker's passes: "before" where there is a model before tuning, and "after"."""
    if model.kind == "adapter":
        base = base_of(model, context.store)
        tuned = _part("after", base, context, quantize=str(model.meta.get("quantize", "none")))
        tuned["adapter"] = str(context.store.view(model))
        return [*([tuned | {"name": "before", "adapter": ""}] if spec.before else []), tuned]
    before = []
    if spec.before and model.meta.get("base"):
        if untuned := _untuned(model, context):
            before = [_part("before", untuned, context)]
        else:
            context.say("the model before tuning is not in the store: only the model itself is asked")
    return [*before, _part("after", model, context)]


def _untuned(model: Artifact, context: Context) -> Artifact | None:
    """What a merged or converted model was before its adapter was trained; None when it is not in the store."""
    adapter = model.meta.get("adapter")
    while digest := model.meta.get("base"):
        if not context.store.has(digest):
            return None
        model = context.store.artifact(digest)
        if not adapter or model.meta.get("adapter") != adapter:
            break
    return model


def _part(name: str, model: Artifact, context: Context, *, quantize: str = "none") -> dict[str, Any]:
    folder = context.store.view(model)
    if model.meta.get("format") == "gguf":
        file = next((f.path for f in model.files if f.path.endswith(".gguf")), "model.gguf")
        engine.require(["xllamacpp"], "serve", "eval")
        return {"name": name, "format": "gguf", "model": str(folder / model.file(file).path), "adapter": "",
                "quantize": "none", "context": model.meta.get("context")}  # fmt: skip
    engine.require(["torch", "transformers", "peft"], "tune", "eval")
    return {"name": name, "format": "safetensors", "model": str(folder), "adapter": "", "quantize": quantize,
            "context": model.meta.get("context")}  # fmt: skip


def _measurable(spec: Spec, questions: list[Question], passes: list[dict[str, Any]]) -> None:
    """Raise HybError for a gate on what will not be measured, before any model is loaded."""
    before = any(p["name"] == "before" for p in passes)
    for score in spec.gate:
        part = "holdout" if score.startswith("recall") else "control"
        if not any(q.part == part for q in questions):
            raise HybError(
                f"the gate has `{score}`, but the data set has no {part} questions",
                hint=f"set `{part}` in the data stage",
            )
        if score in gates.BEFORE and not before:
            raise HybError(
                f"the gate has `{score}`, but `{spec.model}` has no model before tuning to compare with",
                hint="take this bound off the gate, or evaluate the adapter",
            )


def _ask(
    spec: Spec, questions: list[Question], passes: list[dict[str, Any]], context: Context
) -> dict[str, list[Answer]]:
    """The answers of each pass, in the order of the questions."""
    asked, out = context.work / "questions.jsonl", context.work / "answers.jsonl"
    asked.write_bytes(
        b"".join(dg.canonical_json({"messages": list(q.messages), "where": q.where}) + b"\n" for q in questions)
    )
    job = {
        "passes": passes, "questions": str(asked), "out": str(out), "max_tokens": spec.max_tokens,
        "batch": spec.batch, "seed": spec.seed, "device": spec.device,
    }  # fmt: skip

    def on_event(event: dict[str, Any]) -> None:
        if event.get("event") == "progress":
            context.say(Progress(event["task"], event["done"], event["total"], event["unit"], event["note"]))

    done = engine.worker("score", job, context.work, on_event)
    context.record("passes", done["passes"])
    context.record("device", done["device"])
    answers: dict[str, list[Answer]] = {p["name"]: [Answer("")] * len(questions) for p in passes}
    for said in _rows(out):
        answers[said["pass"]][said["index"]] = Answer.of(said)
    return answers


def _name(model: Artifact, context: Context) -> str:
    """What the report calls the model."""
    if model.kind == "adapter":
        return f"{base_of(model, context.store).meta.get('name', 'base')} + adapter"
    return str(model.meta.get("name") or "model")


def _file(context: Context, name: str, text: str) -> File:
    media = "text/html" if name.endswith(".html") else "application/json"
    return File(name, context.store.add_bytes(text.encode()), media)
