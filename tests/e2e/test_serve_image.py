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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyb import engine_podman
from hyb.containers import Container, Mount
from hyb.formats import modelpack
from hyb.stages import pack, serve
from hyb.stages.base import Context
from hyb.store import Store
from tests import python_base
from tests.need import need, oracle
from tests.podman_env import podman_home, run  # noqa: F401
from tests.unix_http import UnixConnection

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


def asked(place: Path | int, url: str, body: Any = None, key: str = KEY) -> tuple[int, Any]:
    """Ask at a socket, or at a port on loopback."""
    unix = isinstance(place, Path)
    connection = UnixConnection(place) if unix else http.client.HTTPConnection("127.0.0.1", place, timeout=120)
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


def until_ready(place: Path | int, container: str = "hyb-test-serve") -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if asked(place, "/ready")[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        running = podman("inspect", "--format", "{{.State.Running}}", container).strip()
        assert running == "true" and time.monotonic() < deadline, podman("logs", container)
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
    assert streamed_through_a_stop(served) == "data: [DONE]", "SIGTERM cut an answer"


def streamed_through_a_stop(place: Path) -> str:
    """The last line of an answer in whose middle the container is told to stop; the container ends by itself."""
    body = {"model": "bot", "temperature": 0, "max_tokens": 30, "stream": True}
    body["messages"] = [{"role": "user", "content": "Tell me a long story about a cat."}]
    connection = UnixConnection(place)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: {")
    started = time.monotonic()
    stop = subprocess.Popen([*engine_podman.PODMAN, "stop", "--time=20", "hyb-test-serve"], stdout=subprocess.DEVNULL)
    lines = [line for line in answer.read().decode().splitlines() if line]
    assert stop.wait(timeout=30) == 0
    assert time.monotonic() - started < 15, "SIGTERM did not end it"
    assert podman("inspect", "--format", "{{.State.ExitCode}}", "hyb-test-serve").strip() == "0"
    connection.close()
    return lines[-1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def applied(podman_home: Path, image: str, model_image: str, tmp_path: Path) -> Iterator[Callable[[str], int]]:  # noqa: F811
    """Does what APPLY.md says for a target, word for word, and gives the port; what `down` names is done at the end."""
    store = Store(podman_home / "store")
    found = next(a for a in store.artifacts() if a.kind == "image" and a.meta["name"] in model_image)
    env = {k: v for k, v in os.environ.items() if k != "CONTAINER_HOST"}
    if compose := os.environ.get("HYB_PODMAN_COMPOSE"):
        env |= {"PATH": f"{compose}/bin{os.pathsep}{env['PATH']}", "PYTHONPATH": compose}
    (tmp_path / "KEYFILE").write_text(KEY)
    down: list[str] = []

    def sh(script: str) -> None:
        done = subprocess.run(
            ["sh", "-eu"], input=script, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"

    def apply(target: str) -> int:
        port = free_port()
        spec = serve.Spec(
            image="image", name="hyb-test-unit", target=target, port=port, context=512, parallel=1, memory=1500,
            runtime_image=IMAGE, model_image=model_image.partition("@")[0],
        )  # fmt: skip
        made = serve.run(spec, {"image": found}, Context(store, tmp_path))
        for file in made.files:
            (tmp_path / file.path).parent.mkdir(exist_ok=True)
            (tmp_path / file.path).write_bytes(store.read(file.blob.digest))
        steps = (tmp_path / "APPLY.md").read_text().split("\n## ")[1]
        commands = [line[4:] for line in steps.splitlines() if line.startswith("    ") and "curl" not in line]
        document = f"{target}/hyb-test-unit.yaml"
        down.append(f"podman kube down {document}" if target == "kube" else f"podman-compose -f {document} down")
        sh("\n".join(commands))
        return port

    yield apply
    for command in down:
        sh(command)


def state(container: str) -> dict[str, Any]:
    """What Podman says of a container, the kernel of its first process, and its own health check of itself."""
    facts: dict[str, Any] = json.loads(podman("inspect", container))[0]
    status = podman("exec", container, "python3", "-c", "print(open('/proc/1/status').read())")
    facts["status"] = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    facts["healthy"] = podman("healthcheck", "run", container)  # raises unless the check says 0
    return facts


@pytest.mark.parametrize(("target", "container"), [("kube", "hyb-test-unit-model"), ("compose", "hyb-test-unit")])
def test_a_pod_and_a_compose_file_run_the_image_as_locked_down_as_they_say(
    applied: Callable[[str], int], target: str, container: str
) -> None:
    if target == "compose":
        need("podman_compose")
        assert oracle("podman_compose")
    port = applied(target)
    until_ready(port, container)
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    question = {"model": "hyb-test-unit", "temperature": 0, "max_tokens": 8, "messages": messages}
    status, answer = asked(port, "/v1/chat/completions", question)
    assert status == 200 and "Paris" in answer["choices"][0]["message"]["content"]
    assert asked(port, "/v1/models", key="another-key-of-24-signs")[0] == 401
    facts = state(container)
    assert facts["HostConfig"]["Memory"] == 1500 << 20
    assert facts["HostConfig"]["ReadonlyRootfs"] is True
    assert not facts["EffectiveCaps"] and not facts["HostConfig"]["Privileged"]
    assert facts["status"]["CapEff"] == facts["status"]["CapBnd"] == "0000000000000000"
    assert facts["status"]["NoNewPrivs"] == "1" and facts["status"]["Seccomp"] == "2"
    assert facts["status"]["Uid"].split("\t") == ["1001"] * 4
    mounts = {m["Destination"]: m for m in facts["Mounts"]}
    assert target == "compose" or mounts["/models"]["RW"] is False
    assert target == "kube" or facts["HostConfig"]["PidsLimit"] == 256
    for folder in ("/models", "/home/hyb", "/etc/hyb"):
        code = f"open('{folder}/x', 'w')"
        with pytest.raises(subprocess.CalledProcessError) as refused:
            podman("exec", container, "python3", "-c", code)
        assert b"Read-only file system" in refused.value.stdout
    assert KEY not in podman("logs", container) + json.dumps(facts)


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
    assert facts["Config"]["Labels"]["io.hyb.instructions"] == "portable"


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
