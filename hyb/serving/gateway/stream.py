"""Server-sent events on their way from an engine to a client: passed on as they are, counted, and timed.

The fast way touches an event three times: is it whole, does it name the model, does it bear the counts. Only the event
with the counts, and an error, is read as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from hyb.serving.gateway.errors import from_engine
from hyb.serving.gateway.exchange import compact
from hyb.serving.gateway.metrics import ModelMetrics
from hyb.serving.openai import ApiError

END = b"\n\n"
DONE = b"data: [DONE]"
_MODEL = re.compile(rb'"model": ?("(?:[^"\\]|\\.)*")')
_USAGE = re.compile(rb'"usage": ?\{')
_VLLM, _THOUGHT = b'"reasoning":', b'"reasoning_content":'
"""How vLLM calls a thought, and how everyone else does. In a text the first quote would bear a backslash."""
_EMPTY = re.compile(rb'"delta": ?\{\}')


class Meter:
    """Times and counts of one answer, told to Prometheus as they come. `began`: when the request arrived, seconds."""

    def __init__(self, metrics: ModelMetrics, began: float) -> None:
        self._metrics, self._began = metrics, began
        self._last = 0.0
        self.first = 0.0
        self.events = 0
        self.prompt = self.completion = 0
        self.counted = False

    def tick(self, count: int, now: float) -> None:
        """`count` tokens have come."""
        if not self.events:
            self.first = now
            self._metrics.ttft.observe(now - self._began)
            count, self.events, self._last = count - 1, 1, now
            if not count:
                return
        gap = (now - self._last) / count
        for _ in range(count):
            self._metrics.gap.observe(gap)
        self.events += count
        self._last = now

    def usage(self, said: Any) -> None:
        """What the engine counted."""
        if isinstance(said, dict):
            self.prompt, self.completion = int(said.get("prompt_tokens") or 0), int(said.get("completion_tokens") or 0)
            self.counted = True

    def close(self, asked: int) -> tuple[int, int]:
        """(prompt, completion) tokens at the end. An answer that was cut off has no counts: then each event is a token,
        and so is every fourth byte of the request, of which there are `asked`."""
        if not self.counted and self.events:
            self.prompt, self.completion = asked // 4, self.events
        self._metrics.prompt.inc(self.prompt)
        self._metrics.completion.inc(self.completion)
        return self.prompt, self.completion


class Relay:
    """OpenAI's stream, on its way through. `name`: the model's name that the client used; `usage`: it wants counts;
    `vllm`: it comes from vLLM."""

    def __init__(self, meter: Meter, name: str, usage: bool, *, vllm: bool = False) -> None:
        self._meter, self._usage, self._vllm = meter, usage, vllm
        self._name = b'"model":' + compact(name)
        self._old = b""
        self._rest = b""
        self.failed: ApiError | None = None
        """What went wrong in the engine after its stream had begun."""
        self.done = False

    def push(self, chunk: bytes, now: float) -> bytes:
        """What of it can be sent on: whole events."""
        data = self._rest + chunk if self._rest else chunk
        if data.endswith(END):
            self._rest = b""
        else:
            cut = data.rfind(END) + 2
            if cut < 2:
                self._rest = data
                return b""
            data, self._rest = data[:cut], data[cut:]
        if not self._old and (found := _MODEL.search(data)):
            self._old = found[0]
        if self._old and self._old != self._name:
            data = data.replace(self._old, self._name)
        if self._vllm:
            data = data.replace(_VLLM, _THOUGHT)
        return self._count(data, now)

    def _count(self, data: bytes, now: float) -> bytes:
        tokens = data.count(END)
        special = DONE in data or b'"error"' in data or _USAGE.search(data) or _EMPTY.search(data)
        if not special and self._meter.events and data.startswith(b"data:"):
            self._meter.tick(tokens, now)
            return data
        return b"".join(self._event(event, now) for event in data.split(END) if event)

    def _event(self, event: bytes, now: float) -> bytes:
        """An event that is more than a token."""
        whole = event + END
        if event.startswith(DONE):
            self.done = True
            return whole
        if event.startswith(b":"):  # a comment, to keep the connection open
            return whole
        said = payload(event)
        if said is None:
            return whole
        if event.startswith(b"error:") or "error" in said:
            self.failed = failure(said)
            return error_event(self.failed)
        if usage := said.get("usage"):
            self._meter.usage(usage)
        if not said.get("choices"):
            return whole if self._usage or not usage else b""
        if _says(said):
            self._meter.tick(1, now)
        return whole


def _says(said: dict[str, Any]) -> bool:
    """It bears a token; the first and the last event of a stream do not."""
    deltas = [choice.get("delta") or choice for choice in said["choices"]]
    return any(d.get(kind) for d in deltas for kind in ("content", "text", "reasoning_content", "tool_calls"))


class Events:
    """A stream's events as JSON objects, for an API that has another shape."""

    def __init__(self) -> None:
        self._rest = b""
        self.done = False

    def push(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """The objects that are whole now."""
        *events, self._rest = (self._rest + chunk).split(END)
        for event in events:
            if event.startswith(DONE):
                self.done = True
            elif (said := payload(event)) is not None:
                yield {"error": said} if event.startswith(b"error:") and "error" not in said else said


def payload(event: bytes) -> dict[str, Any] | None:
    """The JSON object in an event; None when there is none."""
    _, _, text = event.partition(b":")
    try:
        said = json.loads(text)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def failure(said: dict[str, Any]) -> ApiError:
    """What a client is told of an error in a stream."""
    inner = said.get("error", said)
    status = inner.get("code") if isinstance(inner, dict) else None
    return from_engine(status if isinstance(status, int) else 500, compact(said))


def error_event(error: ApiError) -> bytes:
    """An error as the last event of a stream."""
    return b"data: " + compact(error.body()) + END


def renamed(data: bytes, name: str, *, vllm: bool = False) -> bytes:
    """A whole answer with the model's name that the client used."""
    if vllm:
        data = data.replace(_VLLM, _THOUGHT)
    return _MODEL.sub(lambda _: b'"model":' + compact(name), data, count=1)
