"""Recipe, lock and store through the command line, on the stage that is quickest: data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyb import fs
from tests.hyb import Hyb

ROWS = [{"prompt": f"question {i}?", "completion": f"answer {i}"} for i in range(20)]
RECIPE = """\
hyb: 1
name: r
stages:
  facts: {stage: data, source: facts.jsonl, holdout: 0.2}
  again: {stage: data, source: facts.jsonl, holdout: 0.5}
"""


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    return Hyb(tmp_path / "home")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "my recipe é"
    folder.mkdir()
    (folder / "hyb.yaml").write_text(RECIPE)
    (folder / "facts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return folder


def lock(recipe: Path) -> bytes:
    return (recipe / "hyb.lock").read_bytes()


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p): (p.stat().st_ino, p.stat().st_mtime_ns)
        for p in root.rglob("*")
        if p.is_file() and "locks" not in p.parts
    }


def in_mounts(hyb: Hyb, *lines: str) -> subprocess.CompletedProcess[str]:
    """A shell script in a mount namespace of its own."""
    script = ["unshare", "-m", "sh", "-c", "\n".join(lines)]
    return subprocess.run(script, env=hyb.env, capture_output=True, text=True, check=False)


def test_a_second_run_runs_nothing_and_rewrites_nothing(hyb: Hyb, recipe: Path) -> None:
    first = hyb.json("run", str(recipe))
    assert [s["cached"] for s in first["steps"]] == [False, False]
    before = {**tree(hyb.store), **tree(recipe)}
    second = hyb.json("run", str(recipe))
    assert [s["cached"] for s in second["steps"]] == [True, True]
    assert {**tree(hyb.store), **tree(recipe)} == before


def test_another_store_gives_the_same_lock_bytes(hyb: Hyb, recipe: Path, tmp_path: Path) -> None:
    hyb.ok("run", str(recipe))
    first = lock(recipe)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(recipe, elsewhere)
    (elsewhere / "hyb.lock").unlink()
    hyb.ok("run", str(elsewhere), "--store", str(tmp_path / "second store"))
    assert lock(elsewhere) == first
    hyb.ok("run", str(elsewhere), "--store", str(tmp_path / "third"), "--locked", "--offline")


def test_one_changed_field_runs_that_step_alone(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("run", str(recipe))
    (recipe / "hyb.yaml").write_text(RECIPE.replace("holdout: 0.5", "holdout: 0.4"))
    assert [s["cached"] for s in hyb.json("run", str(recipe))["steps"]] == [True, False]


def test_a_renamed_stage_is_the_same_step(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("run", str(recipe))
    (recipe / "hyb.yaml").write_text(RECIPE.replace("again:", "renamed:"))
    assert [s["cached"] for s in hyb.json("run", str(recipe))["steps"]] == [True, True]
    assert set(json.loads(lock(recipe))["stages"]) == {"facts", "renamed"}


def test_up_to_a_stage_keeps_what_the_lock_knows_of_others(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("run", str(recipe))
    before = lock(recipe)
    hyb.ok("run", str(recipe), "--to", "facts")
    assert lock(recipe) == before


def test_a_dry_run_is_the_plan_and_writes_nothing(hyb: Hyb, recipe: Path) -> None:
    dry, plan = hyb.json("run", str(recipe), "--dry-run"), hyb.json("plan", str(recipe))
    assert dry == plan
    assert [s["done"] for s in plan["steps"]] == [False, False]
    assert not hyb.store.exists()
    assert not (recipe / "hyb.lock").exists()


def test_changed_data_under_locked_is_a_stale_lock(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("run", str(recipe))
    with (recipe / "facts.jsonl").open("a") as stream:
        stream.write('{"prompt": "more?", "completion": "yes"}\n')
    before = lock(recipe)
    said = hyb.fails(4, "run", str(recipe), "--locked")
    assert "lock of `r` is stale" in said
    assert "stage `facts` has changed" in said
    assert lock(recipe) == before
    assert "was made from something else" in hyb.fails(4, "verify", str(recipe))


def test_no_lock_under_locked_is_refused(hyb: Hyb, recipe: Path) -> None:
    assert "there is no lock" in hyb.fails(4, "run", str(recipe), "--locked")


@pytest.mark.parametrize("spoil", ["output", "key", "half"])
def test_a_lock_edited_by_hand_is_noticed(hyb: Hyb, recipe: Path, spoil: str) -> None:
    hyb.ok("run", str(recipe))
    good = lock(recipe)
    data = json.loads(good)
    if spoil == "half":
        (recipe / "hyb.lock").write_bytes(good[: len(good) // 2])
    else:
        data["stages"]["facts"][spoil] = data["stages"]["again"][spoil]
        (recipe / "hyb.lock").write_text(json.dumps(data))
    hyb.fails(4, "run", str(recipe), "--locked")
    hyb.fails(4, "verify", str(recipe))


def test_verify_finds_a_flipped_bit_and_a_missing_blob_and_repair_lets_a_run_heal(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("run", str(recipe))
    assert "all whole" in hyb.ok("verify", str(recipe))
    files = [f for f in hyb.json("show", "r/facts")["files"] if f["size"]]
    flipped, missing = (hyb.store / "blobs" / "sha256" / f["digest"][7:] for f in files[:2])
    flipped.chmod(0o644)
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    missing.unlink()
    said = hyb.fails(4, "verify", str(recipe))
    assert "is damaged" in said
    assert "is not in the store" in said
    assert "part of dataset r/facts" in said
    hyb("verify", str(recipe), "--repair")
    before = lock(recipe)
    hyb.ok("run", str(recipe))
    assert lock(recipe) == before
    hyb.ok("verify", str(recipe))


def test_half_an_index_is_repaired_and_names_come_back(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("run", str(recipe))
    index = hyb.store / "index.json"
    index.write_bytes(index.read_bytes()[:100])
    assert "hyb repair" in hyb.fails(4, "ls")
    hyb("verify", str(recipe), "--repair")
    assert all(s["cached"] for s in hyb.json("run", str(recipe))["steps"])
    assert {n for a in hyb.json("ls") for n in a["names"]} == {"r/facts", "r/again"}


def test_two_at_once_do_each_step_once(hyb: Hyb, recipe: Path) -> None:
    children = [hyb.start("run", str(recipe), "--json") for _ in range(4)]
    results = [json.loads(child.communicate(timeout=120)[0]) for child in children]
    assert [c.returncode for c in children] == [0] * 4
    for i in range(2):
        assert sum(not r["steps"][i]["cached"] for r in results) == 1
    assert len([r for r in hyb.json("log")]) == 2
    hyb.ok("verify", str(recipe))


def test_every_step_has_a_receipt_that_names_inputs_and_output(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("run", str(recipe))
    entry = next(r for r in hyb.json("log") if r["name"] == "r/facts")
    out = hyb.home / "receipt"
    hyb.ok("show", entry["receipt"], "--out", str(out))
    statement = json.loads((out / "statement.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert "sha256:" + statement["subject"][0]["digest"]["sha256"] == entry["output"]
    text = json.dumps(statement["predicate"]["buildDefinition"])
    assert "facts.jsonl" in text
    assert str(hyb.home) not in json.dumps(statement)


def test_gc_keeps_the_recipe_and_takes_what_it_left_behind(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("run", str(recipe))
    (recipe / "hyb.yaml").write_text(RECIPE.replace("0.5", "0.4"))
    hyb.ok("run", str(recipe))
    assert hyb.json("gc", "--dry-run")["removed"] == 0, "the generation before is kept"
    hyb.ok("rollback", str(recipe), "--keep", "1")
    dry = hyb.json("gc", "--dry-run")
    assert dry["removed"] > 0
    assert hyb.json("gc") == {**dry, "dry_run": False}
    assert all(s["cached"] for s in hyb.json("run", str(recipe))["steps"])
    hyb.ok("verify", str(recipe))


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_a_clear_error_and_loses_nothing(hyb: Hyb, recipe: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    big = [{"prompt": f"q{i} {os.urandom(400).hex()}", "completion": os.urandom(400).hex()} for i in range(1500)]
    (recipe / "facts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in big))
    done = in_mounts(
        hyb,
        f"mount -t tmpfs -o size=2m none '{small}'",
        f"{sys.executable} -m hyb run '{recipe}' --store '{small}/s'; echo code $?",
    )
    assert "code 3" in done.stdout, done.stdout + done.stderr
    assert "no space left on device" in done.stderr
    assert "free some space" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="a read-only mount needs root")
def test_a_read_only_store_serves_what_it_has_and_refuses_what_is_new(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("run", str(recipe))
    changed = RECIPE.replace("0.5", "0.4")
    done = in_mounts(
        hyb,
        f"mount --bind '{hyb.store}' '{hyb.store}' && mount -o remount,bind,ro '{hyb.store}'",
        f"{sys.executable} -m hyb run '{recipe}'; echo first $?",
        f"printf '%s' '{changed}' > '{recipe}/hyb.yaml'; {sys.executable} -m hyb run '{recipe}'; echo second $?",
    )
    assert "first 0" in done.stdout, done.stderr
    assert "second 3" in done.stdout
    assert "read-only" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a file system needs root")
def test_a_store_on_another_file_system_gives_the_same_lock(hyb: Hyb, recipe: Path, tmp_path: Path) -> None:
    hyb.ok("run", str(recipe))
    (tmp_path / "other").mkdir()
    done = in_mounts(
        hyb,
        f"mount -t tmpfs -o size=64m none '{tmp_path}/other'",
        f"{sys.executable} -m hyb run '{recipe}' --store '{tmp_path}/other/store' --locked && echo same",
    )
    assert "same" in done.stdout, done.stderr


def test_killed_at_every_system_call_that_writes_a_second_run_converges(hyb: Hyb, recipe: Path, tmp_path: Path) -> None:
    from tests.need import need

    need("strace")
    hyb.ok("run", str(recipe))
    good = lock(recipe)
    for call, times in (("rename", range(1, 14, 3)), ("fsync", range(1, 14, 4)), ("linkat", range(1, 2))):
        for n in times:
            (recipe / "hyb.lock").unlink(missing_ok=True)
            store = tmp_path / f"{call}{n}"
            command = [sys.executable, "-m", "hyb", "run", str(recipe), "--store", str(store)]
            subprocess.run(
                ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={n}", *command],
                env=hyb.env, capture_output=True, check=False,
            )  # fmt: skip
            hyb.ok("run", str(recipe), "--store", str(store))
            assert lock(recipe) == good
            hyb.ok("verify", str(recipe), "--store", str(store))
            assert not list((store / "tmp").iterdir()) or hyb.ok("gc", "--store", str(store))


def test_sigint_and_sigterm_end_it_with_their_codes(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("run", str(recipe), "--to", "facts")
    key = json.loads(lock(recipe))["stages"]["facts"]["key"]
    (hyb.store / "steps" / f"{key[7:]}.json").unlink()  # so that the step is to do again, and ...
    with fs.locked(hyb.store / "locks" / key[7:]):  # ... somebody else is at it
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            child = hyb.start("run", str(recipe))
            assert child.stderr
            assert "another hyb is at it" in child.stderr.readline()
            os.kill(child.pid, number)
            child.communicate(timeout=20)
            assert child.returncode == code
    hyb.ok("run", str(recipe))
