"""The connection to the model's server, against servers that say exactly what a test wants."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hyb import certificates
from hyb.chat.wire import HIGH_WATER, Wire, WireError

pytestmark = pytest.mark.socket
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Talk = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Hands each request's head and the writer to `talk`; counts connections."""

    def __init__(self, talk: Talk | bytes, *, unix: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.talk, self.unix, self.tls = talk, unix, tls
        self.connections, self.heads = 0, list[bytes]()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                size = [int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length")]
                self.heads.append(head + await reader.readexactly(size[0] if size else 0))
                if isinstance(self.talk, bytes):
                    writer.write(self.talk)
                    await writer.drain()
                else:
                    await self.talk(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def __aenter__(self) -> Server:
        if self.unix:
            self.server = await asyncio.start_unix_server(self.handle, self.unix)
            self.url = "http://localhost/v1"
        else:
            self.server = await asyncio.start_server(self.handle, "127.0.0.1", 0, ssl=self.tls)
            port = self.server.sockets[0].getsockname()[1]
            self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()


async def got(
    wire: Wire, method: str = "GET", path: str = "models", body: bytes = b"", **more: Any
) -> tuple[int, bytes]:
    answer = await wire.ask(method, path, body, **more)
    try:
        return answer.status, b"".join([part async for part in answer.parts()])
    finally:
        answer.close()


def play(talk: Talk | bytes, then: Callable[[Server, Wire], Awaitable[None]], **more: Any) -> None:
    """Run `then` against a server that says `talk`."""

    async def whole() -> None:
        options = {k: more.pop(k) for k in ("unix", "tls") if k in more}
        async with Server(talk, **options) as server:
            wire = Wire(server.url, unix=options.get("unix", ""), **more)
            try:
                await then(server, wire)
            finally:
                wire.close()
                await asyncio.sleep(0)  # for the connections to end

    asyncio.run(asyncio.wait_for(whole(), 20))


def test_questions_go_over_one_connection_with_the_key_and_their_length() -> None:
    async def then(server: Server, wire: Wire) -> None:
        for _ in range(3):
            assert await got(wire, "POST", "chat/completions", b'{"a": 1}') == (200, b"ok")
        assert server.connections == 1
        assert server.heads[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nAuthorization: Bearer hyb_sk_x\r\n" in server.heads[0]
        assert server.heads[0].endswith(b'Content-Length: 8\r\n\r\n{"a": 1}')

    play(OK, then, key="hyb_sk_x")


def test_a_chunked_answer_comes_as_it_is_sent_and_its_connection_is_kept() -> None:
    async def talk(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b"a", b"b" * 20, b"c"):
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"0\r\nX-Trailer: 1\r\n\r\n")

    async def then(server: Server, wire: Wire) -> None:
        answer = await wire.ask("GET", "models")
        assert [p async for p in answer.parts()] == [b"a", b"b" * 20, b"c"]
        answer.close()
        assert "x-trailer" not in answer.headers
        assert (await got(wire))[0] == 200
        assert server.connections == 1

    play(talk, then)


def test_without_a_length_the_end_of_the_connection_is_the_end_of_the_answer() -> None:
    async def talk(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        writer.close()

    async def then(server: Server, wire: Wire) -> None:
        assert await got(wire) == await got(wire) == (200, b"all of it")
        assert server.connections == 2

    play(talk, then)


def test_a_kept_connection_that_was_closed_costs_nobody_an_answer() -> None:
    async def talk(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        writer.close()  # though it had not said so

    async def then(server: Server, wire: Wire) -> None:
        for _ in range(5):
            assert await got(wire) == (200, b"ok")
        assert len(server.heads) == 5

    play(talk, then)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "closes the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Len", "breaks the answer off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "breaks the answer off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "breaks the answer off"),
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000, "head without end"),
    ],
)
def test_what_is_no_whole_answer_is_an_error(said: bytes, why: str) -> None:
    async def talk(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    async def then(_: Server, wire: Wire) -> None:
        with pytest.raises(WireError, match=why) as caught:
            await got(wire)
        assert not caught.value.unreachable

    play(talk, then)


def test_two_answers_to_one_question_do_not_become_anothers() -> None:
    async def then(server: Server, wire: Wire) -> None:
        for _ in range(3):
            assert await got(wire) == (200, b"ok")
        assert server.connections == 3, "such a connection is not used again"

    play(OK + OK, then)


def test_patience_has_an_end_at_the_head_and_between_two_parts() -> None:
    async def silent(_: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async def stuck(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        await asyncio.sleep(5)

    async def then(_: Server, wire: Wire) -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await got(wire, patience=0.1)
        assert asyncio.get_running_loop().time() - began < 2

    play(silent, then)
    play(stuck, then)


def test_the_readers_own_time_is_not_the_servers() -> None:
    async def talk(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok")
        await writer.drain()
        await asyncio.sleep(0.35)
        writer.write(b"ok")

    async def then(_: Server, wire: Wire) -> None:
        answer = await wire.ask("GET", "models", patience=0.25)
        parts = answer.parts()
        assert await anext(parts) == b"ok"
        await asyncio.sleep(0.3)  # longer than the patience, but that was we
        assert await anext(parts) == b"ok"
        answer.close()

    play(talk, then)


def test_a_reader_who_takes_nothing_stops_the_sender() -> None:
    sent = 0

    async def talk(_: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        for _i in range(2000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async def then(_: Server, wire: Wire) -> None:
        answer = await wire.ask("GET", "models")
        await asyncio.sleep(0.3)
        assert sent < 50_000_000, "all of it lies somewhere"
        assert len(answer._body) < HIGH_WATER * 4
        held, parts = sent, answer.parts()
        for _i in range(20):
            await anext(parts)
        assert sent > held, "it goes on when it is read"
        answer.close()

    play(talk, then)


def test_nobody_there_and_nobody_known_are_told_apart() -> None:
    async def whole() -> None:
        async with Server(OK) as server:
            url = server.url
        for base, why in ((url, "is refused"), ("http://nowhere.invalid/v1", "name of the model's server")):
            with pytest.raises(WireError, match=why) as caught:
                await Wire(base).ask("GET", "models")
            assert caught.value.unreachable

    asyncio.run(whole())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA, and a certificate for 127.0.0.1 with its key."""
    folder, now = tmp_path_factory.mktemp("tls"), datetime.now(UTC)
    ca = certificates.make_ca("test", 1, now)
    leaf = certificates.make_leaf(ca, "model", 1, now, hosts=["127.0.0.1"])
    other = certificates.make_leaf(ca, "other", 1, now, hosts=["other.example"])
    for name, data in (("ca", ca.certificate), ("cert", leaf.certificate), ("key", leaf.key),
                       ("other", other.certificate), ("otherkey", other.key)):  # fmt: skip
        (folder / name).write_bytes(data)
    return folder


def context(folder: Path, name: str) -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(folder / name, folder / ("key" if name == "cert" else "otherkey"))
    return found


def test_over_tls_an_authority_or_the_servers_own_certificate_is_trusted_and_nothing_else(pair: Path) -> None:
    async def well(_: Server, wire: Wire) -> None:
        assert await got(wire) == await got(wire) == (200, b"ok")

    async def badly(_: Server, wire: Wire) -> None:
        with pytest.raises(WireError, match="is not trusted") as caught:
            await got(wire)
        assert caught.value.unreachable

    for trusted in ("ca", "cert"):
        play(OK, well, tls=context(pair, "cert"), ca_file=str(pair / trusted))
    play(OK, badly, tls=context(pair, "cert"))
    play(OK, badly, tls=context(pair, "cert"), ca_file=str(pair / "other"))
    play(OK, badly, tls=context(pair, "other"), ca_file=str(pair / "ca"))


def test_a_unix_socket_leads_there_too(tmp_path: Path) -> None:
    async def then(server: Server, wire: Wire) -> None:
        assert await got(wire) == (200, b"ok")
        assert b"Host: localhost\r\n" in server.heads[0]

    play(OK, then, unix=str(tmp_path / "s"))
