"""What credentials there are, and until when. Reads only, opens no key, and never fails for one damaged file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from hyb import fs
from hyb.certificates import dns_names, is_encrypted, issued_by, lasting, load
from hyb.credentials import kept
from hyb.errors import HybError

ROLES = {kept.CA: "CA", kept.COMING: "new CA", kept.LEAVING: "old CA"}


@dataclass(frozen=True)
class Certificate:
    """One certificate. `state`: as `hyb.certificates.Lasting`, or `damaged`, or `not of this CA`."""

    what: str
    """`CA`, `new CA`, `old CA`, `server`, `client`."""
    name: str
    """Of the namespace or private site; empty for a CA."""
    hosts: tuple[str, ...]
    begins: datetime | None
    ends: datetime | None
    days: int | None
    """Whole days left."""
    state: str
    said: str
    """The state in a sentence."""


@dataclass(frozen=True)
class Surveyed:
    """The credentials of one link."""

    name: str
    folder: Path
    encrypted: bool
    """Whether the CA's key is behind a passphrase."""
    phase: str
    """`steady`, or the step of a change of the CA: `trust`, `switch`."""
    revoked: tuple[str, ...]
    certificates: tuple[Certificate, ...]
    problems: tuple[str, ...]
    """What a person should act on, apart from the lifetimes."""


def survey(environ: Mapping[str, str], now: datetime) -> list[Surveyed]:
    """The credentials of all links, by name; none when there is no folder. Raises HybError when it can't be read."""
    root = kept.home(environ)
    with fs.explained(f"can't read the credentials in `{root}`"):
        if not root.exists():
            return []
        return [_one(folder, now) for folder in sorted(root.iterdir()) if folder.is_dir() or folder.is_symlink()]


def known(environ: Mapping[str, str]) -> list[str]:
    """The names of all links that have credentials. Raises HybError when they can't be read."""
    root = kept.home(environ)
    with fs.explained(f"can't read the credentials in `{root}`"):
        return sorted(p.name for p in root.iterdir() if p.is_dir()) if root.exists() else []


def _one(folder: Path, now: datetime) -> Surveyed:
    found = Surveyed(folder.name, folder, False, "steady", (), (), ())
    if folder.is_symlink():
        return replace(found, problems=("the folder is a symbolic link",))
    if not os.access(folder, os.R_OK | os.X_OK):
        return replace(found, problems=("the folder can't be read",))
    problems = [*_open_to_others(folder)]
    try:
        state = kept.read_state(folder)
        if state.revoking:
            problems.append(f"a revocation was cut short: `hyb link revoke {folder.name}` ends it")
    except (HybError, OSError) as error:
        state = kept.State()
        problems.append(error.message if isinstance(error, HybError) else f"`{kept.STATE}` can't be read")
    if not (folder / kept.CA).exists():
        problems.append("there is no CA")
    phase = "switch" if (folder / kept.LEAVING).exists() else "trust" if (folder / kept.COMING).exists() else "steady"
    return replace(found, encrypted=_is_locked(folder / kept.CA), phase=phase, revoked=state.revoked,
                   certificates=tuple(_certificates(folder, now)), problems=tuple(problems))  # fmt: skip


def _certificates(folder: Path, now: datetime) -> Iterator[Certificate]:
    trusted = b""
    for file, what in ROLES.items():
        if (folder / file).exists():
            one = _read(folder / file, what, "", b"", now)
            trusted += (folder / file).read_bytes() if one.state != "damaged" else b""
            yield one
    for role in ("server", "client"):
        for name, path in kept.leaves(folder, role).items():
            yield _read(path, role, name, trusted, now)


def _read(path: Path, what: str, name: str, trusted: bytes, now: datetime) -> Certificate:
    """One file; `trusted`: the CAs that an end certificate should be of."""
    label = f"{what} certificate of `{name}`" if name else what
    try:
        data = (
            path.read_bytes()
            if what == ROLES[kept.LEAVING]
            else (pair.certificate if (pair := kept.read(path)) else b"")
        )
        validity, chain = lasting(label, data, now), load(data)
    except (HybError, OSError, ValueError):
        return Certificate(what, name, (), None, None, None, "damaged", f"`{path}` is damaged")
    state, said = validity.state, str(validity)
    if name and trusted and not issued_by(chain, load(trusted)):
        state, said = "not of this CA", f"the {label} is not of this CA"
    return Certificate(what, name, dns_names(chain[0]), validity.begins, validity.ends, validity.days, state, said)


def _is_locked(path: Path) -> bool:
    try:
        return is_encrypted(path.read_bytes())
    except OSError:
        return False


def _open_to_others(folder: Path) -> Iterator[str]:
    for path in (folder, *sorted(folder.glob("*.pem"))):
        try:
            mode = path.lstat().st_mode
        except OSError:  # gone since: another process is at work
            continue
        if not stat.S_ISLNK(mode) and mode & 0o077:
            yield f"`{path}` is open to other users"
