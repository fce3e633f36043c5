"""TLS to a router, as the router at this end would do it, and what is wrong when it fails.

The folder's CA alone is trusted; names are matched by the router's rule (DNS SANs, then the CN, no IP SANs), so the
`ssl` module's own check of names is off. The client's key goes to OpenSSL through memory: `load_cert_chain` wants a
file, and no second copy of the key is to lie on a disk.

With TLS 1.3 the handshake is over before the server has looked at our certificate: that it was refused comes with the
first read, which is `hyb.linking.router`'s. `refused` is for both.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509

from hyb import certificates
from hyb.linking import reach
from hyb.linking.causes import OPENSHIFT, PRIVATE
from hyb.linking.findings import FaultError

DAY = timedelta(days=1)
"""A certificate that begins less than this in the future tells of a clock, not of a date."""
PAGE = 16 << 10  # bytes of a stranger's web page that are looked at
_NOT_YET, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_OPENSHIFT_PAGE = (b"Application is not available", b"The application is currently not serving requests")
_OPENSHIFT_CA = "ingress-operator@"
_OURS = ("hyb link ca", "skupper")


@dataclass(frozen=True)
class Identity:
    """What the Secret of a link holds, as PEM."""

    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)


class UnverifiedError(Exception):
    """The peer's certificate was not accepted; `code` is OpenSSL's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True)
class Stranger:
    """A peer that was not accepted: its certificate, whether it wants one of us, and what it answers to a browser."""

    leaf: x509.Certificate | None
    wants_certificate: bool
    page: bytes


def open_session(connection: socket.socket, host: str, identity: Identity, clock: reach.Clock) -> ssl.SSLSocket:
    """Mutual TLS on `connection`, which it takes over. Raises UnverifiedError, or FaultError for all else."""
    connection.settimeout(clock.left)
    context = _context(identity)
    session = context.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False)
    with reach.cut_off(session, clock.left):
        try:
            session.do_handshake()
        except ssl.SSLCertVerificationError as error:
            session.close()
            raise UnverifiedError(error.verify_code, error.verify_message) from error
        except OSError as error:
            session.close()
            raise _handshake_fault(error, clock) from error
    return session


def _context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=identity.ca.decode("ascii", "replace"))
    with _in_memory(identity.key + b"\n" + identity.certificate) as path:
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _handshake_fault(error: OSError, clock: reach.Clock) -> FaultError:
    if isinstance(error, socket.timeout) or clock.over:
        return FaultError("timeout", f"TCP connects, TLS does not answer within {clock.seconds:g} s")
    if isinstance(error, ConnectionResetError):
        return FaultError("reset", "connection reset in the TLS handshake")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | BrokenPipeError):
        do = "the Route is there and no router behind it: `oc get pods,route`; or a firewall cuts TLS"
        return FaultError("tls", "the peer closes in the TLS handshake", side=OPENSHIFT, do=do)
    reason = getattr(error, "reason", None) or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return FaultError("no-tls", "it answers TLS with plain text")
    if reason == "TLSV1_UNRECOGNIZED_NAME":
        return FaultError("no-route", "it does not know the name (TLS alert `unrecognized name`)")
    if fault := refused(error):
        return fault
    return FaultError("tls", f"TLS fails: {(reason or error.strerror or str(error)).replace('_', ' ').lower()}")


_ALERTS = {
    "UNKNOWN_CA": "it does not know the CA of this folder's client certificate",
    "DECRYPT_ERROR": "it knows another CA of the same name",
    "CERTIFICATE_EXPIRED": "it says that this folder's client certificate has expired",
    "BAD_CERTIFICATE": "it does not accept this folder's client certificate",
    "CERTIFICATE_UNKNOWN": "it does not accept this folder's client certificate",
    "UNSUPPORTED_CERTIFICATE": "it does not accept this kind of client certificate",
    "CERTIFICATE_REVOKED": "it says that this folder's client certificate is revoked",
    "CERTIFICATE_REQUIRED": "it got no client certificate",
    "ACCESS_DENIED": "it denies access to this folder's client certificate",
}
"""TLS alerts about our certificate (RFC 8446, 6.2)."""


def refused(error: OSError, identity: Identity | None = None, now: datetime | None = None) -> FaultError | None:
    """What a TLS alert about our certificate means; None when `error` is none.

    A certificate that is valid by our clock and not by the peer's means that the clocks differ.
    """
    reason = str(getattr(error, "reason", None) or "")
    kind = next((k for k in _ALERTS if reason.endswith(f"_{k}")), "")
    if not kind:
        return None
    seen = f"{_ALERTS[kind]} (TLS alert `{kind.replace('_', ' ').lower()}`)"
    if identity and now:
        leaf = certificates.load(identity.certificate)[0]
        here = f"; here it is {_minute(now)}"
        if kind == "CERTIFICATE_EXPIRED" and now < leaf.not_valid_after_utc:
            until = _minute(leaf.not_valid_after_utc)
            return FaultError("clock-skew", f"{seen}, which lasts until {until}{here}", side=OPENSHIFT)
        if kind == "BAD_CERTIFICATE" and now - leaf.not_valid_before_utc < DAY:
            since = _minute(leaf.not_valid_before_utc)
            return FaultError("clock-skew", f"{seen}, which is valid since {since}{here}", side=OPENSHIFT)
    return FaultError("wrong-certificate", seen)


