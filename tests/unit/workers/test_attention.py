from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.need import need

need("torch", "transformers")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from hyb.workers import attention, varlen  # noqa: E402

CPU = torch.device("cpu")
PLACES: list[Sequence[int]] = [range(7), [0, 1, 2, 7, 8], [0, 1, 9], range(10, 30)]
"""Four rows in a pack of 30 tokens: the second and third begin as the first does."""


def tensors(heads: int = 4, keys: int = 2, tokens: int = 30) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(1, n, tokens, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for n in (heads, keys, keys)
    )


def alone(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, place: Sequence[int], window: int = 0) -> torch.Tensor:
    """Attention of one row by its definition: (heads, tokens, d)."""
    one, two, three = (x[0, :, list(place)] for x in (q, k, v))
    two, three = (x.repeat_interleave(one.shape[0] // x.shape[0], 0) for x in (two, three))
    at = torch.arange(len(place))
    seen = at[:, None] >= at
    if window:
        seen &= at[:, None] - at < window
    scores = (one @ two.transpose(1, 2)) * 0.3
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ three


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("keys", [2, 4])
def test_each_row_of_a_pack_attends_to_itself_alone_and_so_do_its_gradients(window: int, keys: int) -> None:
    q, k, v = tensors(keys=keys)
    table = attention.layout(PLACES, 30, CPU, flat=False)
    out, _ = attention.attend(None, q, k, v, None, scaling=0.3, sliding_window=window or None, layout=table)
    weight = torch.randn(30, 4, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    right, total = torch.zeros(30, 4, 8, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for place in reversed(PLACES):
        row = alone(q, k, v, place, window).transpose(0, 1)
        right = right.index_copy(0, torch.tensor(list(place)), row)
    assert out.shape == (1, 30, 4, 8)
    torch.testing.assert_close(out[0], right)
    total = (right * weight).sum()
    for ours, theirs in zip(
        torch.autograd.grad((out[0] * weight).sum(), (q, k, v)), torch.autograd.grad(total, (q, k, v)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_rows_of_like_length_share_a_call_and_others_do_not() -> None:
    lengths = [20, 19, 15, 14, 3, 3]
    places, start = [], 0
    for length in lengths:
        places.append(range(start, start + length))
        start += length
    table = attention.layout(places, start, CPU, flat=False)
    assert [tuple(g.shape) for g in table.groups] == [(3, 20), (1, 14), (2, 3)]


@pytest.mark.parametrize("flat", [False, True])
def test_a_pack_that_is_as_attention_wants_it_is_not_copied(flat: bool) -> None:
    equal = [range(0, 10), range(10, 20), range(20, 30)]
    assert attention.layout(equal, 30, CPU, flat=flat).straight
    assert attention.layout([range(10), range(10, 30)], 30, CPU, flat=True).straight  # of any lengths
    assert not attention.layout([range(10), range(10, 30)], 30, CPU, flat=False).straight
    assert not attention.layout(PLACES, 30, CPU, flat=flat).straight
    q, k, v = tensors()
    out, _ = attention.attend(None, q, k, v, None, scaling=0.3, layout=attention.layout(equal, 30, CPU, flat=False))
    for place in equal:
        torch.testing.assert_close(out[0, list(place)].transpose(0, 1), alone(q, k, v, place))


def test_without_a_layout_rows_are_padded_on_their_right_and_causal() -> None:
    q, k, v = (x.expand(2, -1, -1, -1) for x in tensors(tokens=6))
    out, _ = attention.attend(None, q, k, v, None, scaling=0.3)
    torch.testing.assert_close(out[1].transpose(0, 1), alone(q, k, v, range(6)))


def test_a_mask_is_refused_and_not_ignored() -> None:
    with pytest.raises(NotImplementedError, match="no mask is taken"):
        attention._no_mask(attention_mask=torch.ones(1, 3, dtype=torch.bool))


# -- torch's variable-length kernel, which no CPU has: its four signatures, computed by definition ---------------------


def kernel(check: Callable[[dict[str, Any]], None]) -> Callable[..., torch.Tensor]:
    def compute(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int, **options: Any
    ) -> torch.Tensor:
        check(options)
        assert starts.dtype == torch.int32
        assert longest == int((starts[1:] - starts[:-1]).max())
        out = torch.empty_like(q)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        for a, z in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            one, two, three = (x[a:z].transpose(0, 1) for x in (q, k, v))
            scale = options.get("scale")
            out[a:z] = F.scaled_dot_product_attention(one, two, three, is_causal=True, scale=scale).transpose(0, 1)
        return out

    return compute


def torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):  # type: ignore[no-untyped-def]
    def check(_: dict[str, Any]) -> None:
        assert is_causal
        assert query.shape == key.shape

    return kernel(check)(query, key, value, cu_seq_q, max_q)


def torch_2_11(  # type: ignore[no-untyped-def]
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    assert window_size == (-1, 0)
    assert query.shape == key.shape
    return kernel(lambda _: None)(query, key, value, cu_seq_q, max_q, scale=scale)


def torch_2_13(  # type: ignore[no-untyped-def]
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
):  # fmt: skip
    assert window_size == (-1, 0)
    assert enable_gqa
    assert key.shape[1] == 2
    return kernel(lambda _: None)(query, key, value, cu_seq_q, max_q, scale=scale)


@pytest.mark.parametrize("version", [torch_2_10, torch_2_11, torch_2_13])
def test_the_variable_length_kernel_of_every_torch_gives_the_same(
    version: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", version)
    varlen.parameters.cache_clear()
    try:
        assert varlen.parameters() == set(inspect.signature(version).parameters)
        q, k, v = tensors()
        flat = attention.layout(PLACES, 30, CPU, flat=True)
        out, _ = attention.attend(None, q, k, v, None, scaling=0.3, layout=flat)
        right, _ = attention.attend(
            None, q, k, v, None, scaling=0.3, layout=attention.layout(PLACES, 30, CPU, flat=False)
        )
        torch.testing.assert_close(out, right)
    finally:
        varlen.parameters.cache_clear()


def test_a_wider_query_as_a_norm_under_autocast_gives_it_reaches_the_kernel_in_half_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.dtype] = []

    def version(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):  # type: ignore[no-untyped-def]
        seen.extend(x.dtype for x in (query, key, value))
        return query

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", version)
    varlen.parameters.cache_clear()
    try:
        q, k, v = (torch.randn(4, 2, 8, dtype=kind) for kind in (torch.float32, torch.bfloat16, torch.float32))
        with torch.autocast("cpu", torch.bfloat16):
            varlen.attend(q, k, v, torch.tensor([0, 4], dtype=torch.int32), 4, 0.3, 0)
        assert set(seen) == {torch.bfloat16}
    finally:
        varlen.parameters.cache_clear()


def test_the_kernel_is_not_taken_on_a_cpu() -> None:
    assert not varlen.usable(CPU)
    assert varlen.parameters() >= {"query", "key", "value"}
