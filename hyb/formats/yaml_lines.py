"""YAML as people mean it: plain data plus the line of every key.

The YAML 1.2 core schema for scalars (`no` is a word, `012` is twelve), no anchors, aliases, tags or second documents,
no key twice, at most 32 levels and 1 MiB. PyYAML parses; only the building of values is ours, since its loaders
resolve YAML 1.1 scalars, let the last of two equal keys win, and expand alias bombs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_DIGITS = 100
Path = tuple[str | int, ...]

_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {w: True for w in ("true", "True", "TRUE")} | {w: False for w in ("false", "False", "FALSE")}
_WORDS |= {".nan": float("nan"), ".NaN": float("nan"), ".inf": float("inf"), "-.inf": float("-inf")}


class YamlError(ValueError):
    """Not the YAML we take; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class Document:
    """`value`: the data. `lines`: path of keys and positions → line, from 1. `mistakes`: (line, text)."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    mistakes: list[tuple[int, str]] = field(default_factory=list)


def load(text: str) -> Document:
    """Parse one document. Raises YamlError where the syntax itself is broken; other mistakes are collected."""
    if len(text.encode()) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES >> 20} MiB", 1)
    document = Document()
    try:
        events = _checked(yaml.parse(text, Loader=yaml.SafeLoader), document)
        first = next(events, None)
        if first is not None:
            document.value = _build(first, events, (), document)
        extra = next(events, None)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise YamlError(getattr(error, "problem", None) or str(error), mark.line + 1 if mark else 1) from error
    if extra is not None:
        document.mistakes.append((extra.start_mark.line + 1, "a second document; only one is read"))
    return document


def _checked(events: Iterator[Any], document: Document) -> Iterator[Any]:
    """The events that build values; anchors, aliases, tags and too deep nesting are mistakes."""
    depth = 0
    for event in events:
        line = event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels", line)
        if isinstance(event, yaml.AliasEvent):
            raise YamlError(f"an alias (`*{event.anchor}`); write the value out", line)
        if getattr(event, "anchor", None):
            document.mistakes.append((line, f"an anchor (`&{event.anchor}`); write the value out"))
        if getattr(event, "tag", None) not in (None, "!"):
            document.mistakes.append((line, f"a tag (`{event.tag}`); plain values only"))
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent, yaml.CollectionEndEvent)):
            yield event


def _build(event: Any, events: Iterator[Any], path: Path, document: Document) -> Any:
    document.lines.setdefault(path, event.start_mark.line + 1)
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_build(item, events, (*path, len(items)), document))
        return items
    mapping: dict[str, Any] = {}
    while not isinstance(key := next(events), yaml.MappingEndEvent):
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarEvent):
            raise YamlError("a key that is not a word", line)
        if _UNSEEN.search(key.value):
            raise YamlError("a control character, or half of a character, in a key", line)
        if key.value in mapping:
            first = document.lines[(*path, key.value)]
            document.mistakes.append((line, f"key `{key.value}` for the second time (first in line {first})"))
        document.lines[(*path, key.value)] = line
        mapping[key.value] = _build(next(events), events, (*path, key.value), document)
    return mapping


def in_yaml_1_1(word: str) -> str:
    """What a word without quotes is to a reader of YAML 1.1 where it is a text to YAML 1.2; "" where they agree."""
    if word in _WORDS or _INT.fullmatch(word) or _FLOAT.fullmatch(word):
        return ""
    resolve: Any = yaml.SafeLoader("").resolve
    tag = resolve(yaml.ScalarNode, word, (True, False)).rpartition(":")[2]
    kinds = {"bool": "true or false", "int": "a number", "float": "a number", "timestamp": "a date"}
    return "" if tag == "str" else kinds.get(tag, "no text")


def _scalar(event: Any) -> Any:
    text: str = event.value
    if _UNSEEN.search(text):
        raise YamlError("a control character, or half of a character, in a text", event.start_mark.line + 1)
    if event.style is not None:  # quoted or a block: always text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise YamlError(f"a number of {len(text)} digits", event.start_mark.line + 1)
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
