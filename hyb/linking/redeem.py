"""A token exchanged for a Link and its certificate, as Skupper's own redeemer does it: one POST to the grant server.

The server is trusted by the token's `ca` alone, and by its name; without that nothing is sent. A token is good once: an
answer that comes is kept, or is lost with the token.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
from urllib.parse import urlsplit

from hyb.errors import Exit, HybError
from hyb.linking.reading import load
from hyb.linking.token import SIZE_MAX, LinkGiven, Token, read_link

TIMEOUT = 10.0
"""Seconds, for the connection and for each read; Skupper's own."""
_WHY = {404: "it is too old, has been used, or its grant is gone", 403: "its code is not that of the grant"}
_AGAIN = "a new one: `hyb link grant` says how"


def redeem(token: Token, site: str, *, timeout: float = TIMEOUT) -> LinkGiven:
    """What the cluster gives for a token. `site`: the private site's name, which becomes the certificate's CN.

    Raises HybError: exit 5 when the cluster isn't reached, 4 when it refuses or its answer would not work.
    """
    parts = urlsplit(token.url)
    where = f"{parts.hostname}:{parts.port or 443}"
    context = _context(token.ca)
    connection = http.client.HTTPSConnection(str(parts.hostname), parts.port or 443, timeout=timeout, context=context)
    try:
        with contextlib.closing(connection):
            headers = {"name": token.name, "subject": site, "Content-Type": "text/plain"}
            connection.request("POST", parts.path, token.code.encode(), headers)
            with contextlib.closing(connection.getresponse()) as answer:
                status, body = answer.status, answer.read(SIZE_MAX + 1)
    except ssl.SSLCertVerificationError as error:
        raise HybError(
            f"`{where}` shows a certificate that the token does not trust: {error.verify_message}",
            hint="nothing was sent; is there a proxy that looks into TLS, or is the token of another cluster?",
            code=Exit.CHECK,
        ) from error
    except (OSError, http.client.HTTPException) as error:
        said = str(error) or type(error).__name__
        hint = "this host must reach the cluster's grant server; the token may still be good"
        raise HybError(f"`{where}` can't be reached: {said}", hint=hint, code=Exit.BELOW) from error
    if status != http.HTTPStatus.OK:
        raise _refused(status, body)
    if len(body) > SIZE_MAX:
        raise HybError(f"`{where}` answered with more than {SIZE_MAX} bytes", hint=_AGAIN, code=Exit.CHECK)
    documents, fault = load(body)
    if fault:
        raise HybError(f"the answer of `{where}` {fault}", hint=f"the token is used up; {_AGAIN}", code=Exit.CHECK)
    return read_link(documents, where)


def _context(ca: str) -> ssl.SSLContext:
    """Trust in `ca` and in nothing else; a leaf that is named itself is trusted, too, as in Go."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=ca)
    return context


def _refused(status: int, body: bytes) -> HybError:
    said = "".join(c for c in body[:200].decode(errors="replace") if c.isprintable()).strip()
    why = _WHY.get(status, f"status {status}")
    return HybError(
        f"the cluster refused the token: {why}", details=[said] if said else [], hint=_AGAIN, code=Exit.CHECK
    )
