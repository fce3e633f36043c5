"""HTTP/1.1 to the model's server, over TCP, TLS or a Unix socket, on connections kept from question to question.

A general client (httpx) in its place made the first word 2.7 ms later than straight from the model, and each next one
0.34 ms; with this it is 1.4 and 0.20 (bench/chat.py). httptools, the C parser that the server side has anyway, takes
the coding off. A kept connection that the other side closes is forgotten at that moment, so hardly any question meets
one; the one that does is asked once more. No proxy of the environment, no redirect, no compression.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.parse
from collections.abc import AsyncIterator
from typing import cast

import httptools

HEAD_BYTES = 64 << 10  # of an answer's head
HIGH_WATER = 256 << 10  # bytes of an answer that lie here before the model has to wait
KEEP_SECONDS = 10.0  # that an idle connection is kept


class WireError(Exception):
    """No answer, or not all of it; says why, in words that name no address. `unreachable`: nothing was even asked."""

    def __init__(self, why: str, *, unreachable: bool = False) -> None:
        super().__init__(why)
        self.unreachable = unreachable


class Answer(asyncio.Protocol):
    """A connection, and the answer that comes on it now."""

    def __init__(self, wire: Wire) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.patience = 60.0
        """Seconds that a reader waits for the next bytes, until TimeoutError."""
        self.used = False
        """An answer has come whole on this connection before."""
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._body = bytearray()
        self._head_size = 0
        self._headed = self._whole = self._keepable = self._paused = False
        self._lost = ""
        self._waiter: asyncio.Future[None] | None = None
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def silent(self) -> bool:
        """Not a byte of the answer has come."""
        return not self._head_size

    # -- for those who ask ---------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write a request; from now on the answer to it is read."""
        assert self._transport
        self.status, self.headers, self._head_size = 0, {}, 0
        self._headed = self._whole = self._keepable = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(data)

    async def head(self) -> None:
        """Wait for status and headers. Raises WireError, TimeoutError."""
        while not self._headed:
            if self._lost:
                raise WireError(self._lost)
            await self._more()

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises WireError when it breaks off, TimeoutError after `patience` of nothing."""
        while True:
            if self._body:
                part = bytes(self._body)
                self._body.clear()
                if self._paused and self._transport:
                    self._paused = False
                    self._transport.resume_reading()
                yield part
            elif self._whole:
                return
            elif self._lost:
                raise WireError(self._lost)
            else:
                await self._more()

    async def body(self, most: int) -> bytes:
        """The whole body, or its first `most` bytes and some. Raises as `parts` does."""
        data = b""
        async for part in self.parts():
            data += part
            if len(data) >= most:
                break
        return data

    def close(self) -> None:
        """Done with it: a whole answer's connection is kept, any other is closed, which ends the model's work."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._keepable and not self._lost:
            self._parser, self.used = None, True
            self._body.clear()
            self._wire.keep(self)
        else:
            self.drop()

    def drop(self) -> None:
        """Close the connection."""
        if self._transport:
            self._transport.abort()

    async def _more(self) -> None:
        """Wait for something to happen. One timer serves a whole answer: it is set anew only when it has rung."""
        self._since = self._loop.time()
        self._waiter = self._loop.create_future()
        if not self._timer or self._timer.when() > self._since + self.patience:
            if self._timer:
                self._timer.cancel()
            self._timer = self._loop.call_later(self.patience, self._rang)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _rang(self) -> None:
        self._timer = None
        if not self._waiter or self._waiter.done():
            return
        left = self._since + self.patience - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._rang)
        else:
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast(asyncio.Transport, transport)  # of whichever event loop

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer; on a connection that nobody has asked anything, they are a fault."""
        if not self._parser or self._whole:
            self._fail("the model's server speaks unasked")
            return
        self._head_size += 0 if self._headed else len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("the model's server does not speak HTTP as it should")
        if not self._headed and self._head_size > HEAD_BYTES:
            self._fail("the model's server sends a head without end")
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is closed. Where no length was told, that is the answer's end."""
        if not error and self._headed and not {"content-length", "transfer-encoding"} & self.headers.keys():
            self._whole = True
        self._lost = self._lost or (
            "the model's server closes the connection without an answer"
            if self.silent
            else "the model's server breaks the answer off"
        )
        self._wire.forget(self)
        self._wake()

    def _fail(self, why: str) -> None:
        self._lost = self._lost or why
        self.drop()

    # -- httptools -----------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A second answer to one question is a fault."""
        if self._whole:
            raise httptools.HttpParserError("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a field after the body, which is nothing to us."""
        if not self._headed:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole; one of 1xx comes before the real one."""
        assert self._parser
        self.status = self._parser.get_status_code()
        self._headed = self.status >= 200
        if not self._headed:
            self.headers = {}

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body += body
        if len(self._body) > HIGH_WATER and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._whole = self._headed
        self._keepable = self._whole and self._parser is not None and self._parser.should_keep_alive()


class Wire:
    """The way to one server: `base` is the URL of its API, `unix` a Unix socket in place of the URL's address.

    `keep`: idle connections at most. Not for several event loops. Raises OSError where `ca_file` can't be used.
    """

    def __init__(
        self, base: str, *, key: str = "", ca_file: str = "", unix: str = "", connect_seconds: float = 10, keep: int = 4
    ) -> None:
        parts = urllib.parse.urlsplit(base)
        self._path = parts.path.rstrip("/")
        self._host, self._unix = parts.hostname or "", unix
        self._tls = _trust(ca_file) if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._connect_seconds, self._keep = connect_seconds, keep
        self._idle: list[Answer] = []
        self._closing: dict[Answer, asyncio.TimerHandle] = {}
        lines = [f"Host: {parts.netloc}", "User-Agent: hyb-chat", "Accept-Encoding: identity"]
        lines += [f"Authorization: Bearer {key}"] if key else []
        self._headers = "".join(f"{line}\r\n" for line in lines).encode("latin-1")

    async def ask(self, method: str, path: str, body: bytes = b"", *, patience: float = 60) -> Answer:
        """Ask for `path` below the base, and give the answer once its head is there. It must be closed.

        Raises WireError, and TimeoutError when no head comes within `patience` seconds.
        """
        data = f"{method} {self._path}/{path} HTTP/1.1\r\n".encode() + self._headers
        if body:
            data += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        data += b"\r\n" + body
        while True:
            answer = self._kept() or await self._connected()
            answer.patience = patience
            try:
                answer.send(data)
                await answer.head()
            except WireError:
                answer.close()
                if answer.used and answer.silent:
                    continue  # a kept connection that the other side was just closing
                raise
            except BaseException:
                answer.close()
                raise
            return answer

    def _kept(self) -> Answer | None:
        if not self._idle:
            return None
        answer = self._idle.pop()
        self._closing.pop(answer).cancel()
        return answer

    async def _connected(self) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                if self._unix:
                    name = self._host if self._tls else None
                    _, answer = await loop.create_unix_connection(
                        lambda: Answer(self), self._unix, ssl=self._tls, server_hostname=name
                    )
                else:
                    _, answer = await loop.create_connection(
                        lambda: Answer(self), self._host, self._port, ssl=self._tls, happy_eyeballs_delay=0.2
                    )
        except TimeoutError as error:
            raise WireError("the model's server can't be reached in time", unreachable=True) from error
        except ssl.SSLCertVerificationError as error:
            raise WireError(f"the model's server is not trusted: {error.verify_message}", unreachable=True) from error
        except ssl.SSLError as error:
            raise WireError("the model's server does not speak TLS as it should", unreachable=True) from error
        except (OSError, UnicodeError) as error:
            raise WireError(_why(error), unreachable=True) from error
        return answer

    def keep(self, answer: Answer) -> None:
        """Keep an idle connection for the next question."""
        if len(self._idle) >= self._keep:
            answer.drop()
            return
        self._idle.append(answer)
        self._closing[answer] = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._close, answer)

    def forget(self, answer: Answer) -> None:
        """A connection is closed."""
        if timer := self._closing.pop(answer, None):
            timer.cancel()
            self._idle.remove(answer)

    def close(self) -> None:
        """Close what is idle."""
        for answer in list(self._idle):
            self._close(answer)

    def _close(self, answer: Answer) -> None:
        self.forget(answer)
        answer.drop()


def _trust(ca_file: str) -> ssl.SSLContext:
    """TLS that trusts the system's certificates, or those of a file alone, a server's own certificate among them."""
    context = ssl.create_default_context(cafile=ca_file or None)
    if ca_file:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "the connection to the model's server is refused"
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return "the name of the model's server is not known"
    return "the model's server can't be reached"
