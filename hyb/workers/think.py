"""Have a reasoning model write the reasoning for answers that are known, and keep it only where it got there.

Each trained answer that has no reasoning is asked for: first as the question stands, then, where the answer was not the
known one, with the answer told beforehand (`hyb/templates/reasoning.txt`). What is kept is the reasoning, before the
known answer. Dropped is what comes to another answer or to none, goes round in circles, or speaks of what it was told.
Greedy, like `hyb.workers.score`, whose speaker this is.

What a model said is a file of the cache, named by what it was asked: a run that was killed asks only the rest.

Job: `model`, `model_digest`, `quantize`, `train` (rows), `out` (rows with reasoning), `cache` (folder), `max_tokens`,
`batch`, `seed`, `device`. Done: `asked`, `kept`, `unaided` (of the kept), `cached`, `dropped` {why: how many},
`examples` {why: places}, `rows`, `words` of the reasoning.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import fs, templates
from hyb.formats import match, reasoning
from hyb.workers import labels, protocol
from hyb.workers.protocol import Failed
from hyb.workers.score import Asked, Said, TorchSpeaker

SHOWN = 3  # places of each reason


@dataclass
class Turn:
    """An answer that needs reasoning: message `number` of a row."""

    row: dict[str, Any]
    number: int
    thought: str = ""
    why: str = ""
    unaided: bool = True

    @property
    def before(self) -> list[dict[str, str]]:
        """What stands before it, as a model is asked."""
        return [{"role": m["role"], "content": m["content"]} for m in self.row["messages"][: self.number]]

    @property
    def answer(self) -> str:
        """The known one."""
        return str(self.row["messages"][self.number]["content"])

    def told(self) -> list[dict[str, str]]:
        """The same question, the answer told with it."""
        *earlier, last = self.before
        text = templates.reasoning_prompt().format(question=last["content"], answer=self.answer).strip()
        return [*earlier, {**last, "content": text}]


@dataclass
class Asking:
    """The model, loaded when there is something to ask, and what it said before."""

    job: dict[str, Any]
    cached: int = 0
    speaker: TorchSpeaker | None = field(default=None, repr=False)

    def said(self, questions: Sequence[list[dict[str, str]]], places: Sequence[str], task: str) -> list[Said]:
        """What the model says to each. Raises Failed."""
        paths = [self._path(q) for q in questions]
        found = [_kept(p, n) for n, p in enumerate(paths)]
        todo = [n for n, said in enumerate(found) if said is None]
        self.cached += len(found) - len(todo)
        done = len(found) - len(todo)
        if todo:
            self.speaker = self.speaker or self._load()
            asked = [Asked(list(questions[n]), places[n]) for n in todo]
            for said in self.speaker.answers(asked):
                number = todo[said.index]
                found[number] = Said(number, said.text, said.thinking, said.tokens, said.ended)
                fs.write_atomic(paths[number], json.dumps({**vars(said), "index": 0}, ensure_ascii=False).encode())
                done += 1
                protocol.progress(task, done, len(questions), "answer", "")
        return [said for said in found if said is not None]

    def _load(self) -> TorchSpeaker:
        speaker = TorchSpeaker(self.job["model"], self.job["quantize"], self.job)
        if "think>" not in str(speaker.tokenizer.chat_template):
            raise Failed(
                "`think: generate` needs a model that reasons, and this one's template has no `<think>`",
                hint="take a reasoning model, or leave `think` out",
            )
        return speaker

    def _path(self, question: list[dict[str, str]]) -> Path:
        names = ("model_digest", "quantize", "max_tokens")
        key = dg.of_json({"messages": question, **{n: self.job[n] for n in names}, "prompt": _PROMPT})
        return Path(self.job["cache"]) / (key.removeprefix("sha256:") + ".json")


_PROMPT = templates.pair("deepseek-r1").as_json()["inference"]


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    rows = [json.loads(line) for line in Path(job["train"]).read_bytes().splitlines() if line.strip()]
    turns, cached = reason(rows, job)
    kept = [row for row in rows if trains(row)]
    fs.write_atomic(Path(job["out"]), b"".join(dg.canonical_json(row) + b"\n" for row in kept))
    good = [t for t in turns if not t.why]
    examples: dict[str, list[str]] = {}
    for turn in (t for t in turns if t.why):
        examples.setdefault(turn.why, []).append(labels.where(turn.row))
    return {
        "asked": len(turns), "kept": len(good), "unaided": sum(t.unaided for t in good), "cached": cached,
        "dropped": dict(sorted(Counter(t.why for t in turns if t.why).items())),
        "examples": {why: places[:SHOWN] for why, places in sorted(examples.items())}, "rows": len(kept),
        "words": reasoning.words([t.thought for t in good]),
    }  # fmt: skip


def reason(rows: Sequence[dict[str, Any]], job: dict[str, Any]) -> tuple[list[Turn], int]:
    """Write reasoning into the rows, or take an answer out of training. The turns, and how many came from the cache."""
    turns = [turn for row in rows for turn in wanting(row)]
    Path(job["cache"]).mkdir(parents=True, exist_ok=True)
    asking = Asking(job)
    _try(turns, asking, told=False)
    _try([t for t in turns if t.why], asking, told=True)
    for turn in turns:
        _settle(turn)
    return turns, asking.cached


def trains(row: dict[str, Any]) -> bool:
    """Whether something of the row is trained."""
    return "messages" not in row or any(m.get("train") for m in row["messages"])


def wanting(row: dict[str, Any]) -> list[Turn]:
    """The trained answers of a row that have no reasoning. A call of a tool needs none."""
    if row.get("label") is False:
        return []
    return [
        Turn(row, n)
        for n, m in enumerate(row.get("messages", []))
        if m["role"] == "assistant" and m.get("train", True) and not m.get("tool_calls") and not labels.thought(m)[0]
    ]


def _try(turns: Sequence[Turn], asking: Asking, *, told: bool) -> None:
    """Ask for the reasoning of each, and note it or why it is of no use."""
    questions = [t.told() if told else t.before for t in turns]
    task = "writing reasoning, the answer told" if told else "writing reasoning"
    said = asking.said(questions, [labels.where(t.row) for t in turns], task)
    for turn, one in zip(turns, said, strict=True):
        turn.thought, turn.why, turn.unaided = *_judged(turn, one, told), not told


def _judged(turn: Turn, one: Said, told: bool) -> tuple[str, str]:
    try:
        expect = match.of_answer(turn.answer) if told else reasoning.expected(turn.row, turn.number)
    except ValueError:
        return "", "nothing in the known answer can be compared"
    return reasoning.usable(expect, one.text, opened=one.thinking, ended=one.ended, told=told)


def _settle(turn: Turn) -> None:
    """Write the reasoning into the row, or take the answer out of training."""
    message = turn.row["messages"][turn.number]
    if turn.why:
        message["train"] = False
    else:
        message["train"] = True
        message["reasoning"] = turn.thought


def _kept(path: Path, number: int) -> Said | None:
    """What was said in an earlier run; None where there is nothing, or half of it."""
    try:
        return Said(**{**json.loads(path.read_bytes()), "index": number})
    except (OSError, ValueError, TypeError):
        return None


if __name__ == "__main__":
    protocol.main(work)
