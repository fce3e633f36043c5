"""The GPU's measurement, on two small layers and the CPU, so that it runs when there is a GPU at last."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.need import need

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu" / "tune.py"


def test_the_gpu_measurement_runs_on_a_tiny_model_and_every_loop_learns(tmp_path: Path) -> None:
    need("torch", "transformers", "peft", "bitsandbytes")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--tiny", "--steps", "6", "--out", str(tmp_path / "found.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = {row["loop"]: row for row in json.loads((tmp_path / "found.json").read_text())["rows"]}
    assert len(found) == 11
    assert "skipped" not in found["peft + Trainer"]
    assert all(row["losses"][-1] < row["losses"][0] for row in found.values())
    assert found["hyb"]["installed"]["mlps"] == 2
    assert not found["hyb, no fused LoRA"]["installed"]["layers"]


def test_the_limit_is_that_of_the_models_arithmetic() -> None:
    spec = importlib.util.spec_from_file_location("gpu_tune", SCRIPT)
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.flops(script.SHAPE, 1024, 1.0) == pytest.approx(6.59e9, rel=0.003)
    assert script.flops(script.SHAPE, 1024, 0.5) == pytest.approx(6.13e9, rel=0.003)
    assert script.flops(script.SHAPE, 8192, 1.0) == pytest.approx(8.75e9, rel=0.003)
