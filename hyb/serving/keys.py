"""API keys. 256 random bits each, so a plain sha256 is as good a lock as a slow hash.

A service has a key of its own, minted once, in a file of mode 0600: hyb's own commands use it. Further keys, one a
client, are shown once and kept as hashes with a label and limits; the gateway reads that file again when it changes.
A key is never in an argument, a log or an artifact.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hyb import fs
from hyb.errors import HybError
from hyb.places import data_home

PREFIX = "hyb_sk_"
"""So that a scanner for leaked secrets, and a person, see what it is."""
SUFFIX = ".keys.json"
LABEL = 64  # letters


@dataclass(frozen=True)
class Key:
    """A client's key, as it is kept."""

    id: str
    """Eight hex digits: what logs and `hyb key list` show."""
    label: str
    sha256: str
    """Hex, of the key's text."""
    rpm: int = 0
    """Requests a minute; 0: no limit."""
    tokens_per_day: int = 0
    """Tokens of prompts and answers a UTC day; 0: no limit."""
    created: str = ""
    revoked: str = ""
    """When it was; "" while it is good."""


def folder(environ: Mapping[str, str]) -> Path:
    """Where the keys of all services lie."""
    return data_home(environ) / "credentials" / "serve"


def key_path(environ: Mapping[str, str], name: str) -> Path:
    """Where the key of the service `name` lies."""
    return folder(environ) / f"{name}.key"


def keys_path(environ: Mapping[str, str], name: str) -> Path:
    """Where the hashed keys of the service `name` lie; there may be none."""
    return folder(environ) / f"{name}{SUFFIX}"


def usage_path(keys: Path) -> Path:
    """Where the tokens of the day are counted, beside the hashed keys."""
    return keys.with_name(keys.name.removesuffix(SUFFIX) + ".usage.json")


def mint(environ: Mapping[str, str], name: str) -> Path:
    """The key's file, made when there is none yet; a key lives until somebody removes its file.

    Two processes at once get the same key. Raises HybError when the folder can't be written.
    """
    path = key_path(environ, name)
    with fs.explained(f"can't keep the API key `{path}`"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with fs.locked(path.parent / ".lock"):
            if not path.exists() or not path.read_bytes().strip():
                fs.write_atomic(path, (fresh() + "\n").encode(), mode=0o600)
        if path.stat().st_mode & 0o077:  # copied or restored by hand: others could read it
            os.chmod(path, 0o600)  # noqa: PTH101
    return path


def fresh() -> str:
    """A new key."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(key: bytes) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key).hexdigest()


def read(path: Path) -> tuple[Key, ...]:
    """The hashed keys in a file, revoked ones too; none when there is no file. Raises HybError for a damaged one."""
    try:
        return tuple(Key(**entry) for entry in json.loads(path.read_bytes())["keys"])
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise HybError(f"can't read `{path}`: {os.strerror(error.errno or 0).lower()}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise HybError(f"`{path}` is damaged", hint="remove it and make new keys with `hyb key add`") from error


def write(path: Path, keys: Iterable[Key]) -> None:
    """Keep hashed keys, for their owner alone. Raises OSError."""
    fs.write_atomic(path, json.dumps({"keys": [asdict(k) for k in keys]}, indent=1).encode(), mode=0o600)


def add(environ: Mapping[str, str], name: str, *, label: str, rpm: int = 0, tokens_per_day: int = 0) -> tuple[Key, str]:
    """A new key for the service `name`: what is kept, and the key itself, which is kept nowhere.

    Raises HybError: a label that is empty, too long, or in use; limits below 0; a folder that can't be written.
    """
    mistakes = [f"{what} must be 0 (no limit) or more" for what, n in
                (("`--rpm`", rpm), ("`--tokens-per-day`", tokens_per_day)) if n < 0]  # fmt: skip
    if not label.strip() or len(label) > LABEL or not label.isprintable():
        mistakes.append(f"a label has 1 to {LABEL} printable letters")
    if mistakes:
        raise HybError(mistakes[0], details=mistakes if len(mistakes) > 1 else ())
    path, plain = keys_path(environ, name), fresh()
    made = Key(secrets.token_hex(4), label, hashed(plain.encode()), rpm, tokens_per_day, _now())
    with fs.explained(f"can't keep keys in `{path}`"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with fs.locked(path.parent / ".lock"):
            known = read(path)
            if any(k.label == label and not k.revoked for k in known):
                raise HybError(
                    f"`{name}` has a key labelled `{label}` already", hint=f"`hyb key revoke {name} {label}` ends it"
                )
            write(path, [*known, made])
    return made, plain


def revoke(environ: Mapping[str, str], name: str, which: str) -> Key:
    """End the key with this id or label. Raises HybError when there is none that is good."""
    path = keys_path(environ, name)
    with fs.explained(f"can't keep keys in `{path}`"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with fs.locked(path.parent / ".lock"):
            known = read(path)
            found = next((k for k in known if which in (k.id, k.label) and not k.revoked), None)
            if found is None:
                good = ", ".join(f"`{k.label}`" for k in known if not k.revoked)
                raise HybError(f"`{name}` has no key `{which}`", hint=f"there are: {good}" if good else "it has none")
            ended = replace(found, revoked=_now())
            write(path, [ended if k.id == found.id else k for k in known])
    return ended


def services(environ: Mapping[str, str]) -> list[str]:
    """The names that have hashed keys."""
    return sorted(p.name.removesuffix(SUFFIX) for p in folder(environ).glob(f"*{SUFFIX}"))


def usage(path: Path) -> dict[str, int]:
    """Key id → tokens of today (UTC), as the gateway last wrote them; empty when there is no such file."""
    try:
        kept = json.loads(path.read_bytes())
        return {str(k): int(v) for k, v in kept["tokens"].items()} if kept["day"] == today() else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def today() -> str:
    """The UTC day."""
    return datetime.now(UTC).date().isoformat()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
