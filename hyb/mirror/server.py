"""The mirror's process: who may read, which protocol is meant, its port and its end.

The catalog is read again when the store's index has changed, so a model that is pulled while it runs is there at once.
A blob that was touched since it was written is hashed before it is served, and refused when it is another.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import resource
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hyb.artifact import Blob
from hyb.blobs import BLOB_MTIME
from hyb.errors import HybError
from hyb.mirror import answers, catalog, http, hub, registry, simple
from hyb.mirror.answers import Answer, Part, Request
from hyb.mirror.catalog import Catalog
from hyb.mirror.wheels import Wheel, metadata
from hyb.serving.gateway.auth import local_host
from hyb.store import Store

GRACE = 10.0  # seconds that answers under way have at the end
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """How a mirror serves. `key`: what a reader must show, or "". `wheels`: a folder of packages beside the store."""

    host: str = "127.0.0.1"
    port: int = 0
    key: str = field(default="", repr=False)
    cert: Path | None = None
    cert_key: Path | None = None
    wheels: Path | None = None
    everything: bool = False


class Mirror:
    """What answers. Safe to be asked by many connections at once."""

    def __init__(self, store: Store, settings: Settings, say: Callable[[str], None]) -> None:
        """Raises HybError when the folder of wheels can't be read."""
        self.store, self.settings, self.say = store, settings, say
        try:
            self.extra = catalog.folder(settings.wheels) if settings.wheels else {}
        except OSError as error:
            raise HybError(f"the folder `{settings.wheels}` can't be read: {(error.strerror or '').lower()}") from error
        self.key = hashlib.sha256(settings.key.encode()).digest() if settings.key else b""
        self.places = {w.blob.digest: path for w, path in self.extra.items()}
        self._told: dict[str, bytes] = {}
        self._seen = catalog.mark(store)
        self._catalog = self._read()
        self._reading = asyncio.Lock()

    async def answer(self, request: Request) -> Answer:
        """The answer to one request."""
        if (at_once := self.quick(request)) is not None:
            return at_once
        try:
            return await self._whole(self._route(request, await self._now()))
        except HybError as error:
            self.say(f"{error.message}; it is not served")
            return answers.text(500, "what was asked for is damaged here; the one who runs this mirror has been told")

    def quick(self, request: Request) -> Answer | None:
        """The answer, where nothing must be read anew or hashed for it; None where something must."""
        refused = self._refusal(request)
        if refused:
            return refused
        if catalog.mark(self.store) != self._seen:
            return None
        answer = self._route(request, self._catalog)
        return answer if not isinstance(answer.body, Part) or self._untouched(answer.body.blob) else None

    def place(self, digest: str) -> Path:
        """Where a blob lies: in the store, or in the folder of wheels."""
        return self.places.get(digest) or self.store.blob_path(digest)

    def _refusal(self, request: Request) -> Answer | None:
        head = request.headers
        if self.key and not self._may_read(head.get("authorization", "")):
            return _unauthorized()
        if not self.key and self.settings.host in LOOPBACK and not local_host(head.get("host", "localhost")):
            return answers.text(
                421, "this mirror is on loopback, and has no such name"
            )  # a page's name that points here
        if request.method in ("GET", "HEAD") or (request.method == "POST" and "paths-info" in request.segments):
            return None
        if request.segments[0] == "v2":
            return registry.error(405, "UNSUPPORTED", "this registry is only to pull from")
        return answers.text(405, "a mirror is only to read from", {"Allow": "GET, HEAD"})

    def _may_read(self, authorization: str) -> bool:
        """The key as a bearer token (the hub's clients), or as a password (registries, pip)."""
        scheme, _, given = authorization.partition(" ")
        candidates = [given.strip()]
        if scheme.lower() == "basic":
            try:
                user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
            except (binascii.Error, ValueError):
                return False
            candidates = [password or user]
        elif scheme.lower() != "bearer":
            return False
        return any(hmac.compare_digest(hashlib.sha256(c.encode()).digest(), self.key) for c in candidates)

    def _route(self, request: Request, shown: Catalog) -> Answer:
        if request.segments == ("",):
            return answers.text(200, "a hyb mirror: a hub at /, a registry at /v2/, a package index at /simple/")
        found = registry.answer(request, shown) or simple.answer(request, shown, self._metadata)
        found = found or hub.answer(request, shown)
        return found or answers.text(404, "no such path here")

    async def _now(self) -> Catalog:
        if catalog.mark(self.store) != self._seen:
            async with self._reading:
                seen = catalog.mark(self.store)
                if seen != self._seen:
                    self._catalog = await asyncio.to_thread(self._read)
                    self._seen = seen
        return self._catalog

    def _read(self) -> Catalog:
        found = catalog.read(self.store, everything=self.settings.everything, wheels=self.extra)
        for digest in found.damaged:
            self.say(f"`{digest}` is damaged or missing, and is not served; `hyb verify` says more")
        return found

    async def _whole(self, answer: Answer) -> Answer:
        """The answer, once it is sure that its blob is what its digest says. Raises HybError."""
        if isinstance(answer.body, Part) and not self._untouched(answer.body.blob):
            await asyncio.to_thread(self.store.check, answer.body.blob)
        return answer

    def _untouched(self, blob: Blob) -> bool:
        """True when a blob is as it was written."""
        if blob.digest in self.places:
            return True
        try:
            stat = self.store.blob_path(blob.digest).stat()
        except OSError:
            return False
        return stat.st_size == blob.size and stat.st_mtime == BLOB_MTIME

    def _metadata(self, wheel: Wheel) -> bytes:
        """A wheel's METADATA, read once."""
        digest = wheel.blob.digest
        if digest not in self._told:
            self._told[digest] = metadata(self.place(digest)) if wheel.name.endswith(".whl") else b""
        return self._told[digest]

    def summary(self) -> Catalog:
        """What is shown, as it was read last."""
        return self._catalog


