from __future__ import annotations

from pathlib import Path

import pytest

from hyb import machine
from hyb.formats.tune_cost import Measured


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_a_measurement_is_kept_beside_the_store_and_the_oldest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "KEPT", 2)
    for n, key in enumerate("abac"):
        machine.remember(key, Measured(float(n), 1.0))
    assert machine.measured() == {"a": Measured(2.0, 1.0), "c": Measured(3.0, 1.0)}
    assert [p.name for p in (tmp_path / "hyb").iterdir()] == ["tune.json"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"rate": "x", "memory": 1}}'])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "hyb").mkdir()
    (tmp_path / "hyb" / "tune.json").write_text(text)
    assert machine.measured() == {}
    machine.remember("b", Measured(1.0, 2.0))
    assert machine.measured() == {"b": Measured(1.0, 2.0)}


def test_a_folder_that_can_t_be_written_loses_the_measurement_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    machine.remember("b", Measured(1.0, 2.0))
    assert machine.measured() == {}


def test_the_gpu_is_what_nvidia_smi_says_and_the_cpu_where_it_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 1000, 80000'\necho 'NVIDIA H100 80GB HBM3, 9, 9'\n")
    program.chmod(0o755)
    found = machine.here()
    assert (found.device, found.name, found.free) == ("cuda", "NVIDIA H100 80GB HBM3", 1000 << 20)
    assert found.crowded() == "; 83.9 GB are taken by other programs (`nvidia-smi`)"
    assert machine.here("cpu").crowded() == "" and machine.here("cpu").device == "cpu"
    program.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    found = machine.here()
    assert (found.device, found.name) == ("cpu", "the CPU")
    assert found.free > 1e8
    assert found.cores >= 1
