"""API keys: minted once a name, 256 random bits in a file of mode 0600, never in an argument, a log or an artifact."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from hyb import fs
from hyb.places import data_home

PREFIX = "hyb_sk_"
"""So that a scanner for leaked secrets, and a person, see what it is."""


def key_path(environ: Mapping[str, str], name: str) -> Path:
    """Where the key of the service `name` lies."""
    return data_home(environ) / "credentials" / "serve" / f"{name}.key"


def mint(environ: Mapping[str, str], name: str) -> Path:
    """The key's file, made when there is none yet; a key lives until somebody removes its file.

    Two processes at once get the same key. Raises HybError when the folder can't be written.
    """
    path = key_path(environ, name)
    with fs.explained(f"can't keep the API key `{path}`"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with fs.locked(path.parent / ".lock"):
            if not path.exists() or not path.read_bytes().strip():
                fs.write_atomic(path, (PREFIX + secrets.token_urlsafe(32) + "\n").encode(), mode=0o600)
        if path.stat().st_mode & 0o077:  # copied or restored by hand: others could read it
            os.chmod(path, 0o600)  # noqa: PTH101
    return path
