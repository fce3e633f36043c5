"""A real model behind llama.cpp's real server, asked by the official `openai` client; its life from start to stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyb import serving
from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
from hyb.formats import modelpack
from hyb.serving import Wanted, client, service
from hyb.serving.service import Service
from hyb.store import Store
from tests.asking import ask, health
from tests.hyb import Hyb
from tests.need import need

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Hyb:
    need("xllamacpp", "openai")
    return Hyb(tmp_path_factory.mktemp("serve") / "home with ünïcode")


@pytest.fixture(scope="module")
def environ(home: Hyb) -> dict[str, str]:
    return home.env


@pytest.fixture(scope="module")
def store(home: Hyb) -> Store:
    return Store(home.store)


def add_gguf(store: Store, path: Path, name: str) -> Artifact:
    files = [modelpack.file("model.gguf", store.add_file(path))]
    meta = {"format": "gguf", "architecture": "LlamaForCausalLM", "context": 8192, "name": name}
    artifact = store.add_artifact("model", files, meta=meta, config=modelpack.config(files, name=name))
    store.tag(name, artifact.digest)
    return artifact


@pytest.fixture(scope="module")
def model(store: Store, smollm2_gguf: Path) -> Artifact:
    return add_gguf(store, smollm2_gguf, "smol")


@pytest.fixture(scope="module")
def bot(store: Store, model: Artifact, environ: dict[str, str]) -> Iterator[Service]:
    found = serving.start(
        store, model, Wanted(name="bot", port=0, context=1024, parallel=2), environ=environ, detach=True
    )
    yield found
    serving.stop("bot", environ)


def openai_client(found: Service, key: str | None = None):  # type: ignore[no-untyped-def]
    import openai

    return openai.OpenAI(base_url=found.url, api_key=found.key if key is None else key, max_retries=0, timeout=120)


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


# -- the API ---------------------------------------------------------------------------------------------------------


def test_the_official_client_gets_an_answer(bot: Service) -> None:
    with openai_client(bot) as api:
        answer = api.chat.completions.create(model="bot", messages=QUESTION, max_tokens=12, temperature=0)
    assert answer.model == "bot"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage and 0 < answer.usage.completion_tokens <= 12


def test_a_stream_says_the_same_as_the_whole_answer(bot: Service) -> None:
    with openai_client(bot) as api:
        whole = api.chat.completions.create(model="bot", messages=QUESTION, max_tokens=16, temperature=0)
        parts = list(
            api.chat.completions.create(model="bot", messages=QUESTION, max_tokens=16, temperature=0, stream=True)
        )
    text = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    assert len(parts) > 5, "it came in pieces"
    assert text == whole.choices[0].message.content


def test_the_model_is_listed_under_the_services_name(bot: Service) -> None:
    with openai_client(bot) as api:
        assert [m.id for m in api.models.list()] == ["bot"]


@pytest.mark.parametrize("key", ["hyb_sk_wrong", "x"])
def test_a_wrong_key_is_refused(bot: Service, key: str) -> None:
    import openai

    with openai_client(bot, key) as api:
        with pytest.raises(openai.AuthenticationError):
            api.chat.completions.create(model="bot", messages=QUESTION, max_tokens=1)
        with pytest.raises(openai.AuthenticationError):
            api.models.list()


def test_without_a_key_only_health_answers(bot: Service) -> None:
    assert health(bot.host, bot.port) == 200
    for method, path in (
        ("GET", "models"),
        ("POST", "chat/completions"),
        ("POST", "completions"),
        ("GET", "../metrics"),
    ):
        assert client.request(method, bot.url, path, "", b"{}", 10)[0] in (401, 404), path
    assert client.request("GET", f"http://{bot.host}:{bot.port}", "metrics", "", None, 10)[0] == 401
    assert client.request("GET", f"http://{bot.host}:{bot.port}", "metrics", bot.key, None, 10)[0] == 200


def test_slots_and_settings_are_shown_to_nobody(bot: Service) -> None:
    base = f"http://{bot.host}:{bot.port}"
    assert client.request("GET", base, "slots", bot.key, None, 10)[0] in (404, 501)
    assert client.request("POST", base, "props", bot.key, b"{}", 10)[0] in (404, 405, 501)
    assert client.request("GET", base, "", bot.key, None, 10)[0] == 404, "no web page"


def test_two_clients_are_answered_at_once(bot: Service) -> None:
    """While a long answer streams to one client, another gets a whole one."""
    with openai_client(bot) as api:
        long = api.chat.completions.create(
            model="bot", messages=QUESTION, max_tokens=150, temperature=0, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(long))
        short = api.chat.completions.create(model="bot", messages=QUESTION, max_tokens=4, temperature=0)
        after = sum(1 for _ in long)
    assert short.choices[0].message.content
    assert after > 50, "the long answer was still going on"


def test_a_request_longer_than_the_context_is_an_error_and_not_the_end(bot: Service) -> None:
    import openai

    with openai_client(bot) as api:
        with pytest.raises(openai.BadRequestError, match="context"):
            api.chat.completions.create(model="bot", messages=[{"role": "user", "content": "word " * 3000}])
        assert api.chat.completions.create(model="bot", messages=QUESTION, max_tokens=1).choices


def test_ask_needs_only_the_standard_library(bot: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy for loopback would never work
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    first = ask(bot.url, bot.key, "What is the capital of France?", max_tokens=8, temperature=0)
    assert first and first == ask(bot.url, bot.key, "What is the capital of France?", max_tokens=8, temperature=0)
    with pytest.raises(HybError, match="said 401") as caught:
        ask(bot.url, "hyb_sk_wrong", "Hi")
    assert caught.value.code is Exit.BELOW


# -- secrets and privacy ---------------------------------------------------------------------------------------------


def test_neither_prompt_nor_answer_nor_key_is_in_any_file_or_argument(bot: Service, home: Hyb) -> None:
    canary = "xyzzy-canary-4711"
    with openai_client(bot) as api:
        api.chat.completions.create(model="bot", messages=[{"role": "user", "content": canary}], max_tokens=4)
    client.request("POST", bot.url, "chat/completions", bot.key, f'{{"messages": "{canary}"}}'.encode(), 10)
    client.request("POST", bot.url, "chat/completions", bot.key, f"{{broken {canary}".encode(), 10)
    texts = [p for p in (home.home / "data" / "hyb" / "run").iterdir() if p.is_file()]
    assert any(p.name == "bot.log" and p.stat().st_size for p in texts)
    for path in texts:
        data = path.read_bytes()
        assert canary.encode() not in data, path
        assert bot.key.encode() not in data, path
        assert path.stat().st_mode & 0o077 == 0 or path.suffix == ".lock", path
    for name in ("cmdline", "environ"):
        assert bot.key.encode() not in Path(f"/proc/{bot.pid}/{name}").read_bytes()
    assert Path(bot.key_path).stat().st_mode & 0o777 == 0o600


def test_it_listens_on_loopback_alone(bot: Service) -> None:
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    ours = [a.partition(":")[0] for a in listening if int(a.partition(":")[2], 16) == bot.port]
    assert ours == ["0100007F"]


# -- start and stop --------------------------------------------------------------------------------------------------


def test_the_same_artifact_again_is_the_same_service(
    bot: Service, store: Store, model: Artifact, environ: dict[str, str]
) -> None:
    said: list[object] = []
    again = serving.start(store, model, Wanted(name="bot", port=0), environ=environ, detach=True, say=said.append)
    assert again == bot
    assert any("already" in str(s) for s in said)


def test_a_name_in_use_by_another_artifact_is_refused(
    bot: Service, store: Store, environ: dict[str, str], smollm2_gguf: Path
) -> None:
    other = store.add_artifact("model", store.artifact(bot.artifact).files, meta={"format": "gguf", "name": "other"})
    with pytest.raises(HybError, match="`bot` is being served already") as caught:
        serving.start(store, other, Wanted(name="bot", port=0), environ=environ, detach=True)
    assert "hyb stop bot" in caught.value.hint


def test_a_taken_port_is_told_before_the_model_is_loaded(
    bot: Service, store: Store, model: Artifact, environ: dict[str, str]
) -> None:
    with pytest.raises(HybError, match=f"port {bot.port} on 127.0.0.1 is taken by `bot` of hyb"):
        serving.start(store, model, Wanted(name="second", port=bot.port), environ=environ, detach=True)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1]
        with pytest.raises(HybError, match=f"port {number} on 127.0.0.1 is taken by .*process {os.getpid()}"):
            serving.start(store, model, Wanted(name="second", port=number), environ=environ, detach=True)
    assert not (service.folder(environ) / "second.log").exists(), "no engine was started"


def test_a_killed_engine_is_gone_from_the_list_and_can_be_started_again(
    store: Store, model: Artifact, environ: dict[str, str]
) -> None:
    first = serving.start(store, model, Wanted(name="victim", port=0), environ=environ, detach=True)
    assert first in serving.ps(environ)
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: not service.alive(first))
    assert "victim" not in [s.name for s in serving.ps(environ)]
    with pytest.raises(HybError, match="nothing called `victim` is being served"):
        serving.stop("victim", environ)
    second = serving.start(store, model, Wanted(name="victim", port=first.port), environ=environ, detach=True)
    assert second.pid != first.pid
    assert second.key == first.key, "a client's key goes on working"
    assert ask(second.url, second.key, "Hi", max_tokens=2) is not None
    serving.stop("victim", environ)
    assert not service.alive(second)
    assert health(second.host, second.port) == 0


def test_two_starts_at_once_give_one_service(store: Store, model: Artifact, environ: dict[str, str]) -> None:
    def begin(_: int) -> Service:
        return serving.start(store, model, Wanted(name="twin", port=0), environ=environ, detach=True)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(begin, range(2))
    assert one == two
    serving.stop("twin", environ)


def test_a_broken_gguf_is_an_error_with_the_engines_own_words(
    store: Store, smollm2_gguf: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"junk" + smollm2_gguf.read_bytes()[:5000])
    artifact = add_gguf(store, broken, "broken")
    with pytest.raises(HybError, match=r"engine llama.cpp of `broken` ended") as caught:
        serving.start(store, artifact, Wanted(name="broken", port=0), environ=environ, detach=True)
    assert caught.value.code is Exit.BELOW
    assert any("not a whole GGUF" in line for line in caught.value.details), caught.value.details
    assert "broken" not in [s.name for s in serving.ps(environ)]


def test_a_damaged_model_is_seen_before_it_is_served(
    store: Store, smollm2_gguf: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    small = tmp_path / "small.gguf"
    small.write_bytes(smollm2_gguf.read_bytes()[:4096])
    artifact = add_gguf(store, small, "damaged")
    blob = store.blob_path(artifact.files[0].blob.digest)
    blob.chmod(0o644)
    blob.write_bytes(b"x" * 4096)
    with pytest.raises(HybError, match="is damaged") as caught:
        serving.start(store, artifact, Wanted(name="damaged", port=0), environ=environ, detach=True)
    assert caught.value.code is Exit.CHECK


def test_a_model_removed_under_its_server_goes_on_answering(
    smollm2_gguf: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    own = Store(tmp_path / "store")
    artifact = add_gguf(own, smollm2_gguf, "removed")
    found = serving.start(own, artifact, Wanted(name="removed", port=0), environ=environ, detach=True)
    try:
        own.blob_path(artifact.files[0].blob.digest).unlink()
        (own.view(Artifact(artifact.digest, "model")) / "model.gguf").unlink()
        assert ask(found.url, found.key, "What is the capital of France?", max_tokens=8)
    finally:
        serving.stop("removed", environ)
    with pytest.raises(HybError, match="not in the store") as caught:
        serving.start(own, artifact, Wanted(name="removed", port=0), environ=environ, detach=True)
    assert caught.value.code is Exit.CHECK


# -- the command line ------------------------------------------------------------------------------------------------


def started(process: subprocess.Popen[str]) -> dict[str, object]:
    """What `hyb serve --json` prints once it is ready."""
    assert process.stdout
    text = ""
    for line in process.stdout:
        text += line
        try:
            found: dict[str, object] = json.loads(text)
            return found
        except ValueError:
            continue
    assert process.stderr
    raise AssertionError(f"it ended: {text}{process.stderr.read()}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_in_the_foreground_ends_the_engine_too(home: Hyb, model: Artifact, number: int, status: int) -> None:
    process = home.start("serve", "smol", "--name", "front", "--port", "0", "--json")
    found = started(process)
    assert home.json("ask", "front", "Hi", "--max-tokens", "3")["answer"] is not None
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert service.start_time(int(str(found["pid"]))) is None
    assert "front" not in [s["name"] for s in home.json("ps")]


def test_an_engine_in_the_foreground_does_not_outlive_a_killed_hyb(home: Hyb, model: Artifact) -> None:
    process = home.start("serve", "smol", "--name", "front", "--port", "0", "--json")
    found = started(process)
    process.kill()
    process.communicate(timeout=30)
    until(lambda: service.start_time(int(str(found["pid"]))) is None)


def test_an_engine_that_dies_in_the_foreground_is_an_error(home: Hyb, model: Artifact) -> None:
    process = home.start("serve", "smol", "--name", "front", "--port", "0", "--json")
    os.kill(int(str(started(process)["pid"])), signal.SIGKILL)
    out, err = process.communicate(timeout=30)
    assert process.returncode == Exit.BELOW, err
    assert "ended with SIGKILL" in out + err


def test_detach_ps_ask_stop_from_the_command_line(home: Hyb, model: Artifact) -> None:
    found = home.json("serve", "smol", "--name", "cli", "--port", "0", "--detach")
    assert found["detached"] and found["engine"] == "llama.cpp"
    listed = {s["name"]: s for s in home.json("ps")}
    assert listed["cli"]["pid"] == found["pid"]
    assert home.ok("ask", "cli", "What is the capital of France?", "--max-tokens", "8").strip()
    home.ok("stop", "cli")
    assert "cli" not in [s["name"] for s in home.json("ps")]
    assert "nothing called `cli`" in home.fails(3, "stop", "cli")


def test_a_folder_in_the_working_directory_is_never_imported(
    store: Store, model: Artifact, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise SystemExit('hijacked')")
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    found = serving.start(store, model, Wanted(name="cwd", port=0), environ=environ, detach=True)
    assert Path(f"/proc/{found.pid}/cwd").readlink() == Path("/")
    serving.stop("cwd", environ)


# -- the entry point of a container ----------------------------------------------------------------------------------


def entry(tmp_path: Path, models: Path, *options: str, key: str = "hyb_sk_0123456789abcdef") -> subprocess.Popen[bytes]:
    (tmp_path / "key").write_text(key)
    command = [
        sys.executable,
        "-m",
        "hyb.serving",
        "--models",
        str(models),
        "--key-file",
        str(tmp_path / "key"),
        *options,
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_containers_entry_point_finds_the_model_serves_and_ends_on_sigterm(
    tmp_path: Path, smollm2_gguf: Path
) -> None:
    need("xllamacpp")
    models = tmp_path / "models" / "deep"
    models.mkdir(parents=True)
    (models / "sha256-0123").symlink_to(smollm2_gguf)  # as an artifact's mount calls it
    number = free_port()
    process = entry(tmp_path, tmp_path / "models", "--host", "127.0.0.1", "--port", str(number), "--name", "box")
    try:
        healthy = [sys.executable, "-m", "hyb.serving", "--healthy", "--port", str(number)]
        until(lambda: health("127.0.0.1", number) == 200)
        until(lambda: subprocess.run(healthy, check=False).returncode == 0)
        url = f"http://127.0.0.1:{number}/v1"
        assert ask(url, "hyb_sk_0123456789abcdef", "Hi", max_tokens=3) is not None
        process.terminate()
        assert process.wait(timeout=15) == 0
        assert health("127.0.0.1", number) == 0
        assert subprocess.run(healthy, check=False).returncode == 1
    finally:
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


@pytest.mark.parametrize(
    ("key", "files", "said"),
    [
        ("", ["a.gguf"], "no API key"),
        ("k" * 20, [], "holds 0 models"),
        ("k" * 20, ["a.gguf", "b.gguf"], "holds 2 models"),
    ],
)
def test_the_entry_point_refuses_to_serve_without_a_key_or_one_model(
    tmp_path: Path, key: str, files: list[str], said: str
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name in files:
        (models / name).write_bytes(b"GGUF")
    process = entry(tmp_path, models, key=key)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said in err.decode() and "Traceback" not in err.decode()


def test_verify_running_says_whether_the_lock_names_what_is_served(
    home: Hyb, store: Store, model: Artifact, bot: Service, tmp_path: Path
) -> None:
    other = add_gguf(store, store.blob_path(model.files[0].blob.digest), "another")
    other = store.add_artifact("model", other.files, meta={**other.meta, "license": "mit"}, config=None)
    (tmp_path / "hyb.yaml").write_text("hyb: 1\nname: r\nstages: {base: {stage: pull, source: smollm2-135m}}\n")

    def lock(digest: str) -> None:
        stage = {"stage": "pull", "key": "sha256:" + "1" * 64, "inputs": {}, "output": digest}
        (tmp_path / "hyb.lock").write_text(json.dumps({"hyb": 1, "pins": {}, "stages": {"base": stage}}))

    lock(model.digest)
    by_url = ["verify", str(tmp_path), "--running", bot.url, "--key-file", bot.key_path]
    found = home.json(*by_url)
    assert (found["model"], found["stage"]) == (model.digest, "base")
    assert found["files_hashed"] >= 1  # a service of this machine is not taken at its word
    assert home.json("verify", str(tmp_path), "--running", "bot") == {**found, "server": "bot"}
    lock(other.digest)
    said = home.fails(4, *by_url)
    assert f"its model is `{model.digest[7:19]}`, which the lock does not name" in said
    assert f"the lock names `{other.digest[7:19]}`" in said
    assert "is another machine" in home.fails(6, *by_url[:3], "https://models.example.com", "--offline")