def check_name(session: ssl.SSLSocket, host: str) -> x509.Certificate:
    """The peer's certificate, which must bear `host` by the router's rule. Raises FaultError."""
    leaf = x509.load_der_x509_certificate(session.getpeercert(binary_form=True) or b"")
    if not certificates.covers(leaf, host):
        bears = ", ".join(f"`{n}`" for n in dict.fromkeys(certificates.names(leaf))) or "no name"
        do = "write the link for this host (`hyb link`), then apply `openshift/`"
        raise FaultError("wrong-certificate", f"its certificate is for {bears}, not for `{host}`", do=do)
    return leaf


# -- a peer that was not accepted ------------------------------------------------------------------------------------


def inspect(addresses: list[str], port: int, host: str, seconds: float) -> Stranger:
    """Look at a peer once more without trusting it or telling it who we are: a browser's request, one answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    clock, leaf, page = reach.Clock(seconds), None, b""
    try:
        connection = reach.connect(addresses, port, clock.left)
    except FaultError:
        return Stranger(None, False, b"")
    with connection, reach.cut_off(connection, clock.left):
        connection.settimeout(clock.left)
        try:
            with context.wrap_socket(connection, server_hostname=host) as session:
                leaf = x509.load_der_x509_certificate(session.getpeercert(binary_form=True) or b"")
                session.sendall(
                    f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii", "replace")
                )
                while len(page) < PAGE and (piece := session.recv(PAGE - len(page))):
                    page += piece
        except OSError as error:
            reason = str(getattr(error, "reason", None) or "")
            wants = reason.endswith(("_CERTIFICATE_REQUIRED", "_HANDSHAKE_FAILURE", "_BAD_CERTIFICATE"))
            return Stranger(leaf, wants, page)
        except ValueError:
            pass
    return Stranger(leaf, False, page)


def judge(found: UnverifiedError, stranger: Stranger, identity: Identity, now: datetime) -> FaultError:
    """Why the peer's certificate was not accepted, and who must act."""
    leaf = stranger.leaf
    if found.code == _EXPIRED:
        return _expired(leaf, identity, now)
    if found.code == _NOT_YET and leaf:
        early = leaf.not_valid_before_utc - now
        seen = f"its certificate is valid from {_minute(leaf.not_valid_before_utc)}, and here it is {_minute(now)}"
        return FaultError("clock-skew", seen) if early < DAY else FaultError("wrong-certificate", seen)
    issuer = _name(leaf.issuer) if leaf else "an unknown CA"
    if issuer.startswith(_OPENSHIFT_CA) or any(text in stranger.page for text in _OPENSHIFT_PAGE):
        return FaultError("no-route", f"the default certificate of OpenShift's router{_status(stranger.page)}")
    ours = _name(certificates.load(identity.ca)[0].subject)
    if stranger.wants_certificate or issuer.lower().startswith(_OURS):
        return FaultError("wrong-certificate", f"its certificate is of the CA `{issuer}`, this folder's CA is `{ours}`")
    return FaultError("intercepted", f"a certificate of `{issuer}`{_status(stranger.page)}, asking for none of ours")


def _expired(leaf: x509.Certificate | None, identity: Identity, now: datetime) -> FaultError:
    ends = [ca.not_valid_after_utc for ca in certificates.load(identity.ca) if ca.not_valid_after_utc < now]
    do = "`hyb link renew`, then apply both sides"
    if leaf and leaf.not_valid_after_utc < now:
        seen = f"its certificate expired on {_minute(leaf.not_valid_after_utc)}; here it is {_minute(now)}"
        return FaultError("wrong-certificate", seen, do="`hyb link renew`, then `oc apply -f openshift/`")
    if ends:
        return FaultError("wrong-certificate", f"this folder's CA expired on {_minute(min(ends))}", side=PRIVATE, do=do)
    return FaultError("wrong-certificate", "a certificate in its chain has expired", do=do)


def _status(page: bytes) -> str:
    found = re.match(rb"HTTP/1\.[01] (\d{3})", page)
    return f", and the answer {found[1].decode()}" if found else ""


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(common[0].value) if common else name.rfc4514_string()[:100] or "no name"


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
