"""Every crash point of a store commit, one after the other: killed, or told of a fault, at its N-th system call.

strace injects; N grows from 1 until the commit ends before its N-th call. `HYB_CRASHES` says at how many points, drawn
from a seed, each kind of fault meets a whole run. After each fault nothing that has its final
name is half, and doing the same again ends as if nothing had happened.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hyb import verify
from hyb.progress import silent
from hyb.store import Store
from tests.e2e.faults import commit
from tests.e2e.faults.chain import Chain
from tests.need import need

ROOT = Path(__file__).parents[3]
FAULTS = [
    (call, fault)
    for call, faults in {
        "write": ("signal=KILL", "error=ENOSPC", "error=EIO"),
        "fsync": ("signal=KILL", "error=EIO"),
        "rename": ("signal=KILL", "error=EXDEV", "error=EIO"),
        "link,linkat": ("signal=KILL", "error=EXDEV", "error=EPERM"),
        "mkdir": ("signal=KILL", "error=ENOSPC"),
        "unlink": ("signal=KILL", "error=EIO"),
        "openat": ("signal=KILL",),
    }.items()
    for fault in faults
]
CRASHES = int(os.environ.get("HYB_CRASHES", "1"))
MOST = 60  # calls of one kind: a commit has fewer


def injected(call: str, fault: str, number: int, log: Path, *argv: str, env: dict[str, str]) -> tuple[int, str, bool]:
    """(exit code, stderr, whether the fault came) of a Python that meets a fault at its `number`-th call."""
    inject = f"inject={call}:{fault}:when={number}"
    strace = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={call}", "-e", inject]
    done = subprocess.run([*strace, sys.executable, *argv], env=env, capture_output=True, text=True, check=False)
    told = log.read_text()
    return done.returncode, done.stderr, "INJECTED" in told or "killed by SIGKILL" in told


@pytest.mark.parametrize(("call", "fault"), FAULTS, ids=lambda x: x.partition("=")[2] or x)
def test_a_commit_cut_at_any_call_leaves_nothing_half_and_is_done_again(tmp_path: Path, call: str, fault: str) -> None:
    need("strace")
    reference = commit.commit(commit.prepare(tmp_path / "reference"))
    lock = (tmp_path / "reference" / "hyb.lock").read_bytes()
    skipped = _before(tmp_path, call) if call == "openat" else 0
    for number in range(1, MOST):
        place = commit.prepare(tmp_path / str(number))
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        script = str(Path(commit.__file__))
        code, said, came = injected(call, fault, skipped + number, tmp_path / "log", script, str(place), env=env)
        assert "Traceback" not in said, f"{call} {number}: {said}"
        assert came or code == 0
        store = Store(place / "store")
        assert verify.check_store(store, silent) == [], f"{call} {number}: something half has its final name"
        assert not came or fault == "signal=KILL" or code in (0, 3), (code, said)
        assert commit.commit(commit.prepare(place)) == reference
        assert (place / "hyb.lock").read_bytes() == lock
        assert verify.check_store(store, silent) == []
        assert store.tags() == {"r/m": reference}
        assert len(store.outputs(commit.KEY)) == 1
        if not came:
            break
    else:
        pytest.fail(f"a commit makes more than {MOST} calls of {call}")
    assert number > 1 or call == "unlink", "the fault never came"


def _before(tmp_path: Path, call: str) -> int:
    """How many such calls Python makes before the commit begins."""
    log, script = tmp_path / "count", str(Path(commit.__file__))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    place = commit.prepare(tmp_path / "count of calls")
    traced = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={call}", sys.executable, script, str(place)]
    subprocess.run(traced, env=env, check=True)
    lines = [line for line in log.read_text().splitlines() if call in line]
    return next(i for i, line in enumerate(lines) if str(place) in line)


@pytest.mark.parametrize("what", ["write:error=ENOSPC", "fsync:error=EIO", "rename:error=EIO", "rename:signal=KILL"])
def test_a_whole_run_that_meets_a_fault_says_so_and_the_next_one_converges(
    quick: Chain, tmp_path: Path, what: str
) -> None:
    need("strace")
    call, _, fault = what.partition(":")
    draw = random.Random(what)
    for number in sorted(draw.sample(range(1, 60), CRASHES)):
        one = quick.copy(tmp_path / str(number))
        one.undo("base", "facts", "image", "service", "van")
        one.file.unlink()
        argv = ("-m", "hyb", "run", str(one.recipe), "-q")
        code, said, came = injected(call, fault, number, tmp_path / "log", *argv, env=one.hyb.env)
        assert "Traceback" not in said, f"{what} {number}: {said}"
        assert code in ((0, -9, 137) if "KILL" in fault else (0, 3)) or not came, (code, said)
        one.converges()
