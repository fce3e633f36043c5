"""The files of a link's credentials. Each is written by one rename: killed at any byte, it is whole or absent."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyb import fs
from hyb.certificates import Pair, is_encrypted, load, matches, split_pem
from hyb.credentials.order import CA_DAYS, DAYS
from hyb.errors import Exit, HybError
from hyb.places import data_home

CA, COMING, LEAVING, STATE = "ca.pem", "ca-next.pem", "ca-old.pem", "state.json"
_FORMAT = 1
PHASES = {"steady": 0, "trust": 1, "switch": 2}
"""A change of the CA: both sides come to trust both CAs (1), then get certificates of the new one (2), and when the
old one is trusted no more it is over. Two sides that are no more than one step apart always understand each other."""


def home(environ: Mapping[str, str]) -> Path:
    """Where the credentials of all links lie. Raises HybError when no home is set."""
    if given := environ.get("HYB_CREDENTIALS"):
        return Path(given) / "link"
    try:
        return data_home(environ) / "credentials" / "link"
    except HybError as error:
        raise HybError("no place for credentials: neither `HYB_CREDENTIALS` nor `HOME` is set",
                       hint="set `HYB_CREDENTIALS` to a folder of your own") from error  # fmt: skip


def link_folder(environ: Mapping[str, str], name: str) -> Path:
    """Where the credentials of link `name` lie. Raises HybError when no home is set."""
    return home(environ) / name


# -- what is in them -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What the certificates themselves don't say."""

    days: int = DAYS
    ca_days: int = CA_DAYS
    issuer: bool = False
    revoked: tuple[str, ...] = ()
    """Private sites that get no certificate any more."""
    revoking: bool = False
    """A revocation has begun and not ended."""
    cut: bool = False
    """The certificates are those of a revocation: what older ones opened has to be closed."""


@dataclass(frozen=True)
class Authorities:
    """The CA that signs, and while it is being changed the one that comes or the one that goes."""

    signer: Pair
    coming: Pair | None = None
    leaving: bytes = b""

    @property
    def phase(self) -> str:
        """One of `PHASES`."""
        return "trust" if self.coming else "switch" if self.leaving else "steady"

    @property
    def trusted(self) -> bytes:
        """Their certificates, the signer's first."""
        other = self.coming.certificate if self.coming else self.leaving
        return self.signer.certificate + (other if other != self.signer.certificate else b"")


def read_authorities(folder: Path) -> Authorities | None:
    """None when there is no CA yet. Raises HybError (exit 4) for a damaged one."""
    signer, coming = read(folder / CA), read(folder / COMING)
    leaving = _read_certificate(folder / LEAVING)
    if signer is None:
        if coming or leaving:
            raise _damaged(folder / CA, "is missing while the CA is being changed")
        return None
    return Authorities(signer, coming, leaving)


def read_state(folder: Path) -> State:
    """The state as it was left; a fresh one when there is none. Raises HybError (exit 4) for a damaged one."""
    path = folder / STATE
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return State()
    except ValueError as error:
        raise _damaged(path, "is damaged: no JSON") from error
    try:
        if data.pop("hyb-credentials") != _FORMAT:
            raise HybError(f"`{path}` was written by a newer hyb", hint="use that one", code=Exit.CHECK)
        state = State(**{**data, "revoked": tuple(data["revoked"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "is damaged") from error
    kinds = [type(v) for v in (state.days, state.ca_days, state.issuer, state.revoking, state.cut)]
    if kinds != [int, int, bool, bool, bool] or not all(isinstance(site, str) for site in state.revoked):
        raise _damaged(path, "is damaged")
    return state


def write_state(folder: Path, state: State) -> None:
    """Keep `state`; an equal one is left as it is. Raises OSError."""
    data = json.dumps({"hyb-credentials": _FORMAT, **asdict(state)}, sort_keys=True, indent=1).encode() + b"\n"
    path = folder / STATE
    if not path.exists() or path.read_bytes() != data:
        _write(path, data)


def read(path: Path) -> Pair | None:
    """The pair in a file, None when it is absent. Raises HybError (exit 4) when it is damaged.

    Of an encrypted key it is known only that it is there.
    """
    try:
        pair = split_pem(path.read_bytes())
    except FileNotFoundError:
        return None
    try:
        whole = bool(load(pair.certificate)) and (is_encrypted(pair.key) or matches(pair))
    except ValueError:
        whole = False
    if not whole:
        raise _damaged(path, "is damaged: no certificate with its key")
    return pair


def write(path: Path, pair: Pair) -> None:
    """Publish a pair: key and certificate in one file, so that one rename does it. Raises OSError."""
    _write(path, pair.key + pair.certificate)


def write_certificate(path: Path, certificate: bytes) -> None:
    """Publish a certificate whose key is not needed any more. Raises OSError."""
    _write(path, certificate)


def leaves(folder: Path, role: str) -> dict[str, Path]:
    """Name → file of the certificates of a role: `server` (by namespace) or `client` (by private site)."""
    found = sorted(folder.glob(f"{role}-*.pem"))
    return {path.name.removeprefix(f"{role}-").removesuffix(".pem"): path for path in found}


def _read_certificate(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    try:
        load(data)
    except ValueError as error:
        raise _damaged(path, "is damaged: no certificate") from error
    return data


def _write(path: Path, data: bytes) -> None:
    fs.write_atomic(path, data, mode=0o600)
    path.chmod(0o600)


def no_credentials(name: str) -> HybError:
    """The error of a link that has none."""
    return HybError(f"there are no credentials of a link `{name}`", hint="`hyb link list` shows what there is")


def _damaged(path: Path, what: str) -> HybError:
    return HybError(f"`{path}` {what}", code=Exit.CHECK,
                    hint="put a good copy back, or move it away: then a new one is made")  # fmt: skip


# -- the folder ----------------------------------------------------------------------------------------------------


@contextmanager
def opened(folder: Path, *, make: bool = False) -> Iterator[list[str]]:
    """The folder, 0700 and locked; yields the list of notes, begun with what had to be tightened.

    Raises HybError when it is not ours, can't be written, or is not there (unless `make`).
    """
    if not make and not folder.is_dir():
        raise no_credentials(folder.name)
    with fs.explained(f"can't keep credentials in `{folder}`"):
        for place in (folder.parent.parent, folder.parent, folder):
            _make_private(place)
        notes = _tighten(folder)
        with fs.locked(folder / ".lock"):
            for left in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                left.unlink(missing_ok=True)
            for path in sorted((*folder.glob("*.pem"), *folder.glob(STATE))):
                notes += _tighten(path)
            if (folder / COMING).exists() and (folder / LEAVING).exists():  # killed between the two steps of a switch
                (folder / COMING).replace(folder / CA)
                fs.sync_folder(folder)
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
    return [f"`{path}` was open to other users; closed it (if others use this machine: `hyb link renew --new-ca`)"]
