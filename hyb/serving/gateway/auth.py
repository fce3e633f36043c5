"""Who asks: the key in the header `Authorization: Bearer`, compared with the service's own and the hashed ones.

Both files are looked at again on every request (two `stat`), so that a key that was revoked is refused at once. A
damaged file of hashed keys lets nobody in; the service's own key goes on working.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import sys
from pathlib import Path

from hyb.errors import HybError
from hyb.serving import keys
from hyb.serving.gateway.errors import GatewayError
from hyb.serving.keys import Key

OWN = "own"
"""The id of the service's own key; it has no limits."""
_IN_URL = re.compile(rb"(?i)(?:^|[&?;])(?:x-)?(?:api[-_]?key|key|token|access[-_]?token|auth|authorization|bearer)=")
_LOCAL = re.compile(r"(?i)[a-z0-9-]+|(?:[a-z0-9-]+\.)+(?:localhost|internal|svc|svc\.cluster\.local)")


class Keys:
    """The keys of a service."""

    def __init__(self, own: Path | None, hashed: Path | None) -> None:
        self._own_path, self._hashed_path = own, hashed
        self._own = ""
        self._hashed: dict[str, Key] = {}
        self._seen: list[object] = [None, None]
        self.known: frozenset[str] = frozenset()
        """Ids of the keys that are good."""
        self._look()

    def who(self, authorization: bytes) -> Key:
        """The key that a request bears. Raises GatewayError (401)."""
        self._look()
        scheme, _, given = authorization.partition(b" ")
        if not given or scheme.lower() != b"bearer":
            raise GatewayError(
                401, "no API key was given: send the header `Authorization: Bearer KEY`", code="missing_api_key"
            )
        digest = keys.hashed(given.strip())
        if self._own and hmac.compare_digest(digest, self._own):
            return Key(OWN, OWN, digest)
        key = self._hashed.get(digest)  # how long a look-up of a hash takes says nothing of the key
        if key is None or not hmac.compare_digest(digest, key.sha256):
            raise GatewayError(401, "no valid API key was given", code="invalid_api_key")
        if key.revoked:
            raise GatewayError(401, "this API key has been revoked", code="revoked_api_key")
        return key

    def _look(self) -> None:
        for at, path in enumerate((self._own_path, self._hashed_path)):
            mark = _mark(path)
            if mark != self._seen[at]:
                self._seen[at] = mark
                (self._read_own, self._read_hashed)[at]()

    def _read_own(self) -> None:
        try:
            text = self._own_path.read_text().strip() if self._own_path else ""
        except OSError:
            return  # what is known goes on: the file may be about to be replaced
        if text:
            self._own = keys.hashed(text.encode())

    def _read_hashed(self) -> None:
        self._hashed, self.known = {}, frozenset()
        try:
            found = keys.read(self._hashed_path) if self._hashed_path else ()
        except HybError as error:
            sys.stderr.write(f"hyb: {error.message}; no key in it is accepted\n")
            return
        self._hashed = {k.sha256: k for k in found}
        self.known = frozenset(k.id for k in found if not k.revoked)


def _mark(path: Path | None) -> object:
    """What changes when a file does."""
    if path is None:
        return ()
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def check_url(path: str, query: bytes) -> None:
    """Raise GatewayError (400) for a key in the URL: proxies and histories keep URLs. It is not repeated anywhere."""
    if keys.PREFIX in path or keys.PREFIX.encode() in query or _IN_URL.search(query):
        raise GatewayError(
            400,
            "the URL has an API key in it, where logs and histories keep it: send it in the header"
            " `Authorization: Bearer KEY`, and if it was a real one, revoke it (`hyb key revoke`)",
            code="key_in_url",
        )


def local_host(host: str, more: frozenset[str] = frozenset()) -> bool:
    """True when a `Host` header names what a public DNS server can't: an address, `localhost`, a single name, a name
    of a cluster or of a container network; or one of `more`.

    A web page whose own name is pointed at 127.0.0.1 (DNS rebinding) comes with that name.
    """
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    name = name.rstrip(".").lower()
    if name in more or _LOCAL.fullmatch(name):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
