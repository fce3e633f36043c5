"""What a model sees of a row, token by token: the template applied, and which tokens are trained.

Job: `model`, `rows` (path of a part), `think`, `first` (row to begin with, from 0), `count`. The result: `rows`, each
with `where` and its `sequences` of tokens `[id, text, trained]`, or `problem`. Where several tokens are one character,
the last of them has its text.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from hyb.workers import labels, models, protocol


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    tokenizer = models.load_tokenizer(job["model"])
    config = models.load_config(job["model"])
    encoder = labels.Encoder(tokenizer, models.load_stop_ids(job["model"], config, tokenizer), job["think"])
    with Path(job["rows"]).open("rb") as lines:
        rows = [json.loads(line) for line in islice(lines, job["first"], job["first"] + job["count"])]
    return {"rows": [_row(encoder, tokenizer, row) for row in rows]}


def _row(encoder: labels.Encoder, tokenizer: Any, row: dict[str, Any]) -> dict[str, Any]:
    try:
        examples = encoder.row(row)
    except ValueError as problem:
        return {"where": labels.where(row), "problem": str(problem), "sequences": []}
    sequences = [
        [[i, t, label != labels.IGNORED] for i, t, label in zip(e.ids, _texts(tokenizer, e.ids), e.labels, strict=True)]
        for e in examples
    ]
    return {"where": labels.where(row), "problem": "", "sequences": sequences}


def _texts(tokenizer: Any, ids: tuple[int, ...]) -> list[str]:
    """The text that each token adds to those before it."""
    texts, held = [], []
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and len(held) < 8:  # the character goes on in the next token
            texts.append("")
            continue
        texts.append(text)
        held = []
    return texts


if __name__ == "__main__":
    protocol.main(work)
