"""Direct preference optimisation (arXiv 2305.18290): from pairs of a better and a worse answer to one question.

    loss = −log σ(β · ((π(better) − ref(better)) − (π(worse) − ref(worse))))

π and ref are the log-probabilities of the whole answer (the sum over its tokens) by the model that is trained and by
the reference. The reference is the base with the adapter off: no second model. It never changes, so it is computed
once, before the first step, and kept in the checkpoints. Encoding, order, packing of steps and the rest of the run are
those of plain tuning: a pair is an item as a row is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from hyb.workers import labels
from hyb.workers.labels import Encoder, Example
from hyb.workers.noise import Noise
from hyb.workers.protocol import Failed, progress


@dataclass(frozen=True)
class Pair:
    """A better and a worse answer to one question. `ids`: of both, for whatever counts or groups by length."""

    better: Example
    worse: Example
    number: int

    @property
    def ids(self) -> tuple[int, ...]:
        return self.better.ids + self.worse.ids

    @property
    def labels(self) -> tuple[int, ...]:
        return self.better.labels + self.worse.labels

    @property
    def where(self) -> str:
        return self.better.where


@dataclass(frozen=True)
class Pairs:
    """All pairs of a data set; see `hyb.workers.labels.Encoded`."""

    examples: tuple[Pair, ...]
    skipped: tuple[str, ...] = ()
    truncated: tuple[str, ...] = ()


def encode(
    rows: list[dict[str, Any]], encoder: Encoder, *, max_length: int, long: str, context: int | None = None
) -> Pairs:
    """Encode preference rows. `long`: "error", "skip" or "truncate", as for plain rows; a pair stays or goes whole.

    Raises Failed: rows without a worse answer, rows that can't be encoded, rows that are too long.
    """
    if lone := [labels.where(row) for row in rows if not row.get("rejected")]:
        raise Failed(
            f"{len(lone)} row(s) have no worse answer, and `method: dpo` learns from pairs",
            hint="give rows with `chosen` and `rejected`, or take `method: sft`",
            details=labels.first(lone),
        )
    limits: dict[str, Any] = {"max_length": max_length, "long": long, "context": context}
    better = labels.encode([_ending(r, r["messages"][-1]) for r in rows], encoder, **limits)
    worse = labels.encode([_ending(r, r["rejected"]) for r in rows], encoder, **limits)
    by_row = {e.row: e for e in worse.examples}
    both = [(e, by_row[e.row]) for e in better.examples if e.row in by_row]
    if not both:
        raise Failed(
            f"no pair is left to train on: one of its answers is longer than {max_length} tokens",
            hint="raise `max_length`",
        )
    pairs = tuple(Pair(b, w, n) for n, (b, w) in enumerate(both))
    return Pairs(pairs, _union(better.skipped, worse.skipped), _union(better.truncated, worse.truncated))


def _ending(row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """The row with `answer` as its last and only trained one."""
    before = [{**m, "train": False} if m["role"] == "assistant" else m for m in row["messages"][:-1]]
    kept = {k: v for k, v in row.items() if k not in ("rejected", "unmask", "label")}
    return {**kept, "messages": [*before, {**answer, "train": True}]}


def _union(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*a, *b]))


def loss(
    better: torch.Tensor, worse: torch.Tensor, ref_better: torch.Tensor, ref_worse: torch.Tensor, beta: float
) -> torch.Tensor:
    """The loss of each pair, from log-probabilities of whole answers, all of shape (pairs,)."""
    return -F.logsigmoid(beta * ((better - ref_better) - (worse - ref_worse)))


class Preferences:
    """What a step of preference tuning minimises: see `hyb.workers.objective`. `references`: (pairs, 2), the
    log-probabilities by the base of the better and the worse answer."""

    def __init__(self, net: Any, noise: Noise, beta: float) -> None:
        self.net, self.noise, self.beta = net, noise, beta
        self.references = torch.zeros(0, 2)

    def prepare(self, pairs: Sequence[Pair], batch: int) -> None:
        """Compute the reference of all pairs: `batch` at once, like lengths together."""
        model, self.references = self.net.model, torch.zeros(len(pairs), 2)
        order = sorted(pairs, key=lambda p: (-len(p.ids), p.number))
        was = model.training
        model.eval()
        done = 0
        with torch.no_grad(), model.disable_adapter():
            for part in self.net.split(order, batch):
                self.references[[p.number for p in part]] = self._said(part).float().cpu()
                done += len(part)
                progress("reference", done, len(pairs), "pair")
        model.train(was)

    def weight(self, pairs: Sequence[Pair]) -> int:
        """Each pair counts as one."""
        return len(pairs)

    def loss_sum(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """The sum of the pairs' losses, a scalar with its gradient."""
        self.noise.length = sum(len(p.ids) for p in pairs) / (2 * len(pairs))
        said = self._said(pairs)
        ref = self.references[[p.number for p in pairs]].to(said)
        return loss(said[:, 0], said[:, 1], ref[:, 0], ref[:, 1], self.beta).sum()

    def _said(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """(pairs, 2): the log-probability of each whole answer."""
        losses, counts = self.net.losses([row for p in pairs for row in (p.better, p.worse)])
        return -torch.stack([part.sum() for part in losses.split(list(counts))]).view(-1, 2)
