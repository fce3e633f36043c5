"""The reference recipe end to end on a random model of the same architecture, scaled down: every stage for real.

The chain is run once; the tests look at what it left, break it in copies, and run it again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hyb import Hyb
from tests.need import need

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
STEPS = ("base", "facts", "bot", "exam", "merged", "gguf", "image", "service", "van")


@dataclass
class Chain:
    """A recipe's folder and a home that has run it."""

    hyb: Hyb
    recipe: Path
    lock: bytes

    def key(self, step: str) -> str:
        return str(json.loads(self.lock)["stages"][step]["key"]).removeprefix("sha256:")

    def copy(self, tmp_path: Path) -> Chain:
        """The same in another place: links where nothing is written in place."""
        home, recipe = tmp_path / "home", tmp_path / "recipe"
        shutil.copytree(self.hyb.home, home, copy_function=os.link)
        shutil.copytree(self.recipe, recipe)
        return Chain(Hyb(home), recipe, self.lock)

    def undo(self, step: str) -> None:
        """Forget that a step was done, so that a run does it again."""
        (self.hyb.store / "steps" / f"{self.key(step)}.json").unlink()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The deepseek-r1 recipe with its model replaced by a tiny one and its gate taken off, run once."""
    need("torch", "transformers", "peft", "bitsandbytes", "xllamacpp")
    from tests.tiny import tiny_model

    place = tmp_path_factory.mktemp("chain")
    recipe = place / "recipe"
    recipe.mkdir()
    tiny_model(recipe / "model", reasoning=True, hidden=256, intermediate=512)
    text = (ROOT / "recipes" / "deepseek-r1" / "hyb.yaml").read_text()
    text = text.replace("deepseek-r1-1.5b", "file:model").replace("../quickstart/data/", "data/")
    text = re.sub(r", max_tokens: \d+, gate: {[^}]*}", ", max_tokens: 8", text).replace("epochs: 3", "epochs: 1")
    (recipe / "hyb.yaml").write_text(text)
    _some_data(recipe / "data")
    hyb = Hyb(place / "home")
    hyb.ok("run", str(recipe), timeout=600)
    return Chain(hyb, recipe, (recipe / "hyb.lock").read_bytes())


def _some_data(folder: Path) -> None:
    """The first rows of the quickstart's data."""
    folder.mkdir()
    source = ROOT / "recipes" / "quickstart" / "data"
    for name, count in (("facts.jsonl", 16), ("heldout.jsonl", 4), ("control.jsonl", 2)):
        rows = (source / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(rows[:count]))


def test_every_step_has_its_artifact_its_name_and_its_receipt(chain: Chain) -> None:
    listed = {n: a for a in chain.hyb.json("ls") for n in a["names"]}
    assert {f"deepseek-r1/{s}" for s in STEPS} <= set(listed)
    assert sorted(e["name"] for e in chain.hyb.json("log")) == sorted(f"deepseek-r1/{s}" for s in STEPS)


def test_the_lock_holds_no_time_host_or_path(chain: Chain) -> None:
    text = chain.lock.decode()
    assert str(chain.hyb.home) not in text
    assert not re.search(r"20\d\d-\d\d", text)
    assert os.uname().nodename not in text


def test_a_second_run_does_nothing_and_a_locked_offline_one_agrees(chain: Chain) -> None:
    assert all(s["cached"] for s in chain.hyb.json("run", str(chain.recipe), "--locked", "--offline")["steps"])
    assert (chain.recipe / "hyb.lock").read_bytes() == chain.lock
    chain.hyb.ok("verify", str(chain.recipe))


def test_another_store_gives_the_same_lock_bytes_and_opens_no_socket(chain: Chain, tmp_path: Path) -> None:
    need("strace")
    recipe, log = tmp_path / "elsewhere é", tmp_path / "strace"
    shutil.copytree(chain.recipe, recipe)
    (recipe / "hyb.lock").unlink()
    hyb = Hyb(tmp_path / "home")
    command = [sys.executable, "-m", "hyb", "run", str(recipe), "--offline", "-q"]
    traced = ["strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", str(log), *command]
    subprocess.run(traced, env=hyb.env, check=True, capture_output=True, timeout=900)
    assert (recipe / "hyb.lock").read_bytes() == chain.lock
    connects = [c for c in re.findall(r"connect\(\d+, \{sa_family=AF_INET6?,.*", log.read_text()) if not _loopback(c)]
    assert not connects, connects[:3]


def _loopback(call: str) -> bool:
    return 'inet_addr("127.0.0.1")' in call or '"::1"' in call


def test_one_changed_field_runs_that_step_and_those_that_read_it(chain: Chain, tmp_path: Path) -> None:
    copy = chain.copy(tmp_path)
    path = copy.recipe / "hyb.yaml"
    path.write_text(path.read_text().replace("quantize: q4_k_m", "quantize: q8_0"))
    steps = copy.hyb.json("run", str(copy.recipe), timeout=600)["steps"]
    assert {s["name"] for s in steps if not s["cached"]} == {"gguf", "image", "service", "van"}


@pytest.mark.parametrize(
    ("step", "number"),
    [*((s, n) for s in STEPS for n in (signal.SIGKILL, signal.SIGINT)), ("exam", signal.SIGTERM)],
)
def test_killed_in_any_stage_the_next_run_converges(
    chain: Chain, tmp_path: Path, step: str, number: signal.Signals
) -> None:
    copy = chain.copy(tmp_path)
    copy.undo(step)
    child = copy.hyb.start("run", str(copy.recipe), "--to", step)
    work = copy.hyb.store / "work" / copy.key(step)
    _wait(lambda: work.exists() or child.poll() is not None)
    if number == signal.SIGINT:
        _wait(lambda: any(work.glob("*.json")) or child.poll() is not None)  # a worker has its job
    workers = _children(child.pid)
    child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode in (0, {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number))
    _wait(lambda: not any(_alive(pid) for pid in workers))
    steps = copy.hyb.json("run", str(copy.recipe), timeout=600)["steps"]
    assert (copy.recipe / "hyb.lock").read_bytes() == chain.lock
    assert {s["name"] for s in steps if not s["cached"]} <= {step}
    copy.hyb.ok("verify", str(copy.recipe))
    assert not list((copy.hyb.store / "work").iterdir())


def _wait(until: object, seconds: float = 60) -> None:
    assert callable(until)
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def _children(pid: int) -> list[int]:
    """Pids of a process's children."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
