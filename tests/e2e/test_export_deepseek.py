"""The real tokenizer and template of the DeepSeek-R1-Distill-Qwen family, in llama.cpp as in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyb import templates
from hyb.stages import asked
from tests import deepseek
from tests.e2e.test_export import convert, work
from tests.need import need


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    """The GGUF's keys."""
    need("torch", "transformers", "peft", "xllamacpp", "wheel")
    return deepseek.read(tmp_path)


@pytest.mark.slow
def test_llama_cpp_splits_text_as_the_real_deepseek_tokenizer_does(keys: dict[str, Any], tmp_path: Path) -> None:
    folder = deepseek.folder_of(keys, tmp_path / "model")
    prompts = asked.questions(None)
    job = {"model": folder, "base": "", "adapter": "", "prompts": prompts, "tokens": 4, "max_kl": 0, "min_agreement": 0}
    work("compare", {**job, "expect": tmp_path / "expect.json"}, tmp_path)
    expected = json.loads((tmp_path / "expect.json").read_text())
    bars = next(t for t in expected["texts"] if "<｜User｜>two" in t["text"])
    assert 151644 in bars["ids"]  # one token, not the letters of its name
    assert all(a["ids"][0] == 151646 and a["ids"].count(151646) == 1 for a in expected["answers"])
    assert [t["ids"][0] for t in expected["texts"] if t["special"]] == [151646, 151646]
    assert convert(folder, tmp_path / "m.gguf", "f32")["pre"] == keys["tokenizer.ggml.pre"] == "deepseek-r1-qwen"
    check = {"gguf": tmp_path / "m.gguf", "lora": "", "expect": tmp_path / "expect.json", "min_agreement": 1}
    done = work("gguf_check", check, tmp_path)
    assert done["texts"] >= 40
    assert done["first"] == 1.0
    import gguf

    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == templates.pair("deepseek-r1").inference
    for name in ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"):
        assert fields[name].contents() == keys[name]
    assert fields["tokenizer.ggml.merges"].contents() == keys["tokenizer.ggml.merges"]
