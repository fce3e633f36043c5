"""Which questions measure an export: some of a data set's held-out ones, or neutral ones."""

from __future__ import annotations

import json
from pathlib import Path

PROMPTS = 8
NEUTRAL = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Name three colours.", "Red, green and blue."),
    ("How many days has a week?", "A week has seven days."),
    ("Write a short sentence about the sea.", "The sea was calm and grey under the morning fog."),
    ("What is 7 times 8?", "7 times 8 is 56."),
    ("Translate `good morning` into French.", "`Good morning` is `bonjour` in French."),
    ("Why is the sky blue?", "Air scatters blue light from the sun more than red light."),
    ("Write a line of Python that prints the numbers from 1 to 3.", "for i in range(1, 4): print(i)"),
)
"""What is asked where no data set is given."""


def questions(folder: Path | None) -> list[list[dict[str, str]]]:
    """Conversations to compare on, at most PROMPTS of them, evenly taken. `folder`: of a data set; None: neutral."""
    rows: list[list[dict[str, str]]] = []
    for name in ("holdout.jsonl", "control.jsonl", "train.jsonl") if folder else ():
        path = Path(folder or "", name)
        if path.exists():
            rows += [
                row["messages"]
                for x in path.read_bytes().splitlines()
                if x.strip() and "messages" in (row := json.loads(x))
            ]
        if len(rows) >= PROMPTS:
            break
    if not rows:
        rows = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in NEUTRAL]
    chosen = [rows[i * len(rows) // PROMPTS] for i in range(PROMPTS)] if len(rows) > PROMPTS else rows
    return [[{"role": m["role"], "content": m["content"]} for m in messages] for messages in chosen]
