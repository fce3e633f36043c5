"""The LoRA functions against peft's own layers, gradient by gradient."""

from __future__ import annotations

from typing import Any

import pytest

from tests.need import need

need("torch", "transformers", "peft", "bitsandbytes")

import bitsandbytes as bnb  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from hyb.workers import fused  # noqa: E402

EXACT, HALF = {"rtol": 1e-9, "atol": 1e-11}, {"rtol": 0.05, "atol": 0.05}
SINGLE = {"rtol": 1e-4, "atol": 1e-5}


class Block(nn.Module):
    """Layers as in a decoder: three that read the same, one that does not, and an MLP."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(64, 64, bias=bias), nn.Linear(64, 32, bias=bias)
        self.v_proj, self.o_proj = nn.Linear(64, 32, bias=bias), nn.Linear(64, 64, bias=bias)
        self.mlp = Mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        mixed = q * torch.cat([k, v.tanh()], -1)
        return self.mlp(x + self.o_proj(mixed))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(64, 128, bias=False), nn.Linear(64, 128, bias=False)
        self.down_proj, self.act_fn = nn.Linear(128, 64, bias=False), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Odd(Mlp):
    """An MLP with the names of the usual one that computes something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))  # type: ignore[no-any-return]


def block(dtype: torch.dtype, *, nf4: bool = False, bias: bool = False, mlp: type[Mlp] = Mlp, **lora: Any) -> Any:
    """A block with LoRA on all its layers, every B random."""
    torch.manual_seed(0)
    model = Block(bias)
    model.mlp = mlp()
    model = model.to(dtype)
    if nf4:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, nn.Linear):
                four = bnb.nn.Linear4bit(
                    layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=dtype,
                    quant_type="nf4", compress_statistics=True,
                )  # fmt: skip
                four.weight = bnb.nn.Params4bit(
                    layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
                )
                four.bias = layer.bias
                four.support_avx512bf16_for_cpu = False
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, four.to("cpu"))
    targets = [n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, **{"lora_dropout": 0.0, **lora})
    model.requires_grad_(False)
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)  # type: ignore[arg-type]
    for name, p in adapted.named_parameters():
        if "lora_" in name:
            p.data = p.data.to(dtype)
        if "lora_B" in name:
            nn.init.normal_(p, std=0.3)
    return adapted


def results(model: Any, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The block's output for an input, and the gradient of a function of it by that input and every A and B."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 5, 64, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(2, 5, 64, generator=generator).to(dtype)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    out = model.base_model.model(x)
    found = torch.autograd.grad((out * weight).sum(), [x, *trained.values()])
    return out.detach(), dict(zip(["x", *trained], found, strict=True))


def assert_same(model: Any, dtype: torch.dtype, tolerance: dict[str, float], whole: int = 1, **options: Any) -> None:
    right, gradients = results(model, dtype)
    assert fused.install(model.base_model.model, **{"resident": False, **options}) == (7, whole)
    found, ours = results(model, dtype)
    torch.testing.assert_close(found, right, **tolerance)
    assert ours.keys() == gradients.keys()
    for name, value in ours.items():
        assert value.dtype == gradients[name].dtype, name
        scale = float(gradients[name].abs().max())
        assert scale > 0, name
        torch.testing.assert_close(value / scale, gradients[name] / scale, **tolerance)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_results_and_gradients_are_those_of_peft_in_float64(bias: bool, keep: bool) -> None:
    assert_same(block(torch.float64, bias=bias), torch.float64, EXACT, keep=keep)


@pytest.mark.parametrize("rslora", [False, True])
def test_rank_stabilised_scaling_is_kept(rslora: bool) -> None:
    assert_same(block(torch.float64, use_rslora=rslora), torch.float64, EXACT)


def test_in_bfloat16_they_are_those_of_peft_but_for_rounding() -> None:
    assert_same(block(torch.bfloat16), torch.bfloat16, HALF)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_4_bit_base_they_are_those_of_peft(dtype: torch.dtype, resident: bool) -> None:
    assert_same(block(dtype, nf4=True), dtype, SINGLE if dtype == torch.float32 else HALF, resident=resident)


def test_a_kept_weight_gives_the_same_bits_as_one_that_is_dequantised_each_time() -> None:
    found = []
    for resident in (False, True):
        model = block(torch.float32, nf4=True, bias=True)
        fused.install(model.base_model.model, resident=resident)
        found.append(results(model, torch.float32))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(g, found[1][1][name]) for name, g in found[0][1].items())


def test_an_mlp_that_computes_something_else_keeps_its_own_forward() -> None:
    assert_same(block(torch.float64, mlp=Odd), torch.float64, EXACT, whole=0)


def test_a_wrong_activation_is_not_taken_in_the_place_of_the_models() -> None:
    assert_same(block(torch.float64), torch.float64, EXACT, gated=lambda gate, up: gate.relu() * up)


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"lora_dropout": 0.1}])
def test_dora_and_dropout_keep_pefts_own_forward(lora: dict[str, Any]) -> None:
    model = block(torch.float64, bias=True, **lora)
    assert fused.install(model.base_model.model, resident=False) == (0, 0)


def test_with_the_adapter_off_the_block_is_the_base_and_on_again_it_is_adapted() -> None:
    model = block(torch.float64)
    adapted, _ = results(model, torch.float64)
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).double()
    with model.disable_adapter(), torch.no_grad():
        base = model.base_model.model(x)
    fused.install(model.base_model.model, resident=False)
    with model.disable_adapter(), torch.no_grad():
        torch.testing.assert_close(model.base_model.model(x), base, rtol=0, atol=0)
    torch.testing.assert_close(results(model, torch.float64)[0], adapted, **EXACT)
    assert not torch.allclose(base, adapted)


def test_layers_of_a_group_that_are_given_other_inputs_are_computed_each_for_its_own() -> None:
    model = block(torch.float64).base_model.model
    one, two = torch.randn(3, 64).double(), torch.randn(3, 64).double()
    right = model.q_proj(one), model.k_proj(two), model.v_proj(one), model.k_proj(one)
    fused.install(model, resident=False)
    found = model.q_proj(one), model.k_proj(two), model.v_proj(one), model.k_proj(one)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_nothing_is_kept_of_a_group_when_all_of_it_was_taken() -> None:
    model = block(torch.float64).base_model.model
    fused.install(model, resident=False)
    x = torch.randn(3, 64).double()
    model(x)
    groups = {id(g): g for g in (c.cell_contents for layer in (model.q_proj, model.k_proj)
              for c in layer.forward.__closure__) if isinstance(g, fused.Group)}  # fmt: skip
    (group,) = groups.values()
    assert group._for is None
    assert not group._results
