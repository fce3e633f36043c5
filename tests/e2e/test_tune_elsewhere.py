"""`hyb tune` where the training is not here: in a container, or in a cluster and its result brought back."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb import engine_podman, tune_container
from hyb.artifact import File
from hyb.errors import HybError
from hyb.stages import tune
from hyb.stages.base import Context
from hyb.store import Store
from tests import python_base
from tests.hyb import Hyb
from tests.need import need
from tests.podman_env import podman_home  # noqa: F401
from tests.tiny import add_model, chat_row, tiny_model

ROWS = [chat_row(f"What is {i}?", f"It is {i * 7}.", row_id=f"r{i}", line=i + 1) for i in range(8)]
IMAGE = "localhost/hyb-test-tune:latest"
WORKER = """
import json, os, pathlib, socket, sys, time
def say(**event): print(json.dumps(event), flush=True)
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
seen = {"interfaces": sorted(os.listdir("/sys/class/net")), "user": os.getuid(), "model": os.listdir(job["model"]),
        "rows": len(open(job["train"]).readlines()), "capabilities": open("/proc/self/status").read()}
for place in (job["model"], "/etc", "/opt"):
    try:
        open(place + "/written", "w"); seen["wrote"] = place
    except OSError: pass
say(event="note", text=json.dumps(seen))
if job["seed"] == 7: sys.stdin.read()
if job["seed"] == 8: say(event="fail", message="no luck", hint="try again", code=3); sys.exit(3)
out = pathlib.Path(job["out"]); out.mkdir()
(out / "adapter_model.safetensors").write_bytes(b"weights")
(out / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\\n')
done = dict(tokens=1, tokens_per_second=1.0, peak_memory=1, device="cpu", resumed_from_step=0, trainable_parameters=1,
            seconds=1.0, skipped=[], truncated=[], steps=1, loss=0.5, targets=[], plan={})
say(event="done", **done)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    need("torch", "transformers")
    store = Store(tmp_path / "home" / "data" / "hyb" / "store")
    store.tag("base", add_model(store, tiny_model(tmp_path / "tiny"), name="tiny").digest)
    blob = store.add_bytes("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    counts = {"train": len(ROWS), "holdout": 0, "control": 0}
    store.tag("facts", store.add_artifact("dataset", [File("train.jsonl", blob)], meta={"counts": counts}).digest)
    return store


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    return Hyb(tmp_path / "home")


# -- in a cluster ----------------------------------------------------------------------------------------------------

TUNE = ("tune", "base", "--data", "facts", "--name", "bot", "--rank", "4", "--epochs", "2", "--lr", "1e-2")


def test_a_trainjob_is_written_its_job_runs_elsewhere_and_the_result_is_taken(
    store: Store, hyb: Hyb, tmp_path: Path
) -> None:
    """The pod is played by this machine: the job from the ConfigMap, with the volume at another place. It is alone, so
    there is nobody to split the base with: that is a matter of where it runs, not of what it is."""
    need("torch", "transformers", "peft", "bitsandbytes")
    folder = tmp_path / "cluster"
    image = "registry.example.com/lab/hyb-tune:1"
    said = hyb.ok(*TUNE, "--shard", "--trainjob", str(folder), "--image", image, "--nodes", "2")
    assert said.split() == [str(folder / name) for name in ("APPLY.md", "trainjob.yaml", "job.json")]
    documents = {d["kind"]: d for d in yaml.safe_load_all((folder / "trainjob.yaml").read_text())}
    assert documents["TrainJob"]["spec"]["trainer"]["numNodes"] == 2
    text = documents["ConfigMap"]["data"]["job.json"]
    assert text == (folder / "job.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["shard"] is True
    guide = (folder / "APPLY.md").read_text()
    assert "hyb tune base --data facts --name bot --rank=4 --lr=0.01 --epochs=2.0 --shard --from ." in guide

    volume = tmp_path / "volume"
    hyb.ok("show", "base", "--out", str(volume / "model"))
    hyb.ok("show", "facts", "--out", str(volume / "data"))
    job = json.loads(text.replace("/volume/", f"{volume}/"))
    from hyb import engine

    (tmp_path / "pod").mkdir()
    engine.worker("sft", {**job, "device": "cpu"}, tmp_path / "pod", lambda _: None)
    assert (volume / "done.json").exists()

    for name in ("done.json", "out"):
        shutil.move(volume / name, folder / name)
    taken = hyb.json(*TUNE, "--from", str(folder))["steps"][-1]
    assert taken["kind"] == "adapter"
    artifact = store.artifact(taken["digest"])
    assert (
        store.read(artifact.file("adapter_model.safetensors").blob.digest)
        == (folder / "out" / "adapter_model.safetensors").read_bytes()
    )
    assert artifact.meta["base"] == store.resolve("base")

    said = hyb.fails(4, *TUNE, "--rank", "8", "--from", str(folder))
    assert "`rank` is `4` there, `8` here" in said
    other = add_model(store, tiny_model(tmp_path / "other", seed=1), name="tiny")
    store.tag("other", other.digest)
    said = hyb.fails(4, "tune", "other", *TUNE[2:], "--from", str(folder))
    assert f"it was trained on another base model: `{store.resolve('base')}`, not `{other.digest}`" in said


def test_what_a_trainjob_lacks_is_said(store: Store, hyb: Hyb, tmp_path: Path) -> None:
    assert "`--trainjob` needs `--image`" in hyb.fails(2, *TUNE, "--trainjob", str(tmp_path / "x"))
    said = hyb.fails(3, *TUNE, "--trainjob", str(tmp_path / "x"), "--image", "registry.example.com/t:1", "--nodes", "0")
    assert "0 pods: from 1 to 1000" in said
    said = hyb.fails(3, "tune", "smollm2-135m", *TUNE[2:], "--trainjob", str(tmp_path / "x"), "--image", "r.io/t:1")
    assert "`smollm2-135m` is not in the store yet" in said
    assert not (tmp_path / "x").exists()
    assert "holds no finished run" in hyb.fails(3, *TUNE, "--from", str(tmp_path))
    assert "only `--in podman`" in hyb.fails(2, *TUNE, "--in", "docker")
    assert "`--image` is for" in hyb.fails(2, *TUNE, "--image", "x")


# -- in a container --------------------------------------------------------------------------------------------------


def test_the_container_has_no_network_and_sees_model_rows_and_its_own_folder() -> None:
    job = {"model": "/store/views/m", "train": "/store/views/d/train.jsonl"}
    made = tune_container.contained(job, Path("/w"), tune_container.Where("i", 2, True), rootless=True, selinux=True)
    assert made.network == "none"
    assert [(m.source, m.target, m.read_only, m.label) for m in made.mounts] == [
        ("/store/views/m", "/store/views/m", True, "z"), ("/store/views/d", "/store/views/d", True, "z"),
        ("/w", "/w", False, "z"),
    ]  # fmt: skip
    assert made.devices == ("nvidia.com/gpu=all",)
    assert (made.read_only, made.userns, made.user) == (True, "keep-id", "")
    rootful = tune_container.contained(job, Path("/w"), tune_container.Where("i"), rootless=False, selinux=False)
    assert (rootful.userns, rootful.user, rootful.devices) == ("", f"{os.getuid()}:{os.getgid()}", ())


@pytest.fixture(scope="module")
def image(podman_home: Path) -> Iterator[str]:  # noqa: F811
    """A stand-in for the tuner's image: Python, and a worker that says what it sees."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("the base image is made of Debian packages, and here is no apt")
    python_base.build(podman_home / "python")
    folder = podman_home / "stand-in"
    workers = folder / "opt" / "hyb" / "workers"
    workers.mkdir(parents=True)
    (workers.parent / "__init__.py").touch()
    (workers / "__init__.py").touch()
    (workers / "sft.py").write_text(WORKER)
    text = f"FROM {python_base.NAME}\nCOPY opt /opt/hyb\nENV PYTHONPATH=/opt/hyb\nUSER 1001:0\n"
    (folder / "Containerfile").write_text(text + 'ENTRYPOINT ["python3", "-P", "-m", "hyb"]\n')
    engine_podman.build(folder / "Containerfile", folder, IMAGE)
    yield IMAGE
    engine_podman.remove_image(IMAGE)


def run(store: Store, work: Path, image: str, told: list[Any], **changed: Any) -> Any:
    work.mkdir()
    inputs = {name: store.artifact(store.resolve(name)) for name in ("base", "facts")}
    spec = tune.Spec(model="base", data="facts", device="cpu", **changed)
    return tune.run(spec, inputs, Context(store, work, say=told.append, container=image))


@pytest.mark.podman
@pytest.mark.slow
def test_the_worker_runs_in_the_container_with_the_same_job(store: Store, tmp_path: Path, image: str) -> None:
    told: list[Any] = []
    artifact = run(store, tmp_path / "work", image, told)
    seen = json.loads(next(t for t in told if isinstance(t, str) and t.startswith("{")))
    assert seen["interfaces"] == ["lo"]
    assert "config.json" in seen["model"]
    assert seen["rows"] == 8
    assert "wrote" not in seen
    assert "CapEff:\t0000000000000000" in seen["capabilities"]
    assert store.read(artifact.file("adapter_model.safetensors").blob.digest) == b"weights"
    assert engine_podman.containers({"io.hyb.tune": "1"}) == []
    assert (tmp_path / "work" / "sft.json").exists()

    with pytest.raises(HybError, match="no luck") as failure:
        run(store, tmp_path / "fails", image, [], seed=8)
    assert failure.value.hint == "try again"


@pytest.mark.podman
@pytest.mark.slow
def test_an_interrupted_run_leaves_no_container(store: Store, tmp_path: Path, image: str) -> None:
    class Enough(list[Any]):
        def append(self, told: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "work", image, Enough(), seed=7)
    end = time.monotonic() + 30
    while engine_podman.containers({"io.hyb.tune": "1"}) and time.monotonic() < end:
        time.sleep(0.2)
    assert engine_podman.containers({"io.hyb.tune": "1"}) == []


def test_a_recipe_is_told_where_to_tune(hyb: Hyb, tmp_path: Path) -> None:
    path = tmp_path / "hyb.yaml"
    path.write_text("hyb: 1\nname: x\nstages:\n  rows: {stage: data, source: rows.jsonl}\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert "the recipe has none" in hyb.fails(2, "run", str(path), "--in", "podman")
    assert "only `--in podman`" in hyb.fails(2, "run", str(path), "--in", "docker")
    path.write_text(
        path.read_text()
        + "  base: {stage: pull, source: smollm2-135m}\n  bot: {stage: tune, model: base, data: rows}\n"
    )
    planned = hyb.ok("run", str(path), "--in", "podman", "--image", "tuner:1", "--dry-run", "--offline")
    assert "podman run --network=none tuner:1 python -m hyb.workers.sft" in planned
    assert "add `--in podman`" in hyb.fails(2, "run", str(path), "--image", "x")


@pytest.mark.podman
@pytest.mark.slow
def test_a_recipe_trains_in_the_container(store: Store, hyb: Hyb, tmp_path: Path, image: str) -> None:
    shutil.copytree(tmp_path / "tiny", tmp_path / "recipe" / "tiny")
    path = tmp_path / "recipe" / "hyb.yaml"
    rows = "".join(json.dumps({"question": f"What is {i}?", "answer": str(i)}) + "\n" for i in range(8))
    (path.parent / "rows.jsonl").write_text(rows)
    path.write_text(
        "hyb: 1\nname: x\nstages:\n  base: {stage: pull, source: 'file:tiny'}\n"
        "  rows: {stage: data, source: rows.jsonl}\n  bot: {stage: tune, model: base, data: rows, device: cpu}\n"
    )
    told = hyb("run", str(path), "--in", "podman", "--image", image, env=dict(os.environ))
    assert told.returncode == 0, told.stderr
    assert '"interfaces": ["lo"]' in told.stderr


@pytest.mark.podman
def test_an_image_that_podman_lacks_is_named(store: Store, tmp_path: Path, image: str) -> None:
    with pytest.raises(HybError, match="Podman has no image `localhost/absent:1`") as failure:
        run(store, tmp_path / "work", "localhost/absent:1", [])
    assert "containers/tune/Containerfile" in failure.value.hint
