"""The transformers engine behind OpenAI's API: real (tiny, random) models, asked by the official `openai` client."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hyb import serving
from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
from hyb.serving import Wanted, client, manager, service
from hyb.serving.service import Service
from hyb.store import Store
from tests.asking import ask, chat, health
from tests.need import need
from tests.tiny import add_model, tiny_model

HI = [{"role": "user", "content": "Where does the warehouse open?"}]
CANARY = "xyzzy-canary-0815"


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    need("torch", "transformers", "openai")
    return {"XDG_DATA_HOME": str(tmp_path_factory.mktemp("data"))}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"), context=2048, dtype="float32")


@pytest.fixture(scope="module")
def base(store: Store, folder: Path) -> Artifact:
    return add_model(store, folder)


@pytest.fixture(scope="module")
def tiny(store: Store, base: Artifact, environ: dict[str, str]) -> Iterator[Service]:
    yield serving.start(store, base, Wanted(name="tiny", port=0), environ=environ, detach=True)
    serving.stop("tiny", environ)


@pytest.fixture(scope="module")
def api(tiny: Service) -> Iterator[Any]:
    import openai

    with openai.OpenAI(base_url=tiny.url, api_key=tiny.key, max_retries=0, timeout=120) as found:
        yield found


def answer(api: Any, **options: Any) -> Any:
    return api.chat.completions.create(
        **{"model": "tiny", "messages": HI, "max_tokens": 24, "temperature": 0, **options}
    )


def text(api: Any, **options: Any) -> str:
    return str(answer(api, **options).choices[0].message.content)


def test_it_answers_as_transformers_itself_does(api: Any, folder: Path) -> None:
    """Token by token the same as a plain `generate`, greedy."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(HI, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    found = answer(api)
    assert found.choices[0].message.content == expected
    assert found.usage.prompt_tokens == prompt["input_ids"].shape[1]
    assert found.usage.completion_tokens == len(ids)
    assert found.choices[0].finish_reason == ("length" if len(ids) == 24 else "stop")


def test_a_stream_says_the_same_and_counts_when_asked(api: Any) -> None:
    parts = list(answer(api, stream=True, stream_options={"include_usage": True}))
    said = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    whole = answer(api)
    assert said == whole.choices[0].message.content
    assert parts[0].choices[0].delta.role == "assistant"
    assert [p.choices[0].finish_reason for p in parts if p.choices][-1] == whole.choices[0].finish_reason
    assert parts[-1].usage == whole.usage


def test_a_seed_makes_sampling_repeat_itself(api: Any) -> None:
    hot = {"temperature": 1.5, "max_tokens": 32}
    one, two = text(api, seed=1, **hot), text(api, seed=2, **hot)
    assert one == text(api, seed=1, **hot)
    assert one != two
    assert text(api, **hot) != text(api, **hot), "without a seed it differs"


def test_a_top_p_of_zero_is_greedy(api: Any) -> None:
    assert text(api, temperature=1.5, top_p=0) == text(api)


def test_an_answer_ends_before_a_stop_text(api: Any) -> None:
    whole = text(api)
    mark = whole[6:9]
    cut = answer(api, stop=[mark])
    assert cut.choices[0].message.content == whole[: whole.index(mark)]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens < 24, "it did not generate on"


def test_the_model_is_listed_and_health_needs_no_key(api: Any, tiny: Service) -> None:
    assert [m.id for m in api.models.list()] == ["tiny"]
    assert health(tiny.host, tiny.port) == 200


@pytest.mark.parametrize("key", ["", "hyb_sk_wrong"])
@pytest.mark.parametrize("path", ["models", "chat/completions", "nothing"])
def test_without_the_key_nothing_else_answers(tiny: Service, key: str, path: str) -> None:
    status, body = client.request("POST", tiny.url, path, key, b"{}", 10)
    assert status == 401
    assert json.loads(body)["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"messages": []}, "at least one message"),
        ({"temperature": -1}, "between 0 and 2"),
        ({"n": 2}, "`n` must be 1"),
        ({"max_tokens": 5000}, "the context is"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "the context is"),
    ],
)
def test_what_can_not_be_done_is_an_error_in_openais_shape(api: Any, options: dict[str, Any], said: str) -> None:
    import openai

    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=said):
            answer(api, **{**options, "stream": stream})


def test_an_unknown_path_and_a_huge_body_are_errors_in_openais_shape(tiny: Service) -> None:
    status, body = client.request("GET", tiny.url, "nothing", tiny.key, None, 10)
    assert (status, json.loads(body)["error"]["type"]) == (404, "invalid_request_error")
    status, body = client.request("POST", tiny.url, "chat/completions", tiny.key, b"x" * (9 << 20), 10)
    assert (status, json.loads(body)["error"]["type"]) == (413, "invalid_request_error")


def test_requests_wait_for_each_other_and_all_are_answered(api: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: text(api), range(4)))
    assert set(found) == {text(api)}