def _unauthorized() -> Answer:
    """The words in the header are those by which the hub's client tells a bad token from a model that is not there."""
    said = {
        "WWW-Authenticate": 'Basic realm="hyb mirror"',
        "X-Error-Message": "Invalid credentials in Authorization header",
        **registry.VERSION,
    }
    body = {"errors": [{"code": "UNAUTHORIZED", "message": "a read key is needed", "detail": None}]}
    return answers.json_({**body, "error": "a read key is needed"}, 401, said)


def read_key(path: Path) -> str:
    """The read key in a file. Raises HybError when it can't be read, others may read it, or it is too short."""
    try:
        mode, text = path.stat().st_mode, path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HybError(f"the key's file `{path}` can't be read", hint="give a file with one line") from error
    if mode & 0o077:
        raise HybError(f"others may read the key's file `{path}`", hint=f"`chmod 600 {path}`")
    if len(text) < 16 or any(c.isspace() for c in text) or ":" in text:
        hint = f"make one: `openssl rand -hex 24 > {path}`"
        raise HybError(f"`{path}` holds no key: one word of 16 letters or more, without a colon", hint=hint)
    return text


def listen(settings: Settings) -> socket.socket:
    """The port, taken. Raises HybError."""
    try:
        return http.bind(settings.host, settings.port)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise HybError(
            f"can't listen on {settings.host} port {settings.port}: {why.lower()}", hint="give another `--port`"
        ) from error


def tls(settings: Settings) -> ssl.SSLContext | None:
    """The TLS that was asked for. Raises HybError when the files are no pair."""
    if not settings.cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.cert, settings.cert_key)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise HybError(f"`{settings.cert}` and `{settings.cert_key}` are no pair for TLS: {why}") from error
    return context


def run(mirror: Mirror, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or ^C. `ready` gets the address once it answers. Raises HybError."""
    context = tls(mirror.settings)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve(mirror, listener, context, ready))


async def _serve(
    mirror: Mirror, listener: socket.socket, context: ssl.SSLContext | None, ready: Callable[[str], None]
) -> None:
    others: set[http.Connection] = set()
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)

    def protocol() -> http.Connection:
        return http.Connection(mirror.answer, mirror.quick, mirror.place, others)

    patience = http.HEAD_SECONDS if context else None
    server = await loop.create_server(
        protocol, sock=listener, backlog=1024, ssl=context, ssl_handshake_timeout=patience
    )
    host, port = listener.getsockname()[:2]
    ready(f"http{'s' if context else ''}://{f'[{host}]' if ':' in host else host}:{port}")
    await ending.wait()
    server.close()
    await http.end(others, GRACE)
