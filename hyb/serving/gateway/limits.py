"""How much: requests a minute and tokens a day for each key, and how many requests may wait for the engine.

Requests of the last 60 seconds are counted in memory. Tokens are counted a UTC day and written beside the keys every
few seconds and at the end, so that a restart does not forgive them; where that place is read-only (a mounted secret)
they last as long as the process, and its log says so.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from hyb import fs
from hyb.serving import keys
from hyb.serving.gateway.errors import GatewayError
from hyb.serving.keys import Key

MINUTE = 60.0
SAVE = 5.0  # seconds between two writes of the counts
BUSY = 5  # seconds after which a client that found the queue full may try again


class Limits:
    """What each key has used. `clock`: seconds; `now`: the time of day."""

    def __init__(
        self,
        usage: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path, self._clock, self._now = usage, clock, now
        self._asked: dict[str, deque[float]] = {}
        self._day = self._today()
        self._tokens = keys.usage(usage) if usage else {}
        self._saved, self._dirty = clock(), False

    def admit(self, key: Key) -> None:
        """Count a request. Raises GatewayError (429) when the key has none left."""
        if key.tokens_per_day and self.tokens(key.id) >= key.tokens_per_day:
            raise GatewayError(
                429, f"this key's {key.tokens_per_day} tokens of the day (UTC) are used up",
                code="tokens_per_day_exceeded", retry_after=self._till_midnight(),
            )  # fmt: skip
        if not key.rpm:
            return
        now, asked = self._clock(), self._asked.setdefault(key.id, deque())
        while asked and now - asked[0] >= MINUTE:
            asked.popleft()
        if len(asked) >= key.rpm:
            raise GatewayError(
                429, f"this key may ask {key.rpm} times a minute", code="rate_limit_exceeded",
                retry_after=max(1.0, MINUTE - (now - asked[0])),
            )  # fmt: skip
        asked.append(now)

    def spend(self, key: Key, tokens: int) -> bool:
        """Count tokens. True when it is time to `save`."""
        self._turn_day()
        self._tokens[key.id] = self._tokens.get(key.id, 0) + tokens
        self._dirty = True
        return self._clock() - self._saved >= SAVE

    def tokens(self, key_id: str) -> int:
        """Tokens that a key has used today."""
        self._turn_day()
        return self._tokens.get(key_id, 0)

    def save(self) -> None:
        """Write the counts, when there is something new. May be called in a thread."""
        if not self._dirty or self._path is None:
            return
        self._saved, self._dirty = self._clock(), False
        data = json.dumps({"day": self._day, "tokens": dict(self._tokens)}, indent=1).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fs.write_atomic(self._path, data, mode=0o600)
        except OSError as error:
            sys.stderr.write(f"hyb: tokens a day are not kept over a restart: {self._path}: {error.strerror}\n")
            self._path = None

    def _today(self) -> str:
        return self._now().date().isoformat()

    def _turn_day(self) -> None:
        if (day := self._today()) != self._day:
            self._day, self._tokens = day, {}

    def _till_midnight(self) -> float:
        now = self._now()
        return 86400 - (now.hour * 3600 + now.minute * 60 + now.second)


class Line:
    """The queue before the engine: `places` requests run, `most` wait, in the order they came."""

    def __init__(self, places: int, most: int) -> None:
        self._free = asyncio.Semaphore(places)
        self._most = most
        self.running = self.waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises GatewayError (503) when too many wait already."""
        if self._free.locked() and self.waiting >= self._most:
            raise GatewayError(
                503, f"{self.waiting} requests are waiting already", code="queue_full", retry_after=BUSY
            )  # fmt: skip
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._free.release()
