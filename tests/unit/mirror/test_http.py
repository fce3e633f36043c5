"""The mirror's HTTP on loopback: clients that go away, upgrades that nobody takes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httptools")

from hyb.artifact import Blob
from hyb.mirror import http
from hyb.mirror.answers import Answer, Part, Request

pytestmark = pytest.mark.socket
SIZE = 64 << 20
BLOB = Blob("sha256:" + "0" * 64, SIZE)
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Lab:
    """A server of one large file; `let` holds answers back, `faults` is what asyncio would print."""

    def __init__(self, path: Path) -> None:
        self.path, self.others, self.faults = path, set[http.Connection](), list[dict[str, Any]]()
        self.asked, self.let = asyncio.Event(), asyncio.Event()
        self.address: tuple[str, int] = ("", 0)

    async def ask(self, _: Request) -> Answer:
        self.asked.set()
        await self.let.wait()
        return Answer(200, Part(BLOB, 0, SIZE))

    async def client(self) -> socket.socket:
        found = socket.socket()
        found.setblocking(False)
        await asyncio.get_running_loop().sock_connect(found, self.address)
        return found

    async def idle(self) -> None:
        """Until no client is left."""
        async with asyncio.timeout(10):
            while self.others:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # what a lost connection calls at its end


def run(tmp_path: Path, what: Callable[[Lab], Awaitable[None]]) -> Lab:
    path = tmp_path / "blob"
    with path.open("wb") as out:
        out.truncate(SIZE)

    async def main() -> Lab:
        loop, lab = asyncio.get_running_loop(), Lab(path)
        loop.set_exception_handler(lambda _, context: lab.faults.append(context))
        listener = http.bind("127.0.0.1", 0)
        lab.address = listener.getsockname()
        made = lambda: http.Connection(lab.ask, lambda _: None, lambda _: path, lab.others)  # noqa: E731
        server = await loop.create_server(made, sock=listener)
        await what(lab)
        server.close()
        return lab

    return asyncio.run(main())


def test_a_client_that_is_gone_before_its_answer_is_no_fault(tmp_path: Path) -> None:
    async def what(lab: Lab) -> None:
        client = await lab.client()
        client.send(GET)
        await lab.asked.wait()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # a reset
        lab.let.set()
        await lab.idle()

    assert run(tmp_path, what).faults == []


def test_a_client_that_is_gone_while_a_head_waits_for_room_is_no_fault(tmp_path: Path) -> None:
    async def what(lab: Lab) -> None:
        client = await lab.client()
        client.send(GET)
        await lab.asked.wait()
        (connection,) = lab.others
        connection.transport.write(bytes(SIZE))  # an answer before it, that the client has not taken
        lab.let.set()
        await asyncio.sleep(0.05)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await lab.idle()

    assert run(tmp_path, what).faults == []


def test_the_end_breaks_off_a_client_that_takes_nothing_without_a_fault(tmp_path: Path) -> None:
    async def what(lab: Lab) -> None:
        lab.let.set()
        client = await lab.client()
        client.send(GET)
        loop = asyncio.get_running_loop()
        assert (await loop.sock_recv(client, 15)) == b"HTTP/1.1 200 OK"
        await http.end(lab.others, 0.05)
        await lab.idle()
        client.close()

    assert run(tmp_path, what).faults == []


def test_an_upgrade_that_nobody_takes_gets_one_answer(tmp_path: Path) -> None:
    async def what(lab: Lab) -> None:
        lab.let.set()
        loop, client = asyncio.get_running_loop(), await lab.client()
        client.send(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        found = b""
        async with asyncio.timeout(10):
            while part := await loop.sock_recv(client, 4096):
                found += part
        client.close()
        assert found.count(b"HTTP/1.1 ") == 1 and b"Connection: close" in found

    run(tmp_path, what)


def open_still(client: socket.socket) -> bool:
    """The server has not closed this connection, on which nothing was asked."""
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_of_too_many_that_come_at_once_only_so_many_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST", 10)

    async def what(lab: Lab) -> None:
        clients = []
        for _ in range(40):  # all before the server gets to any
            clients.append(socket.create_connection(lab.address))
            clients[-1].setblocking(False)
        for _ in range(200):
            if sum(map(open_still, clients)) == 10:
                break
            await asyncio.sleep(0.05)
        there = sum(map(open_still, clients))
        for client in clients:
            client.close()
        await lab.idle()
        assert there == 10

    assert run(tmp_path, what).faults == []
