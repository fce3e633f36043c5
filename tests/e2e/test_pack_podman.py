"""pack against the real skopeo and Podman: what is written into the store can be copied, loaded, mounted and run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyb import engine_podman
from hyb.artifact import Artifact
from hyb.containers import Container, Mount, Port
from hyb.errors import Exit, HybError
from hyb.formats import modelpack
from hyb.stages import pack
from hyb.stages.base import Context
from hyb.store import Store
from tests.hyb import Hyb
from tests.need import need
from tests.podman_env import BASE, podman_home, run, service  # noqa: F401

pytestmark = [pytest.mark.podman]
NAME = "localhost/hyb-test/bot:latest"


def a_model(store: Store, weights: bytes) -> Artifact:
    files = [
        modelpack.file("model.gguf", store.add_bytes(weights)),
        modelpack.file("config.json", store.add_bytes(b'{"model_type": "llama"}')),
        modelpack.file("LICENSE", store.add_bytes(b"Apache-2.0\n")),
    ]
    config = modelpack.config(files, name="Tiny Bot", architecture="llama", format="gguf")
    return store.add_artifact("model", files, meta={"format": "gguf", "name": "Tiny Bot"}, config=config)


def packed(store: Store, model: Artifact, **fields: object) -> Artifact:
    spec = pack.Spec.model_validate({"model": "gguf", **fields})
    return pack.run(spec, {"gguf": model}, Context(store, store.work("sha256:" + os.urandom(32).hex())))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(params=["program", "socket"])
def way(request: pytest.FixtureRequest, podman_home: Path) -> Iterator[str]:  # noqa: F811
    """Both ways to Podman: its program, and podman-py on its socket."""
    if request.param == "socket":
        with service(podman_home):
            assert engine_podman.available().socket
            yield "socket"
    else:
        assert not engine_podman.available().socket
        yield "program"


def until_it_answers(url: str) -> bytes:
    """The container runs before the program in it listens."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return bytes(answer.read())
        except OSError:
            assert time.monotonic() < deadline, f"{url} did not answer within 30 s"
            time.sleep(0.05)


def skopeo(*argv: str) -> bytes:
    return subprocess.run(["skopeo", *argv], capture_output=True, check=True).stdout


def test_skopeo_reads_and_copies_a_model_and_its_image_out_of_the_store(store: Store, tmp_path: Path) -> None:
    need("skopeo")
    model = a_model(store, os.urandom(5000))
    image = packed(store, model)
    store.tag("lab/gguf", model.digest)
    store.tag("lab/image", image.digest)
    raw = skopeo("inspect", "--raw", f"oci:{store.root}:lab/gguf")
    assert "sha256:" + hashlib.sha256(raw).hexdigest() == model.digest
    shown = json.loads(skopeo("inspect", f"oci:{store.root}:lab/image"))
    assert shown["Digest"] == image.digest
    assert shown["Labels"]["io.hyb.model"] == model.digest
    for name, artifact in (("gguf", model), ("image", image)):
        skopeo("copy", "--preserve-digests", f"oci:{store.root}:lab/{name}", f"oci:{tmp_path / name}:it")
        entry = json.loads((tmp_path / name / "index.json").read_bytes())["manifests"][0]
        assert entry["digest"] == artifact.digest
        for file in artifact.files:
            blob = tmp_path / name / "blobs/sha256" / file.blob.digest.removeprefix("sha256:")
            assert blob.stat().st_size == file.blob.size


def test_a_container_reads_the_very_weights_from_the_mounted_image(way: str, store: Store) -> None:
    weights = os.urandom(3 << 20)
    image = packed(store, a_model(store, weights))
    name = engine_podman.deliver(store, image, f"hyb-test/{way}")
    assert name == f"localhost/hyb-test/{way}:latest"
    sums = "sha256sum /image/models/model.gguf && cat /image/models/LICENSE && ls -ln /image/models && id -u"
    ended = run(Container(BASE, ("sh", "-c", sums), mounts=(Mount("image", name, "/image"),), user="12345:0"))
    lines = ended.stdout.decode().splitlines()
    assert lines[0].split()[0] == hashlib.sha256(weights).hexdigest()
    assert lines[1] == "Apache-2.0"
    assert [line.split()[0] for line in lines[3:-1]] == ["-r--r--r--"] * 3
    assert lines[-1] == "12345"


