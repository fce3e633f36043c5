"""The GPU's measurement, on two small layers and the CPU, so that it runs when there is a GPU at last."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def loaded() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_tune", SCRIPT)
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_a_row_that_fails_costs_no_other_row_and_each_is_kept_as_soon_as_it_is_there(tmp_path: Path) -> None:
    script, out = loaded(), tmp_path / "found.json"
    good = {"tokens_per_second": 5.0, "peak": 7, "losses": [2.0, 1.0], "norms": [1.0, 1.0]}
    rows = {"hyb": good, "hyb, padded": {"skipped": "no room"}, "Unsloth": {**good, "norms": [0.0, 0.0]}, "x": good}

    def run(name: str) -> dict[str, Any]:
        before = list(rows)[: list(rows).index(name)]
        assert [r["loop"] for r in json.loads(out.read_text())["rows"]] == before if before else not out.exists()
        return rows[name]

    with pytest.raises(SystemExit, match=r"(?s)hyb, padded: no room.*Unsloth learnt nothing"):
        script.show(list(rows), run, script.TINY, 32, 1e12, out)
    assert [r["loop"] for r in json.loads(out.read_text())["rows"]] == list(rows)


def test_a_loop_that_never_ends_is_left_out_after_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, stuck = loaded(), tmp_path / "stuck.py"
    stuck.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(script, "__file__", str(stuck))
    assert script.apart({"limit": 0.2}, tmp_path, None) == {"skipped": "not done after 0.2 s"}


def test_the_limit_is_that_of_the_models_arithmetic() -> None:
    script = loaded()
    assert script.flops(script.SHAPE, 1024, 1.0) == pytest.approx(6.59e9, rel=0.003)
    assert script.flops(script.SHAPE, 1024, 0.5) == pytest.approx(6.13e9, rel=0.003)
    assert script.flops(script.SHAPE, 8192, 1.0) == pytest.approx(8.75e9, rel=0.003)
