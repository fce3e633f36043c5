"""HTTP/1.1 to an engine over its Unix socket: a request, and the answer's bytes passed on as they come.

One connection a request: over a Unix socket that costs less than a tenth of a millisecond, an engine's thread is never
held by an idle connection, and to abort is to close. httptools (the C parser that uvicorn uses, too) takes the chunked
coding off; nothing else of the body is looked at. A general client costs several times as much CPU per piece, which
an engine that computes on the same cores would miss.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import cast

import httptools

from hyb.serving.gateway.types import EngineLostError

HIGH_WATER = 1 << 20  # bytes of an answer that a slow client may leave unread before the engine has to wait
_OURS = frozenset((
    "host", "connection", "content-length", "transfer-encoding", "authorization", "expect", "keep-alive", "te",
    "upgrade", "accept-encoding", "proxy-authorization", "cookie",
))  # fmt: skip
"""Headers of a client that are not passed on."""


class Answer(asyncio.Protocol):
    """An engine's answer (an EngineAnswer), and the connection that it comes on."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._head = asyncio.get_running_loop().create_future()
        self._parts: list[bytes] = []
        self._held = 0
        self._ended = self._lost = self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    async def head(self) -> None:
        """Wait for status and headers. Raises EngineLostError."""
        await self._head

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises EngineLostError when the connection ends before the body does."""
        while True:
            if self._parts:
                parts, self._parts, self._held = self._parts, [], 0
                if self._paused and self._transport:
                    self._paused = False
                    self._transport.resume_reading()
                yield parts[0] if len(parts) == 1 else b"".join(parts)
            elif self._ended:
                return
            elif self._lost:
                raise EngineLostError("the engine ended in the middle of its answer")
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    def close(self) -> None:
        """Drop the connection: the engine stops working for it."""
        if self._transport:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast(asyncio.Transport, transport)  # of whichever event loop

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._lost = True
            self.close()
        self._wake()

    def connection_lost(self, _: Exception | None) -> None:
        """The socket is closed."""
        if self._head.done() and not {"content-length", "transfer-encoding"} & self.headers.keys():
            self._ended = True  # the end of the connection is the end of the body
        self._lost = True
        if not self._head.done():
            self._head.set_exception(EngineLostError("the engine ended before it answered"))
            self._head.exception()  # seen, also where nobody waits any more
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    # -- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the answer."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self.status = self._parser.get_status_code()
        if self.status >= 200 and not self._head.done():
            self._head.set_result(None)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._parts.append(body)
        self._held += len(body)
        if self._held > HIGH_WATER and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The body is whole."""
        if self.status >= 200:
            self._ended = True


def request(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """The bytes of a request. Raises ValueError for a method, path or header that would end its line."""
    lines = [f"{method} {path} HTTP/1.1", "Host: engine", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() not in _OURS]
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or path.count(" "):
        raise ValueError("a line break in a header")
    return text.encode("latin-1", "replace") + b"\r\n\r\n" + body


@contextlib.asynccontextmanager
async def ask(
    socket: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Answer]:
    """Send a request to the engine at `socket` and give its answer when its head is there.

    Raises OSError when nothing listens there, so nothing was asked; EngineLostError when the engine ends before it
    answers.
    """
    data = request(method, path, body, {"Content-Type": "application/json"} if headers is None else headers)
    transport, answer = await asyncio.get_running_loop().create_unix_connection(Answer, socket)
    try:
        transport.write(data)
        await answer.head()
        yield answer
    finally:
        answer.close()


async def whole(socket: str, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """(status, body) of an answer. Raises OSError, EngineLostError."""
    async with ask(socket, method, path, body) as answer:
        return answer.status, b"".join([part async for part in answer.chunks()])
