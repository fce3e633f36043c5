"""What every request passes first: the right name, the same site, and the headers that every answer bears.

Plain ASGI, so that a stream goes through untouched.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyb.chat.errors import ChatError
from hyb.chat.settings import Network, Settings

CSP = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
        "manifest-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        "require-trusted-types-for 'script'", "trusted-types 'none'",
    )
)  # fmt: skip
"""Nothing from elsewhere, no inline script or style, and no text that becomes markup."""
SECURITY = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Middleware. `done(path, method, status, seconds)` hears of each request."""

    def __init__(self, app: ASGIApp, settings: Settings, done: Callable[[str, str, int, float], None]) -> None:
        self.app, self.settings, self.done = app, settings, done
        self.hosts = settings.hosts or (LOOPBACK if is_loopback(settings.host) else ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":  # `lifespan` is off, and websockets end before they get here
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 499

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY)
                headers.setdefault("Cache-Control", "no-store")
                if is_https(scope, self.settings):
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        try:
            try:
                self.check(scope)
            except ChatError as error:
                refusal = JSONResponse(error.body(), error.status, headers={"Connection": "close"})
                await refusal(scope, receive, sent)
            else:
                await self.app(scope, receive, sent)
        finally:
            self.done(scope["path"], scope["method"], status, time.monotonic() - began)

    def check(self, scope: Scope) -> None:
        """Raise ChatError: `host` where the name is not ours, `cross_site` where another site's page asks."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if scope["http_version"] not in ("1.0", "1.1"):
            raise ChatError("bad_request", "this is spoken in HTTP/1.1")
        if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1"):
            raise ChatError("bad_request", "a request has one Host")
        if headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise ChatError("bad_request", "a body is sent in no other coding than `chunked`")
        host = hosts[0] if hosts else ""
        if self.hosts and name_of(host) not in self.hosts and not _own_port(scope, self.settings):
            raise ChatError("host")
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise ChatError("cross_site")
        origin = headers.get("origin")
        if origin is not None:
            asked = origin.partition("://")[2].lower()
            ours = asked == host.lower() or name_of(asked) in self.settings.hosts  # a proxy may change the Host
            if not asked or not ours:
                raise ChatError("cross_site")


def _own_port(scope: Scope, s: Settings) -> bool:
    """True on the port for probes and metrics: the cluster calls it by the pod's address."""
    return bool(s.metrics_port) and scope.get("server", ("", 0))[1] == s.metrics_port


def name_of(host: str) -> str:
    """A Host header's name, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_trusted(address: str, networks: tuple[Network, ...]) -> bool:
    """True when a proxy at this address may say whom it speaks for."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)


def is_https(scope: Scope, s: Settings) -> bool:
    """True when the browser speaks https, with us or with a proxy that is believed."""
    if scope["scheme"] == "https":
        return True
    peer = scope["client"][0] if scope.get("client") else ""
    forwarded = Headers(scope=scope).get("x-forwarded-proto", "")
    return is_trusted(peer, s.trusted_proxies) and forwarded.rpartition(",")[2].strip() == "https"


def client_of(request: Request, s: Settings) -> str:
    """Whom limits count as one: the address behind the proxies that are believed; of IPv6, the /64.

    `X-Forwarded-For` is read from its right end: what stands left of the first stranger is the stranger's own word.
    """
    address = request.client.host if request.client else ""
    if is_trusted(address, s.trusted_proxies):
        for part in reversed(",".join(request.headers.getlist("x-forwarded-for")).split(",")):
            if not part.strip():
                continue
            address = name_of(part.strip()) if part.count(":") < 2 or "[" in part else part.strip()
            if not is_trusted(address, s.trusted_proxies):
                break
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped or ipaddress.ip_network((found, 64), strict=False).network_address)
    return str(found)


async def body_of(request: Request, limit: int) -> bytes:
    """A JSON request's body. Raises ChatError: `not_json`, `too_large` (before it is read where it says its size)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ChatError("not_json")  # a form of another site can't send this type without asking first
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limit:
        raise ChatError("too_large", f"a request has at most {limit} bytes")
    data = bytearray()
    try:
        async for part in request.stream():
            data += part
            if len(data) > limit:
                raise ChatError("too_large", f"a request has at most {limit} bytes")
    except ClientDisconnect as error:
        raise ChatError("too_slow") from error
    return bytes(data)
