"""The gateway in front of a real llama.cpp, asked by the clients that people use: `openai`, `ollama`, LangChain.

One service for all of them. Silent connections are opened before the first test, and the last one looks whether they
were closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyb.serving import keys
from hyb.serving.gateway.types import GatewayJob
from tests.hyb import Hyb
from tests.need import need

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
SILENT = 300  # connections that say nothing
PLACES = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"]}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather in a city", "parameters": PLACES},
}


@dataclass
class Served:
    """A gateway that runs."""

    home: Hyb
    port: int
    key: str
    pid: int
    log: Path
    silent: list[socket.socket]
    began: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, key: str | None = None, **headers: str) -> Any:
        """(status, headers, body) of a bare request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Authorization": f"Bearer {self.key if key is None else key}", **headers}
        try:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        lines = self.ask("GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


TOOLS = """\
{%- if tools %}{{ '<|im_start|>system\\nYou may call these functions:' }}
{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}{{ '<|im_start|>user\\nIt says: ' + message.content + '<|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}{% set call = call.function if call.function is defined else call %}
{{- '<tool>\\n{"name": "' + call.name + '", "arguments": ' + (call.arguments | tojson) + '}\\n</tool>' }}{% endfor %}
{{- '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""A chat template with tools: SmolLM2's own has none."""


@pytest.fixture(scope="module")
def model(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with a template that has tools."""
    path = tmp_path_factory.mktemp("tools") / "model.gguf"
    command = [sys.executable, "-W", "ignore", "-m", "gguf.scripts.gguf_new_metadata", "--chat-template", TOOLS]
    subprocess.run([*command, str(smollm2_gguf), str(path)], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def bot(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    need("xllamacpp", "openai")
    folder = tmp_path_factory.mktemp("gw")
    home = Hyb(folder / "home")
    run = folder / "run"
    run.mkdir(mode=0o700)
    key_path = keys.mint(home.env, "bot")
    meta = {"format": "gguf", "architecture": "LlamaForCausalLM", "quantization": "q4_1", "parameters": 134515008}
    job = GatewayJob(
        "bot", "llama.cpp", str(model), str(run), key_path=str(key_path), parallel=2, context=1024,
        keys_path=str(keys.keys_path(home.env, "bot")), ready_path=str(folder / "ready.json"), model_meta=meta,
    )  # fmt: skip
    job.write(folder / "job.json")
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "hyb.serving.gateway", str(folder / "job.json")],
            env=home.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    silent: list[socket.socket] = []
    try:
        until(lambda: (folder / "ready.json").exists() or child.poll() is not None, 60)
        assert child.poll() is None, (folder / "log").read_text()[-3000:]
        port = json.loads((folder / "ready.json").read_text())["port"]
        began = time.monotonic()
        silent += [socket.create_connection(("127.0.0.1", port)) for _ in range(SILENT)]
        yield Served(home, port, key_path.read_text().strip(), child.pid, folder / "log", silent, began)
    finally:
        for one in silent:
            one.close()
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


# -- openai ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(bot: Served) -> Iterator[Any]:
    import openai

    with openai.OpenAI(base_url=f"{bot.url}/v1", api_key=bot.key, max_retries=0, timeout=120) as client:
        yield client


def test_openai_chat_whole_and_streamed_say_the_same(api: Any) -> None:
    options: Any = {"model": "bot", "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    whole = api.chat.completions.create(**options)
    parts = list(api.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert whole.choices[0].message.content
    assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == whole.choices[0].message.content
    assert {p.model for p in parts} == {whole.model} == {"bot"}
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(parts) > 5


def test_openai_without_usage_gets_no_event_with_it(api: Any) -> None:
    parts = list(api.chat.completions.create(model="bot", messages=QUESTION, max_tokens=3, stream=True))
    assert all(p.choices and p.usage is None for p in parts)


def test_openai_completions_models_and_request_ids(api: Any) -> None:
    said = api.completions.create(model="bot", prompt="The capital of France is", max_tokens=4, temperature=0)
    assert said.choices[0].text
    assert said.model == "bot"
    assert said._request_id.startswith("req_")
    assert [m.id for m in api.models.list()] == ["bot"]
    assert api.models.retrieve("bot").id == "bot"


def test_openai_async_clients_are_answered_at_once(bot: Served) -> None:
    import openai

    async def scenario() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{bot.url}/v1", api_key=bot.key, max_retries=0) as client:

            async def one() -> str:
                stream = await client.chat.completions.create(
                    model="bot", messages=QUESTION, max_tokens=8, temperature=0, stream=True
                )
                return "".join([p.choices[0].delta.content or "" async for p in stream])

            return await asyncio.gather(*(one() for _ in range(4)))

    assert len(set(asyncio.run(scenario()))) == 1


def test_openai_json_schema_is_kept(api: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACES, "strict": True}}
    said = api.chat.completions.create(model="bot", messages=QUESTION, max_tokens=40, response_format=form)
    assert json.loads(said.choices[0].message.content)["city"] in ("Paris", "Rome")


def calls() -> list[Any]:
    """A talk in which the model has called a tool before, and will again."""
    said: list[Any] = []
    for n, city in enumerate(("Rome", "Paris", "Rome")):
        call = {"name": "weather", "arguments": json.dumps({"city": city})}
        said += [
            {"role": "user", "content": f"How is the weather in {city}?"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": f"c{n}", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": f"c{n}", "content": "rain"},
        ]
    return said[:-2]


@pytest.mark.parametrize("stream", [False, True])
def test_openai_tool_calls(api: Any, stream: bool) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    said = api.chat.completions.create(
        model="bot", messages=calls(), max_tokens=60, tools=[WEATHER], tool_choice=choice, temperature=0, stream=stream
    )
    if stream:
        pieces = [c for p in said if p.choices for c in p.choices[0].delta.tool_calls or ()]
        name = "".join(p.function.name or "" for p in pieces)
        arguments = "".join(p.function.arguments or "" for p in pieces)
    else:
        call = said.choices[0].message.tool_calls[0]
        name, arguments = call.function.name, call.function.arguments
    assert name == "weather"
    assert json.loads(arguments)["city"] in ("Paris", "Rome")


def test_openai_errors_are_the_clients_own_classes(api: Any, bot: Served) -> None:
    import openai

    def chat(**more: Any) -> Any:
        return api.chat.completions.create(**{"model": "bot", "messages": QUESTION, "max_tokens": 1, **more})

    with pytest.raises(openai.NotFoundError) as unknown:
        chat(model="no-such-adapter")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        chat(messages=[{"role": "user", "content": "word " * 3000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as long_stream:
        chat(messages=[{"role": "user", "content": "word " * 3000}], stream=True)
    assert long_stream.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="lora"):
        chat(extra_body={"lora": [{"id": 0, "scale": 1}]})
    stranger = openai.OpenAI(base_url=f"{bot.url}/v1", api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


# -- ollama ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ollama_client(bot: Served) -> Iterator[Any]:
    import ollama

    with ollama.Client(host=bot.url, headers={"Authorization": f"Bearer {bot.key}"}) as client:
        yield client


def test_ollama_chat_whole_and_streamed_say_the_same(ollama_client: Any) -> None:
    options: Any = {
        "model": "bot",
        "messages": QUESTION,
        "options": {"num_predict": 12, "temperature": 0, "num_ctx": 99},
    }
    whole = ollama_client.chat(**options)
    parts = list(ollama_client.chat(**options, stream=True))
    assert whole.message.content
    assert "".join(p.message.content or "" for p in parts) == whole.message.content
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert last.eval_count == whole.eval_count
    assert last.total_duration >= last.eval_duration > 0
    assert last.done_reason in ("stop", "length")


def test_ollama_generate_show_list_ps(ollama_client: Any) -> None:
    said = ollama_client.generate(model="bot:latest", prompt="Say hi", options={"num_predict": 3})
    assert said.response
    assert said.model == "bot:latest"
    raw = ollama_client.generate(model="bot", prompt="The capital of France is", raw=True, options={"num_predict": 3})
    assert raw.response
    assert [m.model for m in ollama_client.list().models] == ["bot"]
    assert ollama_client.list().models[0].size > 90_000_000
    assert [m.model for m in ollama_client.ps().models] == ["bot"]
    shown = ollama_client.show("bot")
    assert "im_start" in shown.template
    assert shown.modelinfo["llama.context_length"] == 1024
    assert shown.capabilities == ["completion", "tools"]
    assert ollama_client.generate(model="bot").done_reason == "load"


def test_ollama_schema_and_tools(ollama_client: Any) -> None:
    said = ollama_client.chat(model="bot", messages=QUESTION, format=PLACES, options={"num_predict": 40})
    assert json.loads(said.message.content)["city"] in ("Paris", "Rome")
    talk = [
        {**m, "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]}
        if "tool_calls" in m
        else m
        for m in calls()
    ]
    for stream in (False, True):
        answer = ollama_client.chat(
            model="bot", messages=talk, tools=[WEATHER], stream=stream, options={"num_predict": 60, "temperature": 0}
        )
        parts = list(answer) if stream else [answer]
        (call,) = [c for p in parts for c in p.message.tool_calls or ()]
        assert call.function.name == "weather"
        assert call.function.arguments["city"] in ("Paris", "Rome")


def test_ollama_errors(ollama_client: Any, bot: Served) -> None:
    import ollama

    with pytest.raises(ollama.ResponseError) as unknown:
        ollama_client.chat(model="no-such-adapter", messages=QUESTION)
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="context"):
        ollama_client.chat(model="bot", messages=[{"role": "user", "content": "word " * 3000}])
    with ollama.Client(host=bot.url) as client, pytest.raises(ollama.ResponseError) as stranger:
        client.list()
    assert stranger.value.status_code == 401


def test_ollama_async(bot: Served) -> None:
    import ollama

    async def scenario() -> str:
        client = ollama.AsyncClient(host=bot.url, headers={"Authorization": f"Bearer {bot.key}"})
        options = {"num_predict": 4}
        parts = [p.message.content async for p in await client.chat("bot", QUESTION, stream=True, options=options)]
        await client.close()
        return "".join(parts)

    assert asyncio.run(scenario())


# -- LangChain -------------------------------------------------------------------------------------------------------


def test_langchain_with_openai(bot: Served, request: pytest.FixtureRequest) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        base_url=f"{bot.url}/v1", api_key=bot.key, model="bot", temperature=0, max_tokens=40, max_retries=0
    )
    request.addfinalizer(model.root_client.close)
    whole = model.invoke("What is the capital of France?")
    assert whole.content
    assert whole.usage_metadata["output_tokens"] > 0
    assert "".join(p.content for p in model.stream("What is the capital of France?")) == whole.content
    place = model.with_structured_output({"title": "place", **PLACES}, method="json_schema").invoke("Where is Rome?")
    assert place["city"] in ("Paris", "Rome")


def test_langchain_with_ollama(bot: Served, request: pytest.FixtureRequest) -> None:
    langchain = pytest.importorskip("langchain_ollama")
    model = langchain.ChatOllama(
        base_url=bot.url, model="bot", temperature=0, num_predict=12, validate_model_on_init=True,
        client_kwargs={"headers": {"Authorization": f"Bearer {bot.key}"}},
    )  # fmt: skip
    request.addfinalizer(model._client.close)
    whole = model.invoke("What is the capital of France?")
    assert whole.content
    assert whole.usage_metadata["output_tokens"] > 0
    assert "".join(p.content for p in model.stream("What is the capital of France?")) == whole.content


# -- keys and limits -------------------------------------------------------------------------------------------------


def test_a_key_is_made_limited_listed_and_revoked_while_the_service_runs(bot: Served) -> None:
    import openai

    made = bot.home.json("key", "add", "bot", "--label", "web", "--rpm", "2")
    with openai.OpenAI(base_url=f"{bot.url}/v1", api_key=made["key"], max_retries=0) as client:
        for _ in range(2):
            client.chat.completions.create(model="bot", messages=QUESTION, max_tokens=1)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="bot", messages=QUESTION, max_tokens=1)
        assert 0 < int(caught.value.response.headers["retry-after"]) <= 60
        assert [m.id for m in client.models.list()] == ["bot"], "lists are not counted"
        listed = bot.home.json("key", "list", "bot")
        assert [(k["label"], k["rpm"], k["revoked"]) for k in listed] == [("web", 2, "")]
        bot.home.ok("key", "revoke", "bot", "web")
        with pytest.raises(openai.AuthenticationError) as gone:
            client.models.list()
        assert gone.value.code == "revoked_api_key"
    assert made["key"] not in bot.log.read_text()


def test_tokens_of_the_day_run_out(bot: Served) -> None:
    made = bot.home.json("key", "add", "bot", "--label", "small", "--tokens-per-day", "10")
    body = json.dumps({"model": "bot", "messages": QUESTION, "max_tokens": 2}).encode()
    assert bot.ask("POST", "/v1/chat/completions", body, made["key"])[0] == 200
    status, headers, said = bot.ask("POST", "/v1/chat/completions", body, made["key"])
    assert status == 429
    assert json.loads(said)["error"]["code"] == "tokens_per_day_exceeded"
    assert int(headers["retry-after"]) > 0
    status, _, said = bot.ask("POST", "/api/chat", body, made["key"])
    assert (status, list(json.loads(said))) == (429, ["error"])


def test_a_key_in_the_url_is_refused_and_not_logged(bot: Served) -> None:
    status, _, said = bot.ask("GET", f"/v1/models?api_key={bot.key}", key="")
    assert status == 400
    assert json.loads(said)["error"]["code"] == "key_in_url"
    assert bot.key not in bot.log.read_text()


# -- bad input and faults --------------------------------------------------------------------------------------------


def rss(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_of_a_gigabyte_is_refused_before_it_is_there(bot: Served, announced: bool) -> None:
    before, sent, piece = rss(bot.pid), 0, b"x" * (1 << 20)
    length = f"Content-Length: {1 << 30}" if announced else "Transfer-Encoding: chunked"
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bot.key}\r\n{length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", bot.port), timeout=30) as one:
        one.sendall(head.encode())
        with contextlib.suppress(OSError):  # the gateway has closed
            while sent < 1 << 30:
                one.sendall(piece if announced else b"%x\r\n" % len(piece) + piece + b"\r\n")
                sent += len(piece)
        answer = one.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in answer
    assert sent < 64 << 20, "it was not taken"
    assert rss(bot.pid) - before < 64 << 20


@pytest.mark.parametrize("bomb", [
    b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"messages":[' + b"[]," * 2_500_000 + b"0]}",
    b'{"max_tokens":' + b"9" * 1_000_000 + b"}",
    b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    b'{"messages":[{"role":"user","content":"\xff\xfe"}]}',
], ids=["deep", "wide", "number", "surrogate", "bytes"])  # fmt: skip
def test_a_json_bomb_is_400_and_the_service_lives(bot: Served, bomb: bytes) -> None:
    status, _, said = bot.ask("POST", "/v1/chat/completions", bomb)
    assert status == 400
    assert set(json.loads(said)["error"]) == {"message", "type", "param", "code"}
    assert bot.ask("GET", "/ready", key="")[0] == 200


def test_a_client_that_leaves_in_mid_stream_frees_its_slot(bot: Served, api: Any) -> None:
    for _ in range(2):  # both slots
        stream = api.chat.completions.create(
            model="bot", messages=QUESTION, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    until(lambda: bot.metric("hyb_running ") == 0, 5)
    began = time.monotonic()
    api.chat.completions.create(model="bot", messages=QUESTION, max_tokens=1)
    assert time.monotonic() - began < 5, "900 tokens take longer"
    assert bot.metric("hyb_requests_total{") > 2
    assert 'status="499"' in bot.ask("GET", "/metrics")[2].decode()


def test_many_at_once_wait_in_the_queue_and_all_are_answered(bot: Served) -> None:
    body = json.dumps({"model": "bot", "messages": QUESTION, "max_tokens": 2}).encode()
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: bot.ask("POST", "/v1/chat/completions", body)[0], range(12)))
    assert found == [200] * 12
    assert bot.metric("hyb_queue_depth ") == 0


def test_prompts_and_keys_are_not_in_the_log(bot: Served) -> None:
    body = json.dumps({"model": "bot", "messages": [{"role": "user", "content": "Zyzzyva"}], "max_tokens": 1}).encode()
    bot.ask("POST", "/v1/chat/completions", body)
    said = bot.log.read_text()
    assert "POST /v1/chat/completions 200 model=bot key=own" in said
    assert "Zyzzyva" not in said
    assert bot.key not in said


def test_connections_that_say_nothing_are_closed_and_others_work_meanwhile(bot: Served) -> None:
    """Opened before the first test: all that was asked since was asked beside them."""

    def closed(one: socket.socket) -> bool:
        one.setblocking(False)
        try:
            return one.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    assert len(bot.silent) == SILENT
    until(lambda: all(closed(one) for one in bot.silent), max(1.0, 25 - (time.monotonic() - bot.began)))
    assert bot.ask("GET", "/ready", key="")[0] == 200
