"""One question's way: its turn in the queue, the model's stream, and what of it goes to the page or an API's client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from hyb.chat import messages as msgs
from hyb.chat import sse
from hyb.chat.errors import ChatError
from hyb.chat.limits import BusyError, FullError, Place, Queue, WaitedError
from hyb.chat.metrics import Metrics
from hyb.chat.model import Model, TooLongError
from hyb.chat.settings import Settings

SHORTENINGS = 6  # times that the older half of a conversation is left out for a small context


@dataclass
class Counted:
    """What the log and the metrics say of an answer."""

    outcome: str = "gone"
    """`ok`, a code of ChatError, or `gone` when the client went away."""
    began: float = field(default_factory=time.monotonic)
    first: float = 0
    prompt: int = 0
    completion: int = 0
    text: list[str] = field(default_factory=list)
    """Kept only where the log is to have it."""


@dataclass
class Answers:
    """Asks the model for all clients."""

    settings: Settings
    model: Model
    queue: Queue
    metrics: Metrics
    log: Callable[..., None]
    stopping: bool = False
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the time to end is over: what is under way breaks off with a word."""

    def enter(self, client: str) -> Place:
        """A place in the queue. Raises ChatError at once when there is no sense in waiting."""
        if self.stopping:
            raise ChatError("stopping", retry_after=2)
        self.model.check()
        try:
            return self.queue.enter(client)
        except BusyError as error:
            raise ChatError("busy", retry_after=1) from error
        except FullError as error:
            raise ChatError("full", retry_after=10) from error

    async def for_page(self, place: Place, asked: list[msgs.Message], client: str) -> AsyncGenerator[bytes, None]:
        """Events `{"type": …}`: queue, start, thought, text, was_thought, shortened, error, end.

        The caller leaves `place`.
        """
        counted = Counted()
        try:
            async with contextlib.aclosing(self._page_events(place, asked, counted)) as events:
                async for event in events:
                    yield event
            counted.outcome = "ok"
        except ChatError as error:
            counted.outcome = error.code
            yield sse.event({**error.body()["error"], "type": "error"})
        finally:
            self._count(counted, client, "page", asked)

    async def _page_events(
        self, place: Place, asked: list[msgs.Message], counted: Counted
    ) -> AsyncGenerator[bytes, None]:
        try:
            async for number in self.queue.turn(place):
                yield sse.event({"type": "queue", "place": number})
                self._check_stopped()
        except WaitedError as error:
            raise ChatError("waited", retry_after=10) from error
        self.model.check()
        yield sse.event({"type": "start"})
        for _ in range(SHORTENINGS):
            try:
                async with self._asked(msgs.page_body(asked, self.model.name, self.settings)) as parts:
                    async for event in self._told(parts, counted):
                        yield event
                return
            except TooLongError as error:
                kept = msgs.shorter(asked)
                if kept == asked:
                    raise ChatError("too_long") from error
                yield sse.event({"type": "shortened", "kept": len(kept), "of": len(asked)})
                asked = kept
        raise ChatError("too_long")

    @contextlib.asynccontextmanager
    async def _asked(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The model's bytes, within the answer's whole time and size, until this server must end."""
        async with self.model.ask(body) as parts:
            yield self._bounded(parts)

    async def _bounded(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        end, size = time.monotonic() + self.settings.total_seconds, 0
        limit = self.settings.answer_bytes * 16  # an event is some 200 bytes around a word
        async for part in parts:
            size += len(part)
            if time.monotonic() > end or size > limit:
                raise ChatError("late")
            self._check_stopped()
            yield part

    def _check_stopped(self) -> None:
        if self.stopped.is_set():
            raise ChatError("stopping", retry_after=2)

    async def _told(self, parts: AsyncIterator[bytes], counted: Counted) -> AsyncGenerator[bytes, None]:
        reader, thoughts, finish, size = sse.Reader(), sse.Thoughts(), "", 0
        async for part in parts:
            out: list[tuple[str, str]] = []
            for data in _events(reader, part):
                if data == b"[DONE]":
                    finish = finish or "stop"
                    continue
                thought, text, ended, usage, error = _chunk(data)
                if error:
                    raise self._broke(counted, error)
                if usage:
                    counted.prompt, counted.completion = _counts(usage)
                finish = ended or finish
                if thought:
                    out.append(("thought", thought))
                if text:
                    out += thoughts.feed(text)
            if out:
                if not counted.first:
                    counted.first = time.monotonic() - counted.began
                    self.model.breaker.worked()
                size += sum(len(t) for _, t in out)
                self._keep(counted, out)
                yield b"".join(sse.event({"type": k, "text": t} if t else {"type": k}) for k, t in _joined(out))
            if size > self.settings.answer_bytes:
                finish = "length"
                break
        if not finish:
            raise self._broke(counted, "")
        rest = list(thoughts.end())
        self._keep(counted, rest)
        for kind, text in rest:
            yield sse.event({"type": kind, "text": text})
        self.model.breaker.worked()
        tokens = {"prompt": counted.prompt, "completion": counted.completion}
        yield sse.event({"type": "end", "finish": finish, "tokens": tokens})

    def _broke(self, counted: Counted, error: str) -> ChatError:
        """The stream ended without its end: nothing had come, or it broke off."""
        if counted.first:
            self.model.look_soon()
            return ChatError("cut")
        return self.model.gone("the model's server reports an error" if error else "the model's answer is empty")

    def _keep(self, counted: Counted, parts: list[tuple[str, str]]) -> None:
        if self.settings.log == "content":
            counted.text += [text for kind, text in parts if kind == "text"]

    async def relayed(self, place: Place, body: dict[str, Any], client: str) -> AsyncGenerator[bytes, None]:
        """The model's stream as it is, for OpenAI's clients; an error is an event, too. The caller leaves `place`."""
        counted = Counted()
        try:
            async with self.turn_of(place), self._asked(body) as parts:
                async for part in parts:
                    if not counted.first:
                        counted.first = time.monotonic() - counted.began
                        self.model.breaker.worked()
                    yield part
            if not counted.first:
                raise self._broke(counted, "")
            counted.outcome = "ok"
        except TooLongError:
            counted.outcome = "too_long"
            yield sse.event(ChatError("too_long").body())
        except ChatError as error:
            counted.outcome = error.code
            yield sse.event(error.body())
        finally:
            self._count(counted, client, "api", body["messages"])

    async def whole(self, place: Place, body: dict[str, Any], client: str) -> bytes:
        """The model's whole answer. Raises ChatError."""
        counted, data = Counted(), bytearray()
        try:
            async with self.turn_of(place), self._asked(body) as parts:
                async for part in parts:
                    data += part
            if not data:
                raise self._broke(counted, "")
            self.model.breaker.worked()
            counted.outcome = "ok"
            return bytes(data)
        except TooLongError as error:
            counted.outcome = "too_long"
            raise ChatError("too_long") from error
        except ChatError as error:
            counted.outcome = error.code
            raise
        finally:
            self.queue.leave(place)
            self._count(counted, client, "api", body["messages"])

    @contextlib.asynccontextmanager
    async def turn_of(self, place: Place) -> AsyncIterator[None]:
        """When it's this one's turn. Raises ChatError."""
        try:
            async for _ in self.queue.turn(place):
                self._check_stopped()
        except WaitedError as error:
            raise ChatError("waited", retry_after=10) from error
        self.model.check()
        yield

    def _count(self, counted: Counted, client: str, way: str, asked: list[msgs.Message]) -> None:
        seconds = time.monotonic() - counted.began
        self.metrics.answered(way, counted.outcome, counted.first, seconds, counted.prompt, counted.completion)
        words = {}
        if self.settings.log == "content":
            words = {"asked": asked[-1].get("content"), "answer": "".join(counted.text)}
        self.log(
            "answer", client=client, way=way, outcome=counted.outcome, first_ms=round(counted.first * 1000),
            ms=round(seconds * 1000), prompt_tokens=counted.prompt, completion_tokens=counted.completion, **words,
        )  # fmt: skip


def _events(reader: sse.Reader, part: bytes) -> list[bytes]:
    try:
        return list(reader.feed(part))
    except ValueError as error:
        raise ChatError("cut") from error


def _chunk(data: bytes) -> tuple[str, str, str, dict[str, int] | None, str]:
    try:
        return sse.deltas(data)
    except (ValueError, RecursionError) as error:
        raise ChatError("cut") from error


def _joined(parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one kind as one."""
    found: list[tuple[str, str]] = []
    for kind, text in parts:
        if found and found[-1][0] == kind and text:
            found[-1] = (kind, found[-1][1] + text)
        else:
            found.append((kind, text))
    return found


def _counts(usage: dict[str, Any]) -> tuple[int, int]:
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (prompt if isinstance(prompt, int) else 0), (completion if isinstance(completion, int) else 0)
