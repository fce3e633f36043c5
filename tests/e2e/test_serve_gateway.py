"""The gateway over real llama.cpp: adapters that come and go, an engine that dies, clients that leave, a drain."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hyb import certificates, serving
from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
from hyb.formats import modelpack
from hyb.serving import Wanted, client, manager, service
from hyb.serving.service import Service
from hyb.store import Store
from tests.asking import chat, health
from tests.hyb import Hyb
from tests.need import need

HI = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Hyb:
    need("xllamacpp", "torch")  # with torch come numpy and gguf
    return Hyb(tmp_path_factory.mktemp("gateway"))


@pytest.fixture(scope="module")
def store(home: Hyb) -> Store:
    return Store(home.store)


@pytest.fixture(scope="module")
def model(store: Store, smollm2_gguf: Path) -> Artifact:
    return add_model(store, smollm2_gguf, "smol")


def add_model(store: Store, path: Path, name: str) -> Artifact:
    files = [modelpack.file("model.gguf", store.add_file(path))]
    meta = {"format": "gguf", "architecture": "LlamaForCausalLM", "context": 8192, "name": name}
    artifact = store.add_artifact("model", files, meta=meta)
    store.tag(name, artifact.digest)
    return artifact


def add_lora(store: Store, folder: Path, name: str, base: str, seed: int) -> Artifact:
    """A LoRA of random numbers, large enough to change every answer."""
    import gguf
    import numpy as np

    path, chance = folder / f"{name}.gguf", np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for layer in range(30):
        for half, shape in (("a", (4, 576)), ("b", (576, 4))):
            values = chance.normal(0, 0.2, shape).astype(np.float16)
            writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_{half}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = [modelpack.file("adapter.gguf", store.add_file(path))]
    artifact = store.add_artifact("adapter", files, meta={"format": "gguf", "base": base}, needs=(base,))
    store.tag(name, artifact.digest)
    return artifact


@pytest.fixture(scope="module")
def one(store: Store, model: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return add_lora(store, tmp_path_factory.mktemp("one"), "lora-one", model.digest, 1)


@pytest.fixture(scope="module")
def two(store: Store, model: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return add_lora(store, tmp_path_factory.mktemp("two"), "lora-two", model.digest, 2)


@pytest.fixture(scope="module")
def bot(store: Store, model: Artifact, one: Artifact, home: Hyb) -> Iterator[Service]:
    wanted = Wanted("bot", port=0, parallel=2, context=1024, adapters=[("one", one)])
    yield serving.start(store, model, wanted, environ=home.env, detach=True)
    serving.stop("bot", home.env)


@contextlib.contextmanager
def streaming(found: Service, **body: Any) -> Iterator[http.client.HTTPResponse]:
    """A chat request that streams, its first line read."""
    connection = http.client.HTTPConnection(found.host, found.port, timeout=60)
    told = {"messages": HI, "temperature": 0, "stream": True, "ignore_eos": True, **body}
    headers = {"Authorization": f"Bearer {found.key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(told), headers)
    with contextlib.closing(connection), connection.getresponse() as response:
        assert response.readline()
        yield response


def text(found: Service, name: str = "") -> str:
    body = {"model": name or found.name, "messages": HI, "max_tokens": 16, "temperature": 0}
    return str(chat(found.url, found.key, body)["choices"][0]["message"]["content"])


def state(found: Service) -> dict[str, Any]:
    return manager.owner(found, "GET", "/state")


def until(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def plain(store: Store, model: Artifact, home: Hyb) -> Iterator[str]:
    """What the model says without any adapter in its engine."""
    found = serving.start(store, model, Wanted("plain", port=0), environ=home.env, detach=True)
    yield text(found)
    serving.stop("plain", home.env)


def names(found: Service) -> list[str]:
    listed = json.loads(client.request("GET", found.url, "models", found.key, None, 10)[1])
    return [m["id"] for m in listed["data"]]


# -- adapters --------------------------------------------------------------------------------------------------------


def test_an_adapter_is_a_model_of_its_own_and_the_base_stays_as_it_was(bot: Service, plain: str) -> None:
    assert names(bot) == ["bot", "one"]
    assert text(bot) == plain
    assert text(bot, "one") != plain
    assert text(bot) == plain, "the adapter was for one request"


def test_an_adapter_comes_and_goes_while_a_stream_runs_on(bot: Service, home: Hyb, two: Artifact) -> None:
    before, pid = text(bot, "one"), state(bot)["pid"]
    with streaming(bot, max_tokens=300) as stream:
        assert "two" in home.ok("adapter", "load", "bot", "two=lora-two")
        assert names(bot) == ["bot", "one", "two"]
        assert state(bot)["pid"] != pid, "another engine answers now"
        loaded = text(bot, "two")
        assert loaded not in (before, text(bot))
        assert text(bot, "one") == before
        rest = stream.read()
    assert rest.endswith(b"data: [DONE]\n\n") and b'"error"' not in rest, "the old engine has ended its stream"
    assert rest.count(b"data: {") > 250
    until(lambda: state(bot)["engines"] == 1)
    assert service.start_time(pid) is None
    home.ok("adapter", "drop", "bot", "one")
    assert names(bot) == ["bot", "two"]
    assert text(bot, "two") == loaded, "its number in the engine is another one now"
    status, _ = client.request("POST", bot.url, "chat/completions", bot.key, b'{"model": "one", "messages": []}', 10)
    assert status in (400, 404)


def test_a_share_of_the_requests_goes_to_an_adapter(bot: Service, home: Hyb) -> None:
    base, adapter = text(bot), text(bot, "two")
    home.ok("adapter", "weight", "bot", "two", "100")
    assert text(bot) == adapter
    assert home.json("adapter", "list", "bot")[0]["weight"] == 100
    assert "0 to 100" in home.fails(3, "adapter", "weight", "bot", "two", "101")
    home.ok("adapter", "weight", "bot", "two", "0")
    assert text(bot) == base


def test_what_is_no_adapter_of_this_model_is_refused_and_the_service_goes_on(
    bot: Service, home: Hyb, store: Store, tmp_path: Path, plain: str
) -> None:
    add_lora(store, tmp_path, "alien", "sha256:" + "a" * 64, 3)
    assert "another base" in home.fails(3, "adapter", "load", "bot", "alien")
    assert "is a model, no adapter" in home.fails(3, "adapter", "load", "bot", "x=smol")
    assert "being served already" in home.fails(3, "adapter", "load", "bot", "two=lora-two")
    assert "no adapter `nobody`" in home.fails(3, "adapter", "drop", "bot", "nobody")
    assert "another base" in home.fails(3, "serve", "smol", "--name", "x", "--port", "0", "--adapter", "alien")
    assert text(bot) == plain


def test_an_adapter_that_the_engine_can_not_load_leaves_all_as_it_was(bot: Service, tmp_path: Path) -> None:
    broken = tmp_path / "adapter.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    before = state(bot)
    with pytest.raises(HybError, match="goes on as it was"):
        manager.owner(bot, "POST", "/adapters", {"name": "broken", "path": str(broken)})
    after = state(bot)
    assert (after["pid"], after["adapters"], after["engines"]) == (before["pid"], before["adapters"], 1)


# -- faults ----------------------------------------------------------------------------------------------------------


def test_an_engine_killed_in_mid_stream_is_an_error_and_the_next_request_works(bot: Service, plain: str) -> None:
    pid, before = state(bot)["pid"], state(bot)["restarts"]
    with streaming(bot, max_tokens=900) as stream:
        os.kill(pid, signal.SIGKILL)
        last = [e for e in stream.read().split(b"\n\n") if e.startswith(b"data: {")][-1]
    assert "engine" in json.loads(last[6:])["error"]["message"]
    assert text(bot) == plain, "it waits for the engine that is started again"
    assert state(bot)["restarts"] == before + 1
    assert state(bot)["pid"] != pid
    assert names(bot) == ["bot", "two"], "with its adapters"


def test_a_client_that_goes_away_frees_its_slot(bot: Service, plain: str) -> None:
    with streaming(bot, max_tokens=900), streaming(bot, max_tokens=900):  # all slots
        assert state(bot)["running"] == 2
        began = time.monotonic()
    assert text(bot) == plain
    assert state(bot)["running"] == 0
    assert time.monotonic() - began < 8, "900 tokens would take longer"


def test_a_gateway_that_is_killed_leaves_no_engine_and_no_socket(home: Hyb, store: Store, model: Artifact) -> None:
    found = serving.start(store, model, Wanted("victim", port=0), environ=home.env, detach=True)
    engine = state(found)["pid"]
    os.kill(found.pid, signal.SIGKILL)
    until(lambda: service.start_time(engine) is None)
    assert "victim" not in [s.name for s in serving.ps(home.env)]
    assert not Path(found.admin_socket).parent.exists()


def test_a_service_that_is_stopped_ends_its_answers_first(home: Hyb, store: Store, model: Artifact) -> None:
    listen = Path(store.root.parent, "s.sock")
    wanted = Wanted("drained", port=0, unix_socket=str(listen))
    found = serving.start(store, model, wanted, environ=home.env, detach=True)
    assert client.over_socket(str(listen), "GET", "/ready")[0] == 200
    with streaming(found, max_tokens=100) as stream:
        stopping = home.start("stop", "drained")
        until(lambda: health(found.host, found.port) == 0)
        assert stream.read().endswith(b"data: [DONE]\n\n")
    assert stopping.wait(30) == 0
    stopping.communicate()
    assert not service.alive(found) and not listen.exists() and not Path(found.admin_socket).parent.exists()


def patched(gguf: Path, to: Path, *, template: bytes = b"", cut: int = 0) -> Path:
    """The model with another chat template (or architecture, when that is empty and nothing is cut)."""
    data = gguf.read_bytes()
    key = b"tokenizer.chat_template"
    at = data.index(key) + len(key) + 4
    length = int.from_bytes(data[at : at + 8], "little")
    if template:
        data = data[: at + 8] + template.ljust(length) + data[at + 8 + length :]
    elif not cut:
        data = data.replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0xlama", 1)
    to.write_bytes(data[:cut] if cut else data)
    return to


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cut": 60_000_000}, "past its end"),
        ({}, "unknown model architecture"),
        ({"template": b"{% for a in %}{{"}, "chat template"),
    ],
)
def test_a_gguf_that_can_not_be_served_is_said_why_and_nothing_is_left(
    home: Hyb, smollm2_gguf: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    own = Store(tmp_path / "store")
    artifact = add_model(own, patched(smollm2_gguf, tmp_path / "bad.gguf", **change), "bad")
    with pytest.raises(HybError, match="of `bad` ended") as caught:
        serving.start(own, artifact, Wanted("bad", port=0), environ=home.env, detach=True)
    assert caught.value.code is Exit.BELOW
    assert any(said in line for line in caught.value.details), caught.value.details
    assert not [p for p in service.folder(home.env).glob("bad*") if p.suffix not in (".log", ".lock")]


def test_a_thought_is_told_from_the_answer_whatever_the_words_of_the_template(
    home: Hyb, smollm2_gguf: Path, tmp_path: Path
) -> None:
    template = (
        b"{% for m in messages %}{{'<|im_start|>'+m['role']+'\\n'+m['content'].split('</think>')[-1]+'<|im_end|>\\n'}}"
        b"{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\\n<think>\\n'}}{% endif %}"
    )
    own = Store(tmp_path / "store")
    artifact = add_model(own, patched(smollm2_gguf, tmp_path / "r1.gguf", template=template), "r1")
    found = serving.start(own, artifact, Wanted("r1", port=0), environ=home.env, detach=True)
    try:
        body = {"model": "r1", "messages": HI, "max_tokens": 8, "temperature": 0}
        message = chat(found.url, found.key, body)["choices"][0]["message"]
        assert message["reasoning_content"].strip() and not message["content"], "it is still thinking"
    finally:
        serving.stop("r1", home.env)


def test_a_public_address_needs_tls_and_then_speaks_it(
    home: Hyb, store: Store, model: Artifact, tmp_path: Path
) -> None:
    ca = certificates.make_ca("tests", 2, datetime.now(UTC))
    leaf = certificates.make_leaf(ca, "bot", 2, datetime.now(UTC), hosts=["127.0.0.1", "localhost"])
    cert, key, trusted = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    cert.write_bytes(leaf.certificate)
    key.write_bytes(leaf.key)
    trusted.write_bytes(ca.certificate)
    refused = home.fails(3, "serve", "smol", "--host", "0.0.0.0", "--port", "0", "--detach")
    assert "--tls-cert" in refused
    wanted = Wanted("public", host="0.0.0.0", port=0, tls_cert=str(cert), tls_key=str(key))
    found = serving.start(store, model, wanted, environ=home.env, detach=True)
    try:
        assert found.url.startswith("https://")
        here = client.Address(f"https://127.0.0.1:{found.port}/v1", found.key, ca=str(trusted))
        with client.Client(here) as api:
            assert api.models() == ["public"]
        with socket.create_connection(("127.0.0.1", found.port), timeout=10) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" not in plain.recv(100), "nothing is said without TLS"
    finally:
        serving.stop("public", home.env)


def test_a_second_signal_ends_a_gateway_that_drains(home: Hyb, store: Store, model: Artifact) -> None:
    found = serving.start(store, model, Wanted("hasty", port=0, context=8192), environ=home.env, detach=True)
    with streaming(found, max_tokens=8000):
        os.kill(found.pid, signal.SIGTERM)
        until(lambda: health(found.host, found.port) == 0)
        os.kill(found.pid, signal.SIGTERM)
        until(lambda: not service.alive(found), 5)
    service.forget(service.folder(home.env), "hasty")


def test_a_dry_run_says_which_engine_and_starts_nothing(home: Hyb, model: Artifact) -> None:
    plan = home.json("serve", "smol", "--dry-run", "--adapter", "one=lora-one", "--port", "0")
    assert (plan["engine"], plan["adapters"]) == ("llama.cpp", ["one"])
    by_digest = home.json("serve", model.digest, "--dry-run")
    assert by_digest["why"] == "the model is a GGUF"
    assert sys.executable and "smol" not in [s["name"] for s in home.json("ps")]
