"""What a model sees of a row, token by token: the template applied, and which tokens are trained.

With `think` "generate" the model first writes the reasoning of these rows (hyb.workers.think: the same cache, and the
settings that `hyb tune` is given). A row whose answers all came to nothing has that as its problem.

Job: `model`, `rows` (path of a part), `think`, `first` (row to begin with, from 0), `count`, and for "generate"
`digest` of the model, `cache` (folder), `max_tokens`, `quantize`. The result: `rows`, each
with `where` and its `sequences` of tokens `[id, text, trained]`, or `problem`. Where several tokens are one character,
the last of them has its text.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from hyb.workers import labels, models, pieces, protocol


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    tokenizer = models.load_tokenizer(job["model"])
    config = models.load_config(job["model"])
    mode = "keep" if job["think"] == "generate" else job["think"]
    encoder = labels.Encoder(tokenizer, models.load_stop_ids(job["model"], config, tokenizer), mode)
    with Path(job["rows"]).open("rb") as lines:
        rows = [json.loads(line) for line in islice(lines, job["first"], job["first"] + job["count"])]
    why = _reasoned(job, rows) if job["think"] == "generate" else {}
    return {"rows": [_row(encoder, tokenizer, row, why.get(n, "")) for n, row in enumerate(rows)]}


def _reasoned(job: dict[str, Any], rows: list[dict[str, Any]]) -> dict[int, str]:
    """Have the rows' reasoning written into them. Returns the number of each that has no answer left → why."""
    from hyb.workers import think

    asked = {
        "model": job["model"], "model_digest": job["digest"], "quantize": job["quantize"], "cache": job["cache"],
        "max_tokens": job["max_tokens"], "batch": 8, "seed": 0, "device": "auto",
    }  # fmt: skip
    turns, _ = think.reason(rows, asked)
    lost: dict[int, list[str]] = {}
    for turn in (t for t in turns if t.why):
        lost.setdefault(id(turn.row), []).append(turn.why)
    return {n: "; ".join(lost[id(row)]) for n, row in enumerate(rows) if id(row) in lost and not think.trains(row)}


def _row(encoder: labels.Encoder, tokenizer: Any, row: dict[str, Any], why: str = "") -> dict[str, Any]:
    try:
        if why:
            raise ValueError(f"left out: {why}")
        examples = encoder.row(row)
    except ValueError as problem:
        return {"where": labels.where(row), "problem": str(problem), "sequences": []}
    sequences = [
        [
            [i, t, label != labels.IGNORED]
            for i, t, label in zip(e.ids, pieces.texts(tokenizer, e.ids), e.labels, strict=True)
        ]
        for e in examples
    ]
    return {"where": labels.where(row), "problem": "", "sequences": sequences}


if __name__ == "__main__":
    protocol.main(work)
