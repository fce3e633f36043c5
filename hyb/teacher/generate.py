"""From topics to rows: ask, read, check, and say what was dropped and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyb.formats import grounded, match, pairs
from hyb.formats.chat import Row, message
from hyb.formats.chat_files import Located
from hyb.serving.client import Address
from hyb.teacher.ask import Answer, Request, ask
from hyb.teacher.prompts import Prompts
from hyb.teacher.sources import Topic

SHOWN = 3
"""Examples in a prompt, and dropped pairs of each reason in a report."""


@dataclass(frozen=True)
class Wish:
    """How to generate. See `hyb.stages.data.Generate`."""

    model: str
    count: int
    temperature: float
    max_tokens: int
    seed: int
    parallel: int
    timeout: float
    verify: bool
    least: float = grounded.SHARE


@dataclass
class Report:
    """What came of it; only counts and texts, so that it can be kept with the data."""

    topics: int = 0
    pairs: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    cached: int = 0

    def drop(self, reason: str, topic: Topic, question: str = "", answer: str = "") -> None:
        """Note a pair, or a whole topic, that is not kept."""
        self.dropped[reason] += 1
        examples = self.shown.setdefault(reason, [])
        if len(examples) < SHOWN:
            examples.append({"source": f"{topic.source}:{topic.line}", "question": question, "answer": answer})

    def as_json(self) -> dict[str, Any]:
        """For `stats.json`."""
        return {
            "topics": self.topics, "pairs": self.pairs, "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())), "examples": dict(sorted(self.shown.items())),
        }  # fmt: skip


def rows(
    topics: Sequence[Topic],
    address: Address,
    prompts: Prompts,
    wish: Wish,
    cache: Path,
    told: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[list[Located], Report]:
    """The rows that are kept, in the order of topics, and the report. Raises HybError when the teacher is not there."""
    report = Report(topics=len(topics))
    asked = [Request(prompt_of(t, prompts, wish.count), _body(wish)) for t in topics]
    answers = _ask(address, asked, cache, wish, lambda n: told("asking the teacher", n, len(asked)))
    report.cached = sum(a.cached for a in answers)
    kept: list[tuple[Topic, pairs.Pair]] = []
    seen: set[str] = set()
    for topic, answer in zip(topics, answers, strict=True):
        kept += [(topic, p) for p in _good(topic, answer, wish, seen, report)]
    if wish.verify:
        kept = _verified(kept, address, prompts, wish, cache, report, told)
    report.kept = len(kept)
    return [Located(_row(pair), topic.source, topic.line) for topic, pair in kept], report


def prompt_of(topic: Topic, prompts: Prompts, count: int) -> str:
    """What the teacher is told for a topic."""
    examples = "".join(f"\nQuestion: {e.question}\nAnswer: {e.answer}\n" for e in topic.examples[:SHOWN])
    shown = f"\nExamples:\n{examples}" if examples else ""
    if topic.passage is None:
        return prompts.fill("skill", task=topic.task, examples=shown, count=str(count))
    return prompts.fill("knowledge", passage=topic.passage.whole, examples=shown, count=str(count))


def _good(topic: Topic, answer: Answer, wish: Wish, seen: set[str], report: Report) -> list[pairs.Pair]:
    if answer.error:
        report.drop("teacher: no answer", topic, answer=answer.error)
        return []
    found = pairs.parse(answer.text)
    if not found:
        report.drop("teacher: no question and answer in what it wrote", topic, answer=answer.text[:200])
    report.pairs += len(found)
    good = []
    for pair in found:
        reason = problem(topic, pair, wish.least) or ("asked already" if _key(pair.question) in seen else "")
        if reason:
            report.drop(reason, topic, pair.question, pair.answer)
            continue
        seen.add(_key(pair.question))
        good.append(pair)
    return good


def problem(topic: Topic, pair: pairs.Pair, least: float) -> str:
    """Why a pair is of no use; "" when it is good."""
    if pair.question.strip(".… ") == "" or "..." in (pair.question, pair.answer):
        return "is the form, not filled in"
    if _key(pair.question) == _key(pair.answer):
        return "answers with the question"
    if any(_key(e.question) == _key(pair.question) for e in topic.examples):
        return "repeats an example"
    if topic.passage is None:
        return ""
    return grounded.problem(pair.question, pair.answer, topic.passage.whole, least=least)


def _verified(
    kept: list[tuple[Topic, pairs.Pair]],
    address: Address,
    prompts: Prompts,
    wish: Wish,
    cache: Path,
    report: Report,
    told: Callable[[str, int, int], None],
) -> list[tuple[Topic, pairs.Pair]]:
    """Those that the teacher itself, asked again with the text before it, says yes to."""
    checked = [(t, p) for t, p in kept if t.passage]
    body = {**_body(wish), "temperature": 0.0}
    asked = [
        Request(prompts.fill("verify", passage=t.passage.whole if t.passage else "", question=p.question,
                             answer=p.answer), body)
        for t, p in checked
    ]  # fmt: skip
    answers = _ask(address, asked, cache, wish, lambda n: told("having the answers checked", n, len(asked)))
    no = set()
    for (topic, pair), answer in zip(checked, answers, strict=True):
        said = re.search(r"\b(yes|no|sim|não)\b", match.split_thinking(answer.text)[1].lower())
        if not said or said[1] not in ("yes", "sim"):
            report.drop("the teacher does not stand by it", topic, pair.question, pair.answer)
            no.add((topic.source, topic.line, pair))
    return [(t, p) for t, p in kept if (t.source, t.line, p) not in no]


def _ask(
    address: Address, asked: Sequence[Request], cache: Path, wish: Wish, told: Callable[[int], None]
) -> list[Answer]:
    return ask(address, asked, cache, parallel=wish.parallel, timeout=wish.timeout, told=told) if asked else []


def _body(wish: Wish) -> dict[str, Any]:
    return {"model": wish.model, "temperature": wish.temperature, "max_tokens": wish.max_tokens, "seed": wish.seed}


def _row(pair: pairs.Pair) -> Row:
    said = [message("user", pair.question, "question"), message("assistant", pair.answer, "answer")]
    return Row("generated", said)


def _key(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def told_dropped(dropped: Mapping[str, int]) -> list[str]:
    """The reasons with their counts, most first, for people."""
    return [f"{count} dropped: {reason}" for reason, count in sorted(dropped.items(), key=lambda d: -d[1])]
