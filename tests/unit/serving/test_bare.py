"""What a container's engine finds below its folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyb.serving import bare
from hyb.serving.child import Adapter, UnableError


def test_a_gguf_is_known_by_its_first_bytes_and_a_folder_by_its_files(tmp_path: Path) -> None:
    with pytest.raises(UnableError, match="holds 0 models"):
        bare.find(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "blob").write_bytes(b"GGUF....")
    assert bare.find(tmp_path) == ("llama.cpp", tmp_path / "deep" / "blob")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnableError, match="holds 2 models"):
        bare.find(tmp_path)
    (tmp_path / "deep" / "blob").unlink()
    assert bare.find(tmp_path) == ("transformers", tmp_path)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnableError, match="mount the model there"):
        bare.find(tmp_path / "none")


def test_adapters_come_in_the_order_of_their_folders_and_without_its_number(tmp_path: Path) -> None:
    for name in ("0001.ant", "0000.zebra", "v1.2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter.gguf").write_bytes(b"GGUF")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    assert bare.adapters(tmp_path) == (
        Adapter("zebra", str(tmp_path / "0000.zebra/adapter.gguf")),
        Adapter("ant", str(tmp_path / "0001.ant/adapter.gguf")),
        Adapter("peft", str(tmp_path / "peft")),
        Adapter("v1.2", str(tmp_path / "v1.2/adapter.gguf")),
    )
    assert bare.adapters(tmp_path / "none") == bare.adapters(None) == ()


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnableError, match="holds no adapter"):
        bare.adapters(tmp_path)
