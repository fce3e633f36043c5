"""Engines as the gateway sees them: answers passed on, deaths told, shares drawn. The engine is a small program."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyb.errors import HybError
from hyb.serving import child
from hyb.serving.gateway import wire
from hyb.serving.gateway.adapters import shares
from hyb.serving.gateway.engines import Engines
from hyb.serving.gateway.process import Launch
from hyb.serving.gateway.types import (
    AdapterSpec,
    EngineDrainingError,
    EngineLostError,
    GatewayJob,
    UnknownModelError,
)

pytestmark = pytest.mark.socket

ENGINE = r"""
import json, os, socket, sys, threading, time
path, says = sys.argv[1], sys.argv[2]
if says == "nothing": sys.exit(3)
def answer(c):
    data = b""
    while b"\r\n\r\n" not in data: data += c.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    wanted = int([l.split(b":")[1] for l in head.lower().split(b"\r\n") if l.startswith(b"content-length")][0])
    while len(body) < wanted: body += c.recv(65536)
    asked = json.loads(body or b"{}")
    if asked.get("stream"):
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(asked["stream"]):
            c.sendall(b"6\r\ndata%d\n\r\n" % (i % 10)); time.sleep(0.01)
        c.sendall(b"0\r\n\r\n")
    else:
        text = json.dumps({"says": says, "asked": asked}).encode()
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
    c.close()
def leash():
    while os.read(0, 1): pass
    os._exit(0)
threading.Thread(target=leash, daemon=True).start()
s = socket.socket(socket.AF_UNIX); s.bind(path); s.listen(50)
while True: threading.Thread(target=answer, args=(s.accept()[0],), daemon=True).start()
"""


def launcher(job: GatewayJob, adapters: Sequence[AdapterSpec], folder: Path) -> Launch:
    """A small engine; an adapter called `nothing` is one that it can't load."""
    folder.mkdir(exist_ok=True)
    path = str(folder / "engine.sock")
    Path(path).unlink(missing_ok=True)
    says = "nothing" if any(a.path == "nothing" for a in adapters) else ",".join(a.name for a in adapters) or "base"
    return Launch([sys.executable, "-c", ENGINE, path, says], path)


def job(folder: Path, *adapters: AdapterSpec, **more: Any) -> GatewayJob:
    return GatewayJob("bot", "llama.cpp", "/model", str(folder), adapters=adapters, digest="sha256:0", **more)


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")


@asynccontextmanager
async def running(told: GatewayJob) -> AsyncIterator[Engines]:
    engines = Engines(told, launch=launcher, seed=0)
    task = asyncio.create_task(engines.run())
    try:
        while not engines.ready:
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
        yield engines
    finally:
        await engines.aclose(5)
        await task


async def ask(engines: Engines, model: str = "") -> dict[str, Any]:
    pick = engines.pick(model)
    async with engines.send("POST", "/x", json.dumps(dict(pick.patch)).encode(), pick=pick) as answer:
        assert answer.status == 200
        found: dict[str, Any] = json.loads(b"".join([c async for c in answer.chunks()]))
        return found


