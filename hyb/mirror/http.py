"""HTTP/1.1 for files, on httptools: requests in, heads and blobs out; a blob goes to the socket by sendfile.

An ASGI server would copy every byte through Python; aiohttp would not, and brings seven packages where httptools is one
that hyb has anyway. Here each connection is one asyncio protocol and at most one task.
Patience has an end: a head within HEAD_SECONDS and HEAD_BYTES, a piece of a file within PIECE_SECONDS; and there are at
most MOST connections.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import cast

import httptools

from hyb.mirror.answers import Answer, Part, RefusedError, Request, parse

HEAD_BYTES = 32 << 10
BODY_BYTES = 1 << 20
HEAD_SECONDS = 15.0
IDLE_SECONDS = 60.0
PIECE = 8 << 20
"""Bytes that a client must take within PIECE_SECONDS: 28 kB a second, at the slowest."""
PIECE_SECONDS = 300.0
SMALL = 64 << 10
"""Bytes of a file that are sent with the head, in one piece."""
MOST = 1024
Ask = Callable[[Request], Awaitable[Answer]]
Quick = Callable[[Request], Answer | None]


class Connection(asyncio.Protocol):
    """One client. `ask` answers; `quick` does where it can without waiting: what is small then needs no task.

    `place` says where a blob lies, `others` are all that are connected.
    """

    def __init__(self, ask: Ask, quick: Quick, place: Callable[[str], Path], others: set[Connection]) -> None:
        self.ask, self.quick, self.place, self.others = ask, quick, place, others
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.waiting: deque[Request | RefusedError] = deque()
        self.task: asyncio.Task[None] | None = None
        self.room = asyncio.Event()
        self.room.set()
        self.keep = True
        self._timer: asyncio.TimerHandle | None = None
        self._raw = 0
        self._begin()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; when there are too many, one that is idle makes room for it."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=1, low=0)  # there is room: all that was written is on its way
        self.others.add(self)
        self._wait(HEAD_SECONDS)
        if len(self.others) > MOST:
            idle = next((c for c in self.others if c is not self and c.idle), self)
            self.others.discard(idle)  # now: of many that come at once each needs another to go
            idle.transport.abort()

    @property
    def idle(self) -> bool:
        """Nothing is being answered or half read."""
        return self.task is None and not self._raw

    def connection_lost(self, _: Exception | None) -> None:
        """The client is gone: so is its answer."""
        self.others.discard(self)
        self._wait(0)
        self.room.set()
        if self.task:
            self.task.cancel()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self.room.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.room.set()

    def data_received(self, data: bytes) -> None:
        """Bytes of one or more requests."""
        if not self._raw and not self.task:
            self._wait(HEAD_SECONDS)
        self._raw += 0 if self._whole_head else len(data)
        try:
            self.parser.feed_data(data)
            if self._raw > HEAD_BYTES and not self._whole_head:
                raise RefusedError(431, "the head of the request is too long")
        except RefusedError as refused:
            self._end(refused)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._end(cause if isinstance(cause, RefusedError) else RefusedError(400, "this request can't be read"))
        except httptools.HttpParserUpgrade:
            pass  # answered as if it had not asked (RFC 9110, 7.8), and closed: the rest may be of another protocol
        except httptools.HttpParserError:
            self._end(RefusedError(400, "this request can't be read"))

    # -- httptools

    def on_message_begin(self) -> None:
        """A request starts."""
        self._begin()

    def on_url(self, url: bytes) -> None:
        """A piece of its target."""
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of its head; one that follows the body counts for nothing."""
        self._count(len(name) + len(value) + 4)
        if not self._whole_head:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            if key in self._headers and key in ("host", "authorization", "range"):
                raise RefusedError(400, f"the request has more than one `{key}`")
            self._headers[key] = text

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._whole_head = True

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._body += body
        if len(self._body) > BODY_BYTES:
            raise RefusedError(413, "the body of the request is too long")

    def on_message_complete(self) -> None:
        """It is whole."""
        self._raw = 0
        self.keep = self.parser.should_keep_alive() and not self.parser.should_upgrade()
        try:
            target = bytes(self._url).decode("ascii")
            method = self.parser.get_method().decode("ascii")
            self.waiting.append(parse(method, target, self._headers, bytes(self._body)))
        except UnicodeDecodeError:
            self.waiting.append(RefusedError(400, "a path is written in ASCII, the rest as %XX"))
        except RefusedError as refused:
            self.waiting.append(refused)
        self._begin()
        self._start()

    # -- inside

    def _begin(self) -> None:
        self._url, self._body = bytearray(), bytearray()
        self._headers: dict[str, str] = {}
        self._fields, self._whole_head = 0, False

    def _count(self, size: int) -> None:
        self._fields += size
        if self._fields > HEAD_BYTES:
            raise RefusedError(431, "the head of the request is too long")

    def _end(self, refused: RefusedError) -> None:
        """Say why, and close."""
        self.keep = False
        self.waiting.append(refused)
        self._start()

    def _start(self) -> None:
        self._wait(0)
        if self.task is None and not self.transport.is_closing():
            while self.waiting and self._at_once(self.waiting[0]):
                self.waiting.popleft()
            if not self.waiting:
                self._wait(IDLE_SECONDS)
                if not self.keep:
                    self.transport.close()
                return
            self.transport.pause_reading()
            self.task = self.loop.create_task(self._work())
            self.task.add_done_callback(self._done)

    def _at_once(self, request: Request | RefusedError) -> bool:
        """Answer without waiting, where that can be; whether it was."""
        if not self.room.is_set():
            return False
        if isinstance(request, RefusedError):
            answer: Answer | None = request.answer
        else:
            answer = self.quick(request)
        if answer is None:
            return False
        bare = (isinstance(request, Request) and request.method == "HEAD") or answer.status == 304
        body = b"" if bare else answer.body
        if isinstance(body, Part):
            if body.count > SMALL:
                return False
            try:
                with self.place(body.blob.digest).open("rb") as stream:
                    stream.seek(body.start)
                    body = stream.read(body.count)
            except OSError:
                return False
            if len(body) != answer.length:
                return False
        self.transport.write(head_of(answer, last=not self.keep and len(self.waiting) == 1) + body)
        return True

    def _done(self, task: asyncio.Task[None]) -> None:
        self.task = None
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.transport.abort()  # half an answer is no answer
        if not isinstance(error, (OSError, TimeoutError)):
            self.loop.call_exception_handler({"message": "a request failed", "exception": error, "protocol": self})

    async def _work(self) -> None:
        while self.waiting and not self.transport.is_closing():
            request = self.waiting.popleft()
            refused = isinstance(request, RefusedError)
            answer = request.answer if isinstance(request, RefusedError) else await self.ask(request)
            last = not self.waiting and not self.keep
            await self._send(answer, with_body=refused or request.method != "HEAD", last=last)  # type: ignore[union-attr]
            if last:
                self.transport.close()
                return
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._wait(HEAD_SECONDS if self._raw else IDLE_SECONDS)

    async def _send(self, answer: Answer, *, with_body: bool, last: bool) -> None:
        head = head_of(answer, last=last)
        if not with_body or answer.status == 304:
            await self._write(head)
        elif isinstance(answer.body, bytes):
            await self._write(head + answer.body)
        else:
            await self._file(head, answer.body)

    async def _file(self, head: bytes, part: Part) -> None:
        with self.place(part.blob.digest).open("rb") as stream:
            await self._write(head)  # not left to sendfile: asyncio prints a fault when a client goes while it waits
            at, end = part.start, part.start + part.count
            while at < end and not self.transport.is_closing():
                async with asyncio.timeout(PIECE_SECONDS):
                    sent = await self.loop.sendfile(self.transport, stream, at, min(PIECE, end - at))
                if not sent:
                    raise OSError("the blob has become shorter")
                at += sent

    async def _write(self, data: bytes) -> None:
        self.transport.write(data)
        if not self.room.is_set():
            async with asyncio.timeout(PIECE_SECONDS):
                await self.room.wait()

    def _wait(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort) if seconds else None


def head_of(answer: Answer, *, last: bool) -> bytes:
    """Status line and headers. A line break in a value can't be sent: it is taken out."""
    fields = {
        "Date": formatdate(usegmt=True),
        "Content-Length": str(answer.length),
        "X-Content-Type-Options": "nosniff",
        **answer.headers,
        **({"Connection": "close"} if last else {}),
    }
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}".replace("\r", "").replace("\n", "") for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


async def end(connections: set[Connection], grace: float) -> None:
    """Let answers under way end, for `grace` seconds; then close all connections.

    A task ends before its connection is closed: asyncio prints a fault for a sendfile whose transport was aborted.
    """
    busy = [c.task for c in connections if c.task]
    if busy:
        _, late = await asyncio.wait(busy, timeout=grace)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    for connection in list(connections):
        connection.transport.abort()


def bind(host: str, port: int) -> socket.socket:
    """A port, taken. Raises OSError. TCP is named, or asyncio would leave Nagle's algorithm on."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError:
        found.close()
        raise
    return found
