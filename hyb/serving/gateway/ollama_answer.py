"""OpenAI's answers as Ollama's, whole or line by line, and Ollama's lists of models. Pure.

The reason and the counts stand in the last line; durations are nanoseconds. See `ollama`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hyb.serving.gateway.ollama import Asked
from hyb.serving.gateway.types import Model

VERSION = "0.12.6"
"""The version of Ollama whose API this is: clients compare it before they use a feature."""
FOREVER = "2318-01-01T00:00:00Z"
"""When a model that is being served leaves the memory, as Ollama writes `never`."""
EPOCH = "1970-01-01T00:00:00Z"
"""An artifact has no time."""
REASONS = {"length": "length"}
"""OpenAI's `finish_reason` → `done_reason`; all others are `stop`."""


def now() -> str:
    """The time of an answer, RFC 3339."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Answer:
    """An answer that becomes Ollama's, whole or line by line. `began` and all times: seconds of one clock."""

    asked: Asked
    created: str
    """RFC 3339."""
    began: float
    first: float = 0
    """When the first token came."""
    finish: str = "stop"
    usage: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    """Tool calls as they grow: name and arguments."""

    def chunk(self, event: Mapping[str, Any], now: float) -> tuple[dict[str, Any] | None, bool]:
        """(the line for an event, None when it shows nothing to the client yet; whether the event is a token)."""
        self._note(event)
        parts = [self._choice(c) for c in event.get("choices") or () if isinstance(c, dict)]
        text, thought = "".join(p[0] for p in parts), "".join(p[1] for p in parts)
        token = bool(
            text or thought or any((c.get("delta") or {}).get("tool_calls") for c in event.get("choices") or ())
        )
        if token and not self.first:
            self.first = now
        shows = bool(text or (thought and self.asked.think))
        return (self._line(text, thought, done=False) if shows else None), token

    def last(self, now: float) -> list[dict[str, Any]]:
        """The lines that end a stream: tool calls when there are any, then the counts."""
        calls = self._calls()
        lines = [self._line("", "", done=False, calls=calls)] if calls else []
        return [*lines, {**self._line("", "", done=True), **self._counts(now)}]

    def whole(self, answer: Mapping[str, Any], now: float) -> dict[str, Any]:
        """The one line for an answer that was not streamed."""
        self._note(answer)
        parts = [self._choice({**c, "delta": c.get("message", {})}) for c in answer.get("choices") or ()]
        text, thought = "".join(p[0] for p in parts), "".join(p[1] for p in parts)
        return {**self._line(text, thought, done=True, calls=self._calls()), **self._counts(now)}

    def _note(self, said: Mapping[str, Any]) -> None:
        self.usage = said.get("usage") or self.usage
        self.timings = said.get("timings") or self.timings

    def _choice(self, choice: Mapping[str, Any]) -> tuple[str, str]:
        """(text, thought) that a choice adds."""
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or {}
        for at, call in enumerate(delta.get("tool_calls") or ()):
            grown = self.calls.setdefault(call.get("index", at), {"name": "", "arguments": ""})
            function = call.get("function") or {}
            grown["name"] += function.get("name") or ""
            grown["arguments"] += function.get("arguments") or ""
        thought = delta.get("reasoning_content") or delta.get("reasoning")  # the second is vLLM's name
        return delta.get("content") or choice.get("text") or "", thought or ""

    def _calls(self) -> list[dict[str, Any]]:
        return [
            {"function": {"index": at, "name": call["name"], "arguments": _object(call["arguments"])}}
            for at, call in sorted(self.calls.items())
        ]

    def _line(self, text: str, thought: str, *, done: bool, calls: Iterable[Any] = ()) -> dict[str, Any]:
        head = {"model": self.asked.model, "created_at": self.created}
        shown = {"thinking": thought} if thought and self.asked.think else {}
        if not self.asked.chat:
            return {**head, "response": text, **shown, "done": done}
        message: dict[str, Any] = {"role": "assistant", "content": text, **shown}
        if calls:
            message["tool_calls"] = list(calls)
        return {**head, "message": message, "done": done}

    def _counts(self, now: float) -> dict[str, Any]:
        """Why it ended, tokens, nanoseconds; an engine's own timings where it gives them."""
        first = self.first or now
        prompt = self.timings.get("prompt_ms", (first - self.began) * 1e3)
        answer = self.timings.get("predicted_ms", (now - first) * 1e3)
        return {
            "done_reason": REASONS.get(self.finish, "stop"),
            "total_duration": round((now - self.began) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": self.usage.get("prompt_tokens", 0),
            "prompt_eval_duration": round(prompt * 1e6),
            "eval_count": self.usage.get("completion_tokens", 0),
            "eval_duration": round(answer * 1e6),
        }


def _object(text: str) -> Any:
    """A tool's arguments; a model that was cut off leaves no JSON."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {"": text}


def loaded(asked: Asked, created: str) -> dict[str, Any]:
    """The answer to a request that asks nothing: the model is there, and stays."""
    said = {"message": {"role": "assistant", "content": ""}} if asked.chat else {"response": ""}
    reason = "unload" if asked.unload else "load"
    return {"model": asked.model, "created_at": created, **said, "done": True, "done_reason": reason}


def embedded(answer: Mapping[str, Any], model: str, seconds: float, *, old: bool = False) -> dict[str, Any]:
    """What `/api/embed` or `/api/embeddings` answers."""
    vectors = [row["embedding"] for row in answer["data"]]
    if old:
        return {"embedding": vectors[0]}
    return {
        "model": model, "embeddings": vectors, "total_duration": round(seconds * 1e9), "load_duration": 0,
        "prompt_eval_count": (answer.get("usage") or {}).get("prompt_tokens", 0),
    }  # fmt: skip


# -- what there is ---------------------------------------------------------------------------------------------------


def details(meta: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
    """A model's details, from its artifact's meta. `parent`: the base of an adapter."""
    family = str(meta.get("architecture") or "").removesuffix("ForCausalLM").lower()
    return {
        "parent_model": parent, "format": str(meta.get("format") or ""), "family": family,
        "families": [family] if family else [], "parameter_size": _size(meta.get("parameters")),
        "quantization_level": str(meta.get("quantization") or "").upper(),
    }  # fmt: skip


def _size(count: Any) -> str:
    """134515008 → 134.5M."""
    if not isinstance(count, int) or count <= 0:
        return ""
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def tags(models: Iterable[Model], meta: Mapping[str, Any], size: int) -> dict[str, Any]:
    """`/api/tags`: the base and its adapters. `size`: bytes of the model."""
    every = list(models)
    return {"models": [_tag(m, every[0].id, meta, size) for m in every]}


def ps(models: Iterable[Model], meta: Mapping[str, Any], size: int) -> dict[str, Any]:
    """`/api/ps`: the same, for all of them are in memory."""
    every = tags(models, meta, size)["models"]
    return {"models": [{**m, "expires_at": FOREVER, "size_vram": 0} for m in every]}


def _tag(model: Model, base: str, meta: Mapping[str, Any], size: int) -> dict[str, Any]:
    return {
        "name": model.id, "model": model.id, "modified_at": EPOCH, "size": size,
        "digest": model.digest.removeprefix("sha256:"),
        "details": details(meta, "" if model.kind == "base" else base),
    }  # fmt: skip


def show(model: Model, base: str, meta: Mapping[str, Any], props: Mapping[str, Any]) -> dict[str, Any]:
    """`/api/show`. `props`: what llama.cpp says of itself (`chat_template`, `chat_template_caps`); may be empty."""
    found = details(meta, "" if model.kind == "base" else base)
    family = found["family"] or "model"
    template = str(props.get("chat_template") or "")
    caps = props.get("chat_template_caps") or {}
    abilities = ["completion"]
    if isinstance(caps, dict) and caps.get("supports_tools"):
        abilities.append("tools")
    if "<think>" in template or "enable_thinking" in template:
        abilities.append("thinking")
    info: dict[str, Any] = {"general.architecture": family, f"{family}.context_length": model.context}
    if meta.get("parameters"):
        info["general.parameter_count"] = meta["parameters"]
    return {
        "license": str(meta.get("license") or ""), "modelfile": f"FROM {model.id}\n", "parameters": "",
        "template": template, "details": found, "model_info": info, "capabilities": abilities, "modified_at": EPOCH,
    }  # fmt: skip
