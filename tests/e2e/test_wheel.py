"""The built wheel in an empty environment: the core works without torch, and says what a command would need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it asks for, no extra."""
    place = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(place),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    wheel = next(place.glob("hyb-*.whl"))
    subprocess.run([str(place / "venv" / "bin" / "pip"), "install", "-q", str(wheel)], check=True, capture_output=True)
    return place / "venv" / "bin" / "hyb"


def call(hyb: Path, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    return subprocess.run([str(hyb), *arguments], env=env, capture_output=True, text=True, cwd=home, check=False)


def test_there_is_no_torch(empty: Path) -> None:
    done = subprocess.run([str(empty.with_name("python")), "-c", "import torch"], capture_output=True, check=False)
    assert done.returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["version"], ["tune", "--help"], ["doctor"], ["ls"], ["ps"], ["man", "tune"], ["completion", "zsh"]],
)
def test_a_command_that_needs_no_extra_works(empty: Path, tmp_path: Path, arguments: list[str]) -> None:
    done = call(empty, *arguments, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_data_plan_verify_and_link_work_without_any_extra(empty: Path, tmp_path: Path) -> None:
    assert call(empty, "init", "r", home=tmp_path).returncode == 0
    planned = call(empty, "plan", "r", "--offline", home=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "van  link" in planned.stdout
    assert call(empty, "run", "r", "--to", "facts", home=tmp_path).returncode == 0
    assert call(empty, "verify", home=tmp_path).returncode == 0
    linked = _link(empty, tmp_path)
    assert linked.returncode == 0, linked.stderr
    assert (tmp_path / "link" / "APPLY.md").is_file()


def test_a_command_that_needs_an_extra_says_which_and_how(empty: Path, tmp_path: Path) -> None:
    _model(tmp_path / "model")
    assert call(empty, "pull", f"file:{tmp_path}/model", "--name", "m", home=tmp_path).returncode == 0
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    done = call(empty, "tune", "m", "--data", "d.jsonl", "--name", "bot", home=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "pip install 'hyb[tune]'" in done.stderr
    done = call(empty, "serve", "m", home=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "pip install 'hyb[" in done.stderr


def _link(hyb: Path, home: Path) -> subprocess.CompletedProcess[str]:
    _gguf(home / "small.gguf")
    pulled = call(hyb, "pull", f"file:{home}/small.gguf", "--name", "m", home=home)
    assert pulled.returncode == 0, pulled.stderr
    return call(
        hyb, "link", "m", "--namespace", "chat", "--apps-domain", "apps.example.com", "--out", "link", home=home
    )


def _gguf(path: Path) -> None:
    """The smallest GGUF that says what it is: one tensor."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("small")
    writer.add_context_length(128)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    writer.add_tensor("output_norm.weight", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _model(folder: Path) -> None:
    """The smallest folder that is a model: one tensor."""
    import json
    import struct

    if folder.exists():
        return
    folder.mkdir()
    header = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "max_position_embeddings": 128}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}})
    )
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
