"""What a GGUF gets: keys, names, types, tokenizer."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hyb.errors import HybError
from hyb.formats import gguf_model, gguf_types, gguf_vocab
from tests.tiny import QWEN2_WORDS

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "vocab_size": 300,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
QWEN = {**CONFIG, "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": False}
LLAMA_3_WORDS = QWEN2_WORDS.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NO_WORDS = {**BYTES, "use_regex": False}


def tensors(config: dict[str, Any]) -> list[str]:
    parts = ["self_attn." + x for x in ("q_proj", "k_proj", "v_proj", "o_proj")]
    parts += ["mlp." + x for x in ("gate_proj", "up_proj", "down_proj")] + [
        "input_layernorm",
        "post_attention_layernorm",
    ]
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    names += [f"model.layers.{i}.{p}.weight" for i in range(2) for p in parts]
    if config is QWEN:
        names += ["lm_head.weight"]
        names += [f"model.layers.{i}.self_attn.{x}_proj.bias" for i in range(2) for x in "qkv"]
    return names


def tokenizer(pre: object, **model: Any) -> dict[str, Any]:
    return {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], **model},
        "added_tokens": [
            {"id": 3, "content": "<s>", "special": True},
            {"id": 4, "content": "<think>", "special": False},
        ],
        "pre_tokenizer": pre,
        "normalizer": None,
        "post_processor": None,
    }


def sequence(*steps: object) -> dict[str, object]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(regex: str) -> dict[str, object]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize("config", [CONFIG, QWEN])
def test_every_tensor_of_a_model_gets_a_name_in_the_order_of_the_file(config: dict[str, Any]) -> None:
    found = gguf_model.names(tensors(config), config)
    assert len(found) == len(tensors(config))
    assert next(iter(found)) == "token_embd.weight"
    assert found["blk.1.ffn_down.weight"] == "model.layers.1.mlp.down_proj.weight"
    assert ("output.weight" in found) == (config is QWEN)


def test_a_tied_head_that_is_there_all_the_same_is_left_out() -> None:
    assert "output.weight" not in gguf_model.names([*tensors(CONFIG), "lm_head.weight"], CONFIG)


def test_missing_and_unknown_tensors_are_told_together() -> None:
    given = [n for n in tensors(CONFIG) if "1.mlp.up" not in n] + ["model.layers.0.self_attn.q_norm.weight"]
    with pytest.raises(HybError, match="1 missing, 1 not known") as caught:
        gguf_model.names(given, CONFIG)
    assert caught.value.details == (
        "missing: `blk.1.ffn_up.weight`",
        "not known: `model.layers.0.self_attn.q_norm.weight`",
    )


def test_qwen2_without_its_biases_is_not_complete() -> None:
    with pytest.raises(HybError, match="6 missing"):
        gguf_model.names([n for n in tensors(QWEN) if not n.endswith("bias")], QWEN)


def test_only_llama_has_its_query_and_key_rows_reordered() -> None:
    heads = {n: gguf_model.permuted_heads(f"blk.0.{n}.weight", CONFIG) for n in ("attn_q", "attn_k", "attn_v")}
    assert heads == {"attn_q": 4, "attn_k": 2, "attn_v": 0}
    assert gguf_model.permuted_heads("blk.0.attn_q.weight", QWEN) == 0
    assert gguf_model.permuted_heads("token_embd.weight", CONFIG) == 0


def test_the_shape_of_a_model_is_in_its_keys() -> None:
    found = {k.name: k.value for k in gguf_model.keys({**CONFIG, "head_dim": 32})}
    assert found["llama.attention.head_count_kv"] == 2
    assert found["llama.rope.freq_base"] == 100000.0
    assert found["llama.attention.key_length"] == found["llama.rope.dimension_count"] == 32


def test_rope_parameters_of_transformers_5_win() -> None:
    found = {
        k.name: k.value
        for k in gguf_model.keys({**CONFIG, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})
    }
    assert found["llama.rope.freq_base"] == 5e5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"use_sliding_window": True}, "sliding"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized already"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(HybError) as caught:
        gguf_model.keys({**CONFIG, **change})
    assert says in caught.value.details[0]


def test_an_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(HybError, match="`MambaForCausalLM`"):
        gguf_model.keys({**CONFIG, "architectures": ["MambaForCausalLM"]})


def test_types_are_those_of_llama_quantize_for_the_reference_model() -> None:
    def kind(name: str, width: int) -> str:
        return gguf_types.tensor_type(name, (8, width), "q4_k_m", 28, False)

    assert kind("token_embd.weight", 1536) == "Q4_K"
    assert kind("output.weight", 1536) == "Q6_K"
    assert [i for i in range(28) if kind(f"blk.{i}.ffn_down.weight", 8960) == "Q6_K"] == [
        *(0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27)
    ]
    assert kind("blk.0.attn_k.weight", 1536) == "Q4_K"


@pytest.mark.parametrize(
    ("quantize", "width", "expected"),
    [("q4_k_m", 576, "Q5_0"), ("q5_k_m", 576, "Q5_1"), ("q6_k", 576, "Q8_0"), ("q8_0", 40, "F16"), ("bf16", 7, "BF16")],
)
def test_rows_that_a_type_cannot_hold_get_the_next_that_can(quantize: str, width: int, expected: str) -> None:
    assert gguf_types.tensor_type("blk.9.attn_q.weight", (4, width), quantize, 30, True) == expected


def test_norms_and_biases_stay_in_float32() -> None:
    assert gguf_types.tensor_type("blk.0.attn_q.bias", (64,), "q8_0", 2, False) == "F32"


def test_an_unknown_quantization_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(HybError, match="`q3_k_xxl`") as caught:
        gguf_types.quantization("q3_k_xxl")
    assert "q4_k_m" in caught.value.hint


@pytest.mark.parametrize(
    ("pre", "model", "tokens", "expected"),
    [
        (sequence({"type": "Digits", "individual_digits": True}, BYTES), {}, [], "smollm"),
        (sequence(split(QWEN2_WORDS), NO_WORDS), {}, [], "qwen2"),
        (sequence(split(QWEN2_WORDS), NO_WORDS), {}, ["<｜Assistant｜>"], "deepseek-r1-qwen"),
        (sequence(split(LLAMA_3_WORDS), NO_WORDS), {"ignore_merges": True}, [], "llama-bpe"),
        (BYTES, {}, [], "gpt-2"),
    ],
)  # fmt: skip
def test_a_pre_tokenizer_is_known_by_what_it_does(
    pre: object, model: dict[str, Any], tokens: list[str], expected: str
) -> None:
    assert gguf_vocab.pre_tokenizer(tokenizer(pre, **model), tokens) == expected


@pytest.mark.parametrize(
    "pre",
    [
        None,
        sequence({"type": "Digits", "individual_digits": False}, BYTES),
        sequence(split(QWEN2_WORDS), BYTES),
        sequence(split(QWEN2_WORDS + "|x"), NO_WORDS),
        {"type": "Metaspace"},
        {**BYTES, "add_prefix_space": True},
    ],
)
def test_an_unknown_pre_tokenizer_is_refused_and_never_guessed(pre: object) -> None:
    with pytest.raises(HybError, match="pre-tokenizer"):
        gguf_vocab.pre_tokenizer(tokenizer(pre), [])


def test_a_normalizer_that_llama_cpp_has_not_is_refused() -> None:
    with pytest.raises(HybError, match="pre-tokenizer"):
        gguf_vocab.pre_tokenizer({**tokenizer(BYTES), "normalizer": {"type": "Lowercase"}}, [])


def test_the_vocabulary_is_filled_up_and_its_types_are_told_apart() -> None:
    found = gguf_vocab.read(tokenizer(BYTES), {"eos_token": {"content": "<s>"}}, {"vocab_size": 6, "pad_token_id": 5})
    assert found.tokens == ["a", "b", "ab", "<s>", "<think>", "[PAD5]"]
    assert found.types == [1, 1, 1, 3, 4, 5]
    assert found.merges == ["a b"]
    assert (found.eos, found.pad, found.bos) == (3, 5, None)


def test_a_space_inside_a_merge_is_written_as_bytes_are() -> None:
    found = gguf_vocab.read(tokenizer(BYTES, merges=[["a ", "b"]]), {}, {"vocab_size": 5})
    assert found.merges == ["aĠ b"]


@pytest.mark.parametrize("nested", [False, True])
def test_bos_is_read_from_the_post_processor(nested: bool) -> None:
    processor: dict[str, Any] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    }
    if nested:
        processor = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, processor]}
    found = gguf_vocab.read({**tokenizer(BYTES), "post_processor": processor}, {}, {"vocab_size": 5})
    assert (found.add_bos, found.bos, found.add_eos) == (True, 3, False)


def test_bos_is_read_from_the_settings_too() -> None:
    found = gguf_vocab.read(tokenizer(BYTES), {"add_bos_token": True, "bos_token": "<s>"}, {"vocab_size": 5})
    assert (found.add_bos, found.bos) == (True, 3)


def test_a_tokenizer_that_is_larger_than_the_model_is_refused() -> None:
    with pytest.raises(HybError, match="token 4, but `vocab_size` is 4"):
        gguf_vocab.read(tokenizer(BYTES), {}, {"vocab_size": 4})


@pytest.mark.parametrize("model", [{"type": "Unigram"}, {"byte_fallback": True}])
def test_a_tokenizer_of_another_kind_is_refused(model: dict[str, Any]) -> None:
    with pytest.raises(HybError, match="the tokenizer is"):
        gguf_vocab.read(tokenizer(BYTES, **model), {}, {"vocab_size": 5})


def test_the_template_file_wins_over_the_settings() -> None:
    several = {"chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]}
    assert gguf_vocab.template(several, "") == "d"
    assert gguf_vocab.template(several, "file") == "file"
    assert gguf_vocab.template({}, "") == ""


def test_reading_changes_nothing() -> None:
    given = tokenizer(BYTES)
    before = copy.deepcopy(given)
    gguf_vocab.read(given, {}, {"vocab_size": 5})
    assert given == before


def test_llama_3_divides_long_wavelengths_only() -> None:
    scale = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
    scale |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    found = gguf_model.rope_factors({**CONFIG, "head_dim": 128, "rope_parameters": scale})
    assert len(found) == 64
    assert found[0] == 1.0
    assert found[-1] == 8.0
    assert found == sorted(found)
    assert gguf_model.rope_factors(CONFIG) == []
