"""The model's server as seen from here: asked, watched, and its failures told apart.

What goes wrong between here and the model has few shapes, and the person sees one: `unavailable`. Over a Skupper link,
a link that is down refuses the connection, and a model that is down behind a link that is up accepts it and closes it
without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from hyb.chat.breaker import Breaker
from hyb.chat.errors import ChatError
from hyb.chat.settings import Settings
from hyb.chat.wire import Answer, Wire, WireError

TRIAL_SECONDS = 20.0  # for the one token of a trial
LOOK_SECONDS = 2.0  # for a look at a model that works
ERROR_BYTES = 16 << 10
LIST_BYTES = 1 << 20  # of a list of models, or of the answer to a trial
TOO_LONG = ("exceed_context_size_error", "context_length_exceeded", "context size", "context length", "context window")


class TooLongError(Exception):
    """The conversation does not fit into the model's context."""


def wire(s: Settings) -> Wire:
    """The way to the model's server. Raises OSError where the CA file can't be used."""
    return Wire(
        s.model_url,
        key=s.key,
        ca_file=s.ca_file,
        unix=s.model_socket,
        connect_seconds=s.connect_seconds,
        keep=s.parallel,
    )


@dataclass
class Model:
    """One model's server. `run` watches it, `ask` gives its answer as it comes."""

    settings: Settings
    wire: Wire
    breaker: Breaker = field(default_factory=Breaker)
    name: str = ""
    reached: Callable[[bool], None] = lambda _yes: None
    """Hears of each try whether the address took it. Skupper's listener takes no connection while the link is down."""
    _look_now: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self) -> None:
        """Raise ChatError when the model is known not to be there."""
        if not self.breaker.closed:
            raise ChatError("unavailable", retry_after=self.breaker.wait)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if self.breaker.closed:
                await self._look()
            else:
                await self._trial()
            wait = self.settings.watch_seconds if self.breaker.closed else self.breaker.wait
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._look_now.wait()
                    await asyncio.sleep(self.breaker.wait)
            self._look_now.clear()

    async def _look(self) -> None:
        """Is somebody there who knows the key? Costs the model nothing."""
        try:
            async with asyncio.timeout(LOOK_SECONDS + self.settings.connect_seconds):
                status, _ = await self._whole("GET", "models")
            if status != 200:
                self.breaker.failed(_said(status), hard=status in (401, 403))
        except TimeoutError:  # a busy engine may answer late; it is no proof
            self.breaker.failed("the model's server does not answer", hard=False)
        except WireError as error:
            self.breaker.failed(str(error), hard=error.unreachable)
            self._look_now.set()

    async def _trial(self) -> None:
        """One real token, as a person would get it."""
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                await self._learn_name()
                body = {"model": self.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
                status, data = await self._whole("POST", "chat/completions", json.dumps(body).encode())
                worked = status == 200 and bool(json.loads(data)["choices"])
            if worked:
                self.breaker.worked()
            else:
                self.breaker.failed(_said(status), hard=True)
        except TimeoutError:
            self.breaker.failed("the model gives no token", hard=True)
        except WireError as error:
            self.breaker.failed(str(error), hard=True)
        except (ValueError, LookupError, TypeError, RecursionError):
            self.breaker.failed("the model's server speaks another language than OpenAI's", hard=True)

    async def _learn_name(self) -> None:
        if self.settings.model:
            self.name = self.settings.model
            return
        status, data = await self._whole("GET", "models")
        if status == 200:
            self.name = str(json.loads(data)["data"][0]["id"])

    async def _whole(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        answer = await self._connected(method, path, body)
        try:
            return answer.status, await answer.body(LIST_BYTES)
        finally:
            answer.close()

    async def _connected(self, method: str, path: str, body: bytes, **more: float) -> Answer:
        try:
            answer = await self.wire.ask(method, path, body, **more)
        except WireError as error:
            self.reached(not error.unreachable)
            raise
        self.reached(True)
        return answer

    @contextlib.asynccontextmanager
    async def ask(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The answer's bytes as they come. Closing it ends the model's work.

        Raises ChatError: `unavailable` (nothing came), `cut` (broke off), `late`; TooLongError; the iterator does, too.
        """
        answer = await self._asked(json.dumps(body, ensure_ascii=False).encode())
        try:
            if answer.status != 200:
                await self._refused(answer)
            yield self._parts(answer)
        finally:
            answer.close()

    async def _asked(self, data: bytes) -> Answer:
        try:
            return await self._connected("POST", "chat/completions", data, patience=self.settings.first_seconds)
        except TimeoutError as error:
            self.breaker.failed("the model gives no answer in time", hard=False)
            raise ChatError("late") from error
        except WireError as error:
            raise self.gone(str(error)) from error

    def gone(self, why: str) -> ChatError:
        """The model is not there: open the breaker, and look again soon."""
        self.breaker.failed(why, hard=True)
        self._look_now.set()
        return ChatError("unavailable", retry_after=self.breaker.wait)

    async def _refused(self, answer: Answer) -> None:
        """Raise what a status other than 200 means to the person."""
        data, answer.patience = b"", 5.0
        with contextlib.suppress(WireError, TimeoutError):
            data = await answer.body(ERROR_BYTES)
        status, said = answer.status, data.decode(errors="replace").lower()
        if status in (400, 413, 422) and any(words in said for words in TOO_LONG):
            raise TooLongError
        if status == 429:
            raise ChatError("full", retry_after=_seconds(answer.headers.get("retry-after")))
        if status in (400, 413, 422):
            raise ChatError("bad_request", "the model's server refuses this request")
        if status == 503 or status < 500:
            raise self.gone(_said(status))
        self.breaker.failed(_said(status), hard=False)
        raise ChatError("unavailable", retry_after=1)

    async def _parts(self, answer: Answer) -> AsyncIterator[bytes]:
        """The answer's bytes, each within its time. The reader's own time is not the model's."""
        first = True
        try:
            async for part in answer.parts():
                yield part
                first, answer.patience = False, self.settings.idle_seconds
        except TimeoutError as error:
            self.breaker.failed("the model gives no token in time", hard=False)
            raise ChatError("late") from error
        except WireError as error:
            if first:
                raise self.gone(str(error)) from error
            self.look_soon()
            raise ChatError("cut") from error

    def look_soon(self) -> None:
        """Something broke off: look whether the model is there."""
        self.breaker.soft += 1
        self._look_now.set()


def _said(status: int) -> str:
    if status in (401, 403):
        return f"the model's server refuses our API key ({status})"
    return f"the model's server says {status}"


def _seconds(text: str | None) -> float:
    return min(float(text), 300.0) if text and text.isdecimal() else 5.0
