from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from tests.need import need

need("torch", "transformers")

import torch  # noqa: E402
import transformers  # noqa: E402

from hyb.workers import kernels  # noqa: E402


def model(kind: str = "Llama", dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    made = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype).requires_grad_(False)
    for name, p in made.named_parameters():
        if "norm" in name:
            p.data = torch.rand_like(p) + 0.5
    return made


def test_the_norm_and_its_gradient_are_the_models_own() -> None:
    norm: Any = model().model.norm
    x = torch.randn(2, 3, 32, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 32, dtype=torch.float64)
    right = transformers.models.llama.modeling_llama.LlamaRMSNorm(32, norm.variance_epsilon).double()
    right.weight.data = norm.weight.data

    def exact(x: torch.Tensor) -> torch.Tensor:  # the model's own computes in float32
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon) * norm.weight

    ours = kernels.RmsNorm.apply(x, norm.weight, norm.variance_epsilon)
    torch.testing.assert_close(ours, exact(x))
    torch.testing.assert_close(ours, right(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weight).sum(), x), torch.autograd.grad((exact(x) * weight).sum(), x)
    )


def test_the_rotation_and_its_gradient_are_the_models_own() -> None:
    own = transformers.models.qwen3.modeling_qwen3.apply_rotary_pos_emb
    q, k = (torch.randn(1, n, 5, 8, dtype=torch.float64, requires_grad=True) for n in (4, 2))
    angles = torch.randn(1, 5, 4, dtype=torch.float64).repeat(1, 1, 2)
    weights = torch.randn(1, 4, 5, 8, dtype=torch.float64), torch.randn(1, 2, 5, 8, dtype=torch.float64)
    found = []
    for rotate in (own, kernels.rotate):
        one, two = rotate(q, k, angles.cos(), angles.sin())
        gradients = torch.autograd.grad((one * weights[0]).sum() + (two * weights[1]).sum(), (q, k))
        found.append((one, two, *gradients))
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_models_norms_and_rotation_are_replaced_and_its_logits_stay() -> None:
    llama, ids = model(dtype=torch.float32), torch.arange(9)[None]
    file = sys.modules[type(llama).__module__]
    before, own = llama(ids).logits, file.apply_rotary_pos_emb  # type: ignore[attr-defined]
    try:
        assert kernels.install_norms(llama, None) == 3
        assert kernels.install_rotation(llama, None)
        torch.testing.assert_close(llama(ids).logits, before, rtol=1e-4, atol=1e-5)
        assert kernels.install_rotation(llama, None)  # once more: as it is
    finally:
        file.apply_rotary_pos_emb = own  # type: ignore[attr-defined]


def test_a_norm_that_is_another_under_the_same_name_keeps_its_own_forward() -> None:
    assert kernels.install_norms(model("Gemma", torch.float32), None) == 0  # Gemma's scales by one more than its weight


def test_a_rotation_of_pairs_is_not_taken_for_one_of_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    llama: Any = model(dtype=torch.float32)
    file = sys.modules[type(llama).__module__]

    def paired(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        def turn(x: torch.Tensor) -> torch.Tensor:
            other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
            return x * cos[:, None] + other * sin[:, None]

        return turn(q), turn(k)

    monkeypatch.setattr(file, "apply_rotary_pos_emb", paired)
    assert not kernels.install_rotation(llama, None)
    assert file.apply_rotary_pos_emb is paired  # type: ignore[attr-defined]


def test_ligers_functions_are_for_cuda_alone() -> None:
    assert kernels.liger(torch.device("cpu"), True) is None


def test_liger_without_a_compiler_is_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncompiled(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler. Please specify via CC\nmore")

    package, functional = types.ModuleType("liger_kernel.transformers"), types.ModuleType("functional")
    functional.liger_rms_norm = uncompiled  # type: ignore[attr-defined]
    package.functional = functional  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    said: list[str] = []
    monkeypatch.setattr("torch.ones", lambda *shape, device: torch.zeros(shape))
    monkeypatch.setattr(kernels, "emit", lambda _, text: said.append(text))
    assert kernels.liger(torch.device("cuda", 0), True) is None
    assert said == ["Liger's kernels can't be used here: Failed to find C compiler. Please specify via CC"]
