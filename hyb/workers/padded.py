"""Rows in, the loss of each learnt token out: the plain way, rows right-padded to one width and no attention mask."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from hyb.workers.labels import IGNORED, Example
from hyb.workers.loss import AnswerHead


class Padded:
    """A model with its LoRA layers on a device."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self.head = AnswerHead(model.get_output_embeddings())

    def split(self, rows: Sequence[Any], batch: int) -> list[list[Any]]:
        """The micro-steps of a step: `batch` rows each."""
        return [list(rows[i : i + batch]) for i in range(0, len(rows), batch)]

    def losses(self, rows: Sequence[Example]) -> tuple[torch.Tensor, tuple[int, ...]]:
        """The loss of each learnt token, float32, rows in their order; and how many each row has."""
        width = max(len(e.ids) for e in rows)
        ids = torch.tensor([[*e.ids, *[0] * (width - len(e.ids))] for e in rows], device=self.device)
        wanted = torch.tensor([[*e.labels, *[IGNORED] * (width - len(e.labels))] for e in rows], device=self.device)
        wanted = F.pad(wanted[:, 1:], (0, 1), value=IGNORED)  # position t says token t + 1
        autocast = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()
        with autocast, self.head.only(wanted != IGNORED):
            logits = self.model(input_ids=ids, use_cache=False).logits
        found = F.cross_entropy(logits.float(), wanted[wanted != IGNORED], reduction="none")
        return found, tuple((wanted != IGNORED).sum(1).tolist())

    def total(self, rows: Sequence[Example]) -> torch.Tensor:
        """The sum of the losses, a scalar with its gradient."""
        return self.losses(rows)[0].sum()
