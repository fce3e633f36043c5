"""One row of a chat data set, whatever its shape, to the one normal form. Pure.

Shapes, in the order in which they are tried:

    chat        {"messages": [{"role": system|developer|user|assistant, "content": text or text parts,
                 "reasoning_content"?, "weight"?: 0|1}]}          OpenAI, TRL, ilab
    sharegpt    {"conversations": [{"from": human|gpt|…, "value"}], "system"?}
    alpaca      {"instruction", "input"?, "output", "system"?, "history"?: [[question, answer]]} and its variants
                (`response` for `output`; `question`/`answer` with `context`; `prompt`/`response`)
    completion  {"prompt": text or messages, "completion": text or messages}
    ilab        {"system"?, "user", "assistant"}

Any shape may carry `expect` (see hyb.formats.match) for held-out and control questions. The normal form is the `chat`
shape with `train` on each answer, so it reads itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hyb import digest as dg
from hyb.formats import match

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bing", "bard"), "assistant"),
}
_QUESTIONS = ("instruction", "INSTRUCTION", "question", "prompt")
_ANSWERS = ("output", "response", "RESPONSE", "answer", "generation")
_CONTEXTS = ("context", "article")
_OTHER = {
    "chosen": "a preference row (`chosen`, `rejected`)",
    "preferred_output": "a preference row",
    "label": "a row with a verdict (`label`)",
    "kto_tag": "a row with a verdict (`kto_tag`)",
    "completions": "a row of graded steps",
    "input_ids": "a row of token ids",
    "segments": "a row of template-free segments",
    "text": "plain text without question and answer",
    "document": "plain text without question and answer",
}
ACCEPTED = (
    "`messages`, `conversations`, `instruction` + `output`, `question` + `answer`, `prompt` + `completion`, "
    "or `user` + `assistant`"
)

Object = Mapping[str, Any]
Messages = list[dict[str, Any]]


class RowError(ValueError):
    """What is wrong with a row, in one line."""


@dataclass(frozen=True)
class Row:
    """A row in the normal form. `messages`: role, content, optional reasoning, and `train` on answers."""

    shape: str
    messages: Messages
    expect: match.Expect | None = None

    @property
    def question(self) -> Messages:
        """All before the last answer: what a model is asked."""
        last = self.messages[-1]
        return self.messages[:-1] if last["role"] == "assistant" else self.messages

    @property
    def answer(self) -> str:
        """The last answer, or "" when the row only asks."""
        last = self.messages[-1]
        return str(last["content"]) if last["role"] == "assistant" else ""

    @property
    def id(self) -> str:
        """12 hex digits of what the row says: equal rows have equal ids."""
        return _short(self.body())

    @property
    def question_id(self) -> str:
        """12 hex digits of what the row asks, whatever the answer."""
        return _short([{"role": m["role"], "content": m["content"]} for m in self.question])

    def body(self) -> dict[str, Any]:
        """`messages` and `expect`, as JSON."""
        expect = {"expect": self.expect.as_json()} if self.expect else {}
        return {"messages": self.messages, **expect}

    def as_json(self, source: str, line: int) -> dict[str, Any]:
        """The row of a data set's files: with its id and where it came from."""
        return {"id": self.id, **self.body(), "meta": {"source": source, "line": line}}


def normalise(value: Any, *, answered: bool = True, only: str = "auto") -> Row:
    """A row of any shape in the normal form.

    `answered`: the row must end in an answer to train on; without it, a question with `expect` will do. `only`: a
    shape's name, to take no other. Raises RowError.
    """
    if not isinstance(value, Mapping):
        raise RowError(f"is {_kind(value)}, not an object")
    shape = detect(value)
    if only not in ("auto", shape):
        raise RowError(f"has the shape `{shape}`, not `{only}`")
    messages = _READERS[shape](value)
    expect = _expect(value)
    _check(messages, answered=answered or expect is None, trained=answered)
    return Row(shape, messages, expect)


def detect(value: Object) -> str:
    """The name of the shape that an object has. Raises RowError."""
    if "messages" in value:
        return "chat"
    if "conversations" in value:
        return "sharegpt"
    if "completion" in value and "prompt" in value and "label" not in value:
        return "completion"
    if _first(value, _QUESTIONS) and not value.keys() & _OTHER.keys() - {"text", "document"}:
        return "alpaca"
    if "user" in value and "assistant" in value:
        return "ilab"
    keys = ", ".join(f"`{_clip(k)}`" for k in list(value)[:8]) or "none"
    for key, what in _OTHER.items():
        if key in value:
            raise RowError(f"is {what}, which can't be trained on here (keys: {keys})")
    raise RowError(f"has an unknown shape (keys: {keys})")


def _chat(value: Object) -> Messages:
    return _messages(value["messages"], "messages")


def _sharegpt(value: Object) -> Messages:
    turns = _list(value["conversations"], "conversations")
    messages: Messages = [_message("system", value["system"], "system")] if value.get("system") else []
    for number, turn in enumerate(turns):
        where = f"conversations[{number}]"
        if not isinstance(turn, Mapping):
            raise RowError(f"`{where}` is {_kind(turn)}, not an object")
        name = turn.get("from", turn.get("role"))
        messages.append(_message(_role(name, where), turn.get("value", turn.get("content")), where, turn))
    spoken = [m["role"] for m in messages if m["role"] != "system"]
    for number, role in enumerate(spoken):
        if role != ("user", "assistant")[number % 2]:
            raise RowError(f"`conversations` must take turns, human first; turn {number + 1} is from the {role}")
    return messages


