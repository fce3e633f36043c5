"""One row of a data set in the normal form. Pure.

    chat        {"messages": [{"role": system|user|assistant|tool, "content": text, "reasoning"?, "tool_calls"?,
                 "train": bool on answers}], "tools"?, "expect"?, "unmask"?: true}
    preference  the same, ending in the better answer, with "rejected": the worse one
    unpaired    the same, with "label": was the answer good
    text        {"text": …}                                         every token is trained
    segments    {"segments": [{"train": bool, "text": …}]}          no template
    tokens      {"tokens": {"ids": […], "labels": [… or -100]}}     no template and no tokenizer

Whatever shape a row comes in, `hyb.formats.chat_shapes` turns it into this one, which is a shape of its own: it reads
itself. Here: the normal form, and how a message of any of the shapes becomes one of it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyb import digest as dg
from hyb.formats import match

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "ai", "model", "bing", "bard", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function"), "tool"),
}
KINDS = ("chat", "preference", "unpaired", "text", "segments", "tokens")
IGNORED = -100
"""The label of a token that is not trained."""

Object = Mapping[str, Any]
Message = dict[str, Any]
Messages = list[Message]


class RowError(ValueError):
    """What is wrong with a row, in one line."""


@dataclass(frozen=True)
class Row:
    """A row in the normal form. `messages`: role, content, optional reasoning and tool calls, `train` on answers."""

    shape: str
    messages: Messages
    expect: match.Expect | None = None
    tools: list[Any] | None = None
    rejected: Message | None = None
    label: bool | None = None
    unmask: bool = False
    """Train on all that is not the system's, questions too (InstructLab's `unmask`)."""
    text: str = ""
    segments: list[Any] | None = None
    tokens: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        for name in ("text", "segments", "tokens"):
            if getattr(self, name):
                return name
        return "preference" if self.rejected else "unpaired" if self.label is not None else "chat"

    @property
    def question(self) -> Messages:
        """All before the last answer: what a model is asked; empty for a row without messages."""
        if not self.messages:
            return []
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages

    @property
    def answer(self) -> str:
        """The last answer, or "" when the row only asks."""
        last = self.messages[-1] if self.messages else {}
        return str(last["content"]) if last.get("role") == "assistant" else ""

    @property
    def id(self) -> str:
        """12 hex digits of what the row says: equal rows have equal ids."""
        return _short(self.body())

    @property
    def question_id(self) -> str:
        """12 hex digits of what the row asks, whatever the answer; of the whole row where it asks nothing."""
        if not self.messages:
            return self.id
        return _short([{"role": m["role"], "content": m["content"]} for m in self.question])

    def body(self) -> dict[str, Any]:
        """What the row says, as JSON; without what it has not."""
        found: dict[str, Any] = {"messages": self.messages} if self.messages else {}
        if self.expect:
            found["expect"] = self.expect.as_json()
        for name in ("tools", "rejected", "segments", "tokens", "text", "unmask"):
            if value := getattr(self, name):
                found[name] = value
        return found if self.label is None else {**found, "label": self.label}

    def as_json(self, source: str, line: int) -> dict[str, Any]:
        """The row of a data set's files: with its id and where it came from."""
        return {"id": self.id, **self.body(), "meta": {"source": source, "line": line}}


# -- messages --------------------------------------------------------------------------------------------------------


def messages_of(value: Any, where: str) -> Messages:
    """A list of messages of OpenAI's shape. Raises RowError."""
    messages = []
    for number, part in enumerate(list_of(value, where)):
        place = f"{where}[{number}]"
        if not isinstance(part, Mapping):
            raise RowError(f"`{place}` is {kind_of(part)}, not an object")
        messages.append(message(role_of(part.get("role"), place), part.get("content"), place, part))
    return messages


