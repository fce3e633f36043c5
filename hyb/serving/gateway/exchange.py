"""One request and its answer over ASGI: body with a limit, JSON, a stream, and a client that goes away.

Plain ASGI, no framework: a request passes here several times for each token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from starlette.types import Receive, Scope, Send

from hyb.serving.gateway.errors import GatewayError
from hyb.serving.keys import Key

SLOW = 60.0  # seconds in which a body must have come, and a piece of an answer must be taken
LINGER = 2  # seconds, and times the most that a body may have, that are read of one which is refused
JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"
LINES = b"application/x-ndjson"
NOBODY = Key("", "", "")
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class ClientGoneError(Exception):
    """The client closed its connection, or takes nothing any more."""


class Exchange:
    """A request, and what has been answered so far."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.receive, self._send = receive, send
        self.began = time.perf_counter()
        given = self.headers.get(b"x-request-id", b"")
        self.id = given if _ID.fullmatch(given) else b"req_" + secrets.token_hex(12).encode()
        self.extra: list[tuple[bytes, bytes]] = []
        """Headers that every answer to this request gets."""
        self.key: Key = NOBODY
        self.route = "other"
        self.model = ""
        self.tokens = (0, 0)
        self.ended = False
        self.writing = 0.0
        """Since when a piece of the answer has been waiting for the client; 0 when none is."""
        self.status = 0
        """0 until the answer has begun; what metrics and log call it then."""

    @property
    def ollama(self) -> bool:
        """The client speaks Ollama's API."""
        return self.path.startswith("/api/")

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises GatewayError (408, 413), ClientGoneError."""
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            await self._pass_over(limit)
            raise _too_long(limit)
        parts, size = [], 0
        try:
            async with asyncio.timeout(SLOW):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise _too_long(limit)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError as error:
            raise GatewayError(408, f"the body did not come within {SLOW:g} s", code="timeout") from error

    async def _pass_over(self, limit: int) -> None:
        """Read on for a moment: to close on a client that is still sending would lose it the answer."""
        left = LINGER * limit
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while left > 0:
                    message = await self.receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body"):
                        return

    async def start(self, status: int, kind: bytes, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Begin the answer."""
        self.status = status
        headers = [(b"content-type", kind), (b"x-request-id", self.id), *more, *self.extra]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def stream(self, kind: bytes) -> None:
        """Begin an answer that comes in pieces, past every proxy's buffer."""
        await self.start(200, kind, ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")))

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """A piece of the answer. Waits while the client takes nothing; `watched` ends that."""
        self.ended = not more
        self.writing = time.perf_counter()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self.writing = 0.0

    async def data(
        self, data: bytes, kind: bytes = JSON, status: int = 200, more: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """The whole answer."""
        await self.start(status, kind, ((b"content-length", str(len(data)).encode()), *more))
        await self.write(data, more=False)

    async def json(self, value: Mapping[str, Any], status: int = 200, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """The whole answer, as JSON."""
        await self.data(compact(value), JSON, status, more)

    def watched(self) -> Watch:
        """Within it, this task ends when the client goes away, or takes nothing. The body must have been read."""
        return Watch(self)


class Watch:
    """Cancels the task inside it when the client is gone, and says so with ClientGoneError.

    Gone: it has closed its connection, or has taken nothing for `SLOW` seconds. A look now and then costs a stream less
    than a time limit on each of its pieces.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self._gone = exchange, False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch())
        self._timer = asyncio.get_running_loop().call_later(SLOW / 4, self._look)

    async def _watch(self) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        if not self._exchange.ended:  # the server says so after a whole answer, too
            self._end()

    def _look(self) -> None:
        since = self._exchange.writing
        if since and time.perf_counter() - since > SLOW:
            self._end()
        else:
            self._timer = asyncio.get_running_loop().call_later(SLOW / 4, self._look)

    def _end(self) -> None:
        self._gone = True
        if self._task:
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        self._timer.cancel()
        if self._gone and self._task and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientGoneError from error


def compact(value: Any) -> bytes:
    """JSON without spaces. Half characters, which UTF-8 has no room for, stay escapes."""
    return json.dumps(value, separators=(",", ":")).encode()


def printable(text: str) -> str:
    """A client's text as it may stand in an answer: short, in one line."""
    return "".join(c for c in text[:100] if c.isprintable())


def _too_long(limit: int) -> GatewayError:
    return GatewayError(413, f"the request has more than {limit} bytes", code="request_too_large")
