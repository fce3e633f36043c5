"""The one error that a user sees, and the exit codes (documented in docs/exit-codes.md)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command. 1 is not here: it is Python's own, for a bug with its traceback."""

    OK = 0
    USAGE = 2  # the command line is wrong
    INPUT = 3  # the user's input, store or machine is wrong
    CHECK = 4  # a check said no: gate, stale lock, bad digest, bad signature
    BELOW = 5  # a program below failed: podman, a worker, an engine
    OFFLINE = 6  # offline, and it is not in the store
    INTERRUPTED = 130  # ^C


class HybError(Exception):
    """A mistake or fault that the user can act on.

    `message` says what and where, `hint` what to do next; one line each, values in backticks, no full stop.
    `details` lists several mistakes found at once, one line each.
    """

    def __init__(self, message: str, *, hint: str = "", code: Exit = Exit.INPUT, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.details = tuple(details)
        for line in self.details:  # where the error ends up in a traceback after all: a test's, a library user's
            self.add_note(line)

    def as_dict(self) -> dict[str, object]:
        """The shape of an error in `--json`: `{"error": {message, hint, code, details}}`."""
        return {
            "error": {
                "message": self.message,
                "hint": self.hint,
                "code": int(self.code),
                "details": list(self.details),
            }
        }
