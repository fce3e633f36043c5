"""kill -9 at random moments of every stage: the next run ends in the same lock.

`HYB_KILLS` says how many, `HYB_KILLS_TORCH` how many in the stages with torch; the moments are drawn from a seed that
a failure names. `HYB_KILLS_SEED` gives another.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.faults.chain import STEPS, Chain
from tests.hyb import Hyb
from tests.need import need

ROOT = Path(__file__).parents[3]
SEED = int(os.environ.get("HYB_KILLS_SEED", "20"))
KILLS = int(os.environ.get("HYB_KILLS", "100"))
TORCH_KILLS = int(os.environ.get("HYB_KILLS_TORCH", "4"))
TORCH = ("bot", "exam", "merged", "gguf")


def killed(chain: Chain, after: float) -> bool:
    """Start a run and kill it and its children `after` seconds, with no handler run; False when it had ended."""
    child = chain.hyb.start("run", str(chain.recipe), "-q")
    try:
        child.communicate(timeout=after)
        return False
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate(timeout=60)
        return child.returncode == -signal.SIGKILL


def stepped(one: Chain, number: int) -> subprocess.CompletedProcess[str]:
    """A run that is killed before its `number`-th step on disk; see `tests.e2e.faults.killer`."""
    root = str(one.recipe.parent)
    command = [sys.executable, "-P", "-m", "tests.e2e.faults.killer", str(number), root, "run", str(one.recipe), "-q"]
    env = {**one.hyb.env, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)


def test_killed_at_random_moments_the_next_run_ends_in_the_same_lock(quick: Chain, tmp_path: Path) -> None:
    """Several kills one after the other before each run that may end: what one left, the next one finds."""
    draw = random.Random(SEED)
    recipe = quick.copy(tmp_path).recipe
    left, hits = KILLS, 0
    while left > 0:
        one = Chain(Hyb(tmp_path / f"home{left}"), recipe, quick.lock)
        one.file.unlink(missing_ok=True)
        if left == KILLS:
            whole = int(stepped(one, 0).stderr.rpartition(" ")[2])
            assert whole > 100
            one = Chain(Hyb(tmp_path / "home"), recipe, quick.lock)
            one.file.unlink()
        for _ in range(min(left, 5)):
            done = stepped(one, draw.randrange(1, whole // 2))
            assert done.returncode in (0, -signal.SIGKILL), f"seed {SEED}: {done.stderr}"
            left, hits = left - 1, hits + (done.returncode != 0)
        one.converges()
    assert hits > KILLS // 2, f"only {hits} of {KILLS} met a run (seed {SEED})"


def test_killed_in_a_stage_with_torch_the_next_run_ends_in_the_same_lock(chain: Chain, tmp_path: Path) -> None:
    """The last stage first: a run begins with the stage that was undone last, and finds what was left of the others."""
    draw, one = random.Random(SEED), chain.copy(tmp_path)
    for step in reversed(TORCH):
        one.undo(step)
        for _ in range(max(1, TORCH_KILLS // len(TORCH))):
            killed(one, draw.uniform(0.5, 7))
            one.undo(*(() if draw.random() < 0.5 else (step,)))
    one.converges()


@pytest.mark.skipif("HYB_KILLS_QUICKSTART" not in os.environ, reason="HYB_KILLS_QUICKSTART says how many kills: hours")
@pytest.mark.slow
def test_the_quickstart_killed_at_random_moments_ends_in_the_lock_that_is_checked_in(tmp_path: Path) -> None:
    """The real one: a hundred kills of it take some hours. A run that was killed goes on from its checkpoints."""
    need("wheel", "torch", "transformers", "peft", "bitsandbytes", "xllamacpp")
    recipe = tmp_path / "quickstart"
    shutil.copytree(Path(__file__).parents[3] / "recipes" / "quickstart", recipe)
    locked = (recipe / "hyb.lock").read_bytes()
    draw, one = random.Random(SEED), Chain(Hyb(tmp_path / "home"), recipe, locked)
    reference = Hyb(tmp_path / "reference")
    reference.ok("run", str(recipe), "-q", timeout=3600)
    one.lock = (recipe / "hyb.lock").read_bytes()
    for _ in range(int(os.environ["HYB_KILLS_QUICKSTART"])):
        killed(one, draw.uniform(1, 60))
        one.undo(*(draw.sample(STEPS, 1) if draw.random() < 0.3 else ()))
    one.converges()
