"""A response that is a stream, over a bounded pipe: whoever reads slowly slows the model's stream, not fills memory.

One task makes (it reads the model), this one sends. A client that goes away ends the making at once; one that takes
nothing for `slow` seconds is treated like one that went away, for it keeps a place from the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, MutableMapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hyb.chat import sse

PIECES = 16  # that lie between the two tasks
END = b""


class Stream(Response):
    """Server-sent events made by `make`. `heartbeat`: seconds of silence until a comment is sent.

    `leave` is called once when all is over, also where `make` never began.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        make: Callable[[], AsyncGenerator[bytes, None]],
        *,
        heartbeat: float,
        slow: float,
        leave: Callable[[], None],
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["X-Accel-Buffering"] = "no"  # NGINX passes each piece on at once
        self.make, self.heartbeat, self.slow, self.leave = make, heartbeat, slow, leave
        self.pipe: asyncio.Queue[bytes] = asyncio.Queue(PIECES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. HTTP/1.0 knows no stream without a length: it gets all at once, at the end."""
        if scope.get("http_version") == "1.0":
            send = _gathered(send)
        maker = asyncio.create_task(self._made())
        watcher = asyncio.create_task(_left(receive))
        sender = asyncio.create_task(self._send(send))
        try:
            await asyncio.wait({watcher, sender}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (maker, watcher, sender):
                if not task.done():
                    task.cancel()
            try:
                await asyncio.gather(maker, watcher, sender, return_exceptions=True)
            finally:
                self.leave()
        for task in (maker, sender):
            if not task.cancelled() and (error := task.exception()):
                raise error

    async def _made(self) -> None:
        cancelled = False
        try:
            async with contextlib.aclosing(self.make()) as pieces:
                async for piece in pieces:
                    await self.pipe.put(piece)
        except asyncio.CancelledError:
            cancelled = True  # nobody reads any more: a full pipe would hold this up for ever
            raise
        finally:
            if not cancelled:
                await self.pipe.put(END)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            while (piece := await self._next()) != END:
                async with asyncio.timeout(self.slow):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            return  # without the last chunk: the server closes the connection
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.slow):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self) -> bytes:
        """All that lies there, or a comment after a long silence; END at the end."""
        try:
            async with asyncio.timeout(self.heartbeat):
                piece = await self.pipe.get()
        except TimeoutError:
            return sse.BEAT
        while piece and not self.pipe.empty():
            following = self.pipe.get_nowait()
            if following == END:
                self.pipe.put_nowait(END)
                break
            piece += following
        return piece


def _gathered(send: Send) -> Send:
    start: MutableMapping[str, Any] = {}
    body = bytearray()

    async def keep(message: MutableMapping[str, Any]) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        body.extend(message["body"])
        if not message["more_body"]:
            await send({**start, "headers": [*start["headers"], (b"content-length", b"%d" % len(body))]})
            await send({"type": "http.response.body", "body": bytes(body)})

    return keep


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
