"""What is asked in an exam beside a data set's own questions, and of whom: probes, unrelated questions, a rival."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.formats import chat_files, curve, leaks, match
from hyb.formats import report as reports
from hyb.formats.report import Answer, Question
from hyb.progress import Progress
from hyb.serving import endpoint, questions
from hyb.stages.base import Context

PATIENCE = 10.0  # seconds for a pattern and the answers to its question
_LEAST_PROBES = "a probe says what must not happen: `absent` (texts that must not be said), `refuse: true`, or another"


def probes(source: str, context: Context) -> list[Question]:
    """The questions of a probes file or folder, of any shape that data may have. Raises HybError with all mistakes."""
    mistakes = chat_files.Mistakes()
    found = []
    for file in chat_files.files(context.path(source)):
        for located in chat_files.rows(file, mistakes, answered=False):
            row = located.as_json()
            if not row.get("messages"):
                mistakes.add(located.source, located.line, "asks nothing")
            elif not row.get("expect"):
                mistakes.add(located.source, located.line, "has no `expect`")
            else:
                found.append(reports.question("probe", row))
    if mistakes.count:
        error = mistakes.error(f"`{source}`")
        raise HybError(error.message, hint=_LEAST_PROBES, details=error.details)
    if not found:
        raise HybError(f"`{source}` has no probes", hint=_LEAST_PROBES)
    return found


def unrelated() -> list[Question]:
    """Questions that no training answer belongs to, see hyb.formats.leaks."""
    return [
        Question(reports.UNRELATED, f"unrelated-{n}", ({"role": "user", "content": text},), match.Expect(), "", "hyb")
        for n, text in enumerate(leaks.UNRELATED, 1)
    ]


def trained(data: Artifact, context: Context) -> Iterator[str]:
    """All answers that were trained."""
    for row in rows(context.store.view(data) / "train.jsonl"):
        yield from (m["content"] for m in row.get("messages", ()) if m["role"] == "assistant")
        if row.get("text"):
            yield row["text"]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; none where there is no file."""
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


def ask_endpoint(
    target: str, model: str, asked: Sequence[Question], max_tokens: int, context: Context
) -> tuple[list[Answer], dict[str, str]]:
    """The answers of a running endpoint, and what it is: {"name", "url", "served"}. Raises HybError."""
    found = endpoint.find(target, os.environ, offline=context.offline)
    if warning := endpoint.unencrypted(found.address):
        context.say(warning)

    def told(done: int) -> None:
        context.say(Progress("asking the endpoint", done, len(asked), "question", ""))

    messages = [[dict(m) for m in q.messages] for q in asked]
    served, said = questions.ask(found, messages, model=model, max_tokens=max_tokens, told=told)
    return [Answer.of(s) for s in said], {
        "name": f"{served} at {found.name}",
        "url": found.address.url,
        "served": served,
    }


def patterns(asked: Sequence[Question], answers: Mapping[str, Sequence[Answer]]) -> None:
    """Try each pattern on each answer, against the clock. Raises HybError for one without an end in `PATIENCE` seconds.

    Python's engine has no such limit, and a repeat within a repeat can take longer than a life on a long answer. Only a
    process's first thread can be stopped so; in another one nothing is tried.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for i, question in enumerate(asked):
        if question.expect.regex:
            error = HybError(
                f"{question.where}: the pattern `{question.expect.regex}` finds no end in {PATIENCE:g} s",
                hint="write it without a repeat in a repeat, such as `(\\w+ ?)+`",
            )
            with _in_time(PATIENCE, error):
                for given in answers.values():
                    match.judge(question.expect, given[i].text)


@contextlib.contextmanager
def _in_time(seconds: float, error: HybError) -> Iterator[None]:
    """What takes longer ends with this error."""

    def stop(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def card(model: Artifact, data: Artifact, context: Context) -> dict[str, Any]:
    """What the report says of its data set and of the licences; nothing of this machine."""
    stats = json.loads(context.store.read(data.file("stats.json").blob.digest))
    licences = {"model": model.meta.get("license"), "data": data.meta.get("license")}
    if model.kind == "adapter" and model.needs and context.store.has(model.needs[0]):
        licences["model"] = context.store.artifact(model.needs[0]).meta.get("license")
    kept = {k: stats[k] for k in ("parts", "shapes", "overlap", "attribution") if stats.get(k)}
    return {"data": kept, "licenses": {k: str(v) for k, v in licences.items() if v}}


def training_curve(model: Artifact, context: Context) -> str:
    """The curve of the training loss as SVG without a style of its own; "" where the adapter is not in the store."""
    digest = model.digest if model.kind == "adapter" else model.meta.get("adapter")
    if not digest or not context.store.has(digest):
        return ""
    adapter = context.store.artifact(digest)
    if "metrics.jsonl" not in {f.path for f in adapter.files}:
        return ""
    steps = list(rows(context.store.view(adapter) / "metrics.jsonl"))
    losses = [float(s["loss"]) for s in steps if isinstance(s.get("loss"), (int, float))]
    return curve.svg(losses, styled=False) if losses else ""
