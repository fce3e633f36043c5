from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hyb.formats import shapes, tune_cost
from hyb.formats.tune_cost import Machine, Measured, Wanted


def shape(source: str, device: str = "cpu", fused: bool = True) -> Any:
    found = tune_cost.shape(shapes.config(source) or {}, device, fused)
    assert found
    return found


SMOL, R1 = "hf://HuggingFaceTB/SmolLM2-135M-Instruct", "hf://deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B@main"
BOX = Machine("cpu", "the CPU", int(24e9), 2)
H100 = Machine("cuda", "NVIDIA H100 80GB HBM3", int(79e9), 16)


def test_the_operations_of_a_token_are_those_of_the_published_formula() -> None:
    """DeepSeek-R1-Distill-Qwen-1.5B, rank 16, all tokens labelled: 6.59e9 at 1024 tokens, 9.3e9 when computed twice."""
    wanted = Wanted(tokens=1024)
    half = (1 - tune_cost.LEARNT) * 4 * 151_936 * 1536
    assert tune_cost.operations(shape(R1), wanted, "none") + half == pytest.approx(6.59e9, rel=0.01)
    assert tune_cost.operations(shape(R1), wanted, "full") + half == pytest.approx(9.34e9, rel=0.01)


def test_the_adapter_and_the_weights_of_a_known_model_are_counted_right() -> None:
    assert tune_cost._linear(shape(R1)) == 28 * 46_792_704
    assert tune_cost._adapter(shape(R1), 16) == pytest.approx(18_464_768, rel=0.01)
    assert tune_cost._embedded(shape(SMOL)) == 49152 * 576  # one table for both ends


def test_memory_on_the_cpu_is_near_what_was_measured() -> None:
    """SmolLM2-135M, NF4, a step of 8 short rows: 2.1 GB. The 1.8 B Qwen2 with full checkpointing: 8.4 GB."""
    assert 1 / 1.6 < tune_cost.cost(shape(SMOL, fused=False), Wanted(), BOX).memory / 2.1e9 < 1.6
    assert 1 / 1.6 < tune_cost.cost(shape(R1), Wanted(mode="full"), BOX).memory / 8.4e9 < 1.6


def test_seconds_come_with_the_rows_and_grow_with_epochs_and_pairs() -> None:
    assert tune_cost.cost(shape(SMOL), Wanted(), BOX).seconds is None
    once = tune_cost.cost(shape(SMOL), Wanted(rows=96, epochs=1), BOX).seconds
    thrice = tune_cost.cost(shape(SMOL), Wanted(rows=96, epochs=3), BOX).seconds
    pairs = tune_cost.cost(shape(SMOL), Wanted(rows=96, epochs=3, dpo=True), BOX).seconds
    assert once
    assert thrice
    assert pairs
    assert 15 < once < thrice < pairs
    assert 1 / 3 < thrice / 85 < 3


def test_a_large_gpu_gets_large_micro_steps_without_checkpointing_and_a_small_one_less() -> None:
    wanted = Wanted(tokens=1024, rows_a_step=64, batch=64)
    large = tune_cost.cost(shape(R1, "cuda"), wanted, H100)
    assert (large.micro, large.mode, large.fits) == (16384, "none", True)
    small = tune_cost.cost(shape(R1, "cuda"), wanted, replace(H100, name="NVIDIA GeForce RTX 3060", free=int(7e9)))
    assert small.fits
    assert small.micro < large.micro or small.mode != "none"
    assert small.rate < large.rate


def test_what_does_not_fit_is_told_with_the_first_change_that_would() -> None:
    tight = replace(H100, free=int(4.5e9))
    found = tune_cost.cost(shape(R1, "cuda"), Wanted(quantize="none", mode="none", tokens=256), tight)
    assert not found.fits
    assert "and 4.5 GB are free on NVIDIA H100" in found.advice
    assert "with `gradient_checkpointing: full` and `quantize: nf4`" in found.advice
    none = tune_cost.cost(shape(R1, "cuda"), Wanted(), replace(H100, free=int(1e9)))
    assert "no setting fits, the least is" in none.advice


