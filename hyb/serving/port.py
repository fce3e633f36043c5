"""Where a server may listen, and who has a port that is taken. Asked before a model is loaded, not after."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from hyb.errors import HybError
from hyb.render.names import is_loopback
from hyb.serving.service import Service

TCP = ("/proc/net/tcp", "/proc/net/tcp6")
LISTEN = "0A"
LETS_GO = 2.0  # seconds in which the kernel takes down a process of many threads


def mistakes(host: str, port: int, *, tls: bool = False) -> list[str]:
    """What is wrong with an address to listen on. `tls`: it is encrypted, so that others may reach it."""
    found = []
    if not is_address(host):
        found.append(f"host `{host}` is no IP address of this machine")
    elif not is_loopback(host) and not tls:
        found.append(f"host `{host}` is not this machine's loopback: others could read what is said, and the key")
    if not -1 <= port <= 65535:
        found.append(f"port {port} is no port: 1 to 65535, or 0 for a free one")
    return found


def is_address(host: str) -> bool:
    """True for an IP address, or `localhost`."""
    try:
        return host == "localhost" or bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def check_free(host: str, port: int, running: Iterable[Service]) -> None:
    """Raise HybError naming who has the port, when somebody has."""
    if port <= 0:
        return
    if _is_kept(host, port):
        raise _taken(host, port, running)
    with listener(host) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _taken(host, port, running) from error
            hint = "ports below 1024 are root's: give another with `--port`" if error.errno == errno.EACCES else ""
            what = os.strerror(error.errno or 0).lower()
            raise HybError(f"can't listen on {host} port {port}: {what}", hint=hint) from error


def _is_kept(host: str, port: int) -> bool:
    """True when somebody listens. A process that was killed lets go of its socket a moment after it is gone."""
    end = time.monotonic() + LETS_GO
    while _listening(host, port):
        if holder_of(host, port) or time.monotonic() > end:
            return True
        time.sleep(0.05)
    return False


def listener(host: str) -> socket.socket:
    """A socket that may take a port whose last connections the kernel still remembers (TIME_WAIT, for a minute).

    llama.cpp sets SO_REUSEPORT alone, asyncio's servers SO_REUSEADDR: what the one leaves behind lets the other in only
    with both. That a port has no listener is looked up beforehand, in `check_free`. Connections inherit TCP_NODELAY:
    asyncio sets it only on sockets that were made with a protocol number, and without it an answer, which is written
    as head and body, waits 40 ms for the client's acknowledgement.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def _taken(host: str, port: int, running: Iterable[Service]) -> HybError:
    for service in running:
        if service.port == port:
            return HybError(
                f"port {port} on {host} is taken by `{service.name}` of hyb (process {service.pid})",
                hint=f"`hyb stop {service.name}`, or give another port with `--port`",
            )
    holder = holder_of(host, port)
    by = f" by `{holder[1]}` (process {holder[0]})" if holder else " by another program"
    return HybError(f"port {port} on {host} is taken{by}", hint="give another port with `--port`")


def holder_of(host: str, port: int) -> tuple[int, str] | None:
    """(pid, program) that listens on a TCP port, as far as this user may see it."""
    sockets = {f"socket:[{inode}]" for inode in _listening(host, port)}
    for process in Path("/proc").iterdir() if sockets else ():
        if process.name.isdigit():
            try:
                if any(os.readlink(entry) in sockets for entry in (process / "fd").iterdir()):  # noqa: PTH115
                    return int(process.name), (process / "comm").read_text().strip()
            except OSError:  # another user's, or just gone
                continue
    return None


def _listening(host: str, port: int) -> set[str]:
    """Inodes of the sockets that listen on a port of this address, or of all addresses."""
    mine = {_hex(host), _hex("0.0.0.0"), _hex("::")}
    found = set()
    for table in TCP:
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            address, _, number = fields[1].partition(":")
            if fields[3] == LISTEN and int(number, 16) == port and address in mine:
                found.add(fields[9])
    return found


def _hex(host: str) -> str:
    """An address as /proc/net/tcp writes it: words of 32 bits, each in the machine's byte order."""
    packed = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).packed
    words = (packed[i : i + 4] for i in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(w, sys.byteorder):08X}" for w in words)
