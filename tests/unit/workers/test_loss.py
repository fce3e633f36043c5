from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.need import need

need("torch")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from hyb.workers import loss  # noqa: E402


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 16, generator=generator).to(dtype).requires_grad_()
    return hidden, torch.randn(50, 16, generator=generator).to(dtype) * 3, torch.tensor([3, 49, 0, 3, 7, 7, 20])


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("biased", [True, False])
def test_losses_and_gradients_are_those_of_cross_entropy(rows: int, biased: bool) -> None:
    hidden, weight, wanted = inputs(torch.float64)
    bias = torch.arange(50, dtype=torch.float64) / 10 if biased else None
    counts = torch.linspace(0, 2, 7, dtype=torch.float64)  # each token counts otherwise, as in DPO
    ours = loss.TokenLosses.apply(hidden, weight, bias, wanted, rows)
    theirs = F.cross_entropy(F.linear(hidden, weight, bias), wanted, reduction="none")
    torch.testing.assert_close(ours, theirs)
    (a,) = torch.autograd.grad((ours * counts).sum(), hidden)
    (b,) = torch.autograd.grad((theirs * counts).sum(), hidden)
    torch.testing.assert_close(a, b)


def test_half_precision_losses_are_float32_and_near_the_exact_ones() -> None:
    hidden, weight, wanted = inputs(torch.bfloat16)
    ours = loss.TokenLosses.apply(hidden, weight, None, wanted, 3)
    exact = F.cross_entropy(hidden.double() @ weight.double().t(), wanted, reduction="none")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=0.02, atol=0.05)


def test_no_more_logits_than_a_chunk_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    linear = F.linear

    def watched(*args: Any) -> torch.Tensor:
        seen.append(len(args[0]))
        return linear(*args)

    monkeypatch.setattr(F, "linear", watched)
    hidden, weight, wanted = inputs(torch.float32)
    loss.TokenLosses.apply(hidden, weight, None, wanted, 3).sum().backward()
    assert seen == [3, 3, 1]  # and none in the backward pass


def test_logits_that_the_model_reshapes_are_the_models_own() -> None:
    def head(**config: Any) -> loss.Head:
        text = SimpleNamespace(**config)
        model: Any = SimpleNamespace(
            get_output_embeddings=lambda: torch.nn.Linear(4, 9),
            config=SimpleNamespace(get_text_config=lambda: text),
        )
        return loss.Head(model)

    assert head().chunked
    assert head(logit_scale=1.0, final_logit_softcapping=None).chunked
    assert not head(final_logit_softcapping=30.0).chunked
    assert not head(logits_scaling=8.0).chunked


def test_a_micro_step_with_nothing_to_learn_costs_nothing() -> None:
    hidden, weight, _ = inputs(torch.float32)
    none = loss.TokenLosses.apply(hidden[:0], weight, None, torch.empty(0, dtype=torch.long), 3)
    none.sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad.any()