def message(role: str, content: Any, where: str, extra: Object | None = None) -> Message:
    """A message in the normal form. `extra`: the object it came from, for reasoning, tool calls and weight."""
    extra = extra or {}
    calls = _calls(extra, where) if role == "assistant" else []
    text = _content(content, where)
    if not text.strip() and not calls and role != "tool":
        raise RowError(f"`{where}` has {'an empty answer' if role == 'assistant' else 'no text'}")
    made: Message = {"role": role, "content": text}
    if role == "tool":
        made |= {k: text_of(extra[k], f"{where}.{k}") for k in ("name", "tool_call_id") if extra.get(k)}
    if role == "assistant":
        if reasoning := next((extra[k] for k in ("reasoning_content", "reasoning", "thinking") if extra.get(k)), ""):
            made["reasoning"] = text_of(reasoning, f"{where}.reasoning_content")
        if calls:
            made["tool_calls"] = calls
        made["train"] = _trained(extra, where)
        spans = _spans(extra, content, len(text), where)
        if spans is not None:
            made |= {"train": made["train"] and bool(spans)} | ({"spans": spans} if spans else {})
    return made


def call_of(value: Any, where: str) -> dict[str, Any]:
    """One tool call, `{"name", "arguments"}` or wrapped in `function`, its arguments as an object. Raises RowError."""
    if not isinstance(value, Mapping):
        raise RowError(f"`{where}` is {kind_of(value)}, not an object")
    function = value.get("function", value)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError(f"`{where}` calls no function by name")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json_of(arguments, f"{where}.arguments")
    if not isinstance(arguments, Mapping):
        raise RowError(f"`{where}.arguments` is {kind_of(arguments)}, not an object")
    _refuse_no_json(arguments, f"{where}.arguments")
    made = {"type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}
    return {**made, "id": str(value["id"])} if value.get("id") else made


def tools_of(value: Object) -> list[Any] | None:
    """The tools that a row describes: a list, or a list as JSON text; None when there are none. Raises RowError.

    OpenAI's first form, `functions`, becomes tools; its preference rows have them in `input`.
    """
    inner = value.get("input")
    found = value.get("tools") or (inner.get("tools") if isinstance(inner, Mapping) else None)
    if isinstance(found, str) and found.strip():
        found = json_of(found, "tools")
    first = value.get("functions")
    if not found and isinstance(first, list) and all(isinstance(f, Mapping) for f in first):
        found = [{"type": "function", "function": f} for f in first]
    if not found:
        return None
    _refuse_no_json(tools := list_of(found, "tools"), "tools")
    return tools


def check(messages: Messages, *, answered: bool, trained: bool) -> None:
    """Raise RowError where a conversation can't be one. `answered`: it must end in an answer. `trained`: in some
    answer there is something to learn."""
    roles = [m["role"] for m in messages]
    if "system" in roles[1:]:
        raise RowError("has a `system` message that is not the first")
    if "user" not in roles:
        raise RowError("has no question: no message is from the user")
    if roles.index("user") > (roles.index("assistant") if "assistant" in roles else len(roles)):
        raise RowError("answers before it is asked: the first message from the assistant comes before the user's")
    for before, role in itertools.pairwise(roles):
        if role == "tool" and before not in ("tool", "assistant"):
            raise RowError("has a tool's result that no answer asked for")
    if answered and roles[-1] != "assistant":
        raise RowError(f"has no answer: its last message is from `{roles[-1]}`")
    if trained and not any(m.get("train") for m in messages):
        raise RowError("has no answer to train on: every `weight` is 0")


def _calls(extra: Object, where: str) -> list[dict[str, Any]]:
    """The calls of an answer: `tool_calls`, or OpenAI's first form, one `function_call`."""
    if called := extra.get("tool_calls"):
        where = f"{where}.tool_calls"
        return [call_of(call, f"{where}[{n}]") for n, call in enumerate(list_of(called, where))]
    return [call_of(called, f"{where}.function_call")] if (called := extra.get("function_call")) else []


def _trained(extra: Object, where: str) -> bool:
    weight = extra.get("weight", extra.get("train"))
    if weight is None:
        return True
    if weight not in (0, 1):
        raise RowError(f"`{where}` has weight `{clip(str(weight))}`; it is 0 or 1")
    return bool(weight)


def _spans(extra: Object, content: Any, length: int, where: str) -> list[list[int]] | None:
    """The parts of an answer that are learnt, `[begin, end)` in characters; None: all of it.

    From `train_detail` (Axolotl's: its `end_offset` is the last character; what no entry names is not learnt), from
    `train` or `weight` of parts of the content, or our own `spans`. Raises RowError.
    """
    if detail := extra.get("train_detail"):
        found = [
            _detail(d, f"{where}.train_detail[{n}]") for n, d in enumerate(list_of(detail, f"{where}.train_detail"))
        ]
    elif (own := extra.get("spans")) and _own(own):
        found = [(begin, end, True) for begin, end in own]
    elif isinstance(content, list) and any(p.get("train") is not None or p.get("weight") is not None for p in content):
        ends = list(itertools.accumulate(len(p["text"]) for p in content))
        found = [(e - len(p["text"]), e, _trained(p, where)) for p, e in zip(content, ends, strict=True)]
    else:
        return None
    if any(not 0 <= begin < end <= length for begin, end, train in found if train):
        raise RowError(f"`{where}` learns a part of its answer that is not within its {length} characters")
    return [[begin, end] for begin, end, train in sorted(found) if train]


def _own(value: Any) -> bool:
    """Whether these are spans of ours; others' data have other things by this name."""
    pairs = isinstance(value, list) and all(isinstance(s, list) and len(s) == 2 for s in value)
    return pairs and all(type(n) is int for span in value for n in span)


def _detail(value: Any, where: str) -> tuple[int, int, bool]:
    begin, end = (value.get(k) if isinstance(value, Mapping) else None for k in ("begin_offset", "end_offset"))
    if type(begin) is not int or type(end) is not int or not isinstance(value.get("train"), bool):
        raise RowError(f"`{where}` needs `begin_offset` and `end_offset`, whole numbers, and `train`, true or false")
    return begin, end + 1, value["train"]


def _content(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, list):
        return text_of(value, where)
    texts = []
    for part in value:
        if not isinstance(part, Mapping) or part.get("type", "text") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else kind_of(part)
            raise RowError(f"`{where}` has a part that is no text: {clip(str(kind))}")
        texts.append(text_of(part.get("text"), where))
    return "".join(texts)


# -- values ----------------------------------------------------------------------------------------------------------


def role_of(name: Any, where: str) -> str:
    """The normal form's role for any shape's. Raises RowError."""
    if name is None:
        raise RowError(f"`{where}` has no role")
    if not isinstance(name, str) or name.lower() not in ROLES:
        raise RowError(f"`{where}` has the unknown role `{clip(str(name))}`; known: {', '.join(ROLES)}")
    return ROLES[name.lower()]


def list_of(value: Any, where: str) -> list[Any]:
    """`value`, a list. Raises RowError."""
    if not isinstance(value, list):
        raise RowError(f"`{where}` is {kind_of(value)}, not a list")
    return value


def text_of(value: Any, where: str) -> str:
    """`value`, a text. Raises RowError."""
    if not isinstance(value, str):
        raise RowError(f"`{where}` is {kind_of(value)}, not a text")
    return value


def json_of(text: str, where: str) -> Any:
    """What a JSON text holds. Raises RowError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"`{where}` is a text that is no JSON") from error


def _refuse_no_json(value: Any, where: str) -> None:
    """Raise RowError for what only a table can hold: a date, bytes, a number that is none."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RowError(f"`{where}` holds what JSON can't: {str(error).splitlines()[0]}") from error


def kind_of(value: Any) -> str:
    """What a JSON value is, for people."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
    names[bytes] = "bytes"
    return names.get(type(value), "an object")


def clip(text: str) -> str:
    """A name from a row, short enough for a message."""
    return text if len(text) <= 40 else text[:39] + "…"


def _short(value: Any) -> str:
    return dg.of_json(value).removeprefix("sha256:")[:12]
