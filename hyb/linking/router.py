"""Ask the router at the other end of a link who it is: one AMQP connection, opened and closed politely.

No session and no link is opened, so nothing is routed our way; the router takes the connection for that of a router
which says nothing, and forgets it on `close`. Skupper 1 runs skupper-router 1.x and 2.x (before that
qpid-dispatch-router), Skupper 2 runs 3.x.
"""

from __future__ import annotations

import secrets
import select
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime

from hyb.formats import amqp
from hyb.linking import reach, tls
from hyb.linking.findings import FaultError

PRODUCTS = ("skupper-router", "qpid-dispatch-router")
VERDICT = 1.0
"""Seconds to wait for a server that says neither yes nor no to our certificate."""
_COMPARE = (
    "bring both sides from one folder, and compare the clocks of both (`date -u`); `oc logs` of the router says why"
)
FRAMES = 16
"""Frames that are read in search of the one that matters."""


@dataclass(frozen=True)
class Router:
    """What a router says of itself; empty where it does not."""

    product: str
    version: str
    container: str

    @property
    def skupper(self) -> int:
        """1 or 2: the generation of Skupper that runs such a router; 0 when it can't be told."""
        major = self.version.partition(".")[0]
        if self.product not in PRODUCTS or not (major.isascii() and major.isdigit()):
            return 0
        return 2 if self.product == PRODUCTS[0] and int(major) >= 3 else 1


def greet(session: ssl.SSLSocket, host: str, identity: tls.Identity, clock: reach.Clock, now: datetime) -> Router:
    """Who is there, over mutual TLS; the session is closed afterwards. Raises FaultError."""
    with session, reach.cut_off(session, clock.left):
        try:
            _accepted(session, min(clock.left, VERDICT))
            session.settimeout(clock.left)
            return _greet(session, host)
        except amqp.MalformedError as error:
            raise FaultError("not-a-router", f"what it says is no AMQP: {error}") from error
        except OSError as error:
            if fault := tls.refused(error, identity, now):
                raise fault from error
            if isinstance(error, socket.timeout) or clock.over:
                raise FaultError(
                    "not-a-router", f"TLS is up, and it says nothing within {clock.seconds:g} s"
                ) from error
            raise FaultError("not-a-router", "TLS is up, and it cuts the connection at the first word") from error


def _accepted(session: ssl.SSLSocket, seconds: float) -> None:
    """Wait for the server's verdict on our certificate, which TLS 1.3 leaves to after the handshake.

    A session ticket is a yes, an alert a no; Proton, and so a Skupper router, has no word for a no and closes. To write
    before that would be answered with a reset, which an alert does not survive. A server that says nothing is taken to
    have nothing against us.
    """
    if not select.select([session], [], [], seconds)[0]:
        return
    session.settimeout(0)
    try:
        if session.recv(1):
            raise amqp.MalformedError("it speaks before it is spoken to")
    except ssl.SSLWantReadError:
        return
    except ConnectionResetError:
        pass
    seen = "it closes as soon as it has our certificate: so does a router that does not accept it"
    raise FaultError("wrong-certificate", seen, do=_COMPARE)


def _greet(session: ssl.SSLSocket, host: str) -> Router:
    session.sendall(amqp.header(amqp.SASL))
    protocol = amqp.protocol_of(_first(session))
    if protocol == amqp.SASL:
        _log_in(session)
        session.sendall(amqp.header(amqp.AMQP))
        protocol = amqp.protocol_of(_exactly(session, amqp.HEADER))
    if protocol != amqp.AMQP:
        raise amqp.MalformedError(f"protocol {protocol}")
    session.sendall(amqp.opened(f"hyb-link-check-{secrets.token_hex(6)}", host, 60_000))
    frame = _await(session, amqp.OPEN)
    properties = frame.field(9)
    told = properties if isinstance(properties, dict) else {}
    _leave(session)
    product, version, container = (
        str(x or "")[:100] for x in (told.get("product"), told.get("version"), frame.field(0))
    )
    return Router(product, version, container)


def _first(session: ssl.SSLSocket) -> bytes:
    data = _exactly(session, amqp.HEADER)
    if data.startswith(b"HTTP/"):
        raise FaultError("not-a-router", "a web server answers")
    return data


def _log_in(session: ssl.SSLSocket) -> None:
    offered = _await(session, amqp.MECHANISMS).field(0)
    names = [str(m) for m in (offered if isinstance(offered, list) else [offered]) if m]
    if "EXTERNAL" not in names:
        raise FaultError(
            "not-a-router", f"an AMQP server that takes no certificate as a login ({', '.join(names)})"[:200]
        )
    session.sendall(amqp.sasl_init())
    if (code := _await(session, amqp.OUTCOME).field(0)) != 0:
        raise FaultError("wrong-certificate", f"the router refuses the login by certificate (SASL outcome {code})")


def _await(session: ssl.SSLSocket, code: int) -> amqp.Frame:
    """The next frame of this kind. Raises FaultError when the peer closes instead."""
    for _ in range(FRAMES):
        head = _exactly(session, amqp.HEADER)
        frame = amqp.parse_frame(head + _exactly(session, amqp.frame_size(head) - amqp.HEADER))
        if frame.code == code:
            return frame
        if frame.code == amqp.CLOSE:
            error = frame.field(0)
            why = f": {error[0]}" if isinstance(error, list) and error else ""
            raise FaultError("not-a-router", f"the router closes the connection{why}"[:200])
    raise amqp.MalformedError("frames without end")


def _leave(session: ssl.SSLSocket) -> None:
    """Say goodbye in AMQP and in TLS, so that the router logs no lost connection. Its failure changes nothing."""
    try:
        session.sendall(amqp.closed())
        _await(session, amqp.CLOSE)
        session.unwrap()
    except (OSError, FaultError, amqp.MalformedError):
        return


def _exactly(session: ssl.SSLSocket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = session.recv(count - len(data))
        if not piece:
            raise ConnectionAbortedError("closed")
        data += piece
    return data
