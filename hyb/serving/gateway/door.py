"""Who gets in: key in the URL, `Host`, web page, key. Every request passes here before anything of it is looked at."""

from __future__ import annotations

import re
from pathlib import Path

from hyb.render.names import is_loopback
from hyb.serving.gateway import auth
from hyb.serving.gateway.auth import Keys
from hyb.serving.gateway.errors import GatewayError
from hyb.serving.gateway.exchange import Exchange, printable
from hyb.serving.gateway.settings import Settings
from hyb.serving.gateway.types import GatewayJob

OPEN = frozenset(("/health", "/ready"))
"""What needs no key."""
_NAMES = re.compile(rb"[A-Za-z0-9, -]{1,1000}")


class Door:
    """The door of one service."""

    def __init__(self, job: GatewayJob, options: Settings) -> None:
        self._keys = Keys(Path(job.key_path) if job.key_path else None, Path(job.keys_path) if job.keys_path else None)
        self._local = job.port >= 0 and is_loopback(job.host)
        self._hosts, self._origins = options.hosts, options.origins
        self._open = OPEN | {"/metrics"} if options.open_metrics else OPEN

    def check(self, x: Exchange) -> None:
        """Raise GatewayError for a request that must not be looked at; else note who asks."""
        auth.check_url(x.path, x.query)
        self._check_host(x)
        if self._welcome(x):
            x.extra += [(b"access-control-allow-origin", x.headers[b"origin"]), (b"vary", b"Origin"),
                        (b"access-control-expose-headers", b"x-request-id, retry-after")]  # fmt: skip
        if x.path not in self._open and not self.asks_first(x):
            x.key = self._keys.who(x.headers.get(b"authorization", b""))

    def asks_first(self, x: Exchange) -> bool:
        """A browser asks, without a key, whether a page may send its request (a CORS preflight)."""
        return x.method == "OPTIONS" and self._welcome(x)

    async def allow(self, x: Exchange) -> None:
        """The answer to that."""
        wanted = x.headers.get(b"access-control-request-headers", b"")
        allowed = wanted if _NAMES.fullmatch(wanted) else b"authorization, content-type"
        more = ((b"access-control-allow-methods", b"GET, POST"), (b"access-control-allow-headers", allowed),
                (b"access-control-max-age", b"600"))  # fmt: skip
        await x.data(b"", status=204, more=more)

    def _check_host(self, x: Exchange) -> None:
        """Against DNS rebinding: a page in the owner's browser reaches a loopback service under the page's own name."""
        host = x.headers.get(b"host", b"").decode("latin-1")
        if self._local and not auth.local_host(host, self._hosts):
            raise GatewayError(
                403, f"this service is not called `{printable(host)}`; `HYB_ALLOWED_HOSTS` allows further names",
                code="host_not_allowed",
            )  # fmt: skip

    def _welcome(self, x: Exchange) -> bool:
        """It comes from a web page that the owner allows."""
        return bool(self._origins) and x.headers.get(b"origin", b"").decode("latin-1") in self._origins
