"""`python -m hyb.chat`: the entry of the container. Its settings come from the environment."""

from __future__ import annotations

import os
import sys

from hyb.chat import server, settings
from hyb.errors import HybError


def main() -> int:
    """Serve until SIGTERM or ^C; the error's exit code when it can't begin."""
    try:
        return server.run(settings.from_environ(os.environ))
    except HybError as error:
        lines = [f"error: {error.message}", *(f"  - {d}" for d in error.details)]
        print(*lines, *([f"hint: {error.hint}"] if error.hint else []), sep="\n", file=sys.stderr)  # noqa: T201
        return int(error.code)


if __name__ == "__main__":
    sys.exit(main())