def test_an_answer_is_passed_on_and_names_its_adapter(run: Path) -> None:
    async def body() -> None:
        async with running(job(run, AdapterSpec("a", "/a"), AdapterSpec("b", "/b"))) as engines:
            assert [m.id for m in engines.models()] == ["bot", "a", "b"]
            assert (await ask(engines))["asked"]["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]
            assert (await ask(engines, "b"))["asked"] == {
                "model": "b", "lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}],
            }  # fmt: skip
            with pytest.raises(UnknownModelError) as caught:
                engines.pick("c")
            assert caught.value.known == ("bot", "a", "b")

    asyncio.run(body())


def test_a_death_in_mid_answer_is_told_and_the_next_request_waits_for_the_next_engine(run: Path) -> None:
    async def body() -> None:
        async with running(job(run)) as engines:
            async with engines.send("POST", "/x", b'{"stream": 1000}') as answer:
                with pytest.raises(EngineLostError, match="middle"):
                    async for _ in answer.chunks():
                        os.kill(engines.state()["pid"], signal.SIGKILL)
            assert (await ask(engines))["says"] == "base"
            assert engines.restarts == 1 and engines.running == 0

    asyncio.run(body())


def test_a_pick_is_answered_by_the_engine_that_it_was_made_for(run: Path) -> None:
    async def body() -> None:
        async with running(job(run, AdapterSpec("a", "/a"))) as engines:
            pick, pid = engines.pick("a"), engines.state()["pid"]
            async with engines.send("POST", "/x", b'{"stream": 100}') as stream:
                await engines.load(AdapterSpec("b", "/b"))
                assert engines.state()["pid"] != pid
                async with engines.send("POST", "/x", b"{}", pick=pick) as old:
                    assert json.loads(b"".join([c async for c in old.chunks()]))["says"] == "a"
                assert len(b"".join([c async for c in stream.chunks()])) == 600
            assert (await ask(engines, "b"))["says"] == "a,b"
            while engines.state()["engines"] > 1:
                await asyncio.sleep(0.05)
            with pytest.raises(EngineLostError, match="changed"):
                async with engines.send("POST", "/x", b"{}", pick=pick):
                    pass
            await engines.drop("a")
            assert [m.id for m in engines.models()] == ["bot", "b"]

    asyncio.run(body())


def test_an_adapter_that_can_not_be_loaded_changes_nothing(run: Path) -> None:
    async def body() -> None:
        async with running(job(run)) as engines:
            before = engines.state()["pid"]
            with pytest.raises(HybError, match="goes on as it was"):
                await engines.load(AdapterSpec("a", "nothing"))
            assert [m.id for m in engines.models()] == ["bot"]
            assert engines.state()["pid"] == before and engines.state()["engines"] == 1
            assert (await ask(engines))["says"] == "base"

    asyncio.run(body())


def test_another_model_takes_over_and_the_answers_of_the_first_end_in_peace(run: Path) -> None:
    async def body() -> None:
        async with running(job(run, AdapterSpec("a", "/a"))) as engines:
            pid = engines.state()["pid"]
            async with engines.send("POST", "/x", b'{"stream": 100}') as stream:
                other = replace(
                    engines.job, model="/other", digest="sha256:1", adapters=(AdapterSpec("b", "/b", "", 5),)
                )
                await engines.swap(other)
                assert engines.state()["digest"] == "sha256:1" and engines.state()["pid"] != pid
                assert [(m.id, m.digest, m.weight) for m in engines.models()] == [("bot", "sha256:1", 95), ("b", "", 5)]
                assert len(b"".join([c async for c in stream.chunks()])) == 600
            assert (await ask(engines, "b"))["says"] == "b"
            while engines.state()["engines"] > 1:
                await asyncio.sleep(0.05)
            assert engines.restarts == 0
            os.kill(engines.state()["pid"], signal.SIGKILL)
            assert (await ask(engines, "b"))["says"] == "b", "a restart starts the model that is served now"

    asyncio.run(body())


def test_a_model_that_does_not_answer_is_not_taken(run: Path) -> None:
    async def body() -> None:
        async with running(job(run)) as engines:
            before = engines.state()["pid"]
            with pytest.raises(HybError, match="goes on as it was"):
                await engines.swap(replace(engines.job, digest="sha256:1", adapters=(AdapterSpec("a", "nothing"),)))
            assert engines.state()["pid"] == before and engines.state()["digest"] == "sha256:0"
            assert (await ask(engines))["says"] == "base"

    asyncio.run(body())


def test_an_engine_that_can_not_start_is_told_with_its_status(run: Path) -> None:
    engines = Engines(job(run, AdapterSpec("a", "nothing")), launch=launcher)
    with pytest.raises(child.UnableError, match="ended with status 3"):
        asyncio.run(engines.run())


def test_a_service_that_ends_lets_answers_end_and_takes_no_more(run: Path) -> None:
    async def body() -> None:
        async with running(job(run)) as engines:
            async with engines.send("POST", "/x", b'{"stream": 50}') as answer:
                ending = asyncio.create_task(engines.aclose(10))
                await asyncio.sleep(0)
                assert not engines.ready
                with pytest.raises(EngineDrainingError):
                    await ask(engines)
                assert len(b"".join([c async for c in answer.chunks()])) == 300
            await ending

    asyncio.run(body())


def test_leaving_an_answer_early_closes_its_connection(run: Path) -> None:
    async def body() -> None:
        async with running(job(run)) as engines:
            async with engines.send("POST", "/x", b'{"stream": 100000}') as answer:
                async for _ in answer.chunks():
                    break
            assert engines.running == 0

    asyncio.run(body())


def test_requests_are_shared_by_weight(run: Path) -> None:
    engines = Engines(job(run, AdapterSpec("a", "/a", weight=30), AdapterSpec("b", "/b", weight=10)), seed=1)
    drawn = Counter(engines.pick().id for _ in range(5000))
    assert 1350 < drawn["a"] < 1650 and 400 < drawn["b"] < 600 and 2800 < drawn["bot"] < 3200
    assert engines.pick("b").id == "b", "a name is a name"
    engines.weigh("a", 90)
    assert [m.weight for m in engines.models()] == [0, 90, 10]
    with pytest.raises(HybError, match="101 percent"):
        engines.weigh("a", 91)
    with pytest.raises(HybError, match="-1 percent"):
        engines.weigh("a", -1)


def test_shares_are_read_from_words() -> None:
    assert shares(["support=10", "x=2.5%"]) == {"support": 10, "x": 2.5}
    with pytest.raises(HybError, match="no share"):
        shares(["support"])


@pytest.mark.parametrize("bad", ["/x\r\nHost: y", "/x y", "/x\ny"])
def test_a_path_can_not_smuggle_a_line_into_a_request(bad: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        wire.request("GET", bad, b"", {})
    with pytest.raises(ValueError, match="line break"):
        wire.request("GET", "/x", b"", {"X-A": "b\r\nTransfer-Encoding: chunked"})


def test_a_clients_own_headers_of_the_connection_are_not_passed_on() -> None:
    told = wire.request("POST", "/x", b"{}", {"Authorization": "Bearer k", "Transfer-Encoding": "chunked", "X-A": "b"})
    assert b"Bearer" not in told and b"chunked" not in told and b"X-A: b" in told and b"Content-Length: 2" in told
