"""Which adapters can be merged, and into what."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyb.errors import HybError
from hyb.formats import lora
from hyb.formats.safetensors import Tensor

PLAIN = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "bias": "none", "target_modules": ["q_proj"]}


def tensor(name: str, *shape: int) -> Tensor:
    return Tensor(name, "F32", shape, Path("x"), 0, 0)


def folder(*tensors: Tensor) -> dict[str, Tensor]:
    return {t.name: t for t in tensors}


BASE = folder(tensor("model.layers.0.self_attn.q_proj.weight", 8, 6), tensor("lm_head.weight", 9, 6))
Q = "base_model.model.model.layers.0.self_attn.q_proj"
FACTORS = [tensor(Q + ".lora_A.weight", 2, 6), tensor(Q + ".lora_B.weight", 8, 2)]


def test_the_factor_is_alpha_over_rank_or_its_root() -> None:
    assert lora.scaling(PLAIN) == 2.0
    assert lora.scaling({**PLAIN, "use_rslora": True}) == 8.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 0}, "`r` is"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"something_new": {"a": 1}}, "something_new"),
    ],
)
def test_anything_but_a_plain_lora_is_refused_by_name(change: dict[str, object], says: str) -> None:
    with pytest.raises(HybError) as caught:
        lora.scaling({**PLAIN, **change})
    assert any(says in line for line in caught.value.details)


def test_all_mistakes_of_an_adapter_are_told_at_once() -> None:
    with pytest.raises(HybError) as caught:
        lora.scaling({**PLAIN, "use_dora": True, "bias": "all"})
    assert len(caught.value.details) == 2


def test_factors_are_paired_with_the_weight_that_they_change() -> None:
    found = lora.pairs(folder(tensor(Q + ".lora_A.weight", 2, 6), tensor(Q + ".lora_B.weight", 8, 2)), BASE)
    assert list(found) == ["model.layers.0.self_attn.q_proj.weight"]
    assert found["model.layers.0.self_attn.q_proj.weight"].a.shape == (2, 6)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([tensor(Q + ".lora_A.weight", 2, 5), tensor(Q + ".lora_B.weight", 8, 2)], "is 8 × 6, but its factors"),
        ([tensor(Q + ".lora_A.weight", 2, 6)], "one of the two factors"),
        ([tensor(Q.replace(".0.", ".7.") + f".lora_{x}.weight", 2, 2) for x in "AB"], "the model has no `model"),
        ([tensor(f"base_model.model.lm_head.lora_{x}.weight", 2, 2) for x in "AB"], "it changes `lm_head.weight`"),
        ([tensor("base_model.model.model.embed_tokens.lora_embedding_A", 2, 2)], "not a factor of a linear layer"),
        ([tensor(Q + ".lora_magnitude_vector", 8)], "one of the two factors"),
        ([*FACTORS, tensor(Q + ".lora_magnitude_vector", 8)], "has a `lora_magnitude_vector`, and `use_dora` is false"),
    ],
)  # fmt: skip
def test_an_adapter_of_another_model_is_refused_with_the_weight(tensors: list[Tensor], says: str) -> None:
    with pytest.raises(HybError, match="does not fit the model") as caught:
        lora.pairs(folder(*tensors), BASE)
    assert any(says in line for line in caught.value.details)


def test_dora_brings_a_length_for_each_row_and_only_who_knows_it_takes_it() -> None:
    settings = {**PLAIN, "use_dora": True}
    assert lora.scaling(settings, dora=True) == 2.0
    with pytest.raises(HybError) as caught:
        lora.scaling(settings)
    assert "merges DoRA" in caught.value.hint
    found = lora.pairs(folder(*FACTORS, tensor(Q + ".lora_magnitude_vector", 8)), BASE, dora=True)
    assert found["model.layers.0.self_attn.q_proj.weight"].length


@pytest.mark.parametrize(
    ("lengths", "says"),
    [([], "has no `lora_magnitude_vector`"), ([7], "has 8 rows, but its `lora_magnitude_vector` is 7")],
)
def test_dora_without_a_length_for_each_row_is_refused(lengths: list[int], says: str) -> None:
    with pytest.raises(HybError, match="does not fit the model") as caught:
        lora.pairs(folder(*FACTORS, *(tensor(Q + ".lora_magnitude_vector", n) for n in lengths)), BASE, dora=True)
    assert any(says in line for line in caught.value.details)


def test_an_empty_adapter_is_refused() -> None:
    with pytest.raises(HybError, match="no tensors"):
        lora.pairs({}, BASE)
