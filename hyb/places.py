"""Where hyb keeps things: one folder of data, and the store in it unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hyb.errors import HybError


def default_root(environ: Mapping[str, str]) -> Path:
    """`$HYB_STORE`, or `$XDG_DATA_HOME/hyb/store`, or `~/.local/share/hyb/store`.

    Raises HybError when none of these and no home is set.
    """
    if given := environ.get("HYB_STORE"):
        return Path(given)
    return data_home(environ) / "store"


def data_home(environ: Mapping[str, str]) -> Path:
    """hyb's own folder of data: `$XDG_DATA_HOME/hyb` or `~/.local/share/hyb`. Raises HybError when no home is set."""
    base = environ.get("XDG_DATA_HOME")
    if not base and not environ.get("HOME"):
        raise HybError("neither `HOME` nor `HYB_STORE` is set", hint="set `HYB_STORE` or give `--store DIR`")
    return Path(base or Path(environ["HOME"], ".local/share")) / "hyb"
