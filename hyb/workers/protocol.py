"""How a worker talks: its job is a JSON file, its events are JSON lines on stdout, its end is `done` or `fail`.

Before `done` it says which packages it had loaded (`ran`), for the receipt.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

from hyb import loaded
from hyb.errors import HybError


class Failed(Exception):
    """A mistake of the user, found inside a worker. `code`: 3 input, 4 a check said no. `alone`: of several processes
    only this one may have found it, so it has to tell."""

    def __init__(
        self, message: str, *, hint: str = "", code: int = 3, details: list[str] | None = None, alone: bool = False
    ) -> None:
        super().__init__(message)
        self.alone = alone
        self.fields = {"message": message, "hint": hint, "code": code, "details": details or []}


def emit(event: str, **fields: Any) -> None:
    """Tell the launcher something: `progress` (task, done, total, unit, note) or an event of the worker's own."""
    if os.environ.get("RANK", "0") == "0":  # of several processes that do the same one talks
        _write({"event": event, **fields})


def _write(event: dict[str, Any]) -> None:
    _OUT.write(json.dumps(event) + "\n")
    _OUT.flush()


def progress(task: str, done: float, total: float | None = None, unit: str = "", note: str = "") -> None:
    """A `progress` event, the fields of `hyb.progress.Progress`."""
    emit("progress", task=task, done=done, total=total, unit=unit, note=note)


def main(work: Callable[[dict[str, Any]], dict[str, Any]]) -> NoReturn:
    """Run `work(job)`; its result is the fields of `done`. Ends when stdin, if that is the launcher's pipe, closes."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):  # else: nobody holds the other end, as in a cluster's pod
        threading.Thread(target=_die_with_parent, daemon=True).start()
    job = json.loads(Path(sys.argv[1]).read_text())
    try:
        result = _work(work, job)
    except Failed as failure:
        if failure.alone:
            _write({"event": "fail", **failure.fields})
        else:
            emit("fail", **failure.fields)
        sys.exit(failure.fields["code"])  # type: ignore[arg-type]
    except HybError as error:  # from the formats that we share with the launcher
        emit("fail", **error.as_dict()["error"])  # type: ignore[arg-type]
        sys.exit(int(error.code))
    emit("ran", packages=loaded.packages())
    emit("done", **result)
    sys.exit(0)


def _work(work: Callable[[dict[str, Any]], dict[str, Any]], job: dict[str, Any]) -> dict[str, Any]:
    """`work(job)`, where a full or read-only disk is the user's matter and not a bug."""
    try:
        return work(job)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise _no_room(error.errno) from error
    except Exception as error:  # libraries of other languages have errors of their own for it
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise _no_room(errno.ENOSPC) from error


def _no_room(number: int) -> Failed:
    hint = "free some space there, or give another store with `--store DIR`; run it again to go on"
    return Failed(f"can't write: {os.strerror(number).lower()}", hint=hint)


def _die_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(130)


def _channel() -> TextIO:
    """Where events go. In a worker's process stdout belongs to the protocol from the first import on: whatever a
    library prints goes to stderr, that is to the log."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("hyb.workers."):
        return sys.stdout  # imported by a server or a test
    out = os.fdopen(os.dup(1), "w", closefd=False)
    os.dup2(2, 1)
    return out


_OUT = _channel()
