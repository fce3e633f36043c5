"""The terminal clients against a real model behind a real server: chat on a pseudo-terminal and in one shot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hyb import certificates, serving
from hyb.artifact import Artifact
from hyb.errors import Exit
from hyb.formats import modelpack
from hyb.serving import Wanted
from hyb.serving.service import Service
from hyb.store import Store
from tests.hyb import Hyb
from tests.need import need
from tests.terminal import Terminal

PROMPT = "bot> $"
LONG = "Write a long story about a dragon."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Hyb:
    need("xllamacpp")
    return Hyb(tmp_path_factory.mktemp("clients") / "home")


@pytest.fixture(scope="module")
def model(home: Hyb, smollm2_gguf: Path) -> Artifact:
    store = Store(home.store)
    files = [modelpack.file("model.gguf", store.add_file(smollm2_gguf))]
    meta = {"format": "gguf", "architecture": "LlamaForCausalLM", "context": 8192, "name": "smol"}
    artifact = store.add_artifact("model", files, meta=meta, config=modelpack.config(files, name="smol"))
    store.tag("smol", artifact.digest)
    return artifact


@pytest.fixture(scope="module")
def support(home: Hyb, model: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A LoRA adapter for SmolLM2-135M (576 wide), of rank 2 on one matrix."""
    import gguf
    import numpy as np

    path = tmp_path_factory.mktemp("lora") / "adapter.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    draw = np.random.default_rng(0).standard_normal
    writer.add_tensor("blk.0.attn_q.weight.lora_a", draw((2, 576), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", draw((576, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    store = Store(home.store)
    files = [modelpack.file("adapter.gguf", store.add_file(path))]
    return store.add_artifact("adapter", files, meta={"format": "gguf", "base": model.digest, "name": "support"})


def served(home: Hyb, model: Artifact, name: str, **more: Any) -> Service:
    wanted = Wanted(name=name, **{"port": 0, "context": 2048, "parallel": 4, **more})
    return serving.start(Store(home.store), model, wanted, environ=home.env, detach=True)


@pytest.fixture(scope="module")
def bot(home: Hyb, model: Artifact, support: Artifact) -> Iterator[Service]:
    found = served(home, model, "bot", adapters=[("support", support)])
    yield found
    serving.stop("bot", home.env)


def chat(home: Hyb, *arguments: str) -> Terminal:
    env = {**home.env, "TERM": "xterm", "NO_COLOR": "1"}
    return Terminal([sys.executable, "-m", "hyb", "chat", *arguments], env)


def once(home: Hyb, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hyb", "chat", *arguments], env={**home.env, **env}, input=stdin, text=True,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip


# -- one shot --------------------------------------------------------------------------------------------------------


def test_a_question_from_stdin_is_answered_on_stdout_and_the_figures_are_on_stderr(home: Hyb, bot: Service) -> None:
    done = once(home, "bot", "--temperature", "0", "--max-tokens", "12", stdin="What is the capital of France?\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 2
    assert "to the first token" in done.stderr and "tokens/s" in done.stderr


def test_the_url_of_any_server_will_do_with_its_key_from_a_file_or_the_environment(
    home: Hyb, bot: Service, tmp_path: Path
) -> None:
    by_file = once(home, "--url", bot.url, "Say hi", "--key-file", bot.key_path, "--max-tokens", "4", "--json")
    value = json.loads(by_file.stdout)
    assert value["model"] == "bot"
    assert value["answer"]
    assert 0 < value["timing"]["completion_tokens"] <= 4
    assert value["timing"]["counted_by_server"]
    assert value["finish"] in ("stop", "length")
    other = once(home, "bot", "Say hi", "--model", "support", "--max-tokens", "2", "--json")
    assert json.loads(other.stdout)["model"] == "support"
    by_env = once(home, bot.url, "Say hi", "--max-tokens", "2", HYB_API_KEY=bot.key)
    assert by_env.returncode == 0, by_env.stderr
    assert once(home, bot.url, "Say hi").returncode == Exit.BELOW, "no key, no answer"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nope", "Hi"], 3, "`nope` is not being served"),
        (["http://127.0.0.1:1/v1", "Hi"], 5, "connection refused"),
        (["http://127.0.0.1:1/v1", "Hi", "--key-file", "/nonexistent"], 3, "no such file"),
        (["http://me:secret@127.0.0.1:1/v1", "Hi"], 3, "no place in a URL"),
        (["https://example.com/v1", "Hi", "--offline"], 6, "another machine"),
        (["bot"], 3, "stdin is empty"),
        (["bot", "Hi", "--model", "other"], 3, "no model `other`"),
        (["bot", "Hi", "--load", "/nonexistent.md"], 3, "can't read"),
        (["bot", "word " * 4000], 5, "context"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(
    home: Hyb, bot: Service, arguments: list[str], code: int, said: str
) -> None:
    done = once(home, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr and "secret" not in done.stderr


def test_an_unreadable_key_file_and_a_wrong_path_are_told_apart(home: Hyb, bot: Service, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "key").mkdir()  # root reads any file, but no folder
    else:
        (tmp_path / "key").touch(mode=0o000)
    done = once(home, bot.url, "Hi", "--key-file", str(tmp_path / "key"))
    assert done.returncode == 3
    assert "can't read the key file" in done.stderr
    wrong = once(home, bot.url + "/deeper", "Hi", "--key-file", bot.key_path)
    assert wrong.returncode == 5
    assert "ending in `/v1`" in wrong.stderr


def test_chat_imports_neither_torch_nor_a_clients_library(home: Hyb, bot: Service) -> None:
    code = (
        "import sys\nfrom hyb.cli.commands import run_command\n"
        "assert run_command('chat', ['bot', 'Hi', '--max-tokens', '1']) == 0\n"
        "bad = [m for m in ('torch', 'openai', 'httpx', 'requests', 'rich', 'numpy') if m in sys.modules]\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], env=home.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- on a terminal ---------------------------------------------------------------------------------------------------


def test_a_chat_remembers_saves_loads_and_keeps_its_history_to_itself(home: Hyb, bot: Service, tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    with chat(home, "bot", "--temperature", "0", "--max-tokens", "16") as terminal:
        terminal.until(PROMPT)
        terminal.type("/system You know that my cat is called Ottokar.\n")
        terminal.until("system prompt: You know.*\n" + PROMPT[:-1])
        terminal.type("What is my cat called?\n")
        assert "tokens in the context" in terminal.until("to the first token.*")
        terminal.until(PROMPT)
        terminal.type("And the capital of France?\n")
        terminal.until("to the first token.*\n" + PROMPT[:-1])
        terminal.type("/stats\n")
        figures = terminal.until("4 messages")
        assert "first token" in figures and "tokens/s" in figures
        terminal.type(f"/save {saved}\n")
        terminal.until("4 messages in")
        terminal.type("/clear\n")
        terminal.until("forgotten")
        terminal.type(f"/load {saved}\n")
        terminal.until("4 messages from")
        terminal.type("/retry\n")
        terminal.until("to the first token.*\n" + PROMPT[:-1])
        terminal.type("\x04")
        assert terminal.end() == 0
    messages = json.loads(saved.read_text())["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert all(m["content"] for m in messages)
    assert saved.stat().st_mode & 0o777 == 0o600
    history = home.home / "data" / "hyb" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "What is my cat called?" in history.read_text()


def test_interrupt_stops_the_answer_and_keeps_the_chat_and_without_history_nothing_is_written(
    home: Hyb, bot: Service
) -> None:
    with chat(home, "bot", "--no-history", "--max-tokens", "150") as terminal:
        terminal.until(PROMPT)
        terminal.type(LONG + "\n")
        terminal.until(r"story about a dragon\.\r\n(?s:.){20}")
        terminal.type("\x03")
        terminal.until("stopped\r\n" + PROMPT[:-1], seconds=5)
        terminal.type("/adapter\n")
        terminal.until(r"\* bot\r\n  support\r\n")
        terminal.type("/adapter support\n")
        terminal.until(r"\* support\r\nsupport> $")
        terminal.type("Hi\n")
        terminal.until(r"(?s:.)*support> $", seconds=60)
        for wrong, said in (
            ("/adapter nope", "no model or adapter `nope`"),
            ("/nope", "no command"),
            ("/save x", ".md"),
        ):
            terminal.type(wrong + "\n")
            terminal.until(said)
        terminal.type("/think off\n")
        terminal.until("the reasoning is hidden")
        terminal.until("support> $")
        terminal.type("/quit\n")
        assert terminal.end() == 0
    history = home.home / "data" / "hyb" / "chat_history"
    assert not history.exists() or LONG not in history.read_text()


def test_a_server_that_goes_in_mid_answer_ends_the_answer_and_not_the_chat(
    home: Hyb, model: Artifact, tmp_path: Path
) -> None:
    """Over TLS, with a certificate of an authority that nobody knows but who is told."""
    now = datetime.now(UTC)
    authority = certificates.make_ca("test", 1, now)
    leaf = certificates.make_leaf(authority, "127.0.0.1", 1, now, hosts=["127.0.0.1"])
    for name, content in (("ca.pem", authority.certificate), ("cert.pem", leaf.certificate), ("key.pem", leaf.key)):
        (tmp_path / name).write_bytes(content)
    tls = {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
    victim = served(home, model, "victim", **tls)
    assert victim.url.startswith("https://127.0.0.1:")
    key = ["--key-file", victim.key_path, "--max-tokens", "2"]
    unknown = once(home, victim.url, "Hi", *key)
    assert unknown.returncode == Exit.BELOW
    assert "certificate is not trusted" in unknown.stderr and "--ca" in unknown.stderr
    assert once(home, victim.url, "Hi", "--ca", str(tmp_path / "ca.pem"), *key).returncode == 0
    assert "no certificate in it" in once(home, victim.url, "Hi", "--ca", str(tmp_path / "key.pem"), *key).stderr
    with chat(home, "victim") as terminal:
        terminal.until("victim> $")
        terminal.type(LONG + "\n")
        terminal.until(r"story about a dragon\.\r\n(?s:.){20}")
        os.kill(victim.pid, signal.SIGKILL)
        terminal.until("error: .* broke off in the middle of the answer")
        terminal.until("victim> $")
        terminal.type("/retry\n")
        terminal.until("error: no answer from")
        served(home, model, "victim", port=victim.port, **tls)
        terminal.type("/retry\n")
        terminal.until(r"/retry\r\n(?s:.){20}")
        terminal.type("\x03")
        terminal.until("stopped\r\nvictim> $")
        terminal.type("\x04")
        assert terminal.end() == 0
    serving.stop("victim", home.env)


# -- bench, top, logs ------------------------------------------------------------------------------------------------


def test_bench_measures_real_answers_and_writes_figures_and_a_plot(home: Hyb, bot: Service, tmp_path: Path) -> None:
    figures, plot = tmp_path / "bench.json", tmp_path / "bench.svg"
    table = home.ok(
        "bench", "bot", "--clients", "1,3", "--prompt", "48", "--answer", "12", "--requests", "1", "--out",
        str(figures), "--plot", str(plot),
    )  # fmt: skip
    assert "OUT tok/s" in table and "the limit:" in table
    value = json.loads(figures.read_text())
    one, three = value["levels"]
    assert [r["clients"] for r in (one, three)] == [1, 3]
    assert [r["requests"] for r in (one, three)] == [1, 3]
    for row in (one, three):
        assert row["errors"] == 0
        assert row["answer_tokens"] == 12, "`ignore_eos` is heeded"
        assert abs(row["prompt_tokens"] - 48) <= 4
        assert 0 < row["ttft_s"]["p50"] <= row["ttft_s"]["p99"]
        assert row["inter_token_s"]["p50"] > 0
        assert row["memory_bytes"] > 100_000_000, "the model is in it"
        assert 0 < row["bandwidth_share"] < 1.5
    assert value["weights_bytes"] > 90_000_000
    assert plot.read_text().startswith("<svg")


def test_bench_without_a_server_or_with_a_wrong_level_is_a_mistake(home: Hyb, bot: Service) -> None:
    assert "connection refused" in home.fails(5, "bench", "http://127.0.0.1:1/v1", "--clients", "1")
    assert "no list of numbers" in home.fails(2, "bench", "bot", "--clients", "1,x")
    assert "at least 1" in home.fails(2, "bench", "bot", "--answer", "0")
    assert home.json("bench", "bot", "--clients", "1,4", "--dry-run")["requests"] == 10


def test_top_shows_what_runs_as_a_table_as_json_and_on_a_terminal(home: Hyb, bot: Service) -> None:
    (row,) = home.json("top", "bot", "--interval", "0.2")
    assert row["name"] == "bot" and row["ready"]
    assert row["requests"] >= 1 and row["running"] == row["waiting"] == row["restarts"] == 0
    assert row["tokens_per_s"] == 0.0 and row["up_s"] > 0
    assert row["memory_bytes"] > 100_000_000
    assert "bot" in home.ok("top", "--interval", "0.2").splitlines()[1]
    assert "`nope` is not being served" in home.fails(3, "top", "nope")
    with Terminal([sys.executable, "-m", "hyb", "top", "--interval", "0.2"], {**home.env, "TERM": "xterm"}) as terminal:
        assert "RST" in terminal.until("NAME.*STATE.*UP"), "it fits into 80 columns"
        terminal.until("bot")
        terminal.type("\x03")
        assert terminal.end() in (0, Exit.INTERRUPTED)


def test_logs_print_the_end_follow_what_comes_and_go_on_when_the_log_is_begun_anew(home: Hyb, bot: Service) -> None:
    said = home.json("logs", "bot", "-n", "3")
    assert len(said["lines"]) == 3
    assert "there is no log of `nope`" in home.fails(3, "logs", "nope")
    path = Path(said["path"]).with_name("ended.log")
    path.write_text("first\nsecond\n")
    following = home.start("logs", "ended", "-f", "-n", "1")
    try:
        assert following.stdout
        assert following.stdout.readline() == "second\n"
        with path.open("a") as log:
            log.write("third\n")
        assert following.stdout.readline() == "third\n"
        path.write_text("anew\n")
        assert following.stdout.readline() == "anew\n"
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=20)
        assert following.returncode == Exit.INTERRUPTED
        assert "Traceback" not in err
    finally:
        following.kill()
        following.wait()
        path.unlink()
