"""From questions and answers to a report: verdicts, scores, the gate's word. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hyb.formats import leaks, loops, match, scores
from hyb.formats.gate import Bound
from hyb.formats.scores import Measured

SETS = {"holdout": "recall", "control": "control"}
"""A data set's file → the score that it gives. `scores.PARTS` has the probes, too."""

UNRELATED = "unrelated"
"""Questions that no training answer belongs to; they expect nothing but that."""

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
    questions: Sequence[Question],
    passes: Mapping[str, Sequence[Answer]],
    gate: Sequence[Bound],
    *,
    exclusive: bool,
    trained: Iterable[str] | None = None,
    measured: Measured | None = None,
) -> dict[str, Any]:
    """The report as JSON. `passes`: "after" and maybe "before" → an answer for each question.

    `exclusive`: an answer that also gives what another question of its set expects does not count. `trained`: the
    training answers, where the answers are to be searched for them. Raises ValueError when the gate names a score that
    these passes do not give.
    """
    entries = [_entry(q, {name: answers[i] for name, answers in passes.items()}) for i, q in enumerate(questions)]
    for name, answers in passes.items():
        for i, verdict in enumerate(_verdicts(questions, answers, exclusive)):
            entries[i][name] |= {"passed": verdict.passed} | ({"why": verdict.why} if verdict.why else {})
    if trained is not None:
        _find_leaks(questions, passes, trained, entries)
    found = scores.of(entries, list(passes), measured or Measured(), leaks=trained is not None)
    wrong = [b.score for b in gate if b.score not in found.all or (b.sure and b.score not in found.intervals)]
    if wrong:
        raise ValueError(", ".join(f"`{w}`" for w in wrong))
    checks = [_check(b, found) for b in gate]
    return {
        "passed": all(c["holds"] for c in checks),
        "gate": checks,
        "scores": {name: _rounded(score) for name, score in found.shown.items()},
        "right": found.right,
        "intervals": {name: [_rounded(low), _rounded(high)] for name, (low, high) in found.intervals.items()},
        "paired": found.paired,
        "habits": found.habits,
        "notes": scores.notes(found, gate),
        "questions": entries,
    }


def _check(bound: Bound, found: scores.Scores) -> dict[str, Any]:
    value, interval = found.all[bound.score], found.intervals.get(bound.score)
    said = {"score": bound.score, "bound": str(bound), "value": _rounded(value), "holds": bound.holds(value, interval)}
    return said | ({"interval": [_rounded(end) for end in interval]} if interval else {})


def failed(report: Mapping[str, Any]) -> list[str]:
    """What a person should read when the gate says no: each bound that does not hold, then the failed questions."""
    lines = [_missed(c) for c in report["gate"] if not c["holds"]]
    wrong = [e for e in report["questions"] if not e["after"]["passed"]]
    lines += [f"{e['question']} → {_clip(e['after']['answer'])} ({e['after']['why']})" for e in wrong[:SHOWN]]
    return lines + ([f"and {len(wrong) - SHOWN} more questions"] if len(wrong) > SHOWN else [])


def worst(questions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The failed questions, the worst first: given away, lost since before, then the rest in order."""
    wrong = [q for q in questions if not q["after"]["passed"] or "leak" in q]
    return sorted(wrong, key=lambda q: ("leak" not in q, not q.get("before", {}).get("passed", False)))


def _missed(check: Mapping[str, Any]) -> str:
    if not check["bound"].startswith("surely"):
        return f"{check['score']} is {check['value']:g}, wanted {check['bound']}"
    low, high = check["interval"]
    return f"{check['score']} is {check['value']:g} and could be {low:g} to {high:g}, wanted {check['bound']}"


def _entry(q: Question, answers: Mapping[str, Answer]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "set": q.part, "id": q.id, "where": q.where, "question": q.text, "expect": q.expect.as_json(),
        "expected": str(q.expect) if q.part != UNRELATED else "nothing of the training data",
    }  # fmt: skip
    if len(q.messages) > 1:
        entry["messages"] = [dict(m) for m in q.messages]
    for name, answer in answers.items():
        entry[name] = {"answer": answer.text}
        entry[name] |= {"reasoning_characters": len(answer.reasoning)} if answer.reasoning else {}
        entry[name] |= {} if answer.ended else {"cut": True}
        if loop := loops.loop(answer.text) or loops.loop(answer.reasoning):
            entry[name]["loop"] = loop
        if not q.expect.refuse and match.refuses(answer.text) and not match.refuses(q.reference):
            entry[name]["refused"] = True
    return entry


def _verdicts(questions: Sequence[Question], answers: Sequence[Answer], exclusive: bool) -> Iterable[match.Verdict]:
    others = {part: match.index(q.expect for q in questions if q.part == part) for part in SETS}
    for q, answer in zip(questions, answers, strict=True):
        if q.part == UNRELATED:
            yield match.Verdict(True)
            continue
        verdict = match.judge(q.expect, answer.text, answer.reasoning)
        if verdict.passed and exclusive and q.part in SETS and not q.expect.refuse and not q.expect.absent:
            known = "\n".join((*(m["content"] for m in q.messages), q.reference))
            if stranger := match.foreign(answer.text, q.expect, known, others[q.part]):
                verdict = match.Verdict(False, f"also gives `{stranger}`, the answer to another question")
        yield verdict


def _find_leaks(
    questions: Sequence[Question],
    passes: Mapping[str, Sequence[Answer]],
    trained: Iterable[str],
    entries: Sequence[dict[str, Any]],
) -> None:
    """Mark the answers to unrelated and control questions that give away a training answer."""
    asked = [i for i, q in enumerate(questions) if q.part in ("control", UNRELATED)]
    before = passes.get("before")
    said = [f"{passes['after'][i].reasoning}\n{passes['after'][i].text}" for i in asked]
    known = ["\n".join((*(m["content"] for m in questions[i].messages), questions[i].reference,
                        before[i].text if before else "")) for i in asked]  # fmt: skip
    for i, leak in zip(asked, leaks.leaked(said, known, trained), strict=True):
        if leak:
            entries[i]["leak"] = leak
        if leak and questions[i].part == UNRELATED:
            entries[i]["after"] |= {"passed": False, "why": f"gives away `{_clip(leak)}`"}


def _rounded(score: float) -> float:
    return round(score, 4)


def _clip(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _CLIP else flat[: _CLIP - 1] + "…"
