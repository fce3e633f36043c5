"""The perplexity of a GGUF in llama.cpp on given texts: e to the mean negative log-probability of a token.

It is measured over the whole vocabulary, in the engine that will serve the model (see hyb.workers.llama_reader): the
same file gives the same number on one machine.

With `reference` (what `hyb.workers.reference` wrote of the model before it was quantized) the file also reads those
conversations, and tells how far what it says is from that: mean and largest KL divergence in nats over the likeliest
tokens, and how often the likeliest is the same.

Job: {"gguf": path, "texts": [text, …], "reference": path or ""}. Done: {"perplexity", "tokens", "seconds",
"peak_memory"}, and with a reference {"mean_kl", "max_kl", "agreement", "positions"}.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from hyb.formats import nearness
from hyb.workers.llama_reader import Reader, log_sum
from hyb.workers.protocol import main, progress
from hyb.workers.weights import peak_memory


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    started = time.monotonic()
    known = json.loads(Path(job["reference"]).read_bytes()) if job.get("reference") else []
    longest = max(len(text.encode()) for text in job["texts"])  # a token is at least a byte
    progress("loading in llama.cpp", 0, 1)
    with Reader(Path(job["gguf"]), max([longest + 1, *(len(k["ids"]) for k in known)])) as reader:
        texts = [reader.ids(text, special=True) for text in job["texts"]]
        total = sum(len(ids) - 1 for ids in texts)
        logs: list[float] = []
        for ids in texts:
            logs += [log for log, _ in reader.likelihood(ids, 1)]
            progress("measuring perplexity", len(logs), total, "token")
        near = _nearness(reader, known) if known else {}
    return near | {
        "perplexity": round(math.exp(-sum(logs) / len(logs)), 3),
        "tokens": len(logs),
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory": peak_memory(),
    }


def _nearness(reader: Reader, known: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the file is from what is known of the unquantized model."""
    apart: list[float] = []
    same = 0
    total = sum(len(k["tops"]) for k in known)
    for one in known:
        for tops, row in zip(one["tops"], reader.rows(one["ids"][:-1], 0), strict=True):
            whole = log_sum(row)
            apart.append(nearness.divergence(tops, [float(row[token]) - whole for token, _ in tops]))
            same += int(row.argmax()) == tops[0][0]
        progress("comparing with the unquantized model", len(apart), total, "token")
    return {
        "mean_kl": round(sum(apart) / total, 4),
        "max_kl": round(max(apart), 4),
        "agreement": round(same / total, 4),
        "positions": total,
    }


if __name__ == "__main__":
    main(work)
