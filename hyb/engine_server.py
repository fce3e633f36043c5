"""The door for a program that goes on: an engine that serves. (`hyb.engine` is the door for those that end.)"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import hyb
from hyb.engine import OFFLINE, QUIET


def python(module: str, *arguments: str) -> list[str]:
    """The command line of one of hyb's own modules; nothing is imported from the working directory (-P)."""
    return [sys.executable, "-P", "-m", module, *arguments]


def spawn(argv: Sequence[str], *, log: Path | None = None, stdin: int | None = None) -> int:
    """Start a program in a session of its own, without network or telemetry settings, and return its pid.

    `log`: the file that its output is added to (made with mode 0600); None: our own output. `stdin`: a descriptor;
    None: nothing to read. It goes on when we end. Raises OSError when it can't be started.
    """
    root = str(Path(hyb.__file__).parents[1])  # the hyb that runs now, wherever it is installed
    paths = os.pathsep.join(dict.fromkeys([root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
    environ: Mapping[str, str] = {**os.environ, **QUIET, **OFFLINE, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    opening = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    actions = [opening if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0)]
    if log:
        actions.append((os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        actions.append((os.POSIX_SPAWN_DUP2, 1, 2))
    return os.posix_spawn(
        argv[0],
        list(argv),
        environ,
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
    )
