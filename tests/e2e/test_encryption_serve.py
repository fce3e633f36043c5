"""Serving a sealed image with a real model: with the key and only with it, in memory alone where that was asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyb.encryption import memory
from hyb.serving import box
from hyb.store import Store
from tests import python_base
from tests.e2e.test_serve_gateway import add_lora, add_model
from tests.hyb import Hyb
from tests.need import need
from tests.podman_env import BASE, podman_home  # noqa: F401
from tests.sealing import Keys, pair

PLAIN_BYTES = 1 << 20  # more than all documents, logs and sockets of a service; far less than a model


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return pair(tmp_path_factory.mktemp("keys"), "ops")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path, keys: Keys) -> Hyb:
    """Where the images are packed: `all` and `part`, a real model with an adapter."""
    need("skopeo", "xllamacpp", "torch")
    lab = Hyb(tmp_path_factory.mktemp("lab"))
    store = Store(lab.store)
    model = add_model(store, smollm2_gguf, "m")
    add_lora(store, tmp_path_factory.mktemp("lora"), "tuned", model.digest, 1)
    for name, what in (("whole", "all"), ("part", "adapter")):
        lab.ok("pack", "m", "--adapter", "tuned", "--encrypt-to", str(keys.public), "--encrypt", what, "--name", name)
    return lab


@pytest.fixture(scope="module")
def far(lab: Hyb, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hyb]:
    """Another machine's home: it has the sealed image and nothing else."""
    far = Hyb(tmp_path_factory.mktemp("far"))
    far.ok("pull", f"oci:{lab.store}:whole", "--name", "whole")
    yield far
    shutil.rmtree(roots(far)[0], ignore_errors=True)


def roots(home: Hyb) -> list[Path]:
    environ = {"HOME": str(home.home), "XDG_DATA_HOME": str(home.home / "data")}
    return [Path("/dev/shm") / memory._memory_name(environ), home.home / "data/hyb/run" / memory.FOLDER]


def clear(home: Hyb) -> list[Path]:
    """The folders with clear files that there are now."""
    return [p for root in roots(home) if root.is_dir() for p in root.iterdir() if p.is_dir()]


