"""The process: its ports, slow and silent connections, the log, and its end.

SIGTERM: `/ready` says 503 for `drain_seconds` while all else goes on (a cluster needs a moment to send people
elsewhere), then the ports close, answers under way have `grace_seconds`, and what is left ends with a word to its
reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import resource
import secrets
import signal
import socket
import sys
import time
from asyncio import TimerHandle
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hyb.chat import app, model
from hyb.chat.answer import Answers
from hyb.chat.breaker import Breaker
from hyb.chat.limits import Buckets, Queue
from hyb.chat.metrics import Metrics
from hyb.chat.settings import Settings
from hyb.chat.signin import SignIn
from hyb.errors import Exit, HybError

HEAD_BYTES = 32 << 10  # of a request's line and headers
LAST_WORD = 1.0  # seconds to tell the readers that this is the end
QUIET = ("/health", "/ready", "/metrics", "/api/status")  # probes: counted, not logged
KNOWN = (*QUIET, "/", "/api/config", "/api/chat", "/api/sign-in", "/api/sign-out", "/v1/models", "/v1/chat/completions")


class Patient(HttpToolsProtocol):
    """uvicorn's HTTP, with an end to patience: a head in `head_seconds` and HEAD_BYTES, a body in `body_seconds`.

    Without it a connection that says nothing, or a byte now and then, is kept for ever.
    """

    head_seconds = body_seconds = 15.0
    most = 1000
    """Connections at once; beyond them one that is idle makes room, else the new one is closed."""
    people = 0
    """The port that `most` speaks of; the cluster's probes always get in."""
    _timer: TimerHandle | None = None
    _head: int | None = 0
    """Bytes of the head so far; None while a body comes."""
    _fields = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self.head_seconds)
        if len(self.connections) > self.most and self.server and self.server[1] == self.people:
            idle = next((c for c in self.connections if isinstance(c, Patient) and c.is_idle), self)
            idle.transport.close()

    @property
    def is_idle(self) -> bool:
        """Kept open between two requests."""
        return self.cycle is not None and self.cycle.response_complete and not self._head

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(0)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._fields = 0
        self._head = self._head or 0
        self._wait(self.head_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head. One that follows the body speaks for nobody: a proxy has not seen to it."""
        if self._head is not None:
            self._fields += len(name) + len(value)
            if self._fields > HEAD_BYTES:  # a head that comes in one piece
                raise ValueError("the request's head is too long")
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.url.startswith(
            b"/"
        ):  # whose address names a host: it counts, the header does not (RFC 9112, 3.2.2)
            host = self.url.partition(b"://")[2].partition(b"/")[0]
            self.headers[:] = [(b"host", host), *(h for h in self.headers if h[0] != b"host")]
        super().on_headers_complete()
        self._head = None
        self._wait(self.body_seconds)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head = 0
        self._wait(0)

    def _wait(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._enough) if seconds else None

    def _enough(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's server, watching the model, and draining before it ends."""

    settings: Settings
    answers: Answers
    announce: Callable[[int], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.watching = asyncio.create_task(self.answers.model.run())
        self.watching.add_done_callback(self._watcher_ended)
        self.announce(sockets[0].getsockname()[1] if sockets else 0)

    def _watcher_ended(self, task: asyncio.Task[None]) -> None:
        """Without its watcher the app would never notice a model's return: better to be started again."""
        if not task.cancelled() and (error := task.exception()):
            logging.getLogger("uvicorn.error").error("the watcher of the model failed", exc_info=error)
            self.failed = self.should_exit = True

    failed = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.answers.stopping = True
        last = asyncio.get_running_loop().call_later(self.settings.grace_seconds, self.answers.stopped.set)
        await super().shutdown(sockets)
        last.cancel()
        self.watching.cancel()
        await asyncio.gather(self.watching, return_exceptions=True)
        self.answers.model.wire.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again, self.answers.stopping = self.answers.stopping, True
        if again or sig == signal.SIGINT or not self.settings.drain_seconds:
            super().handle_exit(sig, frame)
            return
        loop, handle = self.loop, super().handle_exit
        loop.call_soon_threadsafe(lambda: loop.call_later(self.settings.drain_seconds, lambda: handle(sig, frame)))


class Log:
    """One JSON object a line on stderr. A client is a number that changes with each start, not an address."""

    def __init__(self, on: bool) -> None:
        self.on, self.salt = on, secrets.token_bytes(16)

    def __call__(self, event: str, **fields: Any) -> None:
        """Write a line."""
        if self.on:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            print(json.dumps({"time": stamp, "event": event, **fields}), file=sys.stderr, flush=True)  # noqa: T201

    def label(self, client: str) -> str:
        """A client as the log may have it."""
        return hashlib.blake2s(client.encode(), key=self.salt, digest_size=4).hexdigest()


def assemble(settings: Settings, log: Log) -> tuple[Answers, Any]:
    """The app and what it is made of. Raises HybError where a CA file can't be used."""
    metrics, was = Metrics(), False

    def changed(closed: bool, why: str) -> None:
        nonlocal was
        if was and not closed:
            metrics.opened.inc()
        was = closed
        log("model", available=closed, **({"why": why} if why else {}))

    try:
        wire = model.wire(settings)
    except OSError as error:
        raise HybError(f"the CA file `{settings.ca_file}` can't be used: {error.strerror or error}") from error
    queue = Queue(settings.parallel, settings.queue, settings.client_parallel, settings.queue_seconds)
    watched = model.Model(settings, wire, Breaker(changed), reached=metrics.reachable.set)
    answers = Answers(settings, watched, queue, metrics, log)
    buckets = Buckets(settings.client_minute)

    def done(path: str, method: str, status: int, seconds: float) -> None:
        known = path if path in KNOWN else "page" if status in (200, 304) else "other"
        metrics.requests.labels(known, status).inc()
        if path not in QUIET:
            log("request", method=method, path=known, status=status, ms=round(seconds * 1000))

    chat = app.Chat(settings, answers, metrics, SignIn(settings), buckets, log.label)
    return answers, app.build(chat, done)


def bind(host: str, port: int) -> socket.socket:
    """A port, taken. Raises HybError."""
    # with the protocol named, or asyncio does not know it for TCP, and each answer waits 40 ms for Nagle's algorithm
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        reason = error.strerror or str(error)
        hint = "give another port: `--port`, or `HYB_CHAT_PORT` in a container"
        raise HybError(f"can't listen on {host} port {port}: {reason.lower()}", hint=hint) from error
    return found


def run(settings: Settings, *, announce: Callable[[int], None] | None = None, log: Log | None = None) -> int:
    """Serve until SIGTERM or ^C, and return the exit code. Raises HybError.

    `announce` gets the port once it's open. `log`: where events go in place of stderr.
    """
    log = log or Log(settings.log != "none")
    answers, asgi = assemble(settings, log)
    sockets = [bind(settings.host, settings.port)]
    if settings.metrics_port:
        sockets.append(bind(settings.host, settings.metrics_port))
    _many_files()
    server = Server(config(settings, asgi, sockets[0].getsockname()[1]))
    server.settings, server.answers = settings, answers

    def listening(port: int) -> None:
        log("listening", host=settings.host, port=port)
        if announce:
            announce(port)

    server.announce = listening
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises a signal again when all is done
    try:
        server.run(sockets=sockets)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return 1 if server.failed else Exit.OK


def config(settings: Settings, asgi: Any, port: int) -> uvicorn.Config:
    """uvicorn's settings. `port`: the one for people."""
    logging.getLogger("uvicorn.error").addFilter(_no_noise)
    limits = {"head_seconds": settings.head_seconds, "body_seconds": settings.body_seconds}
    protocol = type("Protocol", (Patient,), {**limits, "most": settings.connections, "people": port})
    return uvicorn.Config(
        asgi,
        http=protocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,  # longer than a proxy keeps its idle connections, so that it's never us who closes one
        timeout_graceful_shutdown=int(settings.grace_seconds + LAST_WORD + 1),
    )


def _no_noise(record: logging.LogRecord) -> bool:
    """Errors only: what strangers send (bad requests, upgrades) is theirs to write, and not into our log."""
    return record.levelno >= logging.ERROR


def _many_files() -> None:
    """As many open connections as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
