"""Offline is a promise: what is missing is said at once, and strace sees no socket but Unix and loopback ones."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyb.errors import Exit
from hyb.store import Store
from tests import hubserver
from tests.asking import ask
from tests.hyb import Hyb
from tests.need import need

COMMIT, SHA = "c" * 40, "5" * 64
LOCK = {"hf://o/n": f"hf://o/n@{COMMIT}", "pypi://p==1.0": f"pypi://p==1.0#sha256={SHA}",
        "oci://r.example/m:1": f"oci://r.example/m@sha256:{SHA}"}  # fmt: skip


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    return Hyb(tmp_path / "home")


@pytest.mark.parametrize("source", LOCK)
@pytest.mark.parametrize("pinned", [False, True])
def test_a_model_that_is_missing_is_named_with_its_digest_and_the_command(
    hyb: Hyb, tmp_path: Path, source: str, pinned: bool
) -> None:
    asked = LOCK[source] if pinned else source
    said = hyb.fails(Exit.OFFLINE, "pull", asked, "--offline")
    name = source.removesuffix(":1").partition("@")[0]
    assert "hyb is offline" in said and f"`hyb pull '{name}" in said
    if pinned:
        assert (COMMIT if source.startswith("hf") else SHA) in said and "missing:" in said
    assert hyb.fails(Exit.OFFLINE, "pull", asked, env={"HYB_OFFLINE": "1"}) == said


def test_a_file_that_the_cache_lacks_is_named_with_its_digest(hyb: Hyb, tmp_path: Path) -> None:
    files = hubserver.model(64)
    with hubserver.Hub() as hub:
        commit = hub.add("o/n", files)
        env = {k: v for k, v in hubserver.environment(hub, tmp_path / "cache").items() if k.startswith("HF_")}
        hyb.ok("pull", "hf://o/n", env=env)
    (weights,) = (tmp_path / "cache").glob("models--o--n/snapshots/*/model.safetensors")
    weights.resolve().unlink()
    weights.unlink()
    other = Hyb(tmp_path / "other")
    said = other.fails(Exit.OFFLINE, "pull", f"hf://o/n@{commit}", "--offline", env=env)
    assert "`hyb pull 'hf://o/n@" in said
    assert "missing: weights; the cache has: LICENSE, README.md" in said


def test_what_is_missing_is_said_in_less_than_a_second_of_work(hyb: Hyb) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for asked in LOCK.values():
        hyb.fails(Exit.OFFLINE, "pull", asked, "--offline")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds / len(LOCK) < 1, "CPU seconds, which other programs of the machine don't lengthen much"


def traced(hyb: Hyb, log: Path, *arguments: str) -> list[str]:
    """A command line that writes to `log` where its processes connect to."""
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    return ["strace", "-f", "-qq", "-e", calls, "-o", str(log), sys.executable, "-m", "hyb", *arguments]


def strangers(log: Path) -> list[str]:
    """The calls that left this machine."""
    found = [line for line in log.read_text(errors="replace").splitlines() if "sa_family=AF_INET" in line]
    return [line for line in found if not re.search(r'inet_addr\("127\.|"::1"|"::ffff:127\.', line)]


@pytest.fixture
def model(hyb: Hyb, tmp_path: Path) -> Iterator[str]:
    need("strace", "torch", "transformers")
    from tests.tiny import tiny_artifact

    store = Store(hyb.store)
    store.tag("tiny", tiny_artifact(store, tmp_path / "tiny", context=2048, dtype="float32").digest)
    yield "tiny"
    for running in hyb.json("ps"):
        hyb.ok("stop", running["name"])


@pytest.mark.slow
def test_serve_ask_and_mirror_open_no_socket_that_leaves_the_machine(hyb: Hyb, model: str, tmp_path: Path) -> None:
    env = {**hyb.env, "HYB_OFFLINE": "1"}
    line = traced(hyb, tmp_path / "serve.log", "serve", model, "--name", "small", "--port", "0", "--detach")
    server = subprocess.Popen(
        line, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 240
    while not (running := [s for s in hyb.json("ps") if s.get("ready", True)]) and time.monotonic() < until:
        assert server.poll() is None, server.stderr and server.stderr.read()
        time.sleep(0.5)
    key = Path(running[0]["key_path"]).read_text().strip()
    assert isinstance(ask(running[0]["url"], key, "Hello?", model="small", max_tokens=4), str)
    hyb.ok("stop", "small")
    server.communicate(timeout=60)
    mirror = subprocess.Popen(
        traced(hyb, tmp_path / "mirror.log", "mirror", "serve", "--port", "0", "--json"), env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert mirror.stdout
    text = ""
    while not text.endswith("}\n"):
        text += mirror.stdout.readline()
    with urllib.request.urlopen(f"{json.loads(text)['url']}/tiny/resolve/main/config.json", timeout=20) as answer:
        assert answer.status == 200
    os.killpg(mirror.pid, signal.SIGTERM)
    mirror.communicate(timeout=30)
    for name in ("serve", "mirror"):
        assert (tmp_path / f"{name}.log").exists()
        assert strangers(tmp_path / f"{name}.log") == []


@pytest.mark.slow
def test_the_stages_open_no_socket_that_leaves_the_machine(hyb: Hyb, model: str, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": str(n)}]}
            for n in range(8)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "rows.jsonl").write_bytes((tmp_path / "rows.jsonl").read_bytes())
    (tmp_path / "recipe" / "hyb.yaml").write_text(
        f"hyb: 1\nname: small\nstages:\n  base: {{stage: pull, source: 'file:{tmp_path}/tiny'}}\n"
        "  facts: {stage: data, source: rows.jsonl, holdout: 0.25}\n"
        "  exam: {stage: eval, model: base, data: facts}\n"
        "  gguf: {stage: export, model: base, format: gguf, quantize: q8_0}\n  image: {stage: pack, model: gguf}\n"
        "  service: {stage: serve, image: image, target: quadlet}\n"
        "  van: {stage: link, service: service, namespace: chat, apps_domain: apps.example.com}\n"
    )
    line = traced(hyb, tmp_path / "run.log", "run", str(tmp_path / "recipe"), "--offline", "-q")
    done = subprocess.run(line, env=hyb.env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert strangers(tmp_path / "run.log") == []
