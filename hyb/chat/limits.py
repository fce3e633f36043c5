"""How much one client may ask, and how much all may ask together: buckets, and a queue that tells its places."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

CLIENTS = 10_000  # that are remembered; beyond it the ones longest silent are forgotten


class Buckets:
    """A token bucket a client: `minute` requests a minute, `burst` of them at once. Memory is bounded.

    `clock`: seconds, growing.
    """

    def __init__(self, minute: float, burst: float = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = minute / 60
        self.burst = burst or max(1.0, minute / 3)
        self.clock = clock
        self.level: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """0 when the client may go on, else the seconds until it may."""
        if not self.rate:
            return 0
        now = self.clock()
        level, then = self.level.pop(client, (self.burst, now))
        level = min(self.burst, level + (now - then) * self.rate)
        wait = 0.0 if level >= 1 else (1 - level) / self.rate
        self.level[client] = (level if wait else level - 1, now)
        while len(self.level) > CLIENTS:
            self.level.popitem(last=False)
        return wait

    def short(self, client: str) -> float:
        """As `take`, but nothing is counted."""
        level, then = self.level.get(client, (self.burst, 0.0))
        level = min(self.burst, level + (self.clock() - then) * self.rate)
        return 0.0 if level >= 1 or not self.rate else (1 - level) / self.rate


class FullError(Exception):
    """There is no place in the queue."""


class WaitedError(Exception):
    """The wait was too long."""


class BusyError(Exception):
    """This client asks too much at once."""


@dataclass(eq=False)
class Place:
    """One who waits or is served. `number` is 0 when it's its turn, else its place, from 1."""

    client: str
    number: int
    moved: asyncio.Event


class Queue:
    """At most `parallel` are served at once, `length` wait, `each` of one client. First come, first served."""

    def __init__(self, parallel: int, length: int, each: int, seconds: float) -> None:
        self.parallel, self.length, self.each, self.seconds = parallel, length, each, seconds
        self.running = 0
        self.waiting: deque[Place] = deque()
        self.of_client: dict[str, int] = {}

    def enter(self, client: str) -> Place:
        """Take a place. It must be left with `leave`. Raises BusyError, FullError."""
        if self.of_client.get(client, 0) >= self.each:
            raise BusyError
        if self.running < self.parallel and not self.waiting:
            self.running += 1
            place = Place(client, 0, asyncio.Event())
        elif len(self.waiting) >= self.length:
            raise FullError
        else:
            place = Place(client, len(self.waiting) + 1, asyncio.Event())
            self.waiting.append(place)
        self.of_client[client] = self.of_client.get(client, 0) + 1
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, whether it was its turn or not."""
        left = self.of_client[place.client] - 1
        if left:
            self.of_client[place.client] = left
        else:
            del self.of_client[place.client]
        if place.number:
            self.waiting.remove(place)
        else:
            self.running -= 1
        while self.waiting and self.running < self.parallel:
            self.running += 1
            served = self.waiting.popleft()
            served.number = 0
            served.moved.set()
        for number, waiting in enumerate(self.waiting, 1):
            if waiting.number != number:
                waiting.number = number
                waiting.moved.set()

    async def turn(self, place: Place) -> AsyncIterator[int]:
        """The place each time that it changes, until it's its turn. Raises WaitedError."""
        end = asyncio.get_running_loop().time() + self.seconds
        while place.number:
            yield place.number
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await place.moved.wait()
            place.moved.clear()
            if place.number and asyncio.get_running_loop().time() >= end:
                raise WaitedError
