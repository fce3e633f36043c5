"""kill -9 at random moments of every stage: the next run ends in the same lock.

`HYB_KILLS` says how many; the moments are drawn from a seed that a failure names. `HYB_KILLS_SEED` gives another.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.faults.chain import STEPS, Chain
from tests.hyb import Hyb
from tests.need import need

SEED = int(os.environ.get("HYB_KILLS_SEED", "20"))
KILLS = int(os.environ.get("HYB_KILLS", "100"))
TORCH_KILLS = int(os.environ.get("HYB_KILLS_TORCH", "8"))
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


def test_killed_at_a_hundred_random_moments_the_next_run_ends_in_the_same_lock(quick: Chain, tmp_path: Path) -> None:
    """One store and one lock live through all kills; it is emptied each time a run came to its end."""
    draw, hits = random.Random(SEED), 0
    one = quick.copy(tmp_path / "0")
    started = time.monotonic()
    one.undo("base", "facts", "image", "service", "van")
    one.hyb.ok("run", str(one.recipe), "-q")
    whole = time.monotonic() - started
    for number in range(KILLS):
        if number % 10 == 0:
            shutil.rmtree(tmp_path / "home", ignore_errors=True)
            one = Chain(Hyb(tmp_path / "home"), one.recipe, quick.lock)
            one.file.unlink(missing_ok=True)
        hits += killed(one, draw.uniform(0.25, 1.1) * whole)
        if number % 10 == 9:
            one.converges()
        else:
            one.undo(*draw.sample(("base", "facts", "image", "service", "van"), 2))
    assert hits >= KILLS // 3, f"only {hits} of {KILLS} kills met a run (seed {SEED})"


@pytest.mark.parametrize("step", TORCH)
def test_killed_in_a_stage_with_torch_the_next_run_ends_in_the_same_lock(
    chain: Chain, tmp_path: Path, step: str
) -> None:
    draw = random.Random(f"{SEED} {step}")
    one = chain.copy(tmp_path)
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
