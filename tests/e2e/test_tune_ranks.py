"""Several processes train one model: under torchrun, on the CPU, the curve of two is that of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hyb import engine
from hyb.errors import HybError
from tests import processes
from tests.e2e.test_tune import MARKS, job, losses, output, rows, work
from tests.e2e.test_tune import _torch as _torch  # noqa: PLC0414 (a fixture)
from tests.e2e.test_tune import base as base  # noqa: PLC0414 (a fixture)
from tests.e2e.test_tune_methods import heldout, preferences
from tests.need import need
from tests.tiny import tiny_model

pytestmark = MARKS


def together(folder: Path, its_job: dict[str, Any], count: int = 2) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the job as the stage does, in `count` processes; returns what was done, and the events."""
    events: list[dict[str, Any]] = []
    done = engine.worker("sft", its_job, folder, events.append, processes=count)
    return done, events


THIRTEEN = {"sft": rows(13), "dpo": preferences(13)}
"""In steps of 8 or 4 the last step of an epoch has an odd number of rows."""
PLAIN: dict[str, Any] = {"epochs": 2.0, "quantize": "none", "batch": 8, "patience": 9, "lr": 3e-3}
SPLIT: dict[str, Any] = {"epochs": 1.0, "batch": 4, "patience": 9, "lr": 3e-3, "pack": 64, "checkpoint_steps": 2}
"""Packs so small that processes have unlike numbers of micro-steps, and a last step of one row."""
WHOLE: dict[str, Any] = {"epochs": 3.0, "dropout": 0.1, "checkpoint_steps": 2, "gpus": 2}


@pytest.fixture(scope="module")
def two(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes did, see `tests.processes`."""
    need("torch", "transformers", "peft", "bitsandbytes")
    folder = tmp_path_factory.mktemp("two")
    jobs = {"whole": job(base, folder / "whole", **WHOLE)}
    for method, data in THIRTEEN.items():
        unseen = {"method": method, "heldout": heldout(folder / method, data[:3]), "gpus": 2}
        jobs[f"split-{method}"] = job(base, folder / f"split-{method}", data, **{**SPLIT, **unseen, "shard": True})
        jobs[f"plain-{method}"] = job(base, folder / f"plain-{method}", data, **{**PLAIN, **unseen})
    for name, its in jobs.items():
        (folder / name / "job.json").write_text(json.dumps(its))
    model = tiny_model(folder / "tiny", "qwen2")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*start, "-m", "tests.processes", str(model), str(folder)],
        env={**os.environ, **engine.LOOPBACK, **engine.openmp(os.environ)}, capture_output=True, check=False,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return folder


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_two_processes_have_the_losses_of_one(base: Path, tmp_path: Path, two: Path, method: str) -> None:
    data = THIRTEEN[method]
    one = work(base, tmp_path, data, **PLAIN, method=method, heldout=heldout(tmp_path, data[:3]))
    done = result(two / f"plain-{method}")
    assert done["tokens"] == one["tokens"]
    assert losses(two / f"plain-{method}") == pytest.approx(losses(tmp_path), rel=1e-3)
    assert done["heldout"]["loss"] == pytest.approx(one["heldout"]["loss"], rel=1e-3)


@pytest.mark.parametrize("case", processes.CASES)
def test_a_base_split_among_two_processes_gives_the_losses_and_gradients_of_the_whole_one(case: str, two: Path) -> None:
    found = json.loads((two / "cases.json").read_text())[case]
    assert found["away"] > 0.49 * found["weights"]
    assert found["held"] < 0.56 * found["weights"]  # a part, and the scales
    assert found["norm"] > 1
    assert found["loss"] < 1e-6
    assert found["gradient"] < 1e-6


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_two_processes_with_a_part_of_the_base_each_train_as_one_and_one_can_go_on(
    base: Path, tmp_path: Path, two: Path, method: str
) -> None:
    data, folder = THIRTEEN[method], two / f"split-{method}"
    shared = {**SPLIT, "method": method, "heldout": heldout(tmp_path, data[:3])}
    one = work(base, tmp_path, data, **shared)
    done = result(folder)
    assert done["sharded_bytes"] > 0
    assert not done["plan"]["resident"]
    assert losses(folder) == pytest.approx(losses(tmp_path), rel=1e-3)
    assert done["heldout"]["loss"] == pytest.approx(one["heldout"]["loss"], rel=1e-3)
    left = tmp_path / "left"
    shutil.copytree(folder / "checkpoints", left / "checkpoints")
    assert work(base, left, data, **shared)["resumed_from_step"] == 2
    assert losses(left) == pytest.approx(losses(tmp_path), rel=1e-3)


def test_when_the_launcher_is_killed_so_are_all_processes_and_the_next_go_on_to_the_bytes_of_an_unbroken_run(
    base: Path, tmp_path: Path, two: Path
) -> None:
    cut = job(base, tmp_path, **WHOLE)
    path = tmp_path / "job.json"
    path.write_text(json.dumps(cut))
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
            event = json.loads(line)
            if event["event"] == "progress" and event["task"] == "tune" and event["done"] >= 5:
                break
        workers = _of(path)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert len(workers) >= 2
    end = time.monotonic() + 60
    while _of(path) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _of(path)
    assert not (tmp_path / "out").exists()
    done, events = together(tmp_path, cut)
    assert done["resumed_from_step"] >= 4
    told = [e["done"] for e in events if e["event"] == "progress" and e["task"] == "tune"]
    assert told == list(range(done["resumed_from_step"] + 1, done["steps"] + 1))  # one of them talks
    assert output(tmp_path) == output(two / "whole")


def test_a_mistake_is_told_once_and_as_alone(base: Path, tmp_path: Path) -> None:
    its = job(base, tmp_path, targets=["zz"], gpus=2)
    with pytest.raises(HybError, match="no linear layer `zz`"):
        together(tmp_path, its)


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
