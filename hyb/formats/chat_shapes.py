"""Rows of every shape that people's data sets have → the normal form (`hyb.formats.chat`). Pure.

Shapes, in the order in which they are tried:

    preference  {"prompt"?, "chosen", "rejected"} texts or messages (TRL); {"input": {"messages"}, "preferred_output",
                "non_preferred_output"} (OpenAI); any question below with "chosen" and "rejected" (LLaMA-Factory);
                two texts of "\\n\\nHuman: … \\n\\nAssistant: …" (HH-RLHF)
    unpaired    {"prompt", "completion", "label": bool} (TRL's KTO); any row below with "kto_tag" (LLaMA-Factory)
    stepwise    {"prompt", "completions": […], "labels": [bool]} (TRL): good when every step is
    chat        {"messages": [{"role": system|developer|user|assistant|tool, "content": text or text parts,
                 "reasoning_content"?, "tool_calls"?, "weight"?: 0|1}], "tools"?}          OpenAI, TRL, ilab
    sharegpt    {"conversations": [{"from": human|gpt|function_call|observation|…, "value"}], "system"?, "tools"?}
    tree        {"prompt": {"role": "prompter", "text", "replies": [{"role", "text", "rank"?, "replies"}]}}
                OpenAssistant's: the best answer to each turn
    completion  {"prompt": text or messages, "completion": text or messages}
    alpaca      {"instruction", "input"?, "output", "system"?, "history"?: [[question, answer]]} and its variants
                (`response` for `output`; `question`/`answer` with `context`; `prompt`/`response`; last of all
                `query`/`response`, `problem`/`solution`, `input`/`output`)
    ilab        {"system"?, "user", "assistant"}
    segments    {"segments": [{"label": bool, "text"}]}                                    axolotl
    tokens      {"input_ids", "labels", "attention_mask"?}
    text        {"text"} or {"document"}

Keys are known in any case. Any shape with questions may carry `expect` (see hyb.formats.match) for held-out and
control questions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from hyb.formats import match
from hyb.formats.chat import (
    IGNORED,
    Message,
    Messages,
    Object,
    Row,
    RowError,
    call_of,
    check,
    clip,
    json_of,
    kind_of,
    list_of,
    message,
    messages_of,
    role_of,
    text_of,
    tools_of,
)

_QUESTIONS = ("instruction", "INSTRUCTION", "question", "prompt")
_OTHERS = ("query", "problem", "input")
"""Questions only where nothing else is known of a row: other shapes have these beside a question."""
_ANSWERS = ("output", "response", "RESPONSE", "answer", "generation", "solution")
_CONTEXTS = ("context", "article")
_PREFERENCES = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
_METADATA = "metadata"
_TURN = re.compile(r"\n\n(Human|Assistant):")
ACCEPTED = (
    "`messages`, `conversations`, `instruction` + `output`, `question` + `answer`, `prompt` + `completion`, "
    "`user` + `assistant`, `chosen` + `rejected`, or `text`"
)


def normalise(value: Any, *, answered: bool = True, only: str = "auto") -> Row:
    """A row of any shape in the normal form.

    `answered`: the row must have something to train on; without it, a question with `expect` will do. `only`: a
    shape's name, to take no other. Raises RowError.
    """
    if not isinstance(value, Mapping):
        raise RowError(f"is {kind_of(value)}, not an object")
    value, shape = _detected(value)
    if only not in ("auto", shape):
        raise RowError(f"has the shape `{shape}`, not `{only}`")
    if shape in _PLAIN:
        if not answered:
            raise RowError(f"is a row of {shape}, which asks nothing")
        return _PLAIN[shape](value)
    expect = _expect(value)
    messages, rejected, label = _judged(shape, value)
    check(messages, answered=answered or expect is None or rejected is not None, trained=answered)
    return Row(
        shape, messages, expect, tools_of(value), rejected, label, unmask=value.get("unmask") is True and answered
    )


def _detected(value: Object) -> tuple[Object, str]:
    """A row and its shape; with its keys in lower case where only those make it one. Raises RowError."""
    try:
        return value, detect(value)
    except RowError:
        lower = {str(k).lower(): v for k, v in value.items()}
        if lower.keys() == value.keys() or len(lower) != len(value):
            raise
    try:
        return lower, detect(lower)
    except RowError:
        return value, detect(value)


def detect(value: Object) -> str:
    """The name of the shape that an object has. Raises RowError."""
    if "rejected" in value or any(a in value and b in value for a, b in _PREFERENCES):
        return "preference"
    if isinstance(value.get("label"), bool) or isinstance(value.get("kto_tag"), bool):
        return "unpaired"
    if "completions" in value and "labels" in value:
        return "stepwise"
    return _spoken(value)


def _spoken(value: Object) -> str:
    """The shape of a row that is not judged."""
    if "messages" in value:
        return "chat"
    if "conversations" in value:
        return "sharegpt"
    if "conversation" in value and isinstance(value["conversation"], list):
        return "sharegpt"
    if "completion" in value and "prompt" in value:
        return "completion"
    if isinstance(value.get("prompt"), Mapping) and "replies" in value["prompt"]:
        return "tree"
    if _first(value, _QUESTIONS):
        return "alpaca"
    if "user" in value and "assistant" in value:
        return "ilab"
    for key, shape in (("segments", "segments"), ("input_ids", "tokens"), ("tokens", "tokens")):
        if key in value:
            return shape
    if "parent_id" in value and "role" in value:
        raise RowError("is one message of a tree, not a conversation; give the whole trees (OpenAssistant's `…_trees`)")
    if "text" in value or "document" in value:
        return "text"
    if _first(value, _OTHERS):
        return "alpaca"
    keys = ", ".join(f"`{clip(k)}`" for k in list(value)[:8]) or "none"
    raise RowError(f"has an unknown shape (keys: {keys})")


# -- rows that are judged --------------------------------------------------------------------------------------------


def _judged(shape: str, value: Object) -> tuple[Messages, Message | None, bool | None]:
    """(messages, the worse answer, the verdict) of a row with messages."""
    if shape == "preference":
        messages, rejected = _preference(value)
        return messages, rejected, None
    if shape == "stepwise":
        messages, label = _stepwise(value)
        return messages, None, label
    if shape != "unpaired":
        return _READERS[shape](value), None, None
    verdict = value.get("label") if isinstance(value.get("label"), bool) else value["kto_tag"]
    if (spoken := _spoken(value)) not in _READERS:
        raise RowError(f"has a verdict (`label` or `kto_tag`), but the shape `{spoken}`, which asks nothing")
    return _READERS[spoken](value), None, bool(verdict)


def _preference(value: Object) -> tuple[Messages, Message]:
    if "messages" in value and "chosen" not in value and isinstance(value.get("rejected"), Mapping):
        messages = messages_of(value["messages"], "messages")  # the normal form, which ends in the better answer
        return messages, _untrained(_answered(value["rejected"], "rejected")[0])
    good, bad = next((p for p in _PREFERENCES if p[0] in value or p[1] in value), _PREFERENCES[0])
    if missing := [name for name in (good, bad) if not value.get(name)]:
        raise RowError(f"is a preference row without `{missing[0]}`")
    asked = _asked(value)
    better, worse = (_transcript(value[n]) or _answered(value[n], n) for n in (good, bad))
    if better[:-1] != worse[:-1]:
        raise RowError(f"`{good}` and `{bad}` must answer the same question: they differ before their last message")
    if better[:-1] and asked and better[:-1] != asked:
        raise RowError(f"`{good}` repeats another conversation than the prompt")
    chosen, rejected = better[-1], worse[-1]
    if chosen["content"] == rejected["content"] and chosen.get("tool_calls") == rejected.get("tool_calls"):
        raise RowError(f"`{good}` and `{bad}` are the same answer")
    if any(a["role"] != "assistant" for a in (chosen, rejected)):
        raise RowError(f"`{good}` and `{bad}` must end in an answer of the assistant")
    return [*(asked or better[:-1]), chosen], _untrained(rejected)


def _untrained(answer: Message) -> Message:
    return {k: v for k, v in answer.items() if k != "train"}


def _asked(value: Object) -> Messages:
    """The question of a preference row, in any shape; empty when its answers hold it."""
    if isinstance(value.get("input"), Mapping):
        return messages_of(value["input"].get("messages"), "input.messages")
    if "prompt" in value:
        part = value["prompt"]
        return (
            messages_of(part, "prompt")
            if isinstance(part, list)
            else [*_system(value), message("user", part, "prompt")]
        )
    rest = {k: v for k, v in value.items() if k not in _ANSWERS}
    try:
        shape = _spoken(rest)
    except RowError:
        return []
    return _READERS[shape](rest) if shape in _READERS else []


def _transcript(text: Any) -> Messages:
    """The turns of a text as HH-RLHF has them, which begins with the human's; empty for any other."""
    parts = _TURN.split("\n\n" + text.lstrip()) if isinstance(text, str) else []
    if len(parts) < 5 or parts[0] or parts[1] != "Human":
        return []
    return [
        message(role_of(role, role), said.strip(), role) for role, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _answered(value: Any, where: str) -> Messages:
    if isinstance(value, list):
        return messages_of(value, where)
    if isinstance(value, Mapping):
        role = role_of(value.get("role", value.get("from", "assistant")), where)
        return [message(role, value.get("content", value.get("value")), where, value)]
    return [message("assistant", value, where)]


def _stepwise(value: Object) -> tuple[Messages, bool]:
    steps, labels = list_of(value["completions"], "completions"), list_of(value["labels"], "labels")
    if len(steps) != len(labels) or not all(isinstance(x, bool) for x in labels):
        raise RowError("`labels` must have true or false for each of `completions`")
    answer = "\n".join(text_of(step, f"completions[{n}]") for n, step in enumerate(steps))
    question = text_of(value.get("prompt"), "prompt")
    return [*_system(value), message("user", question, "prompt"), message("assistant", answer, "completions")], all(
        labels
    )


# -- rows with messages ----------------------------------------------------------------------------------------------


def _chat(value: Object) -> Messages:
    turns = value["messages"]
    legacy = value.get(_METADATA)
    if isinstance(turns, str) and turns.lstrip().startswith("["):  # a cell of a table
        turns = json_of(turns, "messages")
    messages = messages_of(_without_pretraining(turns), "messages")
    if (
        isinstance(legacy, str) and messages and messages[0]["role"] != "system"
    ):  # ilab before 0.22 has the system there
        found = json_of(legacy, _METADATA) if legacy.lstrip().startswith("{") else {}
        if isinstance(found, Mapping) and isinstance(found.get("system"), str) and found["system"].strip():
            messages.insert(0, message("system", found["system"], f"{_METADATA}.system"))
    return messages


def _without_pretraining(turns: Any) -> Any:
    """ilab's early knowledge rows repeat the conversation, rendered, in a message of the role `pretraining`."""
    if not isinstance(turns, list):
        return turns
    return [t for t in turns if not (isinstance(t, Mapping) and t.get("role") == "pretraining")]


def _sharegpt(value: Object) -> Messages:
    key = "conversations" if "conversations" in value else "conversation"
    turns = list_of(value[key], key)
    messages: Messages = [message("system", value["system"], "system")] if value.get("system") else []
    for number, turn in enumerate(turns):
        where = f"{key}[{number}]"
        if not isinstance(turn, Mapping):
            raise RowError(f"`{where}` is {kind_of(turn)}, not an object")
        name, said = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        role = role_of(name, where)
        if name == "function_call":
            called = json_of(said, where) if isinstance(said, str) else said
            calls = [call_of(c, where) for c in (called if isinstance(called, list) else [called])]
            messages.append(message(role, "", where, {**turn, "tool_calls": calls}))
        else:
            messages.append(message(role, said, where, turn))
    spoken = [m["role"] for m in messages if m["role"] != "system"]
    for number, role in enumerate(spoken):
        if (role == "assistant") != bool(number % 2):
            raise RowError(f"`{key}` must take turns, human first; turn {number + 1} is from the {role}")
    return messages


def _tree(value: Object) -> Messages:
    """The conversation along the best answers: of several replies that of the least `rank`, else the first."""
    node, where = value["prompt"], "prompt"
    messages: Messages = []
    while True:
        messages.append(message(role_of(node.get("role"), where), node.get("text"), where))
        replies = list_of(node.get("replies") or [], f"{where}.replies")
        known = [r for r in replies if isinstance(r, Mapping) and not r.get("deleted")]
        if not known:
            break
        node = min(known, key=lambda r: r["rank"] if isinstance(r.get("rank"), int) else len(replies))
        where = f"{where}.replies[{replies.index(node)}]"
    unanswered = len(messages) > 1 and messages[-1]["role"] != "assistant"  # teaches nothing
    return messages[:-1] if unanswered else messages


def _alpaca(value: Object) -> Messages:
    asked = _first(value, (*_QUESTIONS, *_OTHERS)) or ""
    question = text_of(value[asked], asked)
    for name in ("input", *_CONTEXTS):
        if name == asked:
            continue
        if given := text_of(value.get(name) or "", name).strip():
            question = f"{question}\n\n{given}" if name == "input" else f"{given}\n\n{question}"
    messages = _system(value)
    for number, pair in enumerate(list_of(value.get("history") or [], "history")):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError(f"`history[{number}]` must be a pair of question and answer")
        messages.append(message("user", pair[0], f"history[{number}]"))
        messages.append(message("assistant", pair[1], f"history[{number}]"))
    messages.append(message("user", question, asked))
    if answer := _first(value, _ANSWERS):
        messages.append(message("assistant", value[answer], answer, _reasoned(value)))
    return messages


def _completion(value: Object) -> Messages:
    messages = _system(value)
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        part = value[name]
        extra = _reasoned(value) if role == "assistant" else None
        messages += messages_of(part, name) if isinstance(part, list) else [message(role, part, name, extra)]
    return messages


def _ilab(value: Object) -> Messages:
    asked, answer = message("user", value["user"], "user"), message("assistant", value["assistant"], "assistant")
    return [*_system(value), asked, answer]


_READERS: Mapping[str, Callable[[Object], Messages]] = {
    "chat": _chat,
    "sharegpt": _sharegpt,
    "tree": _tree,
    "alpaca": _alpaca,
    "completion": _completion,
    "ilab": _ilab,
}


# -- rows without messages -------------------------------------------------------------------------------------------


def _text(value: Object) -> Row:
    name = "text" if "text" in value else "document"
    text = text_of(value[name], name)
    if not text.strip():
        raise RowError(f"`{name}` is empty")
    return Row("text", [], text=text)


def _segments(value: Object) -> Row:
    found = []
    for number, part in enumerate(list_of(value["segments"], "segments")):
        where = f"segments[{number}]"
        if not isinstance(part, Mapping):
            raise RowError(f"`{where}` is {kind_of(part)}, not an object")
        trained = part.get("label", part.get("train"))
        if not isinstance(trained, bool):
            raise RowError(f"`{where}.label` is {kind_of(trained)}, not true or false")
        found.append({"train": trained, "text": text_of(part.get("text"), f"{where}.text")})
    if not any(s["train"] and s["text"] for s in found):
        raise RowError("has no segment to train on: every `label` is false")
    return Row("segments", [], segments=found)


def _tokens(value: Object) -> Row:
    inner = value.get("tokens")
    given = inner if isinstance(inner, Mapping) else value
    name = "ids" if inner is given else "input_ids"
    ids = _ints(given.get(name), name, 0)
    labels = _ints(given["labels"], "labels", IGNORED) if given.get("labels") is not None else list(ids)
    mask = (
        _ints(given["attention_mask"], "attention_mask", 0)
        if given.get("attention_mask") is not None
        else [1] * len(ids)
    )
    if not len(ids) == len(labels) == len(mask):
        raise RowError(
            f"`{name}`, `labels` and `attention_mask` differ in length: {len(ids)}, {len(labels)}, {len(mask)}"
        )
    kept = [(i, label) for i, label, seen in zip(ids, labels, mask, strict=True) if seen]
    if not any(label != IGNORED for _, label in kept):
        raise RowError(f"has no token to train on: every label is {IGNORED}")
    return Row("tokens", [], tokens={"ids": [i for i, _ in kept], "labels": [label for _, label in kept]})


_PLAIN: Mapping[str, Callable[[Object], Row]] = {"text": _text, "segments": _segments, "tokens": _tokens}
SHAPES = ("preference", "unpaired", "stepwise", *_READERS, *_PLAIN)


# -- parts -----------------------------------------------------------------------------------------------------------


def _ints(value: Any, where: str, least: int) -> list[int]:
    found = list_of(value, where)
    if not all(isinstance(x, int) and not isinstance(x, bool) and x >= least for x in found):
        raise RowError(f"`{where}` must hold whole numbers from {least}")
    return found


def _expect(value: Object) -> match.Expect | None:
    if value.get("expect") in (None, ""):
        return None
    try:
        return match.parse(value["expect"])
    except ValueError as error:
        raise RowError(str(error)) from error


def _system(value: Object) -> Messages:
    for name in ("system", "system_prompt"):
        if value.get(name):
            return [message("system", value[name], name)]
    return []


def _reasoned(value: Object) -> Object:
    """The reasoning that stands beside an answer."""
    return {"reasoning": value.get("reasoning") or value.get("reasoning_content")}


def _first(value: Object, names: tuple[str, ...]) -> str | None:
    return next((n for n in names if n in value), None)
