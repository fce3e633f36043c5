"""A streamed answer, put together: text, reasoning, tokens, and when each came. Pure; the clock is the caller's.

The reasoning of a model comes as `reasoning_content` (llama.cpp, SGLang, hyb), as `reasoning` (newer vLLM), or inside
the text as `<think>…</think>` from a server that doesn't know better.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hyb.serving.text import Thinking

TEXT, THOUGHT = "content", "reasoning_content"
_FIELDS = {"reasoning_content": THOUGHT, "reasoning": THOUGHT}


@dataclass(frozen=True)
class Timing:
    """What an answer took. Seconds are from sending the request."""

    first: float
    """Seconds to the first piece of text or reasoning (TTFT); 0.0 when none came."""
    last: float
    """Seconds to the last piece."""
    gaps: tuple[float, ...]
    """Seconds between pieces: the inter-token latency where a piece is a token."""
    prompt_tokens: int
    """0 where the server did not say."""
    completion_tokens: int
    exact: bool
    """The server counted the tokens; otherwise they are the pieces."""
    cached_tokens: int = 0
    """Of the prompt's, those that the server had kept from before."""

    @property
    def rate(self) -> float:
        """Tokens a second after the first one; 0.0 for an answer of one token."""
        spent = self.last - self.first
        return (self.completion_tokens - 1) / spent if spent > 0 and self.completion_tokens > 1 else 0.0


@dataclass(frozen=True)
class Answer:
    """A whole answer, or what had come of one that was stopped."""

    text: str
    thought: str
    finish: str
    """`stop`, `length`, …; empty when it did not end."""
    model: str
    timing: Timing


class Reader:
    """Fed with the chunks of a stream and the time at which each came."""

    def __init__(self, sent: float) -> None:
        self._sent = sent
        self._thinking = Thinking(inside=False)
        self._pieces: dict[str, list[str]] = {TEXT: [], THOUGHT: []}
        self._times: list[float] = []
        self._usage: Mapping[str, Any] = {}
        self.finish = ""
        self.model = ""

    def push(self, chunk: Mapping[str, Any], now: float) -> list[tuple[str, str]]:
        """The pieces of a chunk: (`TEXT` or `THOUGHT`, text). Anything that is no chunk of a chat gives none."""
        self.model = str(chunk.get("model") or self.model)
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = usage
        pieces = list(self._split(chunk))
        if pieces:
            self._times.append(now)
        found: list[tuple[str, str]] = []
        for kind, text in pieces:
            found += self._thinking.push(text) if kind == TEXT else [(kind, text)]
        return self._keep(found)

    def end(self) -> list[tuple[str, str]]:
        """What was held back because it could have become `<think>`."""
        return self._keep(list(self._thinking.end()))

    def answer(self) -> Answer:
        """What has come so far."""
        times, usage = self._times, self._usage
        counted = _whole(usage, "completion_tokens")
        details = usage.get("prompt_tokens_details")
        timing = Timing(
            first=times[0] - self._sent if times else 0.0,
            last=times[-1] - self._sent if times else 0.0,
            gaps=tuple(b - a for a, b in itertools.pairwise(times)),
            prompt_tokens=_whole(usage, "prompt_tokens"),
            completion_tokens=counted or len(times),
            exact=counted > 0,
            cached_tokens=_whole(details, "cached_tokens") if isinstance(details, dict) else 0,
        )
        text, thought = ("".join(self._pieces[kind]) for kind in (TEXT, THOUGHT))
        return Answer(text.strip(), thought.strip(), self.finish, self.model, timing)

    def _split(self, chunk: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(choice, dict):
            return
        self.finish = str(choice.get("finish_reason") or self.finish)
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, dict):
            return
        for name, kind in _FIELDS.items():
            if isinstance(value := delta.get(name), str) and value:
                yield kind, value
                break
        if isinstance(value := delta.get("content"), str) and value:
            yield TEXT, value

    def _keep(self, pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
        for kind, text in pieces:
            self._pieces[kind].append(text)
        return pieces


def _whole(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) and value > 0 else 0
