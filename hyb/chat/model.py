"""The model's server as seen from here: asked, watched, and its failures told apart.

What goes wrong between here and the model has few shapes, and the person sees one: `unavailable`. Over a Skupper link,
a link that is down refuses the connection, and a model that is down behind a link that is up accepts it and closes it
without a word. A pooled connection that the other side has just closed looks like the latter, so that one is tried
once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from hyb.chat.breaker import Breaker
from hyb.chat.errors import ChatError
from hyb.chat.settings import Settings

TRIAL_SECONDS = 20.0  # for the one token of a trial
LOOK_SECONDS = 2.0  # for a look at a model that works
ERROR_BYTES = 16 << 10
TOO_LONG = ("exceed_context_size_error", "context_length_exceeded", "context size", "context length", "context window")


class TooLongError(Exception):
    """The conversation does not fit into the model's context."""


def client(s: Settings) -> httpx.AsyncClient:
    """Connections to the model's server: no proxy of the environment, no redirect, the key in each request."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "hyb-chat"}
    if s.key:
        headers["Authorization"] = f"Bearer {s.key}"
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=s.ca_file) if s.ca_file else True
    return httpx.AsyncClient(
        base_url=s.model_url.rstrip("/") + "/",
        headers=headers,
        verify=verify,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(None, connect=s.connect_seconds),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=s.parallel, keepalive_expiry=10),
    )


@dataclass
class Model:
    """One model's server. `run` watches it, `ask` gives its answer as it comes."""

    settings: Settings
    http: httpx.AsyncClient
    breaker: Breaker = field(default_factory=Breaker)
    name: str = ""
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
                answer = await self.http.get("models")
            if answer.status_code != 200:
                self.breaker.failed(_said(answer.status_code), hard=answer.status_code in (401, 403))
        except TimeoutError:  # a busy engine may answer late; it is no proof
            self.breaker.failed("the model's server does not answer", hard=False)
        except httpx.HTTPError as error:
            self.breaker.failed(_why(error), hard=isinstance(error, httpx.ConnectError))
            self._look_now.set()
        except (httpx.InvalidURL, ValueError) as error:
            self.breaker.failed(str(error), hard=True)

    async def _trial(self) -> None:
        """One real token, as a person would get it."""
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                await self._learn_name()
                body = {"model": self.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
                answer = await self.http.post("chat/completions", json=body)
                worked = answer.status_code == 200 and bool(answer.json()["choices"])
            if worked:
                self.breaker.worked()
            else:
                self.breaker.failed(_said(answer.status_code), hard=True)
        except TimeoutError:
            self.breaker.failed("the model gives no token", hard=True)
        except httpx.HTTPError as error:
            self.breaker.failed(_why(error), hard=True)
        except (ValueError, LookupError, TypeError, httpx.InvalidURL):
            self.breaker.failed("the model's server speaks another language than OpenAI's", hard=True)

    async def _learn_name(self) -> None:
        if self.settings.model:
            self.name = self.settings.model
            return
        answer = await self.http.get("models")
        if answer.status_code == 200:
            self.name = str(answer.json()["data"][0]["id"])

    @contextlib.asynccontextmanager
    async def ask(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The answer's bytes as they come. Closing it ends the model's work.

        Raises ChatError: `unavailable` (nothing came), `cut` (broke off), `late`; TooLongError; the iterator does, too.
        """
        data = json.dumps(body, ensure_ascii=False).encode()
        request = self.http.build_request(
            "POST", "chat/completions", content=data, headers={"Content-Type": "application/json"}
        )
        answer = await self._sent(request)
        try:
            if answer.status_code != 200:
                await self._refused(answer)
            yield self._chunks(answer)
        finally:
            await answer.aclose()

    async def _sent(self, request: httpx.Request) -> httpx.Response:
        for again in (True, False):
            try:
                async with asyncio.timeout(self.settings.first_seconds):
                    return await self.http.send(request, stream=True)
            except TimeoutError as error:
                self.breaker.failed("the model gives no answer in time", hard=False)
                raise ChatError("late") from error
            except httpx.ConnectTimeout as error:
                raise self.gone(error) from error
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                if not again:
                    raise self.gone(error) from error
            except httpx.HTTPError as error:
                raise self.gone(error) from error
        raise AssertionError("unreachable")

    def gone(self, error: Exception | str) -> ChatError:
        """The model is not there: open the breaker, and look again soon."""
        self.breaker.failed(error if isinstance(error, str) else _why(error), hard=True)
        self._look_now.set()
        return ChatError("unavailable", retry_after=self.breaker.wait)

    async def _refused(self, answer: httpx.Response) -> None:
        """Raise what a status other than 200 means to the person."""
        data = b""
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(5):
                async for part in answer.aiter_raw():
                    data += part
                    if len(data) > ERROR_BYTES:
                        break
        status, said = answer.status_code, data.decode(errors="replace").lower()
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

    async def _chunks(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        """The answer's bytes, each within its time."""
        loop = asyncio.get_running_loop()
        wait, first = self.settings.first_seconds, True
        try:
            async with asyncio.timeout(wait) as limit:
                async for part in answer.aiter_raw():
                    limit.reschedule(None)  # the reader's time is not the model's
                    yield part
                    if first:
                        first, wait = False, self.settings.idle_seconds
                    limit.reschedule(loop.time() + wait)
        except TimeoutError as error:
            self.breaker.failed("the model gives no token in time", hard=False)
            raise ChatError("late") from error
        except httpx.HTTPError as error:
            if first:
                raise self.gone(error) from error
            self.look_soon()
            raise ChatError("cut") from error

    def look_soon(self) -> None:
        """Something broke off: look whether the model is there."""
        self.breaker.soft += 1
        self._look_now.set()


def _why(error: Exception) -> str:
    """In words that name no address and no text of a person."""
    if isinstance(error, httpx.ConnectTimeout):
        return "the model's server can't be reached in time"
    if isinstance(error, httpx.ConnectError):
        return "the connection to the model's server is refused"
    if isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError)):
        return "the model's server closes the connection without an answer"
    return f"the model's server can't be used ({type(error).__name__})"


def _said(status: int) -> str:
    if status in (401, 403):
        return f"the model's server refuses our API key ({status})"
    return f"the model's server says {status}"


def _seconds(text: str | None) -> float:
    return min(float(text), 300.0) if text and text.isdigit() else 5.0
