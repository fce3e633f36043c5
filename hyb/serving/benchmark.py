"""The pure side of `hyb bench`: prompts of a wanted length, what a level's samples say, the table.

A prompt is of common words in an order of its own, from its first word on: a server keeps what it has computed for a
prompt's beginning, and would answer a prompt that it knows without work.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyb.serving.load import Level

_TEXT = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work night point home water room mother area money story fact month lot
right study book eye job word business issue side kind head house service friend father power hour game line end member
law car city name team minute idea body back face level office door health person art war history party result change
morning reason research girl guy moment air teacher force education foot boy age policy music
"""
WORDS = tuple(_TEXT.split())
"""Common nouns: nearly every tokenizer has each as one token."""
QUANTILES = (50, 95, 99)


@dataclass(frozen=True)
class Shape:
    """What is asked of a server."""

    model: str
    prompt: int
    """Tokens of a prompt that are wanted."""
    answer: int
    words: int
    """Words that make such a prompt with this model's tokenizer."""
    ignore_eos: bool = True


def prompt(words: int, seed: int) -> str:
    """That many words; another seed gives another order from the first word on."""
    return " ".join(random.Random(seed).choices(WORDS, k=max(1, words)))


def body(shape: Shape, seed: int, answer: int = 0) -> dict[str, Any]:
    """A request."""
    extra = {"ignore_eos": True} if shape.ignore_eos else {}
    return {
        "model": shape.model,
        "messages": [{"role": "user", "content": prompt(shape.words, seed)}],
        "max_tokens": answer or shape.answer,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **extra,
    }


def words_for(wanted: int, few: tuple[int, int], many: tuple[int, int]) -> int:
    """Words for a prompt of `wanted` tokens, from two probes (words, tokens): the line through them, at least 1."""
    slope = max(0.1, (many[1] - few[1]) / max(1, many[0] - few[0]))
    return max(1, round(few[0] + (wanted - few[1]) / slope))


def quantile(values: Sequence[float], percent: float) -> float:
    """Between the two nearest values; 0.0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """{"p50", "p95", "p99"}."""
    return {f"p{q}": round(quantile(values, q), 6) for q in QUANTILES}


def summary(level: Level, shape: Shape, *, weights: int = 0, limit: float = 0.0, memory: int = 0) -> dict[str, Any]:
    """What a level's samples say. Seconds, bytes, tokens a second.

    `weights` bytes that a token reads and the machine's `limit` in bytes a second give the share of the limit: steps
    of a stream a second, times the weights. All streams that are answered together share a step.
    """
    good = level.good
    failed = [s.error for s in level.samples if s.error]
    out, into = sum(a.timing.completion_tokens for a in good), sum(a.timing.prompt_tokens for a in good)
    rate = quantile([a.timing.rate for a in good if a.timing.rate], 50)
    pieces = sum(len(a.timing.gaps) + 1 for a in good)
    found: dict[str, Any] = {
        "clients": level.clients,
        "prompt": shape.prompt,
        "answer": shape.answer,
        "requests": len(level.samples),
        "errors": len(failed),
        "first_error": failed[0] if failed else "",
        "seconds": round(level.seconds, 3),
        "prompt_tokens": quantile([a.timing.prompt_tokens for a in good], 50),
        "answer_tokens": quantile([a.timing.completion_tokens for a in good], 50),
        "cached_tokens": quantile([a.timing.cached_tokens for a in good], 50),
        "counted_by_server": bool(good) and all(a.timing.exact for a in good),
        "tokens_per_s": round(out / level.seconds, 2),
        "prompt_tokens_per_s": round(into / level.seconds, 2),
        "stream_tokens_per_s": round(rate, 2),
        "ttft_s": quantiles([a.timing.first for a in good]),
        "inter_token_s": quantiles([g for a in good for g in a.timing.gaps]),
        "client_cpu_share": round(level.cpu / level.seconds, 4),
        "client_us_per_piece": round(1e6 * level.cpu / pieces, 1) if pieces else 0.0,
    }
    if memory:
        found["memory_bytes"] = memory
    if weights and limit:
        found["bandwidth_share"] = round(rate * weights / limit, 4)
    return found


def notes(rows: Sequence[Mapping[str, Any]], *, asked_eos: bool) -> list[str]:
    """What a reader must know of the figures, a line each."""
    found = []
    good = [r for r in rows if r["requests"] > r["errors"]]
    short = [r for r in good if r["answer_tokens"] < r["answer"]]
    if short:
        why = "the server does not heed `ignore_eos`" if asked_eos else "the server refuses `ignore_eos`"
        found.append(f"answers ended before the {short[0]['answer']} tokens asked for: {why}")
    if any(not r["counted_by_server"] for r in good):
        found.append("the server does not count tokens: pieces of the stream were counted instead")
    if any(r["cached_tokens"] > r["prompt_tokens"] / 2 for r in good):
        found.append("the server kept more than half of a prompt from before: its time to the first token flatters")
    return found


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    ttft, gap = row["ttft_s"], row["inter_token_s"]
    none = row["errors"] == row["requests"]
    memory = f"{row['memory_bytes'] / 1e6:.0f}" if row.get("memory_bytes") else "-"
    share = f"{row['bandwidth_share']:.0%}" if "bandwidth_share" in row and not none else "-"
    return [
        str(row["clients"]),
        f"{row['prompt_tokens']:.0f}",
        f"{row['answer_tokens']:.0f}",
        f"{row['tokens_per_s']:.1f}",
        f"{row['prompt_tokens_per_s']:.1f}",
        "-" if none else " ".join(f"{1000 * ttft[q]:.0f}" for q in ("p50", "p95", "p99")),
        "-" if none else " ".join(f"{1000 * gap[q]:.1f}" for q in ("p50", "p95", "p99")),
        memory,
        share,
        str(row["errors"]),
    ]


HEADER = (
    "CLIENTS", "PROMPT", "ANSWER", "OUT tok/s", "IN tok/s", "TTFT ms 50/95/99", "INTER-TOKEN ms 50/95/99", "MB",
    "OF LIMIT", "ERRORS",
)  # fmt: skip
