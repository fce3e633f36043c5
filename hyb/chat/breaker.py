"""Is the model there? A circuit breaker: who asks a model that is gone is told so at once, and is not kept waiting.

closed: questions go through. A failure that can't be mistaken (refused, an empty answer, a wrong key) opens it at once,
one that may be the question's fault (a timeout, an error 5xx) the third time in a row. open: nobody is let through; a
watcher tries the model with one real token, a second later and then more rarely (half-open), and closes it when that
was answered. So no person's question is the trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SOFT = 3  # failures in a row that open it, when each may be the question's fault
FIRST_WAIT, LONGEST_WAIT = 1.0, 5.0  # seconds between two trials


@dataclass
class Breaker:
    """The state, without any clock: `wait` says when to try next. `changed(closed, why)` hears of each change."""

    changed: Callable[[bool, str], None] = lambda _closed, _why: None
    closed: bool = False
    """Open at first: nothing is known of the model until it has answered."""
    soft: int = 0
    wait: float = FIRST_WAIT
    why: str = "not asked yet"
    opened: int = 0
    """How many times it opened."""

    def worked(self) -> None:
        """The model has answered."""
        self.soft, self.wait = 0, FIRST_WAIT
        if not self.closed:
            self.closed, self.why = True, ""
            self.changed(True, "")

    def failed(self, why: str, *, hard: bool) -> None:
        """The model has not answered. `hard`: that was surely the model's fault."""
        self.soft += 1
        if not self.closed:
            self.wait = min(self.wait * 1.5, LONGEST_WAIT)
            if why != self.why:
                self.why = why
                self.changed(False, why)
        elif hard or self.soft >= SOFT:
            self.closed, self.why, self.wait = False, why, FIRST_WAIT
            self.opened += 1
            self.changed(False, why)
