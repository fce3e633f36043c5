"""Load on a server: many clients in one thread, each request timed. Nothing is parsed while the clock runs.

One thread with asyncio's protocols, not a thread a client: a piece of an answer costs a time stamp and an append, no
switch of threads. What the client itself costs is measured with everything else.
"""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyb.serving.answer import Answer, Reader
from hyb.serving.client import Address, checked, trust, words
from hyb.serving.http1 import BadAnswerError, Response
from hyb.serving.sse import DONE, Events

PATIENCE = 600.0  # seconds for one answer
PAUSE = 0.05  # seconds after an error, so that a server that refuses is not flooded


@dataclass(frozen=True)
class Sample:
    """One request. Times in seconds of one clock."""

    sent: float
    ended: float
    answer: Answer | None
    error: str = ""


@dataclass(frozen=True)
class Level:
    """What some clients did together."""

    clients: int
    began: float
    seconds: float
    samples: tuple[Sample, ...]
    cpu: float
    """CPU seconds of this process in that time: what the client itself costs."""

    @property
    def good(self) -> tuple[Answer, ...]:
        """The answers that came whole."""
        return tuple(s.answer for s in self.samples if s.answer)


def run(
    address: Address, bodies: Sequence[Mapping[str, Any]], clients: int, *, seconds: float = 0.0,
    told: Callable[[int], None] = lambda _: None,
) -> Level:  # fmt: skip
    """Send all `bodies`, `clients` at a time; with `seconds`, go round them until then. `told`: answers so far.

    An error is a sample. Raises HybError for an address that is none.
    """
    target = _Target(address)
    gc.collect()
    gc.disable()  # a collection is milliseconds in which nothing is read
    began, cpu = time.perf_counter(), time.process_time()
    try:
        raw = asyncio.run(_all(target, bodies, clients, began + seconds if seconds else 0.0, told))
    finally:
        gc.enable()
    spent, used = time.perf_counter() - began, time.process_time() - cpu
    return Level(clients, began, spent, tuple(read(r) for r in raw), used)


@dataclass(frozen=True)
class Raw:
    """What came of one request, as it came."""

    sent: float
    status: int
    pieces: Sequence[tuple[float, bytes]]
    """(time, bytes of the body)."""
    error: str = ""


class _Target:
    """Where to connect, and the bytes of a request."""

    def __init__(self, address: Address) -> None:
        parts = checked(address.url)
        self.host, self.socket = parts.hostname or "", address.socket
        self.tls: ssl.SSLContext | None = trust(address.ca) if parts.scheme == "https" else None
        self.port = parts.port or (443 if self.tls else 80)
        key = f"Authorization: Bearer {address.key}\r\n" if address.key else ""
        self._head = (
            f"POST {parts.path.rstrip('/')}/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n{key}"
            "Content-Type: application/json\r\nAccept: text/event-stream\r\nContent-Length: "
        )

    def request(self, body: Mapping[str, Any]) -> bytes:
        data = json.dumps(body).encode()
        return f"{self._head}{len(data)}\r\n\r\n".encode() + data

    async def connect(self) -> _Wire:
        loop = asyncio.get_running_loop()
        if self.socket:
            return (await loop.create_unix_connection(_Wire, self.socket))[1]
        return (await loop.create_connection(_Wire, self.host, self.port, ssl=self.tls))[1]


class _Wire(asyncio.Protocol):
    """A connection: sends a request, stamps each piece of its answer."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.response = Response()
        self.pieces: list[tuple[float, bytes]] = []
        self.sent = 0.0
        self.over: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def usable(self) -> bool:
        """It can take another request."""
        fresh = not self.sent or (self.response.done and self.response.keep)
        return fresh and self.transport is not None and not self.transport.is_closing()

    async def ask(self, request: bytes) -> None:
        """Send, and wait for the end of the answer. Raises OSError, BadAnswerError, TimeoutError."""
        assert self.transport
        self.response, self.pieces = Response(), []
        self.over = asyncio.get_running_loop().create_future()
        self.sent = time.perf_counter()
        self.transport.write(request)
        await asyncio.wait_for(self.over, PATIENCE)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        try:
            if body := self.response.push(data):
                self.pieces.append((now, body))
        except BadAnswerError as error:
            self._end(error)
            return
        if self.response.done:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        try:
            self.response.end()
        except BadAnswerError as broken:
            self._end(error or broken)
        else:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self.over and not self.over.done():
            if error:
                self.over.set_exception(error)
            else:
                self.over.set_result(None)


async def _all(
    target: _Target, bodies: Sequence[Mapping[str, Any]], clients: int, until: float, told: Callable[[int], None]
) -> list[Raw]:
    found: list[Raw] = []
    todo = _endless(bodies, until) if until else iter(bodies)
    await asyncio.gather(*(_client(target, todo, found, told) for _ in range(clients)))
    return found


def _endless(bodies: Sequence[Mapping[str, Any]], until: float) -> Iterator[Mapping[str, Any]]:
    while True:
        for body in bodies:
            if time.perf_counter() >= until:
                return
            yield body


async def _client(
    target: _Target, todo: Iterator[Mapping[str, Any]], found: list[Raw], told: Callable[[int], None]
) -> None:
    wire: _Wire | None = None
    for body in todo:
        request = target.request(body)
        began = time.perf_counter()
        try:
            wire = await _asked(target, wire, request)
            raw = Raw(wire.sent, wire.response.status, wire.pieces)
        except (OSError, BadAnswerError) as error:
            raw = Raw(began, 0, (), (str(error) or type(error).__name__).lower())
            wire = None
        found.append(raw)
        told(len(found))
        if raw.status != 200:
            await asyncio.sleep(PAUSE)
    if wire and wire.transport:
        wire.transport.close()


async def _asked(target: _Target, wire: _Wire | None, request: bytes) -> _Wire:
    """Ask over a kept connection, or over a new one when the server has closed that in the meantime."""
    if wire and wire.usable():
        try:
            await wire.ask(request)
            return wire
        except (OSError, BadAnswerError):
            if wire.response.status:
                raise
    if wire and wire.transport:
        wire.transport.close()
    fresh = await target.connect()
    await fresh.ask(request)
    return fresh


def read(raw: Raw) -> Sample:
    """What the pieces of an answer say."""
    sent, ended = raw.sent, raw.pieces[-1][0] if raw.pieces else raw.sent
    if raw.error:
        return Sample(sent, ended, None, raw.error)
    if raw.status != 200:
        page = b"".join(body for _, body in raw.pieces)
        try:
            said = words(json.loads(page))
        except ValueError:
            said = page.decode(errors="replace")[:200]
        return Sample(sent, ended, None, f"status {raw.status}: {said}")
    reader, events, whole = Reader(sent), Events(), False
    for now, body in raw.pieces:
        for data in events.push(body):
            if data == DONE:
                whole = True
                continue
            try:
                event = json.loads(data)
            except ValueError:
                return Sample(sent, ended, None, "an event that is no JSON")
            if not isinstance(event, dict) or event.get("error"):
                return Sample(sent, ended, None, words(event))
            reader.push(event, now)
    answer = reader.answer()
    if not (whole or answer.finish):
        return Sample(sent, ended, None, "it broke off in the middle of the answer")
    if not answer.timing.completion_tokens:
        return Sample(sent, ended, None, "an answer without a token")
    return Sample(sent, ended, answer)
