"""OpenAI's chat API as data: a request checked, an answer, a chunk of a stream, an error. Pure.

Source: https://platform.openai.com/docs/api-reference/chat. What the transformers engine can't do is refused in
words, never left out in silence; fields that change nothing here (`user`, `metadata`, …) are passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Role in the API → role for a chat template."""
STOPS = 4  # as many stop texts as the API allows
REFUSED = (
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "logit_bias",
    "audio",
    "prediction",
    "web_search_options",
)
"""Fields that ask for what this engine can't do."""


class ApiError(Exception):
    """A refusal in the API's own shape."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = "authentication_error" if self.status == 401 else "server_error" if self.status >= 500 else None
        error = {"message": str(self), "type": kind or "invalid_request_error", "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion that can be made. None: as the model's own generation settings say."""

    messages: tuple[Mapping[str, str], ...]
    model: str = ""
    stream: bool = False
    include_usage: bool = False
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


def parse(data: bytes) -> ChatRequest:
    """The request in a body. Raises ApiError (400)."""
    try:
        body = json.loads(data)
    except ValueError as error:
        raise ApiError(400, "the body is no JSON") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body is no JSON object")
    for name in REFUSED:
        if body.get(name):
            raise ApiError(400, f"`{name}` is not supported by this engine", param=name, code="unsupported_parameter")
    if body.get("n") not in (None, 1):
        raise ApiError(400, "`n` must be 1", param="n", code="unsupported_parameter")
    if body.get("logprobs"):
        raise ApiError(
            400, "`logprobs` is not supported by this engine", param="logprobs", code="unsupported_parameter"
        )
    form = body.get("response_format")
    if form is not None and form != {"type": "text"}:
        raise ApiError(400, "`response_format` must be text", param="response_format", code="unsupported_parameter")
    options = body.get("stream_options")
    return ChatRequest(
        messages=_messages(body.get("messages")),
        model=str(body.get("model") or ""),
        stream=_boolean(body, "stream"),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        temperature=_number(body, "temperature", 0, 2),
        top_p=_number(body, "top_p", 0, 1),
        max_tokens=_whole(body, "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens", 1),
        stop=_stops(body.get("stop")),
        seed=_whole(body, "seed", -(1 << 63)),
    )


def _messages(value: Any) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise ApiError(400, "`messages` must be a list with at least one message", param="messages")
    return tuple(_message(m, i) for i, m in enumerate(value))


def _message(message: Any, index: int) -> Mapping[str, str]:
    where = f"messages[{index}]"
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise ApiError(400, f"`{where}.role` must be one of {', '.join(ROLES)}", param=where)
    content = message.get("content")
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else None for p in content]
        content = None if None in parts else "".join(str(p) for p in parts)
    if not isinstance(content, str):
        raise ApiError(400, f"`{where}.content` must be text", param=where)
    return {"role": ROLES[role], "content": content}


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise ApiError(400, f"`{name}` must be true or false", param=name)
    return bool(value)


def _number(body: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ApiError(400, f"`{name}` must be a number", param=name)
    if not low <= value <= high:
        raise ApiError(400, f"`{name}` must lie between {low} and {high}", param=name)
    return float(value)


def _whole(body: Mapping[str, Any], name: str, low: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 1 << 63:
        raise ApiError(400, f"`{name}` must be a whole number of {low} or more", param=name)
    return value


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value if isinstance(value, list) else [] if value is None else [None]
    if len(stops) > STOPS or not all(isinstance(s, str) and s for s in stops):
        raise ApiError(400, f"`stop` must be a text, or a list of at most {STOPS}", param="stop")
    return tuple(stops)


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(
    head: Mapping[str, Any], text: Mapping[str, str], finish: str, prompt_tokens: int, completion_tokens: int
) -> dict[str, Any]:
    """A whole answer. `head`: id, created, model. `text`: `content` and, of a reasoning model, `reasoning_content`."""
    message = {"role": "assistant", "content": text.get("content", "")}
    if thought := text.get("reasoning_content"):
        message["reasoning_content"] = thought
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage(prompt_tokens, completion_tokens)}


def chunk(head: Mapping[str, Any], delta: Mapping[str, str], finish: str | None = None) -> dict[str, Any]:
    """A part of a stream."""
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def event(data: Mapping[str, Any] | str) -> str:
    """A server-sent event; `[DONE]` is the last."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n"
