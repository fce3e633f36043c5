"""`python -P -m tests.e2e.faults.killer N ROOT hyb-arguments…`: hyb, killed with no handler run before its N-th step.

A step is whatever Python tells its audit hooks of a path below ROOT: an open, rename, link, listing, removal. Between
two of them nothing on disk changes but the content of a file that is open. N is 0: not killed; the number of steps is
then the last line on stderr.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

steps = 0
number, root = int(sys.argv[1]), sys.argv[2]


def hook(event: str, args: tuple[Any, ...]) -> None:
    global steps  # noqa: PLW0603
    if event != "import" and any(isinstance(a, (str, os.PathLike)) and os.fspath(a).startswith(root) for a in args):
        steps += 1
        if steps == number:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.argv = ["hyb", *sys.argv[3:]]
    from hyb.cli import main

    sys.addaudithook(hook)
    try:
        main()
    finally:
        sys.stderr.write(f"\nsteps {steps}\n")
