"""What a teacher wrote → questions with answers. Pure; nothing that it may write raises.

Teachers are asked for JSON lines and write arrays, fences, thoughts before them, `Q:`/`A:`, or half of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hyb.formats import match

TRIES = 200
"""Brackets that open no JSON after which a text is left alone: each costs a reading of what follows."""
_OPENING = re.compile(r"[\[{]")
_QUESTION, _ANSWER = ("question", "q", "instruction", "pergunta"), ("answer", "a", "response", "output", "resposta")
_LABEL = re.compile(
    r"[\W\d]{0,20}(?:(?P<q>Q(?:uestion)?|P(?:ergunta)?)|A(?:nswer)?|R(?:esposta)?)\W{0,9}?\d{0,4}\s{0,9}[:.)][*_]*(?P<said>.*)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Pair:
    """A question with its answer."""

    question: str
    answer: str


def parse(text: str) -> list[Pair]:
    """The pairs in a teacher's answer, in order; none when there are none."""
    _, said = match.split_thinking(text, opened=False)
    found = [pair for value in _values(said) for pair in _pairs(value)]
    if not found:
        found = list(_labelled(said))
    return [Pair(_whole(p.question), _whole(p.answer)) for p in found if p.question and p.answer]


def _whole(text: str) -> str:
    """A text without halves of characters, which JSON can say (`\\ud800`) and no file can hold."""
    return text.encode(errors="replace").decode()


def _labelled(text: str) -> Iterator[Pair]:
    """What stands behind `Q:` and `A:` or their like at the beginnings of lines."""
    question, answer = list[str](), list[str]()
    for line in [*text.splitlines(), "Q:"]:
        label = _LABEL.match(line)
        if label and label["q"]:
            if answer:
                yield Pair("\n".join(question).strip(), "\n".join(answer).strip())
            question, answer = [label["said"]], []
        elif label and question and not answer:
            answer = [label["said"]]
        elif question:
            (answer or question).append(line)


def _values(text: str) -> Iterator[Any]:
    """Every JSON object or array that stands in a text, whatever is around it."""
    decoder = json.JSONDecoder()
    place = failed = 0
    while failed < TRIES and (found := _OPENING.search(text, place)):
        try:
            value, place = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            place, failed = found.start() + 1, failed + 1
            continue
        yield value


def _pairs(value: Any) -> Iterator[Pair]:
    if isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                yield from _pairs(item)
    elif isinstance(value, dict):
        lower = {str(k).lower(): v for k, v in value.items()}
        question = next((lower[k] for k in _QUESTION if isinstance(lower.get(k), str)), "")
        answer = next((lower[k] for k in _ANSWER if isinstance(lower.get(k), (str, int, float))), "")
        if question and answer != "":
            yield Pair(question.strip(), str(answer).strip())
            return
        for inner in lower.values():
            if isinstance(inner, (list, dict)):
                yield from _pairs(inner)
