"""A full disk in every stage, a store that can only be read, one on another file system, a clock that goes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.faults.chain import STEPS, Chain
from tests.hyb import Hyb
from tests.need import need

ROOT = Path(__file__).parents[3]
root_only = pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")


def in_mounts(one: Chain, *lines: str) -> subprocess.CompletedProcess[str]:
    """A shell script in a mount namespace of its own; `hyb` is the one under test."""
    head = f'hyb() {{ {sys.executable} -m hyb "$@"; }}'
    script = ["unshare", "-m", "sh", "-c", "\n".join([head, *lines])]
    env = {**one.hyb.env, "PYTHONPATH": str(ROOT)}
    return subprocess.run(script, env=env, capture_output=True, text=True, check=False, timeout=300)


@root_only
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_is_full_stops_a_stage_in_words_and_with_room_it_goes_on(
    chain: Chain, tmp_path: Path, step: str
) -> None:
    """The store alone lies on a small tmpfs, of which at most a few pages are left; then it grows."""
    one = chain.copy(tmp_path)
    one.undo(step)
    left = 16384 if step in ("bot", "exam", "merged", "gguf") else 0  # a worker's job and log come first
    small = tmp_path / "small"
    small.mkdir()
    run = f"hyb run '{one.recipe}' -q --store '{small}/store'"
    done = in_mounts(
        one,
        f"mount -t tmpfs -o size=64m none '{small}' && cp -a '{one.store}' '{small}/store'",
        f"head -c 60M /dev/zero > '{small}/filler' 2>/dev/null",
        f"df --output=avail -B1 '{small}' | tail -1 | xargs -I N head -c N /dev/zero > '{small}/more'",
        f"truncate -s -{left} '{small}/more'",
        f"{run} > /dev/null; echo first $?",
        f"rm '{small}/filler' '{small}/more'; {run} > /dev/null; echo second $?",
        f"hyb verify '{one.recipe}' -q --store '{small}/store'; echo third $?",
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in done.stderr, said
    assert "first 3" in done.stdout, said
    assert "no space left" in done.stderr.lower(), said
    assert "free some space" in done.stderr, said
    assert "second 0" in done.stdout, said
    assert "third 0" in done.stdout, said
    assert one.file.read_bytes() == one.lock


@root_only
def test_a_store_that_can_only_be_read_serves_what_it_has_and_is_not_repaired(quick: Chain, tmp_path: Path) -> None:
    one = quick.copy(tmp_path)
    one.blob(one.output("base")).unlink()
    done = in_mounts(
        one,
        f"mount --bind '{one.store}' '{one.store}' && mount -o remount,bind,ro '{one.store}'",
        "hyb ls -q; echo ls $?",
        f"hyb verify '{one.recipe}' -q; echo verify $?",
        f"hyb repair '{one.recipe}' -q; echo repair $?",
        f"hyb run '{one.recipe}' -q; echo run $?",
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in done.stderr, said
    assert "verify 4" in done.stdout, said
    assert "repair 3" in done.stdout, said
    assert "run 3" in done.stdout, said
    assert "read-only" in done.stderr


@root_only
def test_a_store_on_a_file_system_of_its_own_ends_in_the_same_lock(quick: Chain, tmp_path: Path) -> None:
    """What is linked elsewhere is copied there: the model's folder and the store are on two file systems."""
    one = quick.copy(tmp_path)
    (tmp_path / "other").mkdir()
    done = in_mounts(
        one,
        f"mount -t tmpfs -o size=64m none '{tmp_path}/other'",
        f"hyb run '{one.recipe}' -q --locked --store '{tmp_path}/other/store' && echo same",
        f"hyb verify '{one.recipe}' -q --store '{tmp_path}/other/store' && echo whole",
    )
    assert "same" in done.stdout, done.stderr
    assert "whole" in done.stdout, done.stderr


def test_a_clock_that_goes_back_changes_no_digest_and_no_order(quick: Chain, tmp_path: Path) -> None:
    """The second run is a year before the first: same lock, later generation, the newest receipt of a step is known."""
    need("faketime")
    one = Chain(Hyb(tmp_path / "home"), quick.copy(tmp_path / "copy").recipe, quick.lock)
    one.hyb.ok("run", str(one.recipe), "-q")
    changed = one.recipe / "hyb.yaml"
    text = changed.read_text()
    changed.write_text(text.replace("holdout: 0.25", "holdout: 0.5"))
    command = ["faketime", "-f", "-400d", sys.executable, "-m", "hyb", "run", str(one.recipe), "-q"]
    subprocess.run(command, env={**one.hyb.env, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    ledger = json.loads((one.store / "generations" / "quick.json").read_text())
    assert ledger["current"] == 2
    assert ledger["generations"][1]["made"] < ledger["generations"][0]["made"]
    one.hyb.ok("verify", str(one.recipe), "-q")
    one.hyb.ok("repair", str(one.recipe), "-q")
    changed.write_text(text)
    one.hyb.ok("rollback", str(one.recipe), "-q")
    one.converges()


def test_run_verify_gc_and_repair_at_once_do_no_harm_to_each_other(quick: Chain, tmp_path: Path) -> None:
    one = quick.copy(tmp_path)
    one.undo("base", "facts", "image", "service", "van")
    words = [("run", str(one.recipe)), ("run", str(one.recipe)), ("gc",), ("repair", str(one.recipe)), ("ls",)]
    children = [one.hyb.start(*w, "-q") for w in words]
    for child, word in zip(children, words, strict=True):
        _, said = child.communicate(timeout=120)
        assert "Traceback" not in said
        if child.returncode:
            assert word == ("gc",) and "is in use by another hyb" in said, said
    one.converges()
