"""Ollama's requests as OpenAI's; `ollama_answer` is the way back. Pure.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and the types of the `ollama` Python package. A stream
is lines of JSON there, durations are nanoseconds, a tool's arguments are an object, and thoughts are called `thinking`.
What names another model, template or memory than the one being served is refused; options that are fixed when an
engine starts (`num_ctx`, `num_thread`, `num_gpu`, …) change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyb.serving.gateway.errors import GatewayError

OPTIONS = {
    name: name
    for name in (
        "temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop", "presence_penalty", "frequency_penalty",
        "repeat_penalty", "repeat_last_n", "mirostat", "mirostat_tau", "mirostat_eta",
    )
} | {"num_predict": "max_tokens"}  # fmt: skip
"""Option → field of a request. All others are an engine's own settings."""
REFUSED = ("template", "context", "suffix")
"""Fields of `generate` that can't be served: a model has one template, and no memory between requests."""


@dataclass(frozen=True)
class Asked:
    """A request, and what it takes to answer in Ollama's shape."""

    model: str
    """As the client wrote it: it comes back in the answer."""
    body: Mapping[str, Any]
    """The request to an engine; empty when there is nothing to ask (the client wants the model loaded)."""
    chat: bool
    """`/api/chat`; else `/api/generate`."""
    raw: bool = False
    """The prompt goes to the model as it is: `/v1/completions`."""
    stream: bool = True
    think: bool = True
    """The client wants to see the thought."""
    unload: bool = False


def name_of(body: Mapping[str, Any]) -> str:
    """The model that a request names, without `:latest`. Raises GatewayError (400)."""
    given = body.get("model") or body.get("name") or ""
    if not isinstance(given, str) or not given:
        raise GatewayError(400, "model is required", param="model")
    return given


def plain(name: str) -> str:
    """The id of a model: a name without the tag that Ollama's clients add."""
    return name.removesuffix(":latest")


def chat(body: Mapping[str, Any]) -> Asked:
    """A request to `/api/chat`. Raises GatewayError (400)."""
    messages = body.get("messages") or []
    if not isinstance(messages, list):
        raise GatewayError(400, "messages must be a list", param="messages")
    if not messages:
        return _load(body, chat=True)
    out: dict[str, Any] = {"messages": _messages(messages), **_common(body)}
    if tools := body.get("tools"):
        out["tools"] = tools
    return _asked(body, out, chat=True)


def generate(body: Mapping[str, Any]) -> Asked:
    """A request to `/api/generate`. Raises GatewayError (400)."""
    for name in REFUSED:
        if body.get(name):
            raise GatewayError(400, f"{name} is not supported here", param=name, code="unsupported_parameter")
    prompt = body.get("prompt") or ""
    if not isinstance(prompt, str):
        raise GatewayError(400, "prompt must be a text", param="prompt")
    if not prompt:
        return _load(body, chat=False)
    common = _common(body)
    if body.get("raw"):
        return _asked(body, {"prompt": prompt, **common}, chat=False, raw=True)
    system = body.get("system")
    first = [{"role": "system", "content": str(system)}] if system else []
    question = {"role": "user", "content": prompt, "images": body.get("images")}
    return _asked(body, {"messages": _messages([*first, question]), **common}, chat=False)


def _asked(body: Mapping[str, Any], out: dict[str, Any], *, chat: bool, raw: bool = False) -> Asked:
    stream = body.get("stream")
    if stream not in (None, True, False):
        raise GatewayError(400, "stream must be true or false", param="stream")
    think = body.get("think")
    return Asked(name_of(body), out, chat, raw, stream is not False, think is not False)


def _load(body: Mapping[str, Any], *, chat: bool) -> Asked:
    return Asked(name_of(body), {}, chat, unload=body.get("keep_alive") in (0, "0", "0s"))


def _common(body: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    options = body.get("options") or {}
    if not isinstance(options, dict):
        raise GatewayError(400, "options must be an object", param="options")
    for name, value in options.items():
        if (target := OPTIONS.get(name)) and value is not None:
            out[target] = _option(name, value)
    if out.get("max_tokens", 0) < 0:  # -1: without end, -2: as the context allows
        del out["max_tokens"]
    if (think := body.get("think")) is not None:
        if not isinstance(think, (bool, str)):
            raise GatewayError(400, "think must be true, false, or how hard", param="think")
        out["chat_template_kwargs"] = {"enable_thinking": think is not False}
        if isinstance(think, str):
            out["reasoning_effort"] = think
    if form := body.get("format"):
        out["response_format"] = _format(form)
    return out


def _option(name: str, value: Any) -> Any:
    whole = name in ("num_predict", "top_k", "seed", "repeat_last_n", "mirostat")
    if name == "stop":
        good = isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    else:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if good and whole:
            good, value = float(value).is_integer(), int(value)
    if not good:
        kind = "a text or a list of texts" if name == "stop" else "a whole number" if whole else "a number"
        raise GatewayError(400, f'option "{name}" must be {kind}', param="options")
    return value


def _format(form: Any) -> dict[str, Any]:
    if form == "json":
        return {"type": "json_object"}
    if isinstance(form, dict):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form, "strict": True}}
    raise GatewayError(400, 'format must be "json" or a JSON schema', param="format")


def _messages(messages: list[Any]) -> list[dict[str, Any]]:
    """Ollama's messages in OpenAI's shape: tool calls get the ids that Ollama does not have."""
    out: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []  # (id, function) of calls that have no result yet
    for at, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise GatewayError(400, f"messages[{at}] must be an object with a role", param="messages")
        text = message.get("content") or ""
        made: dict[str, Any] = {"role": message["role"], "content": text}
        if images := message.get("images"):
            made["content"] = [{"type": "text", "text": text}, *(_image(i) for i in images)]
        if thought := message.get("thinking"):
            made["reasoning_content"] = thought
        if calls := message.get("tool_calls"):
            made["tool_calls"] = [_call(c, f"call_{at}_{n}") for n, c in enumerate(calls)]
            waiting = [(c["id"], c["function"]["name"]) for c in made["tool_calls"]]
        if message["role"] == "tool":
            named = message.get("tool_name") or message.get("name")
            match = next((w for w in waiting if w[1] == named), waiting[0] if waiting else ("call_0_0", ""))
            waiting = [w for w in waiting if w != match]
            made["tool_call_id"] = message.get("tool_call_id") or match[0]
        out.append(made)
    return out


def _image(data: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def _call(call: Any, made_id: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise GatewayError(400, "a tool call must have a function with a name", param="messages")
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": made_id, "type": "function", "function": {"name": function["name"], "arguments": text}}


def embed(body: Mapping[str, Any], *, old: bool = False) -> dict[str, Any]:
    """A request to `/api/embed`, or to the older `/api/embeddings`, for `/v1/embeddings`. Raises GatewayError (400)."""
    given = body.get("prompt" if old else "input")
    if not isinstance(given, (str, list)) or not given:
        name = "prompt" if old else "input"
        raise GatewayError(400, f"{name} must be a text{'' if old else ' or a list of texts'}", param=name)
    out: dict[str, Any] = {"input": given, "encoding_format": "float"}
    if not old and body.get("dimensions"):
        out["dimensions"] = body["dimensions"]
    return out
