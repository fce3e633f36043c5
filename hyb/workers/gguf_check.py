"""A GGUF, loaded in llama.cpp: are its token ids and its greedy answers those of the model that it was made from?

llama.cpp's server runs inside this process and listens on a Unix socket: no port, no network.
Token ids must be equal; greedy tokens are compared up to the first that differs in each prompt, since after it the two
answer different texts. A first token that the model finds as good as its likeliest (a tie that rounding breaks) counts
as agreement.

With `lora`, that adapter is put on the GGUF: then the two are compared with a model that has the adapter live on it.

Job: {"gguf": path, "lora": path or "", "expect": what hyb.workers.compare wrote, "min_agreement": share of first
tokens}.
Done: {"texts": compared, "first": share of prompts whose first token agrees, "agreement": share of equal greedy
tokens, "prompts", "seconds", "peak_memory"}. Fails with exit 4 when ids differ, or first tokens agree too seldom.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from hyb.workers import llama_local
from hyb.workers.llama_local import Post
from hyb.workers.protocol import Failed, main, progress
from hyb.workers.weights import peak_memory

_END = -1  # stands for every token that ends an answer: llama.cpp stops there and does not tell which


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    started = time.monotonic()
    path = Path(job["gguf"]).absolute()
    expected = json.loads(Path(job["expect"]).read_bytes())
    room = max(len(a["ids"]) + len(a["tokens"]) for a in expected["answers"])
    with llama_local.server(path, room, Path(job["lora"]) if job["lora"] else None) as post:
        _same_ids(post, expected["texts"])
        first, agreement = _same_answers(post, expected["answers"], set(expected["ends"]))
    if first < job["min_agreement"]:
        raise Failed(
            f"llama.cpp's first token agrees with the model's in {first:.0%} of the prompts,"
            f" wanted {job['min_agreement']:.0%}",
            hint="please report this model; `format: safetensors` can be served instead",
            code=4,
        )
    return {
        "texts": len(expected["texts"]),
        "prompts": len(expected["answers"]),
        "first": round(first, 3),
        "agreement": round(agreement, 3),
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory": peak_memory(),
    }


def _same_ids(post: Post, texts: list[dict[str, Any]]) -> None:
    """Raises Failed when llama.cpp splits a text otherwise than the model's own tokenizer."""
    wrong = []
    for text in texts:
        question = {"content": text["text"], "add_special": text["special"], "parse_special": True}
        found = post("/tokenize", question)["tokens"]
        if found != text["ids"]:
            at = next((i for i, (a, b) in enumerate(zip(found, text["ids"], strict=False)) if a != b), len(found))
            wrong.append(
                f"{text['text'][:40]!r}: from token {at} on {text['ids'][at : at + 4]}, here {found[at : at + 4]}"
            )
    if wrong:
        raise Failed(
            f"llama.cpp splits {len(wrong)} of {len(texts)} texts otherwise than the model's tokenizer",
            hint="please report this tokenizer; `format: safetensors` can be served instead",
            code=4,
            details=wrong[:6],
        )


def _same_answers(post: Post, answers: list[dict[str, Any]], ends: set[int]) -> tuple[float, float]:
    """The share of prompts whose first token is the same, and of all greedy tokens."""
    first = same = total = 0
    for i, answer in enumerate(answers):
        wanted = [_END if t in ends else t for t in answer["tokens"]]
        near = {_END if t in ends else t for t in answer["near"]}
        found = _greedy(post, answer["ids"], len(wanted), ends)
        prefix = 0
        while prefix < min(len(found), len(wanted)) and found[prefix] == wanted[prefix]:
            prefix += 1
        first, same, total = first + (bool(found) and found[0] in near), same + prefix, total + len(wanted)
        progress("asking llama.cpp", i + 1, len(answers), "prompt")
    return (first / len(answers), same / total) if total else (1.0, 1.0)


def _greedy(post: Post, ids: list[int], count: int, ends: set[int]) -> list[int]:
    """llama.cpp's likeliest tokens, up to and with the one that ends the answer."""
    question = {"prompt": ids, "n_predict": count, "temperature": 0, "return_tokens": True, "cache_prompt": False}
    answer = post("/completion", question)  # not xllamacpp's own call: that leaves out tokens that are half a letter
    if "tokens" not in answer:
        raise Failed(f"llama.cpp did not answer: {json.dumps(answer)[:200]}", code=4)
    found = [token for token in answer["tokens"] if token not in ends]
    return [*found, _END] if answer["stop_type"] == "eos" else found


if __name__ == "__main__":
    main(work)
