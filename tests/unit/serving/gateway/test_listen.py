"""The listeners: who says nothing is shown the door, and nobody else."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hyb.serving import child
from hyb.serving.gateway import listen
from hyb.serving.gateway.listen import Listener

pytestmark = pytest.mark.socket
GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the size of the body, in three pieces with time between them when asked for /3."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(3 if scope["path"] == "/3" else 0):
        await send({"type": "http.response.body", "body": b"piece", "more_body": True})
        await asyncio.sleep(0.3)
    await send({"type": "http.response.body", "body": b"size %d" % size})


@asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[str]:
    path = str(folder / "s.sock")
    door = Listener(app, [listen.unix(path)], grace=1)
    task = asyncio.create_task(door.listen())
    while not door.started:
        await asyncio.sleep(0.01)
    yield path
    door.end()
    await task


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(listen, "SILENCE", 0.4)
    return tmp_path_factory.mktemp("l")


def test_silent_connections_are_closed_and_a_request_among_them_is_answered(folder: Path) -> None:
    async def body() -> None:
        async with listening(folder) as path:
            silent = [await asyncio.open_unix_connection(path) for _ in range(300)]
            halfway = await asyncio.open_unix_connection(path)
            halfway[1].write(b"GET / HTTP/1.1\r\nHost: ")
            body = await asyncio.open_unix_connection(path)
            body[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(GET % 0)
            assert (await reader.readuntil(b"size 0")).startswith(b"HTTP/1.1 200")
            began = asyncio.get_running_loop().time()
            for found, _ in [*silent, halfway, body]:
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await asyncio.wait_for(found.readexactly(1), 5)
            assert asyncio.get_running_loop().time() - began < 3
            for _, out in [*silent, halfway, body, (reader, writer)]:
                out.close()

    asyncio.run(body())


def test_a_slow_answer_and_a_body_that_keeps_coming_are_not_silent(folder: Path) -> None:
    async def body() -> None:
        async with listening(folder) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(GET % 3)
            answer = await asyncio.wait_for(reader.readuntil(b"size 0"), 5)
            assert answer.count(b"piece") == 3
            await reader.readuntil(b"0\r\n\r\n")
            writer.write(b"POST /0 HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n")
            for _ in range(8):
                await asyncio.sleep(0.15)
                writer.write(b"x")
            assert b"size 8" in await asyncio.wait_for(reader.readuntil(b"size 8"), 5)
            writer.close()

    asyncio.run(body())


def test_a_second_request_that_stops_in_its_head_is_silent_too(folder: Path) -> None:
    async def body() -> None:
        async with listening(folder) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(GET % 0)
            await reader.readuntil(b"0\r\n\r\n")
            writer.write(b"GET / HTTP/1.1\r\nHo")
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 5)
            writer.close()

    asyncio.run(body())


def test_a_head_without_end_is_cut_off_and_a_long_body_is_not(folder: Path) -> None:
    async def body() -> None:
        async with listening(folder) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            size = 3 * listen.HEAD
            writer.write(b"POST /0 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"b" * size)
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)).startswith(b"HTTP/1.1 200")
            writer.close()
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                for at in range(1000):
                    writer.write(b"X-%d: " % at + b"x" * 1000 + b"\r\n")
                    await writer.drain()
                await asyncio.wait_for(reader.readexactly(1), 5)
            writer.close()

    asyncio.run(body())


def test_a_socket_is_its_owners_and_one_that_is_in_use_is_not_taken(folder: Path) -> None:
    path = str(folder / "own.sock")
    first = listen.unix(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116
    first.listen()
    with pytest.raises(child.UnableError, match="in use"):
        listen.unix(path)
    first.close()
    listen.unix(path).close()
    Path(path).unlink()
    Path(path).write_text("a file")
    with pytest.raises(child.UnableError, match="in use"):
        listen.unix(path)
    assert Path(path).read_text() == "a file"