LLAMA_70B = {
    "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64,
    "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "free", "advice"),
    [
        ({}, 24e9, "with `gradient_checkpointing: full` and `gpus: 4` and `shard: true` it needs 21.4 GB each"),
        ({}, 40e9, "with `gradient_checkpointing: full` and `gpus: 2` and `shard: true` it needs"),
        ({"gpus": 4}, 24e9, "with `gradient_checkpointing: full` and `shard: true` it needs 21.4 GB each"),
        ({"gpus": 4, "shard": True}, 24e9, ""),
    ],
)
def test_a_model_larger_than_a_gpu_is_told_how_many_can_share_it(
    changed: dict[str, Any], free: float, advice: str
) -> None:
    large = tune_cost.shape(LLAMA_70B, "cuda", True)
    assert large
    found = tune_cost.cost(large, Wanted(tokens=512, **changed), replace(H100, free=int(free)))
    assert found.fits == (not advice)
    assert advice in found.advice


def test_what_splitting_the_weights_gives_is_said_and_that_it_is_not_needed() -> None:
    large = tune_cost.shape(LLAMA_70B, "cuda", True)
    assert large
    split = Wanted(tokens=512, gpus=4, shard=True)
    needed = tune_cost.cost(large, split, replace(H100, free=int(24e9)))
    assert needed.split == "`shard`: each of 4 processes takes 21.4 GB, not 45.7"
    idle = tune_cost.cost(large, split, H100)
    assert idle.split.endswith("; it would fit without, and be faster")
    assert "set `gpus`" in tune_cost.cost(large, replace(split, gpus=1), H100).split
    assert not tune_cost.cost(large, replace(split, shard=False), H100).split


def test_the_memory_of_a_part_goes_down_with_the_number_of_processes_to_what_each_has_whole() -> None:
    large = tune_cost.shape(LLAMA_70B, "cuda", True)
    assert large
    each = [tune_cost._still(large, Wanted(gpus=n, shard=True), "cuda") for n in (1, 2, 4, 8)]
    linear = tune_cost._linear(large)
    assert each[0] - each[1] == pytest.approx(linear * (0.25 - 0.5 * 3 / 80), rel=1e-3)
    assert each[1] - each[2] == pytest.approx(linear / 8, rel=1e-3)
    assert each[2] - each[3] == pytest.approx(linear / 16, rel=1e-3)


def test_a_measurement_replaces_the_guess_for_this_shape_and_no_other() -> None:
    wanted = Wanted(rows=100)
    before = tune_cost.cost(shape(SMOL), wanted, BOX)
    rate = tune_cost.rate(shape(SMOL), wanted, before.mode, 640, 4.0)
    known = replace(BOX, measured={tune_cost.key(BOX, shape(SMOL), wanted): Measured(rate, 1.25)})
    after = tune_cost.cost(shape(SMOL), wanted, known)
    assert not before.measured
    assert after.measured
    assert after.rate == pytest.approx(160)
    assert after.memory == pytest.approx(1.25 * before.memory, rel=1e-6)
    assert not tune_cost.cost(shape(R1), wanted, known).measured
    assert not tune_cost.cost(shape(SMOL), replace(wanted, quantize="none"), known).measured


@pytest.mark.parametrize("config", [{}, {"hidden_size": 8}, {"hidden_size": None, "num_attention_heads": 2}])
def test_a_config_that_says_too_little_has_no_shape(config: dict[str, Any]) -> None:
    assert tune_cost.shape(config, "cpu", True) is None


def test_every_short_name_has_a_shape_or_is_no_model_to_be_tuned() -> None:
    from hyb.hub.names import SHORT

    missing = [name for name, full in SHORT.items() if shapes.config(full) is None]
    assert missing == ["granite3.3-2b"]