def canaries(gguf: Path) -> list[bytes]:
    """Pieces of the weights, where they are not all zeros."""
    data = gguf.read_bytes()
    return [data[at : at + 64] for at in range(len(data) // 4, len(data), len(data) // 8)]


def holders(folder: Path, pieces: list[bytes]) -> list[str]:
    """The files below a folder that hold any of the pieces."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            found += [str(path)] if any(p in data for p in pieces) else []
    return found


def podman(*argv: str) -> str:
    return subprocess.run(["podman", "--remote=false", *argv], capture_output=True, text=True, check=True).stdout


def answers(home: Hyb, name: str) -> bool:
    return bool(home.ok("ask", name, "What is the capital of France?", "--max-tokens", "4").strip())


def test_in_memory_alone_no_disk_gets_a_byte_of_the_weights(
    far: Hyb, keys: Keys, smollm2_gguf: Path, tmp_path: Path
) -> None:
    pieces = canaries(smollm2_gguf)
    (tmp_path / "tmp").mkdir()
    options = ["--port", "0", "--detach", "--memory-only", "--decryption-key", str(keys.private)]
    far.ok("serve", "whole", *options, env={"TMPDIR": str(tmp_path / "tmp")})
    try:
        assert answers(far, "whole")
        (place,) = clear(far)
        assert place.parent == roots(far)[0]
        assert place.parent.stat().st_mode & 0o777 == 0o700
        assert holders(place, pieces), "the canaries are in what was decrypted"
        assert holders(far.home, pieces) == []
        assert holders(tmp_path, pieces) == []
        gateway = far.json("ps")[0]["pid"]
        assert re.search(r"Max core file size +0 ", Path(f"/proc/{gateway}/limits").read_text())
    finally:
        far.ok("stop", "whole")
    assert clear(far) == []


def test_in_memory_alone_the_system_calls_say_so_too(far: Hyb, keys: Keys, tmp_path: Path) -> None:
    """What was removed again would be seen here: bytes written, by path, by every process from the first one on."""
    need("strace")
    trace = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-qq",
        "-y",
        "-o",
        str(trace),
        "-e",
        "trace=write,pwrite64,writev,sendfile,copy_file_range",
    ]
    hyb = [sys.executable, "-m", "hyb", "serve", "whole", "--port", "0", "--memory-only"]
    hyb += ["--decryption-key", str(keys.private)]
    child = subprocess.Popen([*command, *hyb], env=far.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout
    assert "whole at http" in child.stdout.readline()
    far.ok("stop", "whole")
    child.communicate(timeout=60)
    written: dict[str, int] = {}
    for call in trace.read_text(errors="replace").splitlines():
        if found := re.search(r"(?:write|pwrite64|writev)\(\d+<(/[^>]*)>.* = (\d+)$", call):
            written[found[1]] = written.get(found[1], 0) + int(found[2])
    in_memory = sum(n for path, n in written.items() if path.startswith(str(roots(far)[0])))
    outside = {p: n for p, n in written.items() if not p.startswith(("/dev/", "/proc/"))}
    assert in_memory > 90_000_000
    assert sum(outside.values()) < PLAIN_BYTES, outside


def test_on_disk_it_is_taken_out_for_the_time_that_it_is_served(lab: Hyb, keys: Keys, tmp_path: Path) -> None:
    half, options = Hyb(tmp_path), ("--port", "0", "--detach", "--decryption-key", str(keys.private))
    half.ok("pull", f"oci:{lab.store}:part", "--name", "part")
    half.ok("serve", "part", *options)
    try:
        assert answers(half, "part")
        assert [a["name"] for a in half.json("adapter", "list", "part")] == ["tuned"]
        (place,) = clear(half)
        assert place.parent == roots(half)[1]
        assert "served already" in half("serve", "part", *options).stderr
        assert clear(half) == [place]
    finally:
        half.ok("stop", "part")
    assert clear(half) == []
    assert [a.kind for a in Store(half.store).artifacts() if a.kind in ("model", "adapter")] == []


@pytest.mark.parametrize("look", [("ps",), ("serve",)])
def test_what_a_kill_leaves_in_the_clear_is_swept_by_the_next_hyb(far: Hyb, keys: Keys, look: tuple[str, ...]) -> None:
    options = ("--port", "0", "--detach", "--memory-only", "--decryption-key", str(keys.private))
    far.ok("serve", "whole", *options)
    (left,) = clear(far)
    os.kill(far.json("ps")[0]["pid"], signal.SIGKILL)
    if look == ("ps",):
        assert far.json("ps") == []
        assert clear(far) == []
        return
    far.ok("serve", "whole", *options)
    (now,) = clear(far)
    assert now != left
    far.ok("stop", "whole")


def test_a_start_that_fails_or_is_killed_leaves_nothing_for_long(far: Hyb, keys: Keys) -> None:
    options = ("--memory-only", "--decryption-key", str(keys.private))
    far.fails(3, "serve", "whole", "--port", "0", "--engine", "vllm", *options)
    assert clear(far) == []
    child = far.start("serve", "whole", "--port", "0", *options)
    assert child.stderr
    while "decrypting" not in child.stderr.readline():
        assert child.poll() is None
    child.kill()
    child.communicate()
    far.ok("serve", "whole", "--port", "0", "--detach", *options)
    assert len(clear(far)) == 1
    far.ok("stop", "whole")
    assert clear(far) == []


def test_the_boundary_s_check_finds_a_model_that_is_not_sealed_and_none_that_is(lab: Hyb, tmp_path: Path) -> None:
    lab.ok("pack", "m", "--adapter", "tuned", "--name", "plain")
    for name, code, word in (("whole", 0, "nothing found"), ("part", 4, "weights"), ("plain", 4, "adapter")):
        copy = [
            "skopeo",
            "copy",
            "--quiet",
            "--preserve-digests",
            f"oci:{lab.store}:{name}",
            f"oci:{tmp_path / name}:it",
        ]
        subprocess.run(copy, check=True)
        done = lab("boundary", "check", f"oci:{tmp_path / name}")
        assert done.returncode == code, done.stdout + done.stderr
        assert word in done.stdout + done.stderr


@pytest.mark.podman
def test_podman_serves_it_from_memory_and_its_storage_has_nothing_of_it(
    far: Hyb,
    keys: Keys,
    smollm2_gguf: Path,
    podman_home: Path,  # noqa: F811
) -> None:
    python_base.build(podman_home / "python")
    python_base.serve(podman_home / "serve", box.IMAGES["llama.cpp"])
    options = ["--port", "0", "--detach", "--memory-only", "--in", "podman", "--decryption-key", str(keys.private)]
    far.ok("serve", "whole", *options)
    try:
        assert answers(far, "whole")
        pieces = canaries(smollm2_gguf)
        assert holders(podman_home, pieces) == []
        assert holders(far.home, pieces) == []
    finally:
        far.ok("stop", "whole")
    assert clear(far) == []


@pytest.mark.podman
def test_the_guide_s_command_gives_podman_the_opened_image_under_the_name_in_the_unit(
    lab: Hyb,
    keys: Keys,
    podman_home: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "ops.pem").write_bytes(keys.public.read_bytes())
    model = next(Path(lab.store, "views").glob("*/model.gguf"), None) or Store(lab.store).view(
        Store(lab.store).artifact(Store(lab.store).tags()["m"])
    ).joinpath("model.gguf")
    shutil.copy(model, folder / "small.gguf")
    stages = {
        "m": {"stage": "pull", "source": f"file:{folder / 'small.gguf'}"},
        "img": {"stage": "pack", "model": "m", "encrypt_to": "ops.pem"},
        "svc": {"stage": "serve", "image": "img", "target": ["quadlet", "kube", "kubernetes"]},
    }
    (folder / "hyb.yaml").write_text(json.dumps({"hyb": 1, "name": "r", "stages": stages}))
    lab.ok("run", str(folder))
    lab.ok("show", "r/svc", "--out", str(tmp_path / "out"))
    lab.ok("run", str(folder), "--locked")
    said = Hyb(tmp_path / "empty").fails(4, "run", str(folder), "--locked")
    assert "sealing are not bit-exact" in said
    guide = (tmp_path / "out" / "APPLY.md").read_text()
    line = next(x for x in guide.splitlines() if "--decryption-key KEY.pem SOURCE" in x).strip()
    line = line.replace("KEY.pem", str(keys.private)).replace("SOURCE", f"oci:{lab.store}:r/img")
    subprocess.run(line.split(), check=True, capture_output=True)
    image = line.rpartition("containers-storage:")[2]
    assert f"source={image},destination=/models" in (tmp_path / "out" / "quadlet" / "img.container").read_text()
    look = [
        "podman",
        "--remote=false",
        "run",
        "--rm",
        "--network=none",
        f"--mount=type=image,source={image},destination=/m",
    ]
    done = subprocess.run([*look, BASE, "ls", "/m/models"], capture_output=True, text=True, check=True)
    assert "model.gguf" in done.stdout
    digest = Store(lab.store).tags()["r/img"]
    config = Store(lab.store).artifact(digest).manifest["config"]["digest"]
    assert f"sha256:{podman('image', 'inspect', '--format', '{{.Id}}', image).strip()}" == config
    documents = (tmp_path / "out" / "kubernetes" / "img.yaml").read_text()
    assert f"@{digest}" in documents
    assert "BEGIN" not in guide + documents + (tmp_path / "out" / "crio" / "img-machineconfig.yaml").read_text()


def test_a_sealed_image_is_served_by_the_signature_that_it_has_in_its_own_store(
    lab: Hyb, keys: Keys, tmp_path: Path
) -> None:
    lab.ok("sign", "--new-key", str(tmp_path / "signer"))
    public = next((tmp_path / "signer").glob("*.pub"))
    policy = tmp_path / "trust.yaml"
    policy.write_text(
        f"hyb-trust: 1\nkeys: {{lab: {{file: {public}}}}}\nrules: [{{pattern: whole, keys: [lab], mode: enforce}}]\n"
        "default: off\n"
    )
    options = ["--port", "0", "--detach", "--decryption-key", str(keys.private), "--trust", str(policy)]
    assert "it has no signature" in lab.fails(4, "serve", "whole", *options)
    assert clear(lab) == [], "it is refused before anything is taken out"
    lab.ok("sign", "whole", "--key", str(next((tmp_path / "signer").glob("*.key"))))
    lab.ok("serve", "whole", *options)
    try:
        assert answers(lab, "whole")
    finally:
        lab.ok("stop", "whole")