def test_an_image_that_podman_has_is_not_loaded_again(way: str, store: Store) -> None:
    image = packed(store, a_model(store, os.urandom(9000)))
    engine_podman.deliver(store, image, NAME)
    shutil.rmtree(store.root / "blobs")  # nothing is left to load from
    assert engine_podman.deliver(store, image, NAME) == NAME


def test_an_image_moves_its_name_when_it_is_packed_again(way: str, store: Store) -> None:
    for text in (b"first", b"second"):
        engine_podman.deliver(store, packed(store, a_model(store, text)), NAME)
        ended = run(Container(BASE, ("cat", "/image/models/model.gguf"), mounts=(Mount("image", NAME, "/image"),)))
        assert ended.stdout == text


def test_without_local_storage_the_image_goes_through_the_socket(podman_home: Path, store: Store) -> None:  # noqa: F811
    weights = os.urandom(3 << 20)
    image = packed(store, a_model(store, weights))
    name = "localhost/hyb-test/api:1"
    with service(podman_home):
        remote = dataclasses.replace(engine_podman.available(), local=False)
        engine_podman.load_image(store, image, name, remote)
        ended = run(Container(BASE, ("sha256sum", "/i/models/model.gguf"), mounts=(Mount("image", name, "/i"),)))
    assert ended.stdout.decode().split()[0] == hashlib.sha256(weights).hexdigest()


