"""The edge as an ASGI application: who gets in, in which shape a refusal comes, what happens when somebody is gone.

The engines here are a script of pieces and faults at given moments, which no real engine could be made to follow; the
real ones are in tests/e2e.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hyb.serving.gateway import app, exchange
from hyb.serving.gateway.settings import Settings
from hyb.serving.gateway.types import (
    EngineDrainingError,
    EngineLostError,
    GatewayJob,
    Model,
    Pick,
    UnknownModelError,
)
from tests.unit.serving.gateway.test_stream import DONE, LAST, ROLE, STREAM, token

KEY = "hyb_sk_0123456789abcdef"
QUESTION = [{"role": "user", "content": "Hi"}]
WHOLE = (
    b'{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Yes"}}],'
    b'"model":"engine","usage":{"prompt_tokens":31,"completion_tokens":3}}'
)


@dataclass
class Script:
    """Engines that follow a script: pieces of an answer, an exception that is raised, an event that is waited for."""

    parts: Iterable[bytes | Exception | asyncio.Event] = (WHOLE,)
    status: int = 200
    ready: bool = True
    restarts: int = 0
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    open: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    job: GatewayJob = field(default_factory=lambda: GatewayJob("bot", "llama.cpp", "/model", "/run"))

    def models(self) -> tuple[Model, ...]:
        return Model("bot", "base", "sha256:1", 512, 100), Model("support", "adapter", "sha256:2", 512, 0)

    def pick(self, model: str = "") -> Pick:
        if model in ("", "bot"):
            return Pick("bot", "", {"lora": []})
        if model == "support":
            return Pick("support", "support", {"lora": [{"id": 0, "scale": 1.0}]})
        raise UnknownModelError(model, ["bot", "support"])

    @contextlib.asynccontextmanager
    async def send(
        self, method: str, path: str, body: bytes = b"", *_: Any, pick: Pick | None = None
    ) -> AsyncIterator[Script]:
        self.asked.append((path, json.loads(body or b"{}")))
        self.open += 1
        try:
            first = next(iter(self.parts), None)
            if isinstance(first, EngineLostError):
                raise first
            yield self
        finally:
            self.open -= 1

    async def chunks(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, asyncio.Event):
                await part.wait()
            elif isinstance(part, Exception):
                raise part
            else:
                yield part


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


class Client:
    """Speaks ASGI to the edge."""

    def __init__(
        self, engines: Script, folder: Path, *, host: str = "127.0.0.1", parallel: int = 1, **options: Any
    ) -> None:
        own = folder / "own.key"
        own.write_text(KEY)
        job = GatewayJob(
            "bot", "llama.cpp", str(folder / "model.gguf"), str(folder), host=host, key_path=str(own),
            keys_path=str(folder / "bot.keys.json"), parallel=parallel,
        )  # fmt: skip
        engines.job = job
        self.edge = app.build(job, engines, Settings(log=False, **options))  # type: ignore[arg-type]

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str = KEY, headers: dict[str, str] | None = None,
        gone: asyncio.Event | None = None, seen: Callable[[bytes], None] | None = None,
    ) -> Answer:  # fmt: skip
        """One request. `gone`: the client goes away when it is set; `seen`: told of each piece of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        given = {"host": "127.0.0.1", "authorization": f"Bearer {key}", **(headers or {})}
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in given.items() if v],
        }  # fmt: skip
        parts = [{"type": "http.request", "body": data, "more_body": False}]
        found = Answer(0, {}, b"")

        async def receive() -> Any:
            if parts:
                return parts.pop()
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                found.status = message["status"]
                found.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                found.body += message["body"]
                if seen:
                    seen(message["body"])

        await self.edge(scope, receive, send)
        return found

    async def chat(self, **more: Any) -> Answer:
        body = {"model": "bot", "messages": QUESTION, **more.pop("body", {})}
        return await self.ask("POST", "/v1/chat/completions", body, **more)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


