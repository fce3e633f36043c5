"""An exam without a judge: held-out and control questions, greedy answers, expected texts, a gate.

`before` is the model before tuning (the adapter switched off), or whatever `against` or `endpoint` names in its place;
`after` the model that the recipe names. Both answer the same questions, so what changed is told question by question.
A gate that does not hold raises nothing here: the report is stored with `passed` false; whoever needs it is stopped.

The report holds nothing of the machine: how fast it was goes into the receipt, and into the report only where the gate
asks for it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hyb import digest as dg
from hyb import engine
from hyb.artifact import Artifact, File
from hyb.errors import HybError
from hyb.formats import gate as gates
from hyb.formats import report as reports
from hyb.formats import report_page
from hyb.formats.prose import TEXTS
from hyb.formats.report import Answer, Question
from hyb.formats.scores import Measured
from hyb.progress import Progress
from hyb.stages import exam
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, Source, StagePlan, StageSpec, base_of

SUMMARY = "ask a model held-out and control questions, before and after tuning, and hold a gate against the scores"
REVISION = 2


class Spec(StageSpec):
    """Which model, which questions, which gate."""

    stage: Literal["eval"] = "eval"
    model: Annotated[str, Ref("model", "adapter")]
    data: Annotated[str, Ref("dataset")]
    gate: dict[str, str] = Field(default_factory=dict)
    """Score → bound, such as `recall: ">= 0.9"`, or `"surely >= 0.9"`. Scores: see hyb.formats.gate."""
    against: Annotated[str, Ref("model", "adapter")] = ""
    """Another model or adapter, asked in place of the model before tuning."""
    endpoint: str = ""
    """The same, for a model being served on this machine (`hyb ps`) or the URL of an OpenAI-compatible API; its key is
    in HYB_API_KEY."""
    endpoint_model: str = ""
    """The model to ask there; the first that it lists when empty."""
    asked_at: str = ""
    """Any word: an endpoint may answer otherwise tomorrow, and another word makes a new report."""
    probes: Annotated[str, Source("path")] = ""
    """A file or folder of questions that say what must not be told: `expect: {absent: […]}`, `{refuse: true}`."""
    leaks: bool = False
    """Put unrelated questions, too, and look in the answers for training answers, word for word."""
    perplexity: bool = False
    """Measure the perplexity of the held-out answers and of general texts. A gate on it does so, too."""
    tasks: list[str] = Field(default_factory=list)
    """Tasks of lm-evaluation-harness, by name. Their data sets must be on this machine."""
    tasks_folder: Annotated[str, Source("path")] = ""
    """A folder with tasks of your own."""
    tasks_limit: int = Field(default=0, ge=0)
    """Documents of each task; 0: all."""
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
        if (self.against or self.endpoint) and not self.before:
            raise ValueError("`before: false` leaves out what `against` and `endpoint` are asked for")
        if self.against and self.endpoint:
            raise ValueError("give either `against` or `endpoint`")
        if self.endpoint and (blind := [s for s in wanted if s in gates.PERPLEXITY or s.startswith(gates.TASK)]):
            raise ValueError(f"`gate` needs `{blind[0]}`, which can't be measured at an endpoint")
        if wrong := next((s for s in self.gate if s in gates.PROBES and not self.probes), None):
            raise ValueError(f"`gate` needs `{wrong}`, and there are no `probes`")
        if "leaks" in self.gate and not self.leaks:
            raise ValueError("`gate` needs `leaks`, so set `leaks: true`")
        known = {f"{gates.TASK}{t}{end}" for t in self.tasks for end in ("", "_before")}
        if wrong := next((s for s in self.gate if s.startswith(gates.TASK) and s not in known), None):
            raise ValueError(f"`gate` needs `{wrong}`, which is no task of `tasks`")
        return self

    @property
    def measures(self) -> bool:
        """Perplexities are wanted."""
        return self.perplexity or any(s in gates.PERPLEXITY for s in self.gate)


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """What will be asked; the cost is known when the model and the data are made."""
    model, data = inputs.get(spec.model), inputs.get(spec.data)
    if model and model.kind == "adapter" and model.meta.get("format") == "gguf":
        raise HybError(
            f"`{spec.model}` is an adapter in GGUF, which is examined as the adapter that it was made from",
            hint="name the trained adapter, or a GGUF that it is merged into",
        )
    rival = inputs.get(spec.against) if spec.against else None
    if rival and rival.kind == "adapter" and rival.meta.get("format") == "gguf":
        raise HybError(f"`{spec.against}` is an adapter in GGUF", hint="name the trained adapter")
    counts = data.meta.get("counts", {}) if data else {}
    asked = counts.get("holdout", 0) + counts.get("control", 0)
    gguf = any(m is not None and m.meta.get("format") == "gguf" for m in (model, rival))
    opens = ["a port on 127.0.0.1, closed by a random key, while the GGUF file answers"] if gguf else []
    opens += [f"the endpoint `{spec.endpoint}`"] if spec.endpoint else []
    return StagePlan(
        makes="report" + (f" on {asked} questions" if asked else ""),
        reads=tuple(filter(None, (spec.model, spec.data, spec.against, spec.probes, spec.tasks_folder))),
        runs=("python -m hyb.workers.score",),
        opens=tuple(opens),
        disk=1 << 20,
    )


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Ask, judge, report. Raises HybError: no questions, a gate on a score that is not measured, the worker's own."""
    model, data = inputs[spec.model], inputs[spec.data]
    questions = read_questions(data, context)
    questions += exam.probes(spec.probes, context) if spec.probes else []
    questions += exam.unrelated() if spec.leaks else []
    passes, compared = _passes(spec, model, inputs.get(spec.against) if spec.against else None, context)
    bounds = gates.parse(spec.gate)
    before = bool(spec.endpoint) or any(p["name"] == "before" for p in passes)
    _measurable(spec, questions, before, context)
    exam.patterns(questions, {"": [Answer("\n".join(TEXTS))] * len(questions)})  # before hours of asking, if it can be
    answers: dict[str, list[Answer]] = {}
    if spec.endpoint:
        at = exam.ask_endpoint(spec.endpoint, spec.endpoint_model, questions, spec.max_tokens, context)
        answers["before"], compared = at
    said, measured = _ask(spec, questions, passes, context)
    answers |= said
    if spec.reasoning == "score":
        answers = {name: [a.whole() for a in given] for name, given in answers.items()}
    exam.patterns(questions, answers)
    trained = exam.trained(data, context) if spec.leaks else None
    try:
        report = reports.build(questions, answers, bounds, exclusive=spec.exclusive, trained=trained, measured=measured)
    except ValueError as error:
        raise HybError(
            f"the gate has {error}, which could not be measured",
            hint="take this bound off the gate, or leave `surely` out",
        ) from error
    report["notes"] = [*report["notes"], *_unmeasured(spec)]
    document = {
        "model": model.digest, "data": data.digest, "name": _name(model, context), "max_tokens": spec.max_tokens,
        **report, "failed": reports.failed(report), "card": exam.card(model, data, context),
    }  # fmt: skip
    document |= {"compared": compared} if compared else {}
    document |= {"tasks": measured.tasks} if measured.tasks else {}
    page = report_page.render(document, curve=exam.training_curve(model, context))
    for line in report["notes"]:
        context.say(line)
    files = [
        _file(context, "report.json", json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"),
        _file(context, "report.html", page),
    ]
    meta = {k: report[k] for k in ("passed", "scores", "right")} | {"gate": spec.gate, "failed": document["failed"]}
    return context.store.add_artifact("report", files, meta=meta, subject=model)


def read_questions(data: Artifact, context: Context) -> list[Question]:
    """The held-out and control questions of a data set. Raises HybError when it has none."""
    folder = context.store.view(data)
    questions: list[Question] = []
    wrong = []
    for part in reports.SETS:
        for row in exam.rows(folder / f"{part}.jsonl"):
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


def _passes(
    spec: Spec, model: Artifact, rival: Artifact | None, context: Context
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The worker's passes, "before" (where there is one that is no endpoint) and "after"; and what "before" is."""
    after = _one("after", model, context)
    if spec.endpoint or not spec.before:
        return [after], {}
    if rival:
        return [_one("before", rival, context), after], {"name": _name(rival, context), "model": rival.digest}
    if model.kind == "adapter":
        return [after | {"name": "before", "adapter": ""}, after], {}
    if model.meta.get("base"):
        if untuned := _untuned(model, context):
            return [_part("before", untuned, context), after], {}
        context.say("the model before tuning is not in the store: only the model itself is asked")
    return [after], {}


def _one(name: str, model: Artifact, context: Context) -> dict[str, Any]:
    """A pass of a model, or of an adapter on its base as it was trained."""
    if model.kind != "adapter":
        return _part(name, model, context)
    base = base_of(model, context.store)
    part = _part(name, base, context, quantize=str(model.meta.get("quantize", "none")))
    return part | {"adapter": str(context.store.view(model))}


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


def _unmeasured(spec: Spec) -> list[str]:
    """What of the wishes an endpoint leaves open."""
    blind = [
        word for word, wanted in (("perplexity", spec.measures), ("tasks", spec.tasks)) if wanted and spec.endpoint
    ]
    why = "which answers questions and tells no probability of a given text"
    return [f"{' and '.join(blind)}: not measured at the endpoint, {why}"] if blind else []


_PARTS = {"recall": "holdout", "refused": "holdout", "perplexity": "holdout", "control": "control"}
"""The beginning of a score's name → the questions that it needs."""


def _measurable(spec: Spec, questions: list[Question], before: bool, context: Context) -> None:
    """Raise HybError for a gate on what will not be measured, before any model is loaded."""
    if spec.tasks:
        engine.require(["lm_eval"], "harness", "eval --task")
    for score in spec.gate:
        part = next((p for start, p in _PARTS.items() if score.startswith(start)), "")
        if part and not any(q.part == part for q in questions):
            raise HybError(
                f"the gate has `{score}`, but the data set has no {part} questions",
                hint=f"set `{part}` in the data stage",
            )
        if (score in gates.BEFORE or (score.startswith(gates.TASK) and score.endswith("_before"))) and not before:
            raise HybError(
                f"the gate has `{score}`, but `{spec.model}` has no model before tuning to compare with",
                hint="take this bound off the gate, or evaluate the adapter, or name a model in `against`",
            )
    held = [q for q in questions if q.part == "holdout"]
    if spec.measures and held and not any(q.reference for q in held):
        context.say("no held-out row has an answer, so only the general texts have a perplexity")


def _ask(
    spec: Spec, questions: list[Question], passes: list[dict[str, Any]], context: Context
) -> tuple[dict[str, list[Answer]], Measured]:
    """The answers of each pass, in the order of the questions, and what else was measured."""
    asked = context.work / "questions.jsonl"
    rows = [{"messages": list(q.messages), "where": q.where, "reference": q.reference} for q in questions]
    asked.write_bytes(b"".join(dg.canonical_json(row) + b"\n" for row in rows))
    referenced = [i for i, q in enumerate(questions) if q.part == "holdout" and q.reference]
    job = {
        "passes": passes, "questions": str(asked), "max_tokens": spec.max_tokens,
        "batch": spec.batch, "seed": spec.seed, "device": spec.device,
        "measure": {"rows": referenced, "texts": list(TEXTS)} if spec.measures else None,
        "tasks": {"names": spec.tasks, "folder": str(context.path(spec.tasks_folder)) if spec.tasks_folder else "",
                  "limit": spec.tasks_limit} if spec.tasks else None,
    }  # fmt: skip
    out = context.work / f"answers-{dg.of_json([job, rows]).removeprefix('sha256:')[:16]}.jsonl"
    if "tokens_per_second" in spec.gate:
        out.unlink(missing_ok=True)  # answers of a run that was killed are not timed
    job["out"] = str(out)

    def on_event(event: dict[str, Any]) -> None:
        if event.get("event") == "progress":
            context.say(Progress(event["task"], event["done"], event["total"], event["unit"], event["note"]))

    done = engine.worker("score", job, context.work, on_event)
    context.record("passes", done["passes"])
    for name, found in done["passes"].items():
        context.say(f"{name}: {found['tokens']} tokens, {found['tokens_per_second']:g} a second")
    context.record("device", done["device"])
    answers: dict[str, list[Answer]] = {p["name"]: [Answer("")] * len(questions) for p in passes}
    for said in exam.rows(out):
        answers[said["pass"]][said["index"]] = Answer.of(said)
    losses = done["losses"]
    measured = Measured(
        rows={name: found["rows"] for name, found in losses.items() if found["rows"]},
        texts={name: found["texts"] for name, found in losses.items()},
        tasks=done["tasks"],
        speed=done["passes"]["after"]["tokens_per_second"] if "tokens_per_second" in spec.gate else None,
    )
    return answers, measured


def _name(model: Artifact, context: Context) -> str:
    """What the report calls the model."""
    if model.kind == "adapter":
        return f"{base_of(model, context.store).meta.get('name', 'base')} + adapter"
    return str(model.meta.get("name") or "model")


def _file(context: Context, name: str, text: str) -> File:
    media = "text/html" if name.endswith(".html") else "application/json"
    return File(name, context.store.add_bytes(text.encode()), media)
