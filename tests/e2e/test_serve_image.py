"""The image of containers/serve-cpu, built without a network, and asked a question as OpenShift would run it."""

from __future__ import annotations

import http.client
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyb import engine_podman
from hyb.containers import Container, Mount
from hyb.formats import modelpack
from hyb.stages import pack
from hyb.stages.base import Context
from hyb.store import Store
from tests import python_base
from tests.podman_env import podman_home, run  # noqa: F401

pytestmark = [pytest.mark.podman, pytest.mark.slow]
PROJECT = Path(__file__).parents[2]
IMAGE = "localhost/hyb-serve-cpu:latest"
KEY = "hyb_sk_only-for-this-test"


@pytest.fixture(scope="module")
def image(podman_home: Path) -> str:  # noqa: F811
    """The image, built on a Python of Debian's packages."""
    if not shutil.which("apt-get") or not shutil.which("dpkg") or platform.system() != "Linux":
        pytest.skip("the base image is made of Debian packages, and here is no apt")
    version = python_base.build(podman_home / "python")
    wheels = podman_home / "wheels"
    wheels.mkdir()
    python_base.wheels(PROJECT, wheels, version)
    containerfile = PROJECT / "containers/serve-cpu/Containerfile"
    engine_podman.build(containerfile, wheels, IMAGE, build_args={"BASE": python_base.NAME})
    return IMAGE


@pytest.fixture(scope="module")
def model_image(podman_home: Path, smollm2_gguf: Path) -> str:  # noqa: F811
    """SmolLM2-135M-Instruct, packed by the stage and given to Podman."""
    store = Store(podman_home / "store")
    files = [modelpack.file("model.gguf", store.add_file(smollm2_gguf))]
    model = store.add_artifact("model", files, meta={"format": "gguf", "name": "SmolLM2-135M-Instruct"})
    packed = pack.run(pack.Spec(model="m"), {"m": model}, Context(store, store.work("sha256:0")))
    return engine_podman.deliver(store, packed, packed.meta["name"])


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def asked(path: Path, url: str, body: Any = None, key: str = KEY) -> tuple[int, Any]:
    connection = UnixConnection(path)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST" if body else "GET", url, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data.startswith(b"{") else data
    finally:
        connection.close()


@pytest.fixture
def served(podman_home: Path, image: str, model_image: str) -> Iterator[Path]:  # noqa: F811
    """The server's socket: a user id that no image knows, a read-only root, no capability, no network."""
    sockets = podman_home / "s"
    sockets.mkdir(exist_ok=True)
    sockets.chmod(0o777)
    (podman_home / "api-key").write_text(KEY)
    (podman_home / "api-key").chmod(0o444)
    server = Container(
        image,
        name="hyb-test-serve",
        user="12345:0",
        env={"HYB_NAME": "bot", "HYB_UNIX_SOCKET": "/sockets/hyb.sock", "HYB_CONTEXT": "512", "HYB_PARALLEL": "1"},
        mounts=(
            Mount("image", model_image, "/models"),
            Mount("bind", str(podman_home / "api-key"), "/run/secrets/api-key"),
            Mount("bind", str(sockets), "/sockets", read_only=False),
        ),
        memory=2 << 30,
        detach=True,
        remove=False,
    )
    engine_podman.run_container(server)
    try:
        until_ready(sockets / "hyb.sock")
        yield sockets / "hyb.sock"
    finally:
        engine_podman.remove_container(server.name)


def until_ready(path: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if asked(path, "/health")[0] == 200:
                return
        except OSError:
            pass
        running = podman("inspect", "--format", "{{.State.Running}}", "hyb-test-serve").strip()
        assert running == "true" and time.monotonic() < deadline, podman("logs", "hyb-test-serve")
        time.sleep(0.1)


def podman(*argv: str) -> str:
    done = subprocess.run([*engine_podman.PODMAN, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    return done.stdout.decode(errors="replace")


def test_a_real_model_answers_as_a_stranger_without_rights_or_network(served: Path) -> None:
    question = {"model": "bot", "temperature": 0, "max_tokens": 24}
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    status, answer = asked(served, "/v1/chat/completions", {**question, "messages": messages})
    assert status == 200, answer
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert asked(served, "/v1/models")[1]["data"][0]["id"] == "bot"
    assert asked(served, "/v1/models", key="another-key-of-24-signs")[0] == 401
    look = "import os; print(os.getuid(), os.getgid(), open('/proc/self/status').read())"
    inside = podman("exec", "hyb-test-serve", "python3", "-c", look)
    assert inside.startswith("12345 0 ")
    assert "CapEff:\t0000000000000000" in inside
    assert "NoNewPrivs:\t1" in inside
    assert KEY not in podman("logs", "hyb-test-serve") + podman("inspect", "hyb-test-serve")
    started = time.monotonic()
    podman("stop", "--time=8", "hyb-test-serve")
    assert time.monotonic() - started < 6, "SIGTERM did not end it"


def test_without_a_key_nothing_is_served(image: str, model_image: str) -> None:
    ended = engine_podman.run_container(Container(image, mounts=(Mount("image", model_image, "/models"),)))
    assert ended.status != 0
    assert b"api-key` can't be read" in ended.stderr + ended.stdout


def test_the_image_holds_no_build_tool_and_no_time(image: str) -> None:
    look = (
        "import importlib.util as u, sys; print([m for m in ('pip', 'setuptools', 'wheel', 'torch') if u.find_spec(m)])"
    )
    ended = run(Container(image, ("-c", look), entrypoint=("python3",)))
    assert ended.stdout.decode().strip() == "[]"
    found = run(Container(image, ("-c", "ls /bin /usr/bin /opt/hyb/bin 2>/dev/null; true"), entrypoint=("sh",)))
    assert not {"gcc", "cc", "make", "ld", "pip", "pip3"} & set(found.stdout.decode().split())
    facts = json.loads(podman("image", "inspect", image))[0]
    assert facts["Created"].startswith("1970-01-01")
    assert facts["Config"]["User"] == "1001:0"


def test_a_build_of_the_same_wheels_from_nothing_is_the_same_image(image: str, podman_home: Path) -> None:  # noqa: F811
    base = {"BASE": python_base.NAME}
    before = engine_podman.image_id(image, engine_podman.available())
    containerfile = PROJECT / "containers/serve-cpu/Containerfile"
    again = engine_podman.build(containerfile, podman_home / "wheels", IMAGE, build_args=base, fresh=True)
    assert again == before


def test_the_podman_example_asks_a_model_of_the_store(podman_home: Path, image: str, smollm2_gguf: Path) -> None:  # noqa: F811
    store = Store(podman_home / "store")
    files = [modelpack.file("model.gguf", store.add_file(smollm2_gguf))]
    store.tag("small", store.add_artifact("model", files, meta={"format": "gguf", "name": "small"}).digest)
    env = {k: v for k, v in os.environ.items() if k != "CONTAINER_HOST"}
    env |= {"HYB_STORE": str(store.root), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}
    script = ["sh", str(PROJECT / "examples" / "podman.sh"), "small", "Say hello."]
    done = subprocess.run(script, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.partition("from the container:")[2].strip()) > 2
    assert not subprocess.run(
        ["podman", "ps", "-aq", "--filter", "name=hyb-demo"], env=env, capture_output=True, text=True, check=True
    ).stdout
