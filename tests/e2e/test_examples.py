"""The examples, run as they stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo import Demo
from tests.hyb import Hyb
from tests.need import need

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    return Hyb(tmp_path / "home")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "hyb.yaml").write_text("hyb: 1\nname: r\nstages:\n  facts: {stage: data, source: facts.jsonl}\n")
    (folder / "facts.jsonl").write_text(
        '{"prompt": "a?", "completion": "b"}\n' * 1 + '{"prompt": "c?", "completion": "d"}\n'
    )
    return folder


def call(hyb: Hyb, *command: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        env={**hyb.env, "PATH": path, **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )


def test_the_labs_script_agrees_with_a_lock_and_says_no_to_changed_data(hyb: Hyb, recipe: Path, tmp_path: Path) -> None:
    hyb.ok("run", str(recipe))
    script = str(ROOT / "examples" / "lab.sh")
    done = call(hyb, "sh", script, str(recipe), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("facts sha256:")
    with (recipe / "facts.jsonl").open("a") as stream:
        stream.write('{"prompt": "e?", "completion": "f"}\n')
    done = call(hyb, "sh", script, str(recipe), cwd=tmp_path)
    assert done.returncode == 4
    assert "a check said no" in done.stderr


def test_the_makefile_for_ci_runs_and_verifies(hyb: Hyb, recipe: Path) -> None:
    need("make")
    done = call(hyb, "make", "-s", "-f", str(ROOT / "examples" / "Makefile.ci"), f"RECIPE={recipe}")
    assert done.returncode == 0, done.stderr
    assert "all whole" in done.stdout


@pytest.mark.slow
def test_the_walkthrough_goes_from_data_to_gguf(hyb: Hyb, tmp_path: Path) -> None:
    need("torch", "transformers", "peft", "bitsandbytes", "xllamacpp")
    from tests.tiny import tiny_model

    tiny_model(tmp_path / "model", "llama")
    rows = (ROOT / "recipes" / "quickstart" / "data" / "facts.jsonl").read_text().splitlines(keepends=True)[:20]
    (tmp_path / "facts.jsonl").write_text("".join(rows))
    script = str(ROOT / "examples" / "walkthrough.py")
    done = call(hyb, sys.executable, script, f"file:{tmp_path}/model", str(tmp_path / "facts.jsonl"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:6]] == [
        "data", "plan", "adapter", "scores", "divergence", "gguf",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_demo_learns_the_facts_answers_over_http_and_does_nothing_twice(demo: Demo, tmp_path: Path) -> None:
    """The quickstart for real: SmolLM2-135M learns a company's facts, keeps what it knew, and answers over HTTP."""
    assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-3000:]
    assert "Podman is not installed" in demo.stdout
    assert "A: Quillow is the mascot of Nimbrel." in demo.stdout
    assert "Paris" in demo.stdout.rpartition("Q:")[2]
    assert (demo.project / ".demo" / "link" / "APPLY.md").is_file()
    hyb = demo.copy(tmp_path / "home")
    scores = hyb.json("show", "quickstart/exam")["meta"]["scores"]
    assert scores["recall_before"] == 0
    assert scores["recall"] >= 0.9
    assert scores["control_lost"] == 0
    again = json.loads(call(hyb, "hyb", "run", "recipes/quickstart", "--json", cwd=demo.project).stdout)
    assert all(s["cached"] for s in again["steps"])
    assert not hyb.json("ps")
