"""The perplexity of a GGUF in llama.cpp on given texts: e to the mean negative log-probability of a token.

llama.cpp's server tells the probability of a token that it chose, and not of one that it was given. So each token of a
text is asked for in turn: the tokens before it are the prompt (kept from the question before, so one token is
computed), the next one is forced by a bias on it, and what is told is its probability without the bias, over the whole
vocabulary. The engine, its kernels and its rounding are thus those that will serve the model. One text after the
other, nothing batched: the same file gives the same number on one machine.

Job: {"gguf": path, "texts": [text, …]}. Done: {"perplexity", "tokens", "seconds", "peak_memory"}.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from hyb.workers import llama_local
from hyb.workers.protocol import Failed, main, progress
from hyb.workers.weights import peak_memory

_FORCED = 1e6  # added to a logit: larger than any difference between two of them


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    started = time.monotonic()
    longest = max(len(text.encode()) for text in job["texts"])  # a token is at least a byte
    logs: list[float] = []
    with llama_local.server(Path(job["gguf"]), longest + 1) as post:
        texts = [post("/tokenize", {"content": t, "add_special": True})["tokens"] for t in job["texts"]]
        total = sum(len(ids) - 1 for ids in texts)
        for ids in texts:
            for i in range(1, len(ids)):
                logs.append(log_probability(post, ids[:i], ids[i]))
                if len(logs) % 16 == 0 or len(logs) == total:
                    progress("measuring perplexity", len(logs), total, "token")
    return {
        "perplexity": round(math.exp(-sum(logs) / len(logs)), 3),
        "tokens": len(logs),
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory": peak_memory(),
    }


def log_probability(post: llama_local.Post, prompt: list[int], token: int) -> float:
    """The natural logarithm of the probability that `token` follows `prompt`."""
    question = {"prompt": prompt, "n_predict": 1, "n_probs": 1, "temperature": 0, "cache_prompt": True, "samplers": []}
    answer = post("/completion", {**question, "logit_bias": [[token, _FORCED]]})
    try:
        told = answer["completion_probabilities"][0]
        if told["id"] != token or not math.isfinite(told["logprob"]):
            raise ValueError("another token was chosen")
        return float(told["logprob"])
    except (KeyError, IndexError, ValueError) as error:
        raise Failed(f"llama.cpp did not tell a probability: {json.dumps(answer)[:200]}", code=4) from error


if __name__ == "__main__":
    main(work)
