from __future__ import annotations

from typing import Any

from hyb.formats import memory

R1 = memory.Shape(28, 1536, 8960, 256, 151_936, 2)
"""DeepSeek-R1-Distill-Qwen-1.5B, bfloat16."""


def plan(free: float, shape: memory.Shape = R1, **changed: Any) -> memory.Plan:
    given = {
        "device": "cuda", "free": int(free), "parameters": 1_777_088_000, "pack": "auto", "mode": "auto",
        "resident": "auto", "quantized": True, "rows": [1024] * 64, "batch": 64, **changed,
    }  # fmt: skip
    return memory.plan(shape, **given)


def test_activations_are_near_what_the_arithmetic_of_the_layers_says() -> None:
    """Per token: 1.46 MB kept without checkpointing, 86 kB with full."""
    assert 0.8 < memory.activations(R1, 16384, "none") / (16384 * 1.46e6) < 1.4
    assert 86e3 < memory.activations(R1, 8192, "full") / 8192 < 250e3  # and one layer's work
    assert memory.linear_bytes(R1) / (2 * 1_310_195_712) == 1.0


def test_a_large_gpu_computes_nothing_twice_and_keeps_the_weights() -> None:
    assert plan(75e9) == memory.Plan(16384, "none", True)


def test_less_memory_is_met_first_by_computing_again_and_then_by_smaller_packs() -> None:
    sizes = [plan(free) for free in (75e9, 30e9, 8e9, 3e9, 1e9)]
    assert [p.pack for p in sizes] == sorted((p.pack for p in sizes), reverse=True)
    assert sizes[1].checkpointing == "selective"
    assert sizes[-1].checkpointing == "full"
    assert not sizes[-1].resident


def test_what_is_asked_for_is_done_and_a_pack_takes_the_longest_row() -> None:
    assert plan(1e9, pack=8192, mode="none", resident=True) == memory.Plan(8192, "none", True)
    assert plan(75e9, pack=512).pack == 1024
    assert plan(75e9, pack="off").pack == 0
    assert not plan(75e9, quantized=False, resident=True).resident


def test_a_step_of_few_tokens_is_not_planned_as_if_it_filled_a_pack() -> None:
    assert plan(4e9, rows=[60] * 8, batch=8) == memory.Plan(16384, "none", False)


def test_on_the_cpu_only_large_models_compute_twice_whatever_is_free() -> None:
    small = memory.Shape(30, 576, 1536, 192, 49_152, 4)
    for free in (4e9, 40e9):
        assert plan(free, small, device="cpu", parameters=134_515_008).checkpointing == "none"
        assert plan(free, device="cpu").checkpointing == "full"


def test_without_the_functions_of_our_own_an_mlp_alone_is_not_computed_again() -> None:
    plain = memory.Shape(28, 1536, 8960, 256, 151_936, 2, fused=False)
    assert {plan(free, plain).checkpointing for free in (200e9, 40e9, 20e9, 5e9)} == {"none", "full"}
