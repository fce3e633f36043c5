"""To reach an endpoint: its addresses, a TCP connection. Bounded by time; each way to fail has its cause.

Names are asked for in a thread of their own: the system's resolver has no time limit of ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator

from hyb.linking.causes import NETWORK, PRIVATE
from hyb.linking.findings import FaultError

_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL)
_UNKNOWN = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", -5))


class Clock:
    """Seconds that are left of a limit."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, never less than a millisecond: 0 would mean "never wait" to a socket."""
        return max(0.001, self._end - time.monotonic())

    @property
    def over(self) -> bool:
        """True when the limit has passed."""
        return time.monotonic() >= self._end


def resolve(host: str, port: int, seconds: float) -> list[str]:
    """The IP addresses of `host`, in the system's order, once each. Raises FaultError."""
    answer: list[list[str] | OSError] = []

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.append(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except (OSError, UnicodeError) as error:
            answer.append(error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, str(error)))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise FaultError("resolver-down", f"no answer for `{host}` within {seconds:g} s")
    found = answer[0]
    if isinstance(found, OSError):
        unknown = found.errno in _UNKNOWN
        raise FaultError("no-such-name" if unknown else "resolver-down", f"`{host}`: {(found.strerror or '').lower()}")
    return found


def connect(addresses: list[str], port: int, seconds: float) -> socket.socket:
    """A TCP connection to the first address that takes one; the caller closes it. Raises FaultError."""
    clock = Clock(seconds)
    fault: FaultError | None = None
    for number, address in enumerate(addresses):
        rest = len(addresses) - number
        try:
            return socket.create_connection((address, port), timeout=clock.left / rest)
        except OSError as error:
            fault = _fault(error, f"`{_shown(address, port)}`", clock.seconds)
    assert fault
    raise fault


def _fault(error: OSError, where: str, seconds: float) -> FaultError:
    if isinstance(error, socket.timeout) or error.errno == errno.ETIMEDOUT:
        return FaultError("timeout", f"{where}: no answer within {seconds:g} s")
    if error.errno == errno.ECONNREFUSED:
        return FaultError("refused", f"{where}: connection refused")
    if error.errno == errno.ECONNRESET:
        return FaultError("reset", f"{where}: connection reset")
    if error.errno in _UNREACHABLE:
        return FaultError("unreachable", f"{where}: {os.strerror(error.errno or 0).lower()}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return FaultError("timeout", f"{where}: this machine's own firewall forbids it", side=PRIVATE)
    return FaultError("unreachable", f"{where}: {(error.strerror or str(error)).lower()}", side=NETWORK)


def _shown(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@contextlib.contextmanager
def cut_off(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Whatever happens on `connection`, it is over after `seconds`: the peer may send a byte now and then for ever."""

    def shut() -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
