"""The listeners of a gateway, on uvicorn with httptools: TCP (with TLS when it is asked for) and Unix sockets.

uvicorn alone would keep a connection that never says anything for ever, and one that stops in the middle of a request.
`Impatient` closes it after `SILENCE` seconds: time to send the head of a request, and the most between two pieces of
its body. Signals are the gateway's own business, so the servers leave them alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hyb.serving import child, port
from hyb.serving.gateway.types import GatewayJob

SILENCE = 15.0  # seconds
HEAD = 64 << 10  # bytes of a request's head; httptools itself sets no limit
BACKLOG = 4096  # connections that the kernel keeps until they are taken


class Impatient(HttpToolsProtocol):
    """Closes a connection that has no request under way and says nothing, or too slowly."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._whole = False  # the request's head is
        self._head = 0  # bytes of it so far
        self._watch = self.loop.call_later(SILENCE, self._look)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self._whole or self._since < 0:  # of the body, or of the next request: the clock starts anew
            self._since = self.loop.time()
            if self.cycle is not None and self.cycle.response_complete:
                self._whole = False
        super().data_received(data)
        self._head = 0 if self._whole else self._head + len(data)
        if self._head > HEAD:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        """The head of a request is whole."""
        self._whole = True
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Between two requests uvicorn's own clock runs, the one of keep-alive."""
        self._since = -1
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        waiting = not self._whole or (self.cycle is not None and self.cycle.more_body)
        left = self._since + SILENCE - self.loop.time() if waiting and self._since >= 0 else SILENCE
        if left <= 0:
            self.transport.abort()
        else:
            self._watch = self.loop.call_later(max(left, 0.05), self._look)


class Listener(uvicorn.Server):
    """One or more sockets with an application behind them."""

    def __init__(self, app: Any, sockets: list[socket.socket], *, cert: str = "", key: str = "", grace: float) -> None:
        """`cert`, `key`: TLS. `grace`: seconds that running requests have when it ends."""
        config = uvicorn.Config(
            app, http=Impatient, ws="none", lifespan="off", log_level="warning", access_log=False, server_header=False,
            backlog=BACKLOG, timeout_graceful_shutdown=max(1, round(grace)), timeout_keep_alive=60,
            ssl_certfile=cert or None, ssl_keyfile=key or None, proxy_headers=False,
        )  # fmt: skip
        super().__init__(config)
        self._sockets, self._told = sockets, asyncio.Event()
        self.tls = bool(cert)

    async def listen(self) -> None:
        """Serve until `end`."""
        await self._serve(self._sockets)

    def end(self) -> None:
        """Take no new connection, let the answers under way end."""
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        """As uvicorn's, but woken once a second, for the date in the answers' heads, rather than ten times."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 1)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with a time limit for TLS handshakes."""
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            return Impatient(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

        limit: dict[str, Any] = {"ssl": self.config.ssl, "ssl_handshake_timeout": SILENCE} if self.tls else {}
        self.servers = [
            await loop.create_server(protocol, sock=s, backlog=self.config.backlog, **limit) for s in sockets or ()
        ]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the gateway's own business."""
        yield


def tcp(job: GatewayJob) -> socket.socket | None:
    """The job's TCP port, taken but not listening yet; None when it wants none. Raises UnableError."""
    if job.port < 0:
        return None
    found = port.listener(job.host)
    try:
        found.bind((job.host, job.port))
    except OSError as error:
        found.close()
        raise child.UnableError(f"can't listen on {job.host} port {job.port}: {_why(error)}") from error
    return found


def unix(path: str, mode: int = 0o600) -> socket.socket:
    """A Unix socket, taken but not listening yet; one that a dead process left is replaced. Raises UnableError."""
    found = socket.socket(socket.AF_UNIX)
    try:
        _clear(path)
        before = os.umask(0o777 & ~mode)
        try:
            found.bind(path)
        finally:
            os.umask(before)
    except OSError as error:
        found.close()
        raise child.UnableError(f"can't listen on `{path}`: {_why(error)}") from error
    return found


def _clear(path: str) -> None:
    """Remove a socket that a killed process left. Raises OSError when somebody listens on it."""
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)


def _why(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


def room_for_connections() -> int:
    """Allow as many open files as the system lets us; the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
