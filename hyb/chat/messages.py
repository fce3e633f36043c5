"""A question as it comes: checked, bounded, and made harmless for a chat template. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from hyb.chat.errors import ChatError
from hyb.chat.settings import Settings

Message = dict[str, Any]

CONTROL = re.compile(
    r"<(?=\|[\w./-]{1,40}\|>|｜[^<>\n]{1,40}｜>|/?s>|/?think>|<SYS>>|</SYS>>|/?(?:start|end)_of_turn>|[be]os>|pad>)"
    r"|\[(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\])"
)
"""Where a known chat template's own marks begin: an engine may read them as such, wherever they stand."""
JOINER = "\u2060"  # of no width; behind the first sign it makes a mark plain text

PASSED = (
    "messages", "model", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens",
    "stop", "seed", "presence_penalty", "frequency_penalty", "response_format", "tools", "tool_choice", "n", "user",
)  # fmt: skip
"""Fields of OpenAI's API that are passed on; an engine's own ones (a LoRA, a slot, a grammar) are not for strangers."""


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
        found.append({"role": role, "content": harmless(_clean(content))})
    if found[-1]["role"] != "user" or not found[-1]["content"].strip():
        raise ChatError("bad_request", "the last message must be a question")
    return ([{"role": "system", "content": s.system}] if s.system else []) + _alternating(found)


def page_body(messages: list[Message], model: str, s: Settings) -> dict[str, Any]:
    """What the model is asked."""
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": s.max_tokens, "stream": True}
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
    messages = [m if m.get("role") == "tool" else _harmless(m) for m in _listed(body, s)]
    if s.system:
        messages = [{"role": "system", "content": s.system}, *messages]
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    asked = body.get(name)
    if asked is not None and (isinstance(asked, bool) or not isinstance(asked, int) or asked < 1):
        raise ChatError("bad_request", f"`{name}` must be a whole number of 1 or more")
    body = {k: v for k, v in body.items() if k not in ("user", "n", "max_completion_tokens")}
    return {**body, "model": model, "messages": messages, "max_tokens": min(asked or s.max_tokens, s.max_tokens)}


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


def _harmless(message: Message) -> Message:
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": harmless(_clean(content))}
    if isinstance(content, list):
        return {**message, "content": [_part(p) for p in content]}
    return message


def _part(part: Any) -> Any:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return {**part, "text": harmless(_clean(part["text"]))}
    if isinstance(part, dict) and part.get("type") == "text":
        raise ChatError("bad_request", "a part's `text` must be text")
    raise ChatError(
        "bad_request", "only parts of text are taken"
    )  # an address in a part would be fetched by the engine


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ChatError("bad_request", "the body is no JSON") from error
    if not isinstance(body, dict):
        raise ChatError("bad_request", "the body is no JSON object")
    return body


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
