"""Buckets and the queue."""

from __future__ import annotations

import asyncio

import pytest

from hyb.chat import limits
from hyb.chat.limits import Buckets, BusyError, FullError, Queue, WaitedError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_lets_a_burst_through_and_then_so_many_a_minute() -> None:
    clock = Clock()
    buckets = Buckets(60, 3, clock=clock)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a") == pytest.approx(1)
    assert buckets.short("a") == pytest.approx(1)
    assert buckets.take("b") == 0, "another client has a bucket of its own"
    clock.now += 1
    assert buckets.short("a") == 0
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    clock.now += 3600
    assert [buckets.take("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_no_rate_is_no_limit() -> None:
    buckets = Buckets(0)
    assert not any(buckets.take("a") for _ in range(1000))


def test_the_memory_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENTS", 10)
    buckets = Buckets(1)
    for number in range(1000):
        buckets.take(str(number))
    assert len(buckets.level) == 10


def test_the_queue_serves_in_the_order_of_coming_and_tells_the_places() -> None:
    async def play() -> None:
        queue = Queue(1, 3, 9, 5)
        first, second, third = (queue.enter(c) for c in "abc")
        assert [p.number for p in (first, second, third)] == [0, 1, 2]
        seen: list[int] = []

        async def wait() -> None:
            async for place in queue.turn(third):
                seen.append(place)

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        queue.leave(second)  # goes away while it waits
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        queue.leave(first)
        await waiting
        assert seen == [2, 1] and third.number == 0 and queue.running == 1
        queue.leave(third)
        assert queue.running == 0 and not queue.of_client and not queue.waiting

    asyncio.run(play())


def test_a_full_queue_and_a_busy_client_are_refused_and_leave_no_trace() -> None:
    queue = Queue(1, 1, 1, 5)
    queue.enter("a")
    with pytest.raises(BusyError):
        queue.enter("a")
    queue.enter("b")
    with pytest.raises(FullError):
        queue.enter("c")
    assert queue.of_client == {"a": 1, "b": 1}


def test_a_wait_that_is_too_long_ends() -> None:
    async def play() -> None:
        queue = Queue(1, 1, 1, 0.02)
        queue.enter("a")
        place = queue.enter("b")
        with pytest.raises(WaitedError):
            async for _ in queue.turn(place):
                pass
        queue.leave(place)
        assert not queue.waiting

    asyncio.run(play())


def test_nobody_overtakes_who_waits() -> None:
    queue = Queue(2, 5, 9, 5)
    places = [queue.enter(c) for c in "abc"]
    queue.leave(places[0])
    assert places[2].number == 0, "moved up at once"
    assert queue.enter("d").number == 1
