"""What a model in transformers says at each position of some conversations: the measure for its quantizations.

Kept are the likeliest tokens with their log-probabilities, in float32 on the CPU.

Job: {"model": folder, "prompts": [messages, …], "out": path of the JSON to write}. The file: [{"ids": token ids,
"tops": for each of them but the last [[id, log p], …] of what follows}, …].
Done: {"positions", "seconds", "peak_memory"}.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from hyb.workers import models, prompts
from hyb.workers.protocol import main, progress
from hyb.workers.weights import peak_memory

TOPS = 64
LIMIT = 128  # tokens of a conversation


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    started = time.monotonic()
    models.make_deterministic(0)
    tokenizer = models.load_tokenizer(job["model"])
    model = models.load_causal_lm(job["model"], dtype="float32", device="cpu")
    found: list[dict[str, Any]] = []
    for number, messages in enumerate(job["prompts"]):
        ids = prompts.ids(tokenizer, messages, whole=True, limit=LIMIT)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        tops = torch.log_softmax(logits, -1).topk(min(TOPS, logits.shape[-1]))
        pairs = zip(tops.indices.tolist(), tops.values.tolist(), strict=True)
        found.append({"ids": ids, "tops": [list(zip(i, v, strict=True)) for i, v in pairs]})
        progress("what the model says unquantized", number + 1, len(job["prompts"]), "prompt")
    part = Path(job["out"]).with_suffix(".part")
    part.write_text(json.dumps(found))
    part.replace(job["out"])
    return {
        "positions": sum(len(f["tops"]) for f in found),
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory": peak_memory(),
    }


if __name__ == "__main__":
    main(work)
