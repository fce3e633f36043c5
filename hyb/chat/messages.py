"""A question as it comes: checked, bounded, and made harmless for a chat template. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from hyb.chat.errors import ChatError
from hyb.chat.settings import Settings

Message = dict[str, Any]

CONTROL = re.compile(
    r"<(?=\|[\w./-]{1,40}\|>|｜[^<>\n]{1,40}｜>|/?s>|/?think>|<SYS>>|</SYS>>|/?(?:start|end)_of_turn>"
    r"|/?tool_(?:call|response)>|[be]os>|pad>|unk>|[se]op>)"
    r"|\[(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\]|g?MASK\]|BOS\]|EOS\])"
)
"""Where a known chat template's own marks begin: an engine may read them as such, wherever they stand."""
JOINER = "\u2060"  # of no width; behind the first sign it makes a mark plain text

PASSED = (
    "messages", "model", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens",
    "stop", "seed", "presence_penalty", "frequency_penalty", "response_format", "tools", "tool_choice", "n", "user",
)  # fmt: skip
"""Fields of OpenAI's API that are passed on; an engine's own ones (a LoRA, a slot, a grammar) are not for strangers."""
RANGES = {"temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}
ROLES = ("system", "developer", "user", "assistant", "tool")
"""Most templates write a message's role as it is, so it must be none of one's own making."""
DEEPEST = 32  # lists and objects in one another
LARGEST = 1 << 63


def harmless(text: str) -> str:
    """The text with each control mark of a chat template broken, so that nobody speaks in another role's name."""
    return CONTROL.sub(lambda found: found[0] + JOINER, text)


def page_question(data: bytes, s: Settings) -> list[Message]:
    """The messages of the page's own API: `user` and `assistant`, the last one of `user`."""
    body = _object(data)
    if extra := set(body) - {"messages"}:
        raise ChatError("bad_request", f"`{min(extra)[:40]}` is not known here")
    found = []
    for i, message in enumerate(_listed(body, s)):
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant"):
            raise ChatError("bad_request", f"`messages[{i}].role` must be user or assistant")
        if not isinstance(content, str):
            raise ChatError("bad_request", f"`messages[{i}].content` must be text")
        found.append({"role": role, "content": harmless(content)})
    if found[-1]["role"] != "user" or not found[-1]["content"].strip():
        raise ChatError("bad_request", "the last message must be a question")
    return ([{"role": "system", "content": s.system}] if s.system else []) + _alternating(found)


def page_body(messages: list[Message], model: str, s: Settings) -> dict[str, Any]:
    """What the model is asked."""
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    if s.max_tokens:
        body["max_tokens"] = s.max_tokens
    if s.temperature is not None:
        body["temperature"] = s.temperature
    return {**body, "stream_options": {"include_usage": True}}


def openai_body(data: bytes, model: str, s: Settings) -> dict[str, Any]:
    """A request of OpenAI's API, bounded: known fields, one answer, at most `max_tokens`, the system prompt first."""
    body = _object(data)
    for name in sorted(set(body) - set(PASSED)):
        raise ChatError("bad_request", f"`{name[:40]}` is not supported here")
    if body.get("n") not in (None, 1):
        raise ChatError("bad_request", "`n` must be 1")
    for name, (low, high) in RANGES.items():
        value = body.get(name)
        if value is not None and not (_is_number(value) and low <= value <= high):
            raise ChatError("bad_request", f"`{name}` must be a number from {low} to {high}")
    if not isinstance(body.get("stream", False), bool | None):
        raise ChatError("bad_request", "`stream` must be true or false")
    messages = [_message(m, i) for i, m in enumerate(_listed(body, s))]
    if s.system:
        messages = [{"role": "system", "content": s.system}, *messages]
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    asked = body.get(name)
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 1):
        raise ChatError("bad_request", f"`{name}` must be a whole number of 1 or more")
    if tools := body.get("tools"):  # a template writes their names and descriptions into the prompt
        body["tools"] = _each(tools, harmless)
    body = {k: v for k, v in body.items() if k not in ("user", "n", "max_completion_tokens", "max_tokens")}
    if most := min(asked or s.max_tokens, s.max_tokens or asked or 0):
        body["max_tokens"] = most
    return {**body, "model": model, "messages": messages}


def shorter(messages: list[Message]) -> list[Message]:
    """The conversation without its older half, from a user's message on; the same when nothing can be left out."""
    head = [m for m in messages if m["role"] == "system"]
    rest = [m for m in messages if m["role"] != "system"]
    for start in range((len(rest) + 1) // 2, len(rest)):
        if rest[start]["role"] == "user":
            return head + rest[start:]
    return messages


def _alternating(messages: list[Message]) -> list[Message]:
    """From a question on, neighbours of one role as one message: many chat templates refuse anything else."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"]:
            found[-1] = {**message, "content": f"{found[-1]['content']}\n\n{message['content']}"}
        elif found or message["role"] == "user":
            found.append(message)
    return found


def _message(message: Message, i: int) -> Message:
    if message.get("role") not in ROLES:
        raise ChatError("bad_request", f"`messages[{i}].role` must be one of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, list):
        content = [_part(p) for p in content]
    elif not isinstance(content, str | None):
        raise ChatError("bad_request", f"`messages[{i}].content` must be text")
    found: Message = _each({**message, "content": content}, harmless)
    return found


def _part(part: Any) -> Any:
    if not isinstance(part, dict) or part.get("type", "text") != "text":
        # an address in a part would be fetched by the engine
        raise ChatError("bad_request", "only parts of text are taken")
    if not isinstance(part.get("text"), str):
        raise ChatError("bad_request", "a part's `text` must be text")
    return {"type": "text", "text": part["text"]}


def _object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`: UTF-8, each key once, numbers that are some, without NUL and halves of characters."""
    try:
        body = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ChatError("bad_request", "the body is no JSON") from error
    if not isinstance(body, dict):
        raise ChatError("bad_request", "the body is no JSON object")
    return {key: _each(value, _clean) for key, value in body.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, with no key twice: which of the two counts, each reader of JSON decides for itself."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ChatError("bad_request", "the body has a key twice")
    return found


def _no_number(name: str) -> Any:
    raise ChatError("bad_request", f"`{name}` is no number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _each(value: Any, change: Callable[[str], str], depth: int = 1) -> Any:
    """A JSON value with every text in it changed. Raises ChatError where it's too deep, or a number too large."""
    if isinstance(value, str):
        return change(value)
    if depth > DEEPEST:
        raise ChatError("bad_request", "the body is nested too deeply")
    if isinstance(value, list):
        return [_each(v, change, depth + 1) for v in value]
    if isinstance(value, dict):
        return {change(k): _each(v, change, depth + 1) for k, v in value.items()}
    if _is_number(value) and not (math.isfinite(value) and abs(value) <= LARGEST):
        raise ChatError("bad_request", "a number is too large")
    return value


def _listed(body: dict[str, Any], s: Settings) -> list[Message]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ChatError("bad_request", "`messages` must be a list with at least one message")
    if len(messages) > s.messages:
        raise ChatError("too_many_messages", f"a conversation has at most {s.messages} messages")
    if not all(isinstance(m, dict) for m in messages):
        raise ChatError("bad_request", "each message must be an object")
    return messages


def _clean(text: str) -> str:
    """Without NUL, and without halves of characters, which JSON lets through and UTF-8 does not."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