def test_without_skopeo_podman_takes_the_image_by_itself(
    podman_home: Path,  # noqa: F811
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    podman = shutil.which("podman")
    assert podman
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/podman").symlink_to(podman)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "Ann_").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "Ann_"))  # a path that is no image name
    image = packed(store, a_model(store, os.urandom(7000)))
    name = engine_podman.deliver(store, image, "hyb-test/alone")
    done = subprocess.run(
        ["podman", "--remote=false", "image", "inspect", "--format", "{{json .RepoTags}}", name],
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == ["localhost/hyb-test/alone:latest"]


def test_a_model_packed_on_a_base_image_runs(way: str, store: Store, tmp_path: Path) -> None:
    skopeo("copy", f"containers-storage:{BASE}", f"oci:{tmp_path / 'base'}:base")
    weights = os.urandom(100_000)
    image = packed(store, a_model(store, weights), base=str(tmp_path / "base"), name=f"lab/{way}")
    assert image.meta["runnable"] is True
    name = engine_podman.deliver(store, image, image.meta["name"])
    ended = run(Container(name, ("sha256sum", "/models/model.gguf")))
    assert ended.stdout.decode().split()[0] == hashlib.sha256(weights).hexdigest()


def an_adapter(store: Store, data: bytes) -> Artifact:
    file = modelpack.file("adapter.gguf", store.add_bytes(data))
    return store.add_artifact("adapter", [file], meta={"format": "gguf", "base": "sha256:" + "b" * 64})


def disk(folder: Path) -> int:
    """Bytes on the disk."""
    return sum(p.lstat().st_blocks * 512 for p in folder.rglob("*"))


def test_an_update_gives_podman_the_layer_of_the_adapter_alone(podman_home: Path, tmp_path: Path) -> None:  # noqa: F811
    hyb = Hyb(tmp_path)
    store = Store(hyb.store)
    weights, first, second = os.urandom(40 << 20), os.urandom(5 << 20), os.urandom(5 << 20)
    model = store.add_artifact(
        "model",
        [modelpack.file("model.gguf", store.add_bytes(weights))],
        meta={"format": "gguf", "name": "Tiny", "base": "sha256:" + "b" * 64},
    )
    store.tag("bot", model.digest)
    for name, data in (("lora-1", first), ("lora-2", second)):
        store.tag(name, an_adapter(store, data).digest)
    hyb.ok("pack", "bot", "--adapter", "support=lora-1", "--name", "bot-image", "--to-podman")
    before = disk(podman_home / "storage")
    said = hyb.json("pack", "--update", "bot-image", "--adapter", "support=lora-2")
    assert said["podman"] == "localhost/bot-image:latest"
    assert said["layers_rewritten"] == 1 and said["rewritten"] <= 1.1 * len(second)
    assert disk(podman_home / "storage") - before <= 1.1 * len(second)
    look = "sha256sum /i/models/model.gguf /i/adapters/support/adapter.gguf"
    ended = run(Container(BASE, ("sh", "-c", look), mounts=(Mount("image", said["podman"], "/i"),)))
    sums = [line.split()[0] for line in ended.stdout.decode().splitlines()]
    assert sums == [hashlib.sha256(weights).hexdigest(), hashlib.sha256(second).hexdigest()]
    other = hyb.json("pack", "--update", "bot-image", "--adapter", "sales=lora-1", "--name", "next")
    assert other["podman"] == "" and [a["name"] for a in other["adapters"]] == ["sales", "support"]
    assert "is no image" in hyb.fails(3, "pack", "--update", "bot", "--adapter", "support=lora-1")
    assert "write NAME=ARTIFACT" in hyb.fails(2, "pack", "--update", "next", "--adapter", "Über=lora-1")


def test_a_container_has_no_right_that_it_was_not_given(way: str, podman_home: Path) -> None:  # noqa: F811
    look = "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; touch /x 2>&1; ls /sys/class/net"
    ended = engine_podman.run_container(Container(BASE, ("sh", "-c", look)))
    text = ended.stdout.decode()
    assert "CapEff:\t0000000000000000" in text
    assert "CapBnd:\t0000000000000000" in text
    assert "NoNewPrivs:\t1" in text
    assert "Read-only file system" in text
    assert text.split()[-1] == "lo"


def test_a_container_s_status_and_both_outputs_come_back(way: str) -> None:
    ended = engine_podman.run_container(Container(BASE, ("sh", "-c", "echo out; echo err >&2; exit 7")))
    assert (ended.status, ended.stdout, ended.stderr) == (7, b"out\n", b"err\n")


def test_a_detached_server_answers_on_loopback_only_and_goes_when_told(way: str, tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("hello from inside")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Container(
        BASE,
        ("httpd", "-f", "-p", "8000", "-h", "/www"),
        name=f"hyb-test-{way}",
        mounts=(Mount("bind", str(tmp_path), "/www"), Mount("tmpfs", "", "/tmp")),
        ports=(Port(port, 8000),),
        network="bridge",
        env={"GREETING": "hi"},
        labels={"io.hyb.test": "yes"},
        memory=64 << 20,
        detach=True,
    )
    try:
        ended = engine_podman.run_container(server)
        assert len(ended.identity) == 64
        assert until_it_answers(f"http://127.0.0.1:{port}/hello.txt") == b"hello from inside"
        listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        assert f" 0100007F:{port:04X} " in listening
        assert f" 00000000:{port:04X} " not in listening
    finally:
        engine_podman.remove_container(server.name)
    engine_podman.remove_container(server.name)  # a second time is no error


def test_an_image_that_is_not_there_is_never_pulled(way: str) -> None:
    with pytest.raises(HybError, match="Podman does not have the image") as caught:
        engine_podman.run_container(Container("localhost/hyb-test/none:latest", ("true",)))
    assert caught.value.code == Exit.INPUT


def test_an_image_s_name_can_be_taken_away(way: str, store: Store) -> None:
    name = engine_podman.deliver(store, packed(store, a_model(store, os.urandom(100))), f"hyb-test/gone-{way}")
    assert engine_podman.image_exists(name)
    engine_podman.remove_image(name)
    assert not engine_podman.image_exists(name)


def test_a_build_that_fails_says_what_failed(podman_home: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "Containerfile").write_text(f"FROM {BASE}\nRUN echo the-reason >&2; exit 3\n")
    with pytest.raises(HybError) as caught:
        engine_podman.build(tmp_path / "Containerfile", tmp_path, "localhost/hyb-test/bad")
    assert caught.value.code == Exit.BELOW
    assert "the-reason" in "\n".join(caught.value.details)


def test_a_dead_socket_is_named_with_what_to_do(podman_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{podman_home}/none.sock")
    with pytest.raises(HybError, match=r"none\.sock` does not answer") as caught:
        engine_podman.available()
    assert "podman.socket" in caught.value.hint


def test_only_an_image_can_be_given_to_podman(store: Store) -> None:
    with pytest.raises(HybError, match="is a model, not an image"):
        engine_podman.deliver(store, a_model(store, b"x"), "bot")
