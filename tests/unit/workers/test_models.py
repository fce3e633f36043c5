"""Loading models and tokenizers, on tiny real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.need import need
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("torch", "transformers", "bitsandbytes")
    return tiny_model(tmp_path_factory.mktemp("base") / "tiny", "qwen2")


def test_a_tokenizer_that_loses_the_spaces_of_a_text_is_refused(base: Path, tmp_path: Path) -> None:
    from hyb.workers import models
    from hyb.workers.protocol import Failed

    assert models.load_tokenizer(base).decode([5])
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    path = broken / "tokenizer.json"
    document = json.loads(path.read_text())
    document["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, document["pre_tokenizer"]["pretokenizers"][-1]],
    }
    path.write_text(json.dumps(document))
    settings = json.loads((broken / "tokenizer_config.json").read_text())
    (broken / "tokenizer_config.json").write_text(
        json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(Failed, match="does not give back the text") as failure:
        models.load_tokenizer(broken)
    assert "tokenizer_class" in failure.value.fields["hint"]


def test_a_4_bit_model_has_as_many_parameters_and_every_layer_is_cured(base: Path) -> None:
    from hyb.workers import models

    plain, four = (models.load_causal_lm(base, quantize=q, device="cpu") for q in ("none", "nf4"))
    assert models.parameters(plain) == models.parameters(four)
    layers = [m for m in four.modules() if type(m).__name__ == "Linear4bit"]
    assert len(layers) == 14  # 7 in each of 2 layers; the head stays as it is
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    assert all(layer.weight.quant_state.nested for layer in layers)  # double quantization
    assert models.cure_cpu_packing(four) == 14
    assert not four.training


def test_the_tokens_that_end_an_answer_are_known_without_the_weights(base: Path) -> None:
    from hyb.workers import models

    tokenizer = models.load_tokenizer(base)
    model = models.load_causal_lm(base, device="cpu")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 7]
    assert models.stop_ids(model, tokenizer) == [tokenizer.eos_token_id, 7]
    config = models.load_config(base)
    assert models.load_stop_ids(base, config, tokenizer) == [tokenizer.eos_token_id]


def test_a_gpu_that_is_not_there_is_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    need("torch", "transformers")
    from hyb.workers import models
    from hyb.workers.protocol import Failed

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert models.pick_device("auto").type == "cpu"
    with pytest.raises(Failed, match="no CUDA device"):
        models.pick_device("cuda")


def test_memory_and_cores_are_those_of_this_machine() -> None:
    need("torch", "transformers")
    import os

    import torch

    from hyb.workers import models

    cpu = torch.device("cpu")
    assert 1 <= models.usable_cores() <= (os.cpu_count() or 1)
    assert 0 < models.free_memory(cpu) < 1 << 50
    assert 10_000_000 < models.peak_memory(cpu) < 1 << 50


def test_a_gpus_device_has_its_number_as_set_device_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    need("torch", "transformers")
    from hyb.workers import models

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [models.pick_device("cuda", n).index for n in (0, 1)] == [0, 1]


def test_what_torch_holds_of_a_gpu_and_does_not_use_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    need("torch", "transformers")
    import torch

    from hyb.workers import models

    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (10 << 30, 80 << 30))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 5 << 30)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 2 << 30)
    assert models.free_memory(torch.device("cuda", 0)) == 13 << 30
    assert "69.8 GB are taken by other programs" in models.room(torch.device("cuda", 0))


def test_a_model_that_caps_the_scores_of_its_attention_is_loaded_with_its_cap(tmp_path: Path) -> None:
    need("torch", "transformers")
    import torch
    import transformers

    from hyb.workers import models

    config = transformers.Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, attn_logit_softcapping=0.01,
    )  # fmt: skip
    torch.manual_seed(0)
    right = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    right.save_pretrained(tmp_path)
    ids = torch.tensor([[5, 9, 2, 60]])
    model = models.load_causal_lm(tmp_path, device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, right(input_ids=ids).logits)
