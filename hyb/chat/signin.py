"""Who may use the page: anybody, who knows the access code, or whom an oauth-proxy names.

The cookie says when it ends and is signed; nothing is kept here, so several copies of the app and a restarted one know
it. Another code (or secret) ends all of them. The signing key is stretched from the code, so that a cookie that gets
into wrong hands gives the code away only at the price of scrypt for each guess.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field

from hyb.chat.errors import ChatError
from hyb.chat.limits import Buckets
from hyb.chat.settings import Settings

TRIES_MINUTE, ALL_TRIES_MINUTE = 6, 120  # wrong and right ones, of one client and of all


def _signing_key(s: Settings) -> bytes:
    if s.secret:
        return hashlib.sha256(b"hyb chat cookie\0" + s.secret.encode()).digest()
    if s.access_code:
        return hashlib.scrypt(s.access_code.encode(), salt=b"hyb chat cookie", n=1 << 14, r=8, p=1)
    return secrets.token_bytes(32)


@dataclass
class SignIn:
    """The access code and its cookies."""

    settings: Settings
    tries: Buckets = field(default_factory=lambda: Buckets(TRIES_MINUTE, TRIES_MINUTE))
    all_tries: Buckets = field(default_factory=lambda: Buckets(ALL_TRIES_MINUTE, ALL_TRIES_MINUTE))
    key: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        self.key = self.key or _signing_key(self.settings)

    def check_code(self, code: str, client: str) -> None:
        """Raise ChatError: `limited`, `wrong_code`. The comparison takes the same time for every wrong code."""
        if wait := max(self.tries.take(client), self.all_tries.take("")):
            raise ChatError("limited", retry_after=wait)
        if not self._is_code(code):
            raise ChatError("wrong_code")

    def check_bearer(self, code: str, client: str) -> None:
        """As `check_code`, for a program that gives the code with each request: only wrong ones count as tries."""
        if wait := max(self.tries.short(client), self.all_tries.short("")):
            raise ChatError("limited", retry_after=wait)
        if not self._is_code(code):
            self.tries.take(client)
            self.all_tries.take("")
            raise ChatError("wrong_code")

    def _is_code(self, code: str) -> bool:
        # of digests: the time tells neither the code's length nor how much of it was right
        given = hashlib.sha256(code.encode("utf-8", "replace")).digest()
        return hmac.compare_digest(given, hashlib.sha256(self.settings.access_code.encode()).digest())

    def cookie(self, now: float | None = None) -> str:
        """A new cookie's value: when it ends, something random, the signature."""
        ends = int((time.time() if now is None else now) + self.settings.session_hours * 3600)
        said = f"{ends}.{secrets.token_urlsafe(12)}"
        return f"{said}.{self._signature(said)}"

    def valid(self, cookie: str, now: float | None = None) -> bool:
        """True for a cookie made here that has not ended."""
        said, _, signature = cookie.rpartition(".")
        ends = said.partition(".")[0]
        if len(cookie) > 200 or not cookie.isascii() or not (ends.isdigit() and len(ends) < 15):
            return False
        if not hmac.compare_digest(signature, self._signature(said)):
            return False
        return int(ends) > (time.time() if now is None else now)

    def _signature(self, said: str) -> str:
        return hmac.new(self.key, said.encode(), hashlib.sha256).hexdigest()
