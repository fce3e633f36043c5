"""From questions and answers to a report: verdicts, scores, the gate's word. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hyb.formats import match
from hyb.formats.gate import Bound

SETS = {"holdout": "recall", "control": "control"}
"""A data set's file → the score that it gives."""

SHOWN = 20  # failed questions that a message lists
_CLIP = 160  # characters of an answer in such a list


@dataclass(frozen=True)
class Question:
    """A held-out or control row. `messages` ends with the user's, `reference` is the row's answer."""

    part: str
    id: str
    messages: tuple[Mapping[str, str], ...]
    expect: match.Expect
    reference: str = ""
    where: str = ""

    @property
    def text(self) -> str:
        """The user's last message."""
        return next(m["content"] for m in reversed(self.messages) if m["role"] == "user")


@dataclass(frozen=True)
class Answer:
    """What a model said, with its reasoning apart."""

    text: str
    reasoning: str = ""
    ended: bool = True
    """By itself, not cut at `max_tokens`."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Answer:
        """From an event of the worker `score`."""
        reasoning, text = match.split_thinking(said["text"], opened=said["thinking"])
        return cls(text, reasoning, said["ended"])

    def whole(self) -> Answer:
        """With the reasoning as part of the answer."""
        return replace(self, text=f"{self.reasoning}\n\n{self.text}".strip())


def question(part: str, row: Mapping[str, Any]) -> Question:
    """A line of `holdout.jsonl` or `control.jsonl`. Raises ValueError when it expects nothing that can be compared."""
    messages = list(row["messages"])
    reference = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
    expect = match.parse(row["expect"]) if row.get("expect") else match.of_answer(reference)
    plain = tuple({"role": m["role"], "content": m["content"]} for m in messages)
    meta = row.get("meta", {})
    return Question(part, row["id"], plain, expect, reference, f"{meta.get('source', part)}:{meta.get('line', 0)}")


def build(
    questions: Sequence[Question], passes: Mapping[str, Sequence[Answer]], gate: Sequence[Bound], *, exclusive: bool
) -> dict[str, Any]:
    """The report as JSON. `passes`: "after" and maybe "before" → an answer for each question.

    `exclusive`: an answer that also gives what another question of its set expects does not count. Raises ValueError
    when the gate names a score that these passes do not give.
    """
    entries = [_entry(q, {name: answers[i] for name, answers in passes.items()}) for i, q in enumerate(questions)]
    for name, answers in passes.items():
        for i, verdict in enumerate(_verdicts(questions, answers, exclusive)):
            entries[i][name] |= {"passed": verdict.passed} | ({"why": verdict.why} if verdict.why else {})
    scores, right = _scores(entries, passes)
    wrong = [b.score for b in gate if b.score not in scores]
    if wrong:
        raise ValueError(", ".join(f"`{w}`" for w in wrong))
    checks = [
        {"score": b.score, "bound": str(b), "value": _rounded(scores[b.score]), "holds": b.holds(scores[b.score])}
        for b in gate
    ]
    return {
        "passed": all(c["holds"] for c in checks),
        "gate": checks,
        "scores": {name: _rounded(score) for name, score in scores.items()},
        "right": right,
        "questions": entries,
    }


def failed(report: Mapping[str, Any]) -> list[str]:
    """What a person should read when the gate says no: each bound that does not hold, then the failed questions."""
    lines = [f"{c['score']} is {c['value']:g}, wanted {c['bound']}" for c in report["gate"] if not c["holds"]]
    wrong = [e for e in report["questions"] if not e["after"]["passed"]]
    lines += [f"{e['question']} → {_clip(e['after']['answer'])} ({e['after']['why']})" for e in wrong[:SHOWN]]
    return lines + ([f"and {len(wrong) - SHOWN} more questions"] if len(wrong) > SHOWN else [])


def _entry(q: Question, answers: Mapping[str, Answer]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "set": q.part, "id": q.id, "where": q.where, "question": q.text, "expect": q.expect.as_json(),
        "expected": str(q.expect),
    }  # fmt: skip
    if len(q.messages) > 1:
        entry["messages"] = [dict(m) for m in q.messages]
    for name, answer in answers.items():
        entry[name] = {"answer": answer.text}
        entry[name] |= {"reasoning_characters": len(answer.reasoning)} if answer.reasoning else {}
        entry[name] |= {} if answer.ended else {"cut": True}
    return entry


def _verdicts(questions: Sequence[Question], answers: Sequence[Answer], exclusive: bool) -> Iterable[match.Verdict]:
    others = {part: match.index(q.expect for q in questions if q.part == part) for part in SETS}
    for q, answer in zip(questions, answers, strict=True):
        verdict = match.judge(q.expect, answer.text)
        if verdict.passed and exclusive:
            known = "\n".join((*(m["content"] for m in q.messages), q.reference))
            if stranger := match.foreign(answer.text, q.expect, known, others[q.part]):
                verdict = match.Verdict(False, f"also gives `{stranger}`, the answer to another question")
        yield verdict


def _scores(
    entries: Sequence[Mapping[str, Any]], passes: Iterable[str]
) -> tuple[dict[str, float], dict[str, list[int]]]:
    """(score → value, score → [right, of how many])."""
    scores: dict[str, float] = {}
    right: dict[str, list[int]] = {}
    for part, score in SETS.items():
        of_part = [e for e in entries if e["set"] == part]
        for name in passes:
            if of_part:
                full = score if name == "after" else f"{score}_{name}"
                right[full] = [sum(e[name]["passed"] for e in of_part), len(of_part)]
                scores[full] = right[full][0] / len(of_part)
    controls = [e for e in entries if e["set"] == "control" and "before" in e]
    if controls:
        scores["control_lost"] = sum(e["before"]["passed"] and not e["after"]["passed"] for e in controls)
    return scores, right


def _rounded(score: float) -> float:
    return round(score, 4)


def _clip(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _CLIP else flat[: _CLIP - 1] + "…"
