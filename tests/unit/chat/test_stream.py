"""A stream to a client that reads slowly, goes away, or never begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from hyb.chat.stream import PIECES, Stream


class Played:
    """A stream against a client that takes `takes` messages and then no more."""

    def __init__(self, *, takes: int = 10**9, leaves: bool = False, pause: float = 0, pieces: int = 1000) -> None:
        self.made, self.sent, self.left, self.ended = 0, list[dict[str, Any]](), 0, False
        self.takes, self.leaves, self.pause, self.pieces = takes, leaves, pause, pieces

    async def make(self) -> AsyncGenerator[bytes, None]:
        try:
            for _ in range(self.pieces):
                self.made += 1
                yield b"x" * 100
                await asyncio.sleep(self.pause)
        finally:
            self.ended = True

    async def send(self, message: Any) -> None:
        if len(self.sent) >= self.takes:
            await asyncio.Event().wait()
        self.sent.append(message)

    async def receive(self) -> Any:
        if not self.leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    def leave(self) -> None:
        self.left += 1

    def run(self, version: str = "1.1", **settings: float) -> Played:
        stream = Stream(self.make, **{"heartbeat": 5, "slow": 5, **settings}, leave=self.leave)
        asyncio.run(asyncio.wait_for(stream({"http_version": version}, self.receive, self.send), 10))
        return self


def test_all_that_is_made_is_sent_and_the_end_too() -> None:
    played = Played().run()
    assert sum(len(m.get("body", b"")) for m in played.sent) == 100_000
    assert played.sent[-1]["more_body"] is False
    assert played.left == 1


def test_a_client_that_takes_nothing_holds_the_making_up_and_is_given_up() -> None:
    played = Played(takes=3).run(slow=0.05)
    assert played.made <= 6 * PIECES, "the model was not read to the end"
    assert played.ended and played.left == 1
    assert played.sent[-1].get("more_body") is not False, "it was not told that this is all"


def test_a_client_that_goes_away_ends_the_making_even_before_it_began() -> None:
    played = Played(leaves=True, pause=1).run()
    assert played.left == 1
    assert played.made <= 1
    assert played.ended == bool(played.made)


def test_a_long_silence_is_filled_with_comments() -> None:
    played = Played(pause=0.05, pieces=2).run(heartbeat=0.01)
    assert b": \n\n" in [m.get("body") for m in played.sent]


def test_a_bug_in_the_making_is_not_hushed_up() -> None:
    played = Played()

    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"x"
        raise ZeroDivisionError

    stream = Stream(broken, heartbeat=1, slow=1, leave=played.leave)
    try:
        asyncio.run(stream({}, played.receive, played.send))
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("no error")
    assert played.left == 1


def test_to_http_1_0_all_goes_at_once_with_its_length() -> None:
    start, body = Played(pieces=3).run("1.0").sent
    assert (b"content-length", b"300") in start["headers"] and body["body"] == b"x" * 300
