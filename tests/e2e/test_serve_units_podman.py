"""The Quadlet unit of a service, run by a real Podman: what Quadlet's generator would make of it, without systemd."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from hyb import engine_podman
from hyb.formats import modelpack
from hyb.render import kubernetes, quadlet
from hyb.render.unit import ServiceUnit
from hyb.stages import pack, serve
from hyb.stages.base import Context
from hyb.store import Store
from tests.podman_env import BASE, podman_home  # noqa: F401

pytestmark = pytest.mark.podman
KEY = "hyb_sk_only-for-this-test"
FLAGS = {"ReadOnly": "--read-only", "NoNewPrivileges": "--security-opt=no-new-privileges"}
OPTIONS = {
    "PublishPort": "--publish",
    "Environment": "--env",
    "DropCapability": "--cap-drop",
    "Label": "--label",
    "Network": "--network",
    "Volume": "--volume",
}


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
        assert facts["HostConfig"]["Memory"] == facts["HostConfig"]["MemorySwap"] == 64 << 20
        assert facts["HostConfig"]["PidsLimit"] == 256
        assert facts["HostConfig"]["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18761"}]}
        assert KEY not in json.dumps(facts)
    finally:
        subprocess.run([*engine_podman.PODMAN, "rm", "-f", "hyb-test-unit"], capture_output=True, check=False)
        podman("secret", "rm", "hyb-test-unit-api-key")


def test_a_unit_on_a_socket_has_no_network_and_its_user_owns_the_folder(
    podman_home: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    unit = ServiceUnit("hyb-test-socket", BASE, "", "sha256:" + "b" * 64, unix_socket=True, memory=64 << 20)
    text = quadlet.container(unit)
    (tmp_path / "hyb-hyb-test-socket").mkdir(mode=0o711)  # what systemd makes of RuntimeDirectory
    podman("secret", "create", unit.secret, "-", stdin=KEY)
    try:
        options, runtime = command(text.replace("%t", str(tmp_path)))
        look = "touch $HYB_UNIX_SOCKET && ls /sys/class/net && id -u"
        assert podman("run", "--rm", "--user=1001:0", *options, runtime, "sh", "-c", look).split() == ["lo", "1001"]
        made = tmp_path / "hyb-hyb-test-socket" / "hyb.sock"
        assert made.exists() and (made.stat().st_uid, made.parent.stat().st_mode & 0o777) == (1001, 0o711)
    finally:
        podman("secret", "rm", unit.secret)


def test_the_init_container_lays_the_model_where_the_server_looks(podman_home: Path, tmp_path: Path) -> None:  # noqa: F811
    """Its command run by hand, on an image packed on a base with `cp`; the volume then mounted as in the pod."""
    podman("save", "--format=oci-dir", "--output", str(tmp_path / "base"), BASE)
    store = Store(tmp_path / "store")
    files = [modelpack.file("model.gguf", store.add_bytes(b"GGUF" + b"w" * 5000))]
    model = store.add_artifact("model", files, meta={"format": "gguf", "name": "bot"})
    spec = pack.Spec(model="m", name="lab/copied", base=str(tmp_path / "base"))
    image = pack.run(spec, {"m": model}, Context(store, store.work("sha256:0")))
    engine_podman.deliver(store, image, "lab/copied")
    unit = serve.describe(serve.Spec(image="image", name="bot", model_volume="copy"), image, store)
    pod = kubernetes.documents(unit)[2]["spec"]["template"]["spec"]
    (copier,), (server,) = pod["initContainers"], pod["containers"]
    podman("volume", "create", "hyb-test-model")
    try:
        limits = ["--read-only", "--cap-drop=all", "--network=none"]
        mount = f"--volume=hyb-test-model:{copier['volumeMounts'][0]['mountPath']}"
        podman("run", "--rm", *limits, mount, copier["image"], *copier["command"])
        place = next(m["mountPath"] for m in server["volumeMounts"] if m["name"] == "model")
        found = podman("run", "--rm", *limits, f"--volume=hyb-test-model:{place}:ro", BASE, "find", place, "-type", "f")
        assert found.split() == ["/models/models/model.gguf"]
    finally:
        podman("volume", "rm", "hyb-test-model")
