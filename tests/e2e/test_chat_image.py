"""The image of containers/chat, built without a network and run as OpenShift would: a stranger without rights."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyb import engine_podman
from hyb.containers import Container, Mount
from tests import python_base
from tests.chat_app import until
from tests.podman_env import podman_home, run  # noqa: F401

pytestmark = [pytest.mark.podman, pytest.mark.slow]
PROJECT = Path(__file__).parents[2]
CONTAINERFILE = PROJECT / "containers/chat/Containerfile"
IMAGE, NAME = "localhost/hyb-chat:latest", "hyb-test-chat"
KEY = "hyb_sk_only-for-this-test"
PACKAGES = ["starlette", "uvicorn", "httptools", "prometheus-client"]

ASK = """
import http.client, json
def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()
status, text = ask(8080, "POST", "/api/chat", json.dumps({"messages": [{"role": "user", "content": "say:hello"}]}))
print(json.dumps({"status": status, "text": text, "page": ask(8080, "GET", "/")[1],
    "ready": ask(9090, "GET", "/ready")[0], "metrics": ask(9090, "GET", "/metrics")[1],
    "outside": ask(8080, "GET", "/metrics")[0]}))
"""


def test_the_containerfile_installs_what_the_extra_names() -> None:
    extra = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["chat"]
    assert [e.partition(">=")[0] for e in extra] == PACKAGES
    assert " ".join(PACKAGES) in CONTAINERFILE.read_text().replace("\\\n", "")


@pytest.fixture(scope="module")
def image(podman_home: Path) -> str:  # noqa: F811
    """The image, built on a Python of Debian's packages."""
    if not shutil.which("apt-get") or not shutil.which("dpkg") or platform.system() != "Linux":
        pytest.skip("the base image is made of Debian packages, and here is no apt")
    version = python_base.build(podman_home / "python")
    wheels = podman_home / "chat-wheels"
    wheels.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    made = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(PROJECT)]
    subprocess.run(made, check=True, capture_output=True)
    target = ["--only-binary=:all:", f"--python-version={version}", f"--platform=manylinux2014_{platform.machine()}"]
    target += [f"--platform=manylinux_2_28_{platform.machine()}"]
    subprocess.run([*pip, "download", "-d", str(wheels), *target, "pip", *PACKAGES], check=True, capture_output=True)
    engine_podman.build(CONTAINERFILE, wheels, IMAGE, build_args={"BASE": python_base.NAME})
    return IMAGE


@pytest.fixture
def served(podman_home: Path, image: str) -> Iterator[str]:  # noqa: F811
    """The app: a user id that no image knows, a read-only root, no capability, no network, no writable folder."""
    (podman_home / "chat-key").write_text(KEY)
    (podman_home / "chat-key").chmod(0o444)
    app = Container(
        image,
        name=NAME,
        user="12345:0",
        env={"HYB_CHAT_MODEL_URL": "http://127.0.0.1:8000/v1", "HYB_CHAT_DRAIN_SECONDS": "0"},
        mounts=(
            Mount("bind", str(podman_home / "chat-key"), "/run/secrets/api-key"),
            Mount("bind", str(PROJECT / "tests"), "/t/tests"),
        ),
        memory=128 << 20,
        detach=True,
        remove=False,
    )
    engine_podman.run_container(app)
    try:
        yield NAME
    finally:
        engine_podman.remove_container(NAME)


def podman(*argv: str) -> str:
    done = subprocess.run([*engine_podman.PODMAN, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    return done.stdout.decode(errors="replace")


def test_it_runs_as_a_stranger_and_finds_the_model_when_it_comes(served: str) -> None:
    until(lambda: '"event": "listening"' in podman("logs", served), 30)
    down = json.loads(podman("exec", served, "python3", "-c", ASK))
    assert (down["status"], down["ready"], down["outside"]) == (503, 503, 404)
    assert "<!doctype html>" in down["page"]
    assert "hyb_chat_model_up 0.0" in down["metrics"]
    bird = "import sys; sys.path.insert(0, '/t'); from tests.parrot import main; main(8000)"
    podman("exec", "--detach", served, "python3", "-c", bird)
    until(lambda: '"available": true' in podman("logs", served), 15)
    up = json.loads(podman("exec", served, "python3", "-c", ASK))
    assert (up["status"], up["ready"]) == (200, 200)
    assert '"text":"hello"' in up["text"]
    status = podman("exec", served, "python3", "-c", "print(open('/proc/1/status').read())")
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status and "Uid:\t12345" in status
    assert KEY not in podman("logs", served) + podman("inspect", served)
    modules = podman("exec", served, "python3", "-c", "import os; print(sorted(os.listdir('/opt/hyb/hyb')))")
    assert modules.strip() == "['__init__.py', '__pycache__', 'chat', 'errors.py']"
    began = time.monotonic()
    podman("stop", "--time=20", served)
    assert time.monotonic() - began < 10, "SIGTERM did not end it"
    assert podman("inspect", "--format", "{{.State.ExitCode}}", served).strip() == "0"