def raw_request(tiny: Service, stream: bool) -> socket.socket:
    """A long request on a bare socket, sent and not read."""
    body = json.dumps({"messages": HI, "max_tokens": 1900, "temperature": 0, "stream": stream})
    connection = socket.create_connection((tiny.host, tiny.port), timeout=30)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tiny.key}\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return connection


@pytest.fixture(scope="module")
def endless(store: Store, environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A model that goes on for 2000 tokens: the logit of the token that ends an answer is 0, never the greatest."""
    from safetensors.torch import load_file, save_file

    folder = tiny_model(tmp_path_factory.mktemp("endless"), context=2048, layers=4, hidden=128, dtype="float32")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][json.loads((folder / "config.json").read_text())["eos_token_id"]] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    yield serving.start(store, add_model(store, folder), Wanted(name="endless", port=0), environ=environ, detach=True)
    serving.stop("endless", environ)


def cpu(found: Service) -> int:
    """CPU time that the engine has used so far, in clock ticks."""
    pid = manager.owner(found, "GET", "/state")["pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_generation(endless: Service, stream: bool) -> None:
    """What it asked for would cost 19 times as much as 100 tokens; what is spent is a fraction of that."""
    ask(endless.url, endless.key, "Hi", max_tokens=10, temperature=0)  # warm
    before = cpu(endless)
    body = {"messages": HI, "max_tokens": 100, "temperature": 0}
    assert chat(endless.url, endless.key, body)["usage"]["completion_tokens"] == 100
    hundred, before = cpu(endless) - before, cpu(endless)
    connection = raw_request(endless, stream)
    if stream:
        assert connection.recv(64)
    while cpu(endless) - before < max(1, hundred // 4):  # it is at work
        time.sleep(0.01)
    connection.close()
    assert ask(endless.url, endless.key, "Hi", max_tokens=1) is not None
    assert cpu(endless) - before < 8 * hundred, f"100 tokens take {hundred} ticks"


def test_a_reasoning_models_thought_is_told_from_its_answer(
    store: Store, environ: dict[str, str], tmp_path: Path
) -> None:
    """Its template opens the thought, so what a random model says is thought until it closes it."""
    folder = tiny_model(tmp_path / "r1", reasoning=True)
    found = serving.start(store, add_model(store, folder), Wanted(name="r1", port=0), environ=environ, detach=True)
    try:
        body = {"messages": HI, "max_tokens": 20, "temperature": 0}
        message = chat(found.url, found.key, body)["choices"][0]["message"]
        assert message["reasoning_content"] and not message["content"]
    finally:
        serving.stop("r1", environ)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21.2
def test_an_adapter_is_served_on_its_base_or_beside_it_and_changes_the_answer(
    store: Store, base: Artifact, folder: Path, environ: dict[str, str], tmp_path: Path, api: Any
) -> None:
    need("peft")
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(model, settings).save_pretrained(tmp_path / "adapter")
    files = [serving_file(store, p) for p in sorted((tmp_path / "adapter").iterdir()) if p.name.startswith("adapter_")]
    adapter = store.add_artifact("adapter", files, meta={"base": base.digest}, needs=(base.digest,))
    told = {"messages": HI, "max_tokens": 24, "temperature": 0}

    def said(found: Service, name: str) -> str:
        answer = chat(found.url, found.key, {**told, "model": name})
        return str(answer["choices"][0]["message"]["content"])

    found = serving.start(store, adapter, Wanted(name="adapter", port=0), environ=environ, detach=True)
    try:
        assert found.engine == "transformers" and "adapter" in found.why
        tuned = said(found, "adapter")
        assert tuned != text(api)
    finally:
        serving.stop("adapter", environ)
    beside = serving.start(
        store, base, Wanted("both", port=0, adapters=[("tuned", adapter)]), environ=environ, detach=True
    )
    try:
        assert said(beside, "tuned") == tuned
        assert said(beside, "both") == text(api), "the base is as it was"
    finally:
        serving.stop("both", environ)


def serving_file(store: Store, path: Path) -> Any:
    from hyb.formats import modelpack

    return modelpack.file(path.name, store.add_file(path))


def test_a_model_without_a_chat_template_is_refused_at_the_start(
    store: Store, environ: dict[str, str], tmp_path: Path
) -> None:
    artifact = add_model(store, tiny_model(tmp_path / "plain", chat_template=False))
    with pytest.raises(HybError, match="engine transformers of `plain` ended") as caught:
        serving.start(store, artifact, Wanted(name="plain", port=0), environ=environ, detach=True)
    assert caught.value.code is Exit.BELOW
    assert any("no chat template" in line for line in caught.value.details)
    assert not (service.folder(environ) / "plain.json").exists()


def test_nothing_of_a_request_is_in_the_log(api: Any, tiny: Service) -> None:
    text(api, messages=[{"role": "user", "content": CANARY}])
    connection = http.client.HTTPConnection(tiny.host, tiny.port, timeout=10)
    connection.request("POST", f"/v1/chat/completions?{CANARY}", f"{{{CANARY}", {"Authorization": f"Bearer {tiny.key}"})
    assert connection.getresponse().status == 400
    connection.close()
    log = Path(tiny.log).read_text()
    assert CANARY not in log and tiny.key not in log