def _alpaca(value: Object) -> Messages:
    asked = _first(value, _QUESTIONS) or ""
    question = _text(value[asked], asked)
    for name in ("input", *_CONTEXTS):
        if given := _text(value.get(name) or "", name).strip():
            question = f"{question}\n\n{given}" if name == "input" else f"{given}\n\n{question}"
    messages = _system(value)
    for number, pair in enumerate(_list(value.get("history") or [], "history")):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError(f"`history[{number}]` must be a pair of question and answer")
        messages.append(_message("user", pair[0], f"history[{number}]"))
        messages.append(_message("assistant", pair[1], f"history[{number}]"))
    messages.append(_message("user", question, asked))
    if answer := _first(value, _ANSWERS):
        messages.append(_message("assistant", value[answer], answer))
    return messages


def _completion(value: Object) -> Messages:
    messages = _system(value)
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        part = value[name]
        messages += _messages(part, name) if isinstance(part, list) else [_message(role, part, name)]
    return messages


def _ilab(value: Object) -> Messages:
    asked, answer = _message("user", value["user"], "user"), _message("assistant", value["assistant"], "assistant")
    return [*_system(value), asked, answer]


_READERS: Mapping[str, Callable[[Object], Messages]] = {
    "chat": _chat,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "completion": _completion,
    "ilab": _ilab,
}
SHAPES = tuple(_READERS)


def _messages(value: Any, where: str) -> Messages:
    messages = []
    for number, part in enumerate(_list(value, where)):
        place = f"{where}[{number}]"
        if not isinstance(part, Mapping):
            raise RowError(f"`{place}` is {_kind(part)}, not an object")
        messages.append(_message(_role(part.get("role"), place), part.get("content"), place, part))
    return messages


def _message(role: str, content: Any, where: str, extra: Object | None = None) -> dict[str, Any]:
    """A message in the normal form. `extra`: the object it came from, for reasoning and weight."""
    extra = extra or {}
    if extra.get("tool_calls"):
        raise RowError(f"`{where}` calls tools, which can't be trained on here")
    reasoning = next((extra[k] for k in ("reasoning_content", "reasoning", "thinking") if extra.get(k)), "")
    text = _content(content, where)
    if not text.strip():
        raise RowError(f"`{where}` has {'an empty answer' if role == 'assistant' else 'no text'}")
    message: dict[str, Any] = {"role": role, "content": text}
    if role == "assistant":
        if reasoning:
            message["reasoning"] = _text(reasoning, f"{where}.reasoning_content")
        message["train"] = _trained(extra, where)
    return message


def _trained(extra: Object, where: str) -> bool:
    weight = extra.get("weight", extra.get("train"))
    if weight is None:
        return True
    if weight not in (0, 1):
        raise RowError(f"`{where}` has weight `{_clip(str(weight))}`; it is 0 or 1")
    return bool(weight)


def _content(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, list):
        return _text(value, where)
    texts = []
    for part in value:
        if not isinstance(part, Mapping) or part.get("type", "text") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else _kind(part)
            raise RowError(f"`{where}` has a part that is no text: {_clip(str(kind))}")
        texts.append(_text(part.get("text"), where))
    return "".join(texts)


def _check(messages: Messages, *, answered: bool, trained: bool) -> None:
    roles = [m["role"] for m in messages]
    if "system" in roles[1:]:
        raise RowError("has a `system` message that is not the first")
    if "user" not in roles:
        raise RowError("has no question: no message is from the user")
    if roles.index("user") > (roles.index("assistant") if "assistant" in roles else len(roles)):
        raise RowError("answers before it is asked: the first message from the assistant comes before the user's")
    if answered and roles[-1] != "assistant":
        raise RowError(f"has no answer: its last message is from `{roles[-1]}`")
    if trained and not any(m.get("train") for m in messages):
        raise RowError("has no answer to train on: every `weight` is 0")


def _expect(value: Object) -> match.Expect | None:
    if value.get("expect") is None:
        return None
    try:
        return match.parse(value["expect"])
    except ValueError as error:
        raise RowError(str(error)) from error


def _system(value: Object) -> Messages:
    for name in ("system", "system_prompt"):
        if value.get(name):
            return [_message("system", value[name], name)]
    return []


def _role(name: Any, where: str) -> str:
    if name is None:
        raise RowError(f"`{where}` has no role")
    if not isinstance(name, str) or name not in ROLES:
        raise RowError(f"`{where}` has the unknown role `{_clip(str(name))}`; known: {', '.join(ROLES)}")
    return ROLES[name]


def _first(value: Object, names: tuple[str, ...]) -> str | None:
    return next((n for n in names if n in value), None)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(f"`{where}` is {_kind(value)}, not a list")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"`{where}` is {_kind(value)}, not a text")
    return value


def _kind(value: Any) -> str:
    """What a JSON value is, for people."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "an object")


def _clip(text: str) -> str:
    """A name from a row, short enough for a message."""
    return text if len(text) <= 40 else text[:39] + "…"


def _short(value: Any) -> str:
    return dg.of_json(value).removeprefix("sha256:")[:12]
