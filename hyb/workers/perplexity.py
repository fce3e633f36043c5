"""The perplexity of a GGUF in llama.cpp on given texts: e to the mean negative log-probability of a token.

llama.cpp's server tells the probability of a token that it chose, and not of one that it was given. So each token of a
text is asked for in turn: the tokens before it are the prompt (kept from the question before, so one token is
computed), the next one is forced by a bias on it, and what is told is its probability without the bias, over the whole
vocabulary. The engine, its kernels and its rounding are thus those that will serve the model. One text after the
other, nothing batched: the same file gives the same number on one machine.

With `reference` (what `hyb.workers.reference` wrote of the model before it was quantized) the file also reads those
conversations, token by token, and tells how far what it says is from that: mean and largest KL divergence in nats over
the likeliest tokens, and how often the likeliest is the same.

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
from hyb.workers import llama_local
from hyb.workers.protocol import Failed, main, progress
from hyb.workers.weights import peak_memory

TOPS, MANY = 256, 8192  # tokens that llama.cpp tells of a position; where one is looked for
_FORCED = 1e6  # added to a logit: larger than any difference between two of them


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    started = time.monotonic()
    longest = max(len(text.encode()) for text in job["texts"])  # a token is at least a byte
    logs: list[float] = []
    known = json.loads(Path(job["reference"]).read_bytes()) if job.get("reference") else []
    longest = max([longest, *(len(k["ids"]) for k in known)])
    with llama_local.server(Path(job["gguf"]), longest + 1) as post:
        texts = [post("/tokenize", {"content": t, "add_special": True})["tokens"] for t in job["texts"]]
        total = sum(len(ids) - 1 for ids in texts)
        for ids in texts:
            for i in range(1, len(ids)):
                logs.append(log_probability(post, ids[:i], ids[i]))
                if len(logs) % 16 == 0 or len(logs) == total:
                    progress("measuring perplexity", len(logs), total, "token")
        near = _nearness(post, known) if known else {}
    return near | {
        "perplexity": round(math.exp(-sum(logs) / len(logs)), 3),
        "tokens": len(logs),
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory": peak_memory(),
    }


def _nearness(post: llama_local.Post, known: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the file is from what is known of the unquantized model."""
    apart: list[float] = []
    same = 0
    total = sum(len(k["tops"]) for k in known)
    for one in known:
        for place, tops in enumerate(one["tops"]):
            said = _tops(post, one["ids"][: place + 1])
            apart.append(nearness.divergence(tops, said))
            same += max(said, key=lambda token: said[token]) == tops[0][0]
            if len(apart) % 16 == 0 or len(apart) == total:
                progress("comparing with the unquantized model", len(apart), total, "token")
    return {
        "mean_kl": round(sum(apart) / total, 4),
        "max_kl": round(max(apart), 4),
        "agreement": round(same / total, 4),
        "positions": total,
    }


def _tops(post: llama_local.Post, prompt: list[int], count: int = TOPS) -> dict[int, float]:
    """The likeliest next tokens with their log-probabilities.

    A plain letter is forced, for llama.cpp tells nothing of a token that is half a character.
    """
    letter = post("/tokenize", {"content": "a", "add_special": False})["tokens"][-1]
    answer = _forced(post, prompt, letter, count)
    try:
        tops = answer["completion_probabilities"][0]["top_logprobs"]
        return {int(t["id"]): float(t["logprob"]) for t in tops if math.isfinite(t["logprob"])}
    except (KeyError, IndexError, TypeError) as error:
        raise _silent(answer) from error


def log_probability(post: llama_local.Post, prompt: list[int], token: int) -> float:
    """The natural logarithm of the probability that `token` follows `prompt`."""
    return told(post, prompt, token)[0]


def told(post: llama_local.Post, prompt: list[int], token: int) -> tuple[float, bool]:
    """The same, and whether no token is likelier."""
    answer = _forced(post, prompt, token, 1)
    try:
        said = answer["completion_probabilities"][0]
        if said["id"] != token or not math.isfinite(said["logprob"]):
            raise ValueError("another token was chosen")
        best = said["top_logprobs"][0]
        return float(said["logprob"]), best["id"] == token or float(best["logprob"]) <= float(said["logprob"])
    except (KeyError, IndexError):  # half a character: look for it among the likeliest
        tops = _tops(post, prompt, MANY)
        log = tops.get(token, min(tops.values()))
        return log, log >= max(tops.values())
    except ValueError as error:
        raise _silent(answer) from error


def _forced(post: llama_local.Post, prompt: list[int], token: int, count: int) -> dict[str, Any]:
    question = {"prompt": prompt, "n_predict": 1, "n_probs": count, "temperature": 0, "cache_prompt": True}
    return post("/completion", {**question, "samplers": [], "logit_bias": [[token, _FORCED]]})


def _silent(answer: dict[str, Any]) -> Failed:
    return Failed(f"llama.cpp did not tell a probability: {json.dumps(answer)[:200]}", code=4)


if __name__ == "__main__":
    main(work)
