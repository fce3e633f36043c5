"""Attention inside each row of a pack and never between two: what makes it allowed to compute many rows as one.

A pack is one sequence of tokens. Its `Layout` says at which of them each row stands; two rows that begin alike may
stand on the same tokens there (`hyb.workers.batches`). Queries, keys and values are gathered row by row, attended
causally, and put back; nothing else of a model mixes positions. On CUDA that is one call of torch's variable-length
kernel; elsewhere one call of scaled dot product attention for each group of rows of like length, padded on their
right, where no token sees a pad. A mask is made by neither: a block mask costs its square, a loop over rows a call for
each.

transformers calls it as the attention named NAME; the layout comes as an argument of the model's forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from hyb.workers import varlen

NAME = "hyb_packed"
LIKE = 0.75  # the shortest row of a group, in lengths of its longest
KINDS = {"full_attention", "sliding_attention"}  # of layers; what has a state (linear attention) would carry it over


@dataclass(frozen=True)
class Layout:
    """Where the rows of a pack stand in it.

    `groups`: each (rows, width), for each place of a row its token in the pack, pads pointing anywhere. `back`: (tokens
    of the pack,), for each the first place that it has in the groups, all in a row. `starts`: for the variable-length
    kernel, where there is one: then there is one group, (1, places), without pads.
    """

    groups: tuple[torch.Tensor, ...]
    back: torch.Tensor
    lengths: tuple[int, ...]
    starts: torch.Tensor | None = None
    straight: bool = False
    """The one group is the pack as it is: nothing is to be gathered or put back."""


def layout(rows: Sequence[Sequence[int]], tokens: int, device: torch.device, *, flat: bool) -> Layout:
    """The layout of a pack of `tokens` tokens; `rows`: those of each row. `flat`: for the variable-length kernel."""
    order = list(range(len(rows))) if flat else sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    groups: list[list[Sequence[int]]] = []
    for row in (rows[i] for i in order):
        if groups and (flat or len(row) >= LIKE * len(groups[-1][0])):
            groups[-1].append(row)
        else:
            groups.append([row])
    back, at = [-1] * tokens, 0
    tables, straight = [], False
    for group in groups:
        width = sum(map(len, group)) if flat else len(group[0])
        table = [token for row in group for token in row] if flat else []
        for row in group:
            for place, token in enumerate(row):
                if back[token] < 0:
                    back[token] = at + place
            at += len(row) if flat else width
            table += [] if flat else [*row, *[0] * (width - len(row))]
        tables.append(torch.tensor(table, device=device).view(-1, width))
        straight = len(groups) == 1 and table == list(range(tokens))
    lengths = tuple(len(rows[i]) for i in order)
    starts = torch.tensor([0, *lengths], device=device).cumsum(0).int() if flat else None
    return Layout(tuple(tables), torch.tensor(back, device=device), lengths, starts, straight)


@torch.compiler.disable  # type: ignore[untyped-decorator] # a layout differs from pack to pack: a graph made for one is no use for the next
def attend(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention: query (1, heads, tokens, d) → (1, tokens, heads, d). Without a layout each sequence of
    the batch is one row, right-padded."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window or 0
    if layout is None:
        out = _causal(query, key, value, scale, dropout, window)
        return out.transpose(1, 2).contiguous(), None
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    found = []
    for table in layout.groups:
        rows, width = table.shape
        one, two, three = (x if layout.straight else x.index_select(0, table.view(-1)) for x in (q, k, v))
        if layout.starts is not None:
            found.append(varlen.attend(one, two, three, layout.starts, max(layout.lengths), scale, window))
            continue
        one, two, three = (x.reshape(rows, width, -1, x.shape[-1]).transpose(1, 2) for x in (one, two, three))
        out = _causal(one, two, three, scale, dropout, window)
        found.append(out.transpose(1, 2).reshape(rows * width, q.shape[1], -1))
    every = found[0] if len(found) == 1 else torch.cat(found)
    return (every if layout.straight else every.index_select(0, layout.back))[None], None


def _causal(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, dropout: float, window: int
) -> torch.Tensor:
    """Causal attention of (rows, heads, width, d)."""
    width, mask = q.shape[2], None
    if window and window < width:
        at = torch.arange(width, device=q.device)
        mask = (at[:, None] >= at) & (at[:, None] - at < window)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=k.shape[1] != q.shape[1],
    )


def packable(model: Any) -> bool:
    """Whether rows may be packed for this model: its attention goes through transformers' interface, and nothing else
    in it mixes positions. A list of what is known to be right; any other model has its rows padded."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return bool(model._supports_attention_backend and kinds <= KINDS and not capped)


def install(model: Any) -> None:
    """Let `model` attend by rows."""
    model.set_attn_implementation(NAME)


def _no_mask(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> None:
    """transformers' mask for this attention: none. A mask that someone gives would be ignored, so it is refused."""
    if attention_mask is not None:
        raise NotImplementedError("rows are kept apart by a layout, or padded on their right: no mask is taken")


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)