# -- who gets in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "options", "status", "code"), [
    ("GET", "/v1/models", {"key": ""}, 401, "missing_api_key"),
    ("GET", "/v1/models", {"headers": {"authorization": ""}}, 401, "missing_api_key"),
    ("GET", "/v1/models", {"key": "wrong"}, 401, "invalid_api_key"),
    ("GET", "/metrics", {"key": "wrong"}, 401, "invalid_api_key"),
    ("GET", "/nothing", {"key": "wrong"}, 401, "invalid_api_key"),
    ("GET", "/nothing", {}, 404, "unknown_url"),
    ("GET", "/slots", {}, 404, "unknown_url"),
    ("GET", "/any/ID", {}, 404, "unknown_url"),
    ("GET", "/v1/models/", {}, 404, "model_not_found"),
    ("POST", "/v1/responses", {}, 404, "unknown_url"),
    ("GET", "/v1/chat/completions", {}, 405, "method_not_allowed"),
    ("DELETE", "/v1/models/bot", {}, 405, "method_not_allowed"),
    ("GET", "/v1/models/nix", {}, 404, "model_not_found"),
    ("GET", f"/v1/models?api_key={KEY}", {}, 400, "key_in_url"),
    ("GET", "/v1/models", {"headers": {"host": "evil.com"}}, 403, "host_not_allowed"),
    ("GET", "/health", {"headers": {"host": "evil.com"}}, 403, "host_not_allowed"),
])  # fmt: skip
def test_refusals_in_openais_shape(
    tmp_path: Path, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    async def scenario() -> None:
        found = await Client(Script(), tmp_path).ask(method, path, **options)
        assert (found.status, found.code) == (status, code)
        assert set(found.json["error"]) == {"message", "type", "param", "code"}
        assert found.headers["x-request-id"].startswith("req_")
        assert KEY not in found.body.decode()

    run(scenario())


def test_refusals_in_ollamas_shape(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = Client(Script(), tmp_path)
        for path, body, options, status in (
            ("/api/chat", {"model": "nix", "messages": QUESTION}, {}, 404),
            ("/api/chat", {"messages": QUESTION}, {}, 400),
            ("/api/pull", {"model": "bot"}, {}, 404),
            ("/api/chat", {"model": "bot"}, {"key": "wrong"}, 401),
        ):
            found = await client.ask("POST", path, body, **options)
            assert found.status == status, path
            assert list(found.json) == ["error"] and isinstance(found.json["error"], str), path

    run(scenario())


def test_health_and_ready_need_no_key(tmp_path: Path) -> None:
    async def scenario() -> None:
        engines = Script()
        client = Client(engines, tmp_path)
        assert (await client.ask("GET", "/health", key="")).json == {"status": "ok"}
        assert (await client.ask("HEAD", "/ready", key="")).status == 200
        engines.ready = False
        assert (await client.ask("GET", "/health", key="")).status == 200
        assert (await client.ask("GET", "/ready", key="")).status == 503
        assert b"hyb_up 0.0" in (await client.ask("GET", "/metrics")).body

    run(scenario())


def test_metrics_can_be_opened_and_a_public_service_has_any_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = Client(Script(), tmp_path, host="0.0.0.0", open_metrics=True)
        assert (await client.ask("GET", "/metrics", key="", headers={"host": "bot.example.com"})).status == 200
        assert (await client.ask("GET", "/v1/models", key="")).status == 401

    run(scenario())


def test_a_web_page_may_call_only_when_its_origin_is_allowed(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = Client(Script(), tmp_path, origins=frozenset({"app://obsidian.md"}))
        for origin, allowed in (("app://obsidian.md", True), ("https://evil.com", False)):
            wanted = {"origin": origin, "access-control-request-headers": "authorization, x-stainless-os"}
            asked = await client.ask("OPTIONS", "/v1/models", key="", headers=wanted)
            assert (asked.status == 204) is allowed
            assert ("x-stainless-os" in asked.headers.get("access-control-allow-headers", "")) is allowed
            found = await client.ask("GET", "/v1/models", headers={"origin": origin})
            assert (found.headers.get("access-control-allow-origin") == origin) is allowed

    run(scenario())


def test_a_request_id_is_given_back_when_it_is_harmless(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = Client(Script(), tmp_path)
        for given, kept in (("abc-1", True), ("a b", False), ("x" * 200, False)):
            found = await client.ask("GET", "/v1/models", headers={"x-request-id": given})
            assert (found.headers["x-request-id"] == given) is kept

    run(scenario())


# -- answers ---------------------------------------------------------------------------------------------------------


def test_a_request_reaches_the_engine_with_the_picks_patch_and_no_field_too_many(tmp_path: Path) -> None:
    async def scenario() -> None:
        engines = Script()
        found = await Client(engines, tmp_path).chat(body={"model": "support", "user": "u", "max_tokens": 3})
        assert found.json["model"] == "support"
        assert found.headers["x-hyb-ignored"] == "user"
        assert found.headers["x-hyb-model"] == "support"
        assert engines.asked == [("/v1/chat/completions", {
            "model": "support", "messages": QUESTION, "max_tokens": 3, "lora": [{"id": 0, "scale": 1.0}],
        })]  # fmt: skip

    run(scenario())


def test_a_stream_arrives_piece_by_piece(tmp_path: Path) -> None:
    async def scenario() -> None:
        go = asyncio.Event()
        engines = Script([ROLE, token("a"), go, token("b"), LAST, DONE])
        seen: list[bytes] = []

        def see(piece: bytes) -> None:
            seen.append(piece)
            if b'"a"' in piece:
                go.set()  # the engine goes on only when the client has the first token

        found = await Client(engines, tmp_path).chat(body={"stream": True}, seen=see)
        assert found.headers["content-type"].startswith("text/event-stream")
        assert found.body.endswith(DONE)
        assert len(seen) >= 5
        assert engines.asked[0][1]["stream_options"] == {"include_usage": True}

    run(scenario())


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_ollamas_stream_is_lines(tmp_path: Path, path: str) -> None:
    async def scenario() -> None:
        body = {"model": "bot:latest", "messages": QUESTION, "prompt": "Hi"}
        found = await Client(Script([STREAM[:100], STREAM[100:]]), tmp_path).ask("POST", path, body)
        lines = [json.loads(line) for line in found.body.splitlines()]
        assert found.headers["content-type"] == "application/x-ndjson"
        assert [line["done"] for line in lines] == [False, False, False, True]
        assert {line["model"] for line in lines} == {"bot:latest"}
        assert lines[-1]["eval_count"] == 3

    run(scenario())


def test_what_a_key_has_used_is_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = Client(Script([STREAM]), tmp_path)
        await client.chat(body={"stream": True})
        text = (await client.ask("GET", "/metrics")).body.decode()
        assert 'hyb_requests_total{model="bot",path="/v1/chat/completions",status="200"} 1.0' in text
        assert 'hyb_tokens_total{kind="prompt",model="bot"} 31.0' in text
        assert 'hyb_ttft_seconds_count{model="bot"} 1.0' in text
        client.edge.close()
        assert json.loads((tmp_path / "bot.usage.json").read_text())["tokens"] == {"own": 34}

    run(scenario())


def test_tools_are_refused_when_the_models_template_has_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        for able in (True, False):
            client = Client(
                Script([json.dumps({**json.loads(WHOLE), "chat_template_caps": {"supports_tools": able}}).encode()]),
                tmp_path,
            )
            tools = [{"type": "function", "function": {"name": "rain"}}]
            found = await client.chat(body={"tools": tools})
            assert (found.status == 200) is able
            if not able:
                assert found.code == "unsupported_by_model"
                said = await client.ask("POST", "/api/chat", {"model": "bot", "messages": QUESTION, "tools": tools})
                assert "tools" in said.json["error"]
            assert (await client.chat(body={"tools": tools, "tool_choice": "none"})).status == 200

    run(scenario())


# -- faults ----------------------------------------------------------------------------------------------------------


def test_an_engine_that_dies_in_mid_stream_ends_it_with_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = Client(Script([ROLE, token("a"), EngineLostError("it died")]), tmp_path)
        found = await client.chat(body={"stream": True})
        events = found.body.strip().split(b"\n\n")
        assert json.loads(events[-1][6:])["error"]["code"] == "engine_lost"
        lines = (await client.ask("POST", "/api/chat", {"model": "bot", "messages": QUESTION})).body.splitlines()
        assert json.loads(lines[-1]) == {"error": "it died"}
        text = (await client.ask("GET", "/metrics")).body
        assert b'path="/v1/chat/completions",status="503"} 1.0' in text

    run(scenario())


@pytest.mark.parametrize(
    ("error", "code"), [(EngineLostError("x"), "engine_lost"), (EngineDrainingError("x"), "draining")]
)
def test_an_engine_that_is_not_there_is_503_with_a_time_to_come_back(
    tmp_path: Path, error: Exception, code: str
) -> None:
    async def scenario() -> None:
        found = await Client(Script([error]), tmp_path).chat()
        assert (found.status, found.code) == (503, code)
        assert int(found.headers["retry-after"]) > 0

    run(scenario())


def test_a_client_that_goes_away_frees_the_engine_and_the_queue(tmp_path: Path) -> None:
    async def scenario() -> None:
        gone, never = asyncio.Event(), asyncio.Event()
        engines = Script([ROLE, token("a"), never])
        client = Client(engines, tmp_path)
        first = asyncio.create_task(client.chat(body={"stream": True}, gone=gone))
        left = asyncio.Event()
        second = asyncio.create_task(client.chat(gone=left))  # waits in the queue
        while not engines.open:
            await asyncio.sleep(0)
        left.set()
        await second
        assert len(engines.asked) == 1, "the one that left the queue was never asked for"
        gone.set()
        await first
        assert engines.open == 0
        engines.parts = [WHOLE]
        assert (await client.chat()).status == 200
        text = (await client.ask("GET", "/metrics")).body
        assert b'status="499"} 2.0' in text
        assert b"hyb_queue_depth 0.0" in text and b"hyb_running 0.0" in text

    run(scenario())


def test_a_client_that_takes_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SLOW", 0.02)

    async def scenario() -> None:
        engines = Script([ROLE, token("a"), LAST])
        x = exchange.Exchange(
            {"method": "GET", "path": "/", "headers": []},
            lambda: asyncio.Event().wait(),
            lambda _: asyncio.Event().wait(),
        )  # type: ignore[arg-type, return-value]
        with pytest.raises(exchange.ClientGoneError):
            async with x.watched(), engines.send("POST", "/"):
                await x.write(b"a piece")
        assert engines.open == 0

    run(scenario())


def test_too_many_that_wait_are_sent_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        go = asyncio.Event()
        engines = Script([go, WHOLE])
        client = Client(engines, tmp_path, waiting=1)
        tasks = [asyncio.create_task(client.chat()) for _ in range(3)]
        await asyncio.sleep(0.01)
        go.set()
        found = await asyncio.gather(*tasks)
        assert sorted(a.status for a in found) == [200, 200, 503]
        refused = next(a for a in found if a.status == 503)
        assert refused.code == "queue_full"
        assert int(refused.headers["retry-after"]) > 0

    run(scenario())


@pytest.mark.parametrize("announced", [True, False])
def test_a_long_body_is_413_before_it_is_read(tmp_path: Path, announced: bool) -> None:
    async def scenario() -> None:
        headers = {"content-length": str(1 << 30)} if announced else {}
        body = b"{" if announced else b"x" * 200
        found = await Client(Script(), tmp_path, body=100).ask("POST", "/v1/chat/completions", body, headers=headers)
        assert (found.status, found.code) == (413, "request_too_large")
        assert found.headers["connection"] == "close"

    run(scenario())


def test_a_body_that_does_not_come_is_408(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SLOW", 0.02)

    async def scenario() -> None:
        x = exchange.Exchange({"method": "POST", "path": "/", "headers": []}, lambda: asyncio.Event().wait(), None)  # type: ignore[arg-type, return-value]
        with pytest.raises(app.GatewayError) as caught:
            await x.body(10)
        assert caught.value.status == 408

    run(scenario())


def test_a_bug_is_a_500_that_says_nothing_and_goes_on_to_the_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = Client(Script([ZeroDivisionError("secret")]), tmp_path)
        seen: list[bytes] = []
        with pytest.raises(ZeroDivisionError):
            await client.chat(seen=seen.append)
        assert b"secret" not in b"".join(seen)
        assert json.loads(b"".join(seen))["error"]["type"] == "server_error"

    run(scenario())


def test_the_log_has_neither_keys_nor_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        client = Client(Script(), tmp_path)
        client.edge._options = Settings()
        await client.chat(body={"messages": [{"role": "user", "content": "a private thing"}]})
        await client.ask("GET", f"/v1/models?api_key={KEY}")
        await client.ask("GET", f"/{KEY}")

    run(scenario())
    said = capsys.readouterr().err
    assert "POST /v1/chat/completions 200 model=bot key=own tokens=31+3" in said
    assert said.count("\n") == 3
    assert "private" not in said
    assert KEY not in said
