"""The fields of Kubernetes documents, each with its place. Pure, and safe with hostile YAML.

Read as a stream of events: nothing is built, an alias is not followed, depth and size are bounded. JSON is YAML here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 200
Path = tuple[str | int, ...]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LOOKS = re.compile(rb"(?m)^\s*[\"']?(?:apiVersion|kind)[\"']?\s*:|[{,]\s*\"(?:apiVersion|kind)\"\s*:")


@dataclass(frozen=True)
class Field:
    """A scalar. `path`: keys and positions from the document's root; `line`, `last`: its first and last line."""

    path: Path
    value: str
    line: int
    last: int


@dataclass
class Document:
    """One YAML document: its fields, and the objects in it (path → kind and name): a List holds several."""

    fields: list[Field] = field(default_factory=list)

    def owner(self, path: Path) -> tuple[str, str, Path]:
        """(kind, name, path below it) of the object that a field belongs to: the nearest one that has a kind."""
        if self._kinds is None:
            self._kinds = {f.path[:-1]: f.value for f in self.fields if f.path and f.path[-1] == "kind"}
            self._names = {f.path[:-2]: f.value for f in self.fields if f.path[-2:] == ("metadata", "name")}
        for length in range(len(path), -1, -1):
            if (root := path[:length]) in self._kinds:
                return self._kinds[root], self._names.get(root, ""), path[length:]
        return "", "", path

    def value(self, path: Path) -> str:
        """The scalar at a path; "" without one."""
        if self._values is None:
            self._values = {f.path: f.value for f in self.fields}
        return self._values.get(path, "")

    _kinds: dict[Path, str] | None = None
    _names: dict[Path, str] = field(default_factory=dict)
    _values: dict[Path, str] | None = None


def looks_like_one(head: bytes) -> bool:
    """True for a text that may be a Kubernetes document."""
    return bool(_LOOKS.search(head))


def dotted(path: Path) -> str:
    """`spec.containers[0].env[1].value`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def documents(text: str) -> list[Document]:
    """All documents of a YAML text. Raises ValueError for what is no YAML, or nested too deeply."""
    found: list[Document] = []
    try:
        for event in _with_paths(yaml.parse(text, Loader=_LOADER)):
            if event is None:
                found.append(Document())
            elif found:
                found[-1].fields.append(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"no YAML{f' (line {mark.line + 1})' if mark else ''}") from error
    return found


def _with_paths(events: Iterator[Any]) -> Iterator[Field | None]:
    """A Field for each scalar that is a value or a key's own; None where a document begins."""
    stack: list[list[Any]] = []  # [is a mapping, the current key or position, whether a key comes next]
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            stack = []
            yield None
        elif isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
            _advance(stack)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(stack) >= MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
            stack.append([True, "", True] if isinstance(event, yaml.MappingStartEvent) else [False, 0, False])
        elif isinstance(event, yaml.ScalarEvent) and stack and stack[-1][2]:
            stack[-1][1:] = [event.value, False]
        elif isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
            if isinstance(event, yaml.ScalarEvent):
                path = tuple(level[1] for level in stack)
                yield Field(path, event.value, _line(event.start_mark), _line(event.end_mark))
            _advance(stack)


def _line(mark: Any) -> int:
    return int(mark.line) + 1


def _advance(stack: list[list[Any]]) -> None:
    """After a value: the next thing is a key, or the next position."""
    if not stack:
        return
    if stack[-1][0]:
        stack[-1][2] = True
    else:
        stack[-1][1] += 1
