"""The credentials of a link: minted once, kept in a folder of their own, part of no store, lock, receipt or log.

    $XDG_DATA_HOME/hyb/credentials/link/<name>/    0700; `HYB_CREDENTIALS` moves `credentials/` elsewhere
      ca.pem  server.pem  client.pem               0600; private key and certificate in one file

Key and certificate share a file, so that one rename publishes both: killed at any byte, each file is whole or absent,
and the next call makes what is missing. A lock keeps two processes from minting twice. The CA's key stays here; only
its certificate goes to the two sides.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from hyb import fs
from hyb.certificates import Pair, dns_names, issued_by, load, make_ca, make_leaf, matches
from hyb.errors import Exit, HybError
from hyb.places import data_home

DAYS = 365
"""How long the server and client certificates last."""
CA_DAYS = 5 * 365 + 1
WARN = timedelta(days=30)
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class Order:
    """What is wanted of the credentials `name`: server certificate for `hosts`, lifetimes in days."""

    name: str
    hosts: tuple[str, ...]
    days: int = DAYS
    ca_days: int = CA_DAYS
    client: str = "link-private"
    """CN of the client certificate; the router shows it as the peer's name."""


@dataclass(frozen=True)
class Credentials:
    """What both sides need, as the data of their Secrets, and what a person should be told."""

    ca: bytes
    """The CA's certificate, PEM."""
    server: Pair
    client: Pair
    notes: tuple[str, ...] = ()

    def server_data(self) -> dict[str, bytes]:
        """Data of the OpenShift side's Secret."""
        return {"ca.crt": self.ca, "tls.crt": self.server.certificate, "tls.key": self.server.key}

    def client_data(self) -> dict[str, bytes]:
        """Data of the private side's Secret."""
        return {"ca.crt": self.ca, "tls.crt": self.client.certificate, "tls.key": self.client.key}


def link_folder(environ: Mapping[str, str], name: str) -> Path:
    """Where the credentials of link `name` lie. Raises HybError when no home is set."""
    if given := environ.get("HYB_CREDENTIALS"):
        return Path(given) / "link" / name
    try:
        return data_home(environ) / "credentials" / "link" / name
    except HybError as error:
        raise HybError("no place for credentials: neither `HYB_CREDENTIALS` nor `HOME` is set",
                       hint="set `HYB_CREDENTIALS` to a folder of your own") from error  # fmt: skip


def mint(folder: Path, order: Order, now: datetime, *, renew: bool = False) -> Credentials:
    """The credentials in `folder`, made where they are missing.

    A second call returns the same ones. Other hosts give a new server certificate of the same CA; `renew` gives new
    server and client certificates, and a new CA when the old one would end before them. Raises HybError: exit 4 when
    something is expired or damaged, exit 3 when the folder is not ours or can't be written.
    """
    if not order.hosts:
        raise HybError(f"the link `{order.name}` has no host, so there is no name for its server certificate")
    with fs.explained(f"can't keep credentials in `{folder}`"), _opened(folder) as notes:
        ca, is_new = _authority(folder / "ca.pem", order, now, renew)
        if is_new and (folder / "server.pem").exists():
            notes.append("a new CA: apply both sides again, the link is down in between")
        authority = load(ca.certificate)[0]
        pairs = []
        for role, hosts, name in (("server", order.hosts, "link-server"), ("client", (), order.client)):
            path = folder / f"{role}.pem"
            pair = None if renew else _read(path)
            if pair and not issued_by(load(pair.certificate), [authority]):
                notes.append(f"the {role} certificate was not of this CA: made a new one, apply its side again")
                pair = None
            elif pair and set(dns_names(load(pair.certificate)[0])) != set(hosts):
                notes.append("the Route hosts changed: made a new server certificate, apply `openshift/` again")
                pair = None
            if pair is None:
                pair = make_leaf(ca, name, order.days, now, hosts=hosts)
                _write(path, pair)
            pairs.append(pair)
        server, client = pairs
        all_three = {"CA": ca, "server certificate": server, "client certificate": client}
        notes.extend(_expiry(folder, all_three, now))
        return Credentials(ca.certificate, server, client, tuple(notes))


def _authority(path: Path, order: Order, now: datetime, renew: bool) -> tuple[Pair, bool]:
    ca = _read(path)
    if ca and renew and load(ca.certificate)[0].not_valid_after_utc < now + timedelta(days=order.days):
        ca = None
    if ca:
        return ca, False
    ca = make_ca(f"hyb link CA {order.name}", max(order.ca_days, order.days), now)
    _write(path, ca)
    return ca, True


def _expiry(folder: Path, pairs: Mapping[str, Pair], now: datetime) -> list[str]:
    """Warnings for what ends within 30 days. Raises HybError (exit 4) for what has ended."""
    ends = {what: load(pair.certificate)[0].not_valid_after_utc for what, pair in pairs.items()}
    if expired := [f"the {what} expired on {end:%Y-%m-%d}" for what, end in ends.items() if end <= now]:
        raise HybError(f"credentials in `{folder}` have expired", details=expired, code=Exit.CHECK,
                       hint="`hyb link … --renew` makes new ones; then apply both sides again")  # fmt: skip
    soon = {what: end for what, end in ends.items() if end - now < WARN}
    return [f"the {what} expires on {end:%Y-%m-%d}; `hyb link … --renew` makes a new one" for what, end in soon.items()]


# -- files ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(folder: Path) -> Iterator[list[str]]:
    """The folder, made 0700 and locked; yields the list of notes, begun with what had to be tightened."""
    for place in (folder.parent.parent, folder.parent, folder):
        _make_private(place)
    notes = _tighten(folder)
    with fs.locked(folder / ".lock"):
        for left in folder.glob(".*.pem.*.tmp"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        for path in sorted(folder.glob("*.pem")):
            notes += _tighten(path)
        yield notes


def _make_private(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:  # another process was faster
            return
        folder.chmod(0o700)  # the umask may have taken more than it should


def _tighten(path: Path) -> list[str]:
    """Take others' access away and say so. Raises HybError when `path` is a link or another user's."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid():
        what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "another user's"
        raise HybError(f"`{path}` is {what}", hint="credentials must lie in a folder of your own; move it away")
    if not status.st_mode & 0o077:
        return []
    path.chmod(status.st_mode & 0o700)
    return [f"`{path}` was open to other users; closed it (if others use this machine: `hyb link … --renew`)"]


def _write(path: Path, pair: Pair) -> None:
    fs.write_atomic(path, pair.key + pair.certificate, mode=0o600)
    path.chmod(0o600)


def _read(path: Path) -> Pair | None:
    """The pair in a file, None when it is absent. Raises HybError (exit 4) when it is damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    key, marker, certificate = data.partition(_CERTIFICATE)
    pair = Pair(marker + certificate, key)
    try:
        whole = matches(pair)
    except ValueError:
        whole = False
    if not whole:
        raise HybError(f"`{path}` is damaged: no certificate with its key", code=Exit.CHECK,
                       hint="put a good copy back, or move it away: then a new one is made")  # fmt: skip
    return pair


def describe(folder: Path) -> Sequence[str]:
    """What lies in `folder`, one line each, without any secret: role and last day. Reads only."""
    lines = []
    for role in ("ca", "server", "client"):
        if pair := _read(folder / f"{role}.pem"):
            lines.append(f"{role}: until {load(pair.certificate)[0].not_valid_after_utc:%Y-%m-%d}")
    return lines
