"""The Quadlet unit of a service, run by a real Podman: what Quadlet's generator would make of it, without systemd."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from hyb import engine_podman
from hyb.formats import modelpack
from hyb.stages import pack, serve
from hyb.stages.base import Context
from hyb.store import Store
from tests.podman_env import BASE, podman_home  # noqa: F401

pytestmark = pytest.mark.podman
KEY = "hyb_sk_only-for-this-test"
FLAGS = {"ReadOnly": "--read-only", "NoNewPrivileges": "--security-opt=no-new-privileges"}
OPTIONS = {"PublishPort": "--publish", "Environment": "--env", "DropCapability": "--cap-drop", "Label": "--label"}


def podman(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        [*engine_podman.PODMAN, *argv], input=stdin, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{argv}\n{done.stderr}"
    return done.stdout


def command(unit: str) -> tuple[list[str], str]:
    """(options of `podman run`, image) as podman-systemd.unit(5) translates a unit's `[Container]`."""
    options: list[str] = []
    image = ""
    for line in unit.split("[Container]\n")[1].split("\n\n", maxsplit=1)[0].splitlines():
        key, _, value = line.partition("=")
        if key == "Image":
            image = value
        elif key == "ContainerName":
            options += ["--name", value]
        elif key == "PodmanArgs":
            options += shlex.split(value)
        elif key in FLAGS:
            options.append(FLAGS[key])
        else:
            options += [OPTIONS[key], value]
    return options, image


def test_podman_takes_every_word_of_the_unit(podman_home: Path, tmp_path: Path) -> None:  # noqa: F811
    """Image by digest mounted, key mounted, nothing writable but /tmp, no capability, limits and health set."""
    store = Store(tmp_path / "store")
    files = [modelpack.file("model.gguf", store.add_bytes(b"GGUF" + b"w" * 5000))]
    model = store.add_artifact("model", files, meta={"format": "gguf", "name": "bot"})
    image = pack.run(pack.Spec(model="m", name="lab/bot"), {"m": model}, Context(store, store.work("sha256:0")))
    engine_podman.deliver(store, image, "lab/bot")
    spec = serve.Spec(image="image", name="hyb-test-unit", runtime_image=BASE, port=18761, target="quadlet", memory=64)
    made = serve.run(spec, {"image": image}, Context(store, tmp_path))
    unit = store.read(made.file("quadlet/hyb-test-unit.container").blob.digest).decode()
    podman("secret", "create", "hyb-test-unit-api-key", "-", stdin=KEY)
    try:
        options, runtime = command(unit)
        look = (
            "head -c 4 /models/models/model.gguf; echo; cat $HYB_KEY_FILE; echo; "
            "grep -E 'CapEff|NoNewPrivs' /proc/self/status; "
            "touch /x 2>&1; touch /models/x 2>&1; touch /tmp/x && echo written"
        )
        said = podman("run", "--rm", *options, runtime, "sh", "-c", look)
        assert said.splitlines()[:2] == ["GGUF", KEY]
        assert "CapEff:\t0000000000000000" in said and "NoNewPrivs:\t1" in said
        assert said.count("Read-only file system") == 2 and said.endswith("written\n")
        podman("create", *options, runtime)
        facts = json.loads(podman("inspect", "hyb-test-unit"))[0]
        assert facts["Config"]["Healthcheck"]["Test"] == ["CMD", "python3", "-P", "-m", "hyb.serving", "--healthy"]
        assert facts["HostConfig"]["Memory"] == 64 << 20 and facts["HostConfig"]["PidsLimit"] == 256
        assert facts["HostConfig"]["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18761"}]}
        assert KEY not in json.dumps(facts)
    finally:
        subprocess.run([*engine_podman.PODMAN, "rm", "-f", "hyb-test-unit"], capture_output=True, check=False)
        podman("secret", "rm", "hyb-test-unit-api-key")
