"""Several processes train one model: under torchrun, on the CPU, the curve of two is that of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyb import engine
from hyb.errors import HybError
from tests import sharded
from tests.e2e.test_tune import base as base  # noqa: PLC0414 (a fixture)
from tests.e2e.test_tune import job, losses, output, rows, work
from tests.e2e.test_tune_methods import heldout, preferences
from tests.need import need
from tests.tiny import tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation:UserWarning"),
]


@pytest.fixture(autouse=True)
def _torch() -> Iterator[None]:
    need("torch", "transformers", "peft", "bitsandbytes")
    import torch

    yield
    torch.use_deterministic_algorithms(False)


def together(folder: Path, its_job: dict[str, Any], count: int = 2) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the job as the stage does, in `count` processes; returns what was done, and the events."""
    events: list[dict[str, Any]] = []
    done = engine.worker("sft", its_job, folder, events.append, processes=count, env={"OMP_NUM_THREADS": "1"})
    return done, events


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_two_processes_have_the_losses_of_one(base: Path, tmp_path: Path, method: str) -> None:
    """13 rows in steps of 8: each epoch's last step has five rows, an odd number; held-out rows are shared, too."""
    data = preferences(13) if method == "dpo" else rows(13)
    shared: dict[str, Any] = {
        "method": method, "epochs": 2.0, "quantize": "none", "batch": 8, "patience": 9, "lr": 3e-3,
        "heldout": heldout(tmp_path, data[:3]),
    }  # fmt: skip
    one = work(base, tmp_path / "one", data, **shared)
    done, events = together(tmp_path / "two", job(base, tmp_path / "two", data, **{**shared, "gpus": 2}))
    assert [e["done"] for e in events if e["event"] == "progress" and e["task"] == "tune"] == [1, 2, 3, 4]  # one talks
    assert done["tokens"] == one["tokens"]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    assert done["heldout"]["loss"] == pytest.approx(one["heldout"]["loss"], rel=1e-3)


def test_two_killed_processes_go_on_to_the_bytes_of_two_that_were_not(base: Path, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"epochs": 3.0, "dropout": 0.1, "checkpoint_steps": 2, "gpus": 2}
    together(tmp_path, job(base, tmp_path / "whole", **shared))
    cut = job(base, tmp_path / "cut", **shared)

    class Enough(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] >= 5:
            raise Enough

    with pytest.raises(Enough):
        engine.worker("sft", cut, tmp_path, stop, processes=2)
    assert not (tmp_path / "cut" / "out").exists()
    done, _ = together(tmp_path, cut)
    assert done["resumed_from_step"] >= 4
    assert output(tmp_path / "cut") == output(tmp_path / "whole")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `tests.sharded` found with two processes, of all its cases."""
    need("torch", "transformers", "peft", "bitsandbytes")
    folder = tmp_path_factory.mktemp("split")
    result = folder / "result.json"
    model = tiny_model(folder / "tiny", "qwen2")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*start, "-m", "tests.sharded", str(model), str(result)],
        env={**os.environ, **engine.LOOPBACK, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found: dict[str, Any] = json.loads(result.read_text())
    return found


@pytest.mark.parametrize("case", sharded.CASES)
def test_a_base_split_among_two_processes_gives_the_losses_and_gradients_of_the_whole_one(
    case: str, split: dict[str, Any]
) -> None:
    found = split[case]
    assert found["away"] > 0.49 * found["weights"]
    assert found["held"] < 0.56 * found["weights"]  # a part, and the scales
    assert found["norm"] > 1
    assert found["loss"] < 1e-6
    assert found["gradient"] < 1e-6


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_two_processes_with_a_part_of_the_base_each_train_as_one_and_one_can_go_on(
    base: Path, tmp_path: Path, method: str
) -> None:
    """13 rows, and packs so small that the two have unlike numbers of micro-steps, and the last step one without."""
    data = preferences(13) if method == "dpo" else rows(13)
    shared: dict[str, Any] = {
        "method": method, "epochs": 1.0, "batch": 4, "patience": 9, "lr": 3e-3, "pack": 64, "checkpoint_steps": 2,
        "heldout": heldout(tmp_path, data[:3]),
    }  # fmt: skip
    work(base, tmp_path / "one", data, **shared)
    done, _ = together(tmp_path / "two", job(base, tmp_path / "two", data, **{**shared, "gpus": 2, "shard": True}))
    assert done["sharded_bytes"] > 0
    assert not done["plan"]["resident"]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    shutil.rmtree(tmp_path / "two" / "out")
    assert work(base, tmp_path / "two", data, **shared)["resumed_from_step"] == 2
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)


def test_a_mistake_is_told_once_and_as_alone(base: Path, tmp_path: Path) -> None:
    its = job(base, tmp_path, targets=["zz"], gpus=2)
    with pytest.raises(HybError, match="no linear layer `zz`"):
        together(tmp_path, its)


def test_when_the_launcher_dies_so_do_all_processes(base: Path, tmp_path: Path) -> None:
    its = job(base, tmp_path, epochs=900.0, gpus=2)
    path = tmp_path / "job.json"
    path.write_text(json.dumps(its))
    code = (
        "import json, pathlib, sys; from hyb import engine\n"
        "job = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "engine.worker('sft', job, pathlib.Path(sys.argv[1]).parent, lambda e: print(json.dumps(e), flush=True), "
        "processes=2)"
    )
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=log, env=dict(os.environ)
        )
        assert child.stdout
        for line in child.stdout:
            if b'"tune"' in line:
                break
        workers = _of(path)
        assert len(workers) >= 2
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    end = time.monotonic() + 60
    while _of(path) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _of(path)


def _of(path: Path) -> list[int]:
    """Processes of sft with a job in this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hyb.workers.sft" in words and any(w.startswith(bytes(path.parent)) for w in words):
            found.append(int(entry.parent.name))
    return found
