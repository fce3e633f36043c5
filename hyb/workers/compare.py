"""What transformers says of a model: the measure for a merge, and for a GGUF.

With a base, the model's next-token distributions are compared with those of the base, with the adapter (where there is
one) live on it, both in float32 on the CPU, at every position of every prompt: mean and largest KL divergence in nats
(live ‖ merged), mean and largest difference of a logit, how often the likeliest token is the same, and the perplexity
of the prompts for both. `quantize` is how the base is loaded: "nf4" where its 4-bit values were merged into. With
`trained` "nf4" the adapter is also put on the base in 4 bits, on which it was trained: how far the merged model is from
that one is written down and not judged. Then the model's greedy tokens after each prompt and the token ids of difficult
texts are written down, for `hyb.workers.gguf_check` to compare llama.cpp with. Without a base the adapter, where there
is one, is live on the model itself.

One model is in memory at a time. Job: {"model": folder, "base": folder or "", "adapter": folder or "", "prompts":
[messages, …], "tokens": greedy tokens a prompt, "max_kl": mean nats, "min_agreement": share, "expect": path of the JSON
to write, or "", "quantize": "none" or "nf4", "trained": "" or "nf4"}. Done: {"divergence": {…} or null, "seconds",
"peak_memory"}. Fails with exit 4 when the merge diverges.
"""

from __future__ import annotations

import gc
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from hyb.workers import models, prompts
from hyb.workers.protocol import Failed, main, progress
from hyb.workers.weights import peak_memory

LIMIT = 256  # tokens of a prompt that are looked at
NEAR = 0.25  # nats: a token this near to the likeliest is as good an answer after rounding
TEXTS = (
    "Hello world",
    "  two spaces,\ttab\nnewline\r\n\r\n  indented   inside   ",
    "1234567890 3.14159 2026-11-22 0x7f 1e-9 ¹²³ ½ ٣٤٥",
    "The company's dog isn't here; they'll say we've WON'T I'm YOU'RE",
    "naïve café Zürich Ærøskøbing ñandú Ελληνικά Кириллица עברית العربية हिन्दी ไทย",
    "日本語のテキスト、中文文本。한국어 텍스트!",
    "😀👩‍👩‍👧‍👦🏳️‍🌈🇩🇪 emoji👍🏽mixed",
    "def f(x):\n    return x**2 + 3*x - 1  # comment\n\n\nclass A:\n\tpass\n",
    '{"key": [1, 2.5, null], "url": "https://example.com/a?b=c&d=%20"}',
    "!!!??? ... --- ### ((([[[{{{ <>/\\|~`^@",
    "a\u00a0b\u200bc\u3000d\u2028e",
    "word " * 20 + "\n" * 5 + " " * 9 + "end",
    " " * 70 + "x" + "\t" * 9 + "y" + " \n" * 7 + "\n \n  \n   z",
    "q̃ x̂ m̈ r̄ z̴̡̧ ক্ষ ನ್ನ ཧཱུྃ กำ้ ﷽ e⃝",
    "٠١٢٣ 一二三 Ⅷ ⁴⁵ ① 12,345.67 1'000 00000000000000000000 9" + "9" * 40,
    "a｜b <｜ x ｜> <｜User <|im_start <|im_end| > [INST] ▁ Ġ Ċ",
    "SELECT * FROM t WHERE a<>'b' AND c!=d;--\n\t#include <stdio.h>\r\nx+=y<<2;/*…*/ λx.x ∀x∈ℝ: x²≥0 →",
    "👨🏽‍🚀 ❤️‍🔥 🇺🇳 #️⃣ 🫠",
    "",
)
"""What tokenizers disagree on: spaces, digits, contractions, scripts, marks, code, emoji, what is almost a special
token. All in NFC: llama.cpp does not normalize, so a text that is not would differ for a tokenizer that does. `</s>`
is not among them: llama.cpp takes it for a special token wherever a vocabulary has it, as Qwen2's has as an ordinary
one."""


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    started = time.monotonic()
    models.make_deterministic(0)
    tokenizer = models.load_tokenizer(job["model"])
    divergence = None
    texts = [prompts.ids(tokenizer, messages, whole=True, limit=LIMIT) for messages in job["prompts"]]
    quantize, trained = job.get("quantize", "none"), job.get("trained", "")
    meter = _Meter(len(texts) * (2 + bool(trained)))
    live = _live(job, quantize, texts, meter) if job["base"] else []
    tuned = _live(job, trained, texts, meter) if job["base"] and trained else []
    model = _load(job["model"])
    if job["adapter"] and not job["base"]:
        model = models.attach_adapter(model, job["adapter"])
    if live:
        merged = [meter.logits(model, ids) for ids in texts]
        divergence = _divergence(texts, live, merged)
        _judge(divergence, job["max_kl"], job["min_agreement"])
        if tuned:
            divergence["as_trained"] = _divergence(texts, tuned, merged)
    if job["expect"]:
        ends = models.stop_ids(model, tokenizer)
        answers = []
        for i, messages in enumerate(job["prompts"]):
            ids = prompts.ids(tokenizer, messages, whole=False, limit=LIMIT)
            tokens, near = _greedy(model, ids, job["tokens"], ends)
            answers.append({"ids": ids, "tokens": tokens, "near": near})
            progress("greedy answers", i + 1, len(job["prompts"]), "prompt")
        _write(Path(job["expect"]), {"answers": answers, "ends": ends, "texts": _texts(tokenizer, Path(job["model"]))})
    return {"divergence": divergence, "seconds": round(time.monotonic() - started, 3), "peak_memory": peak_memory()}


def _load(folder: str, quantize: str = "none") -> Any:
    return models.load_causal_lm(folder, quantize=quantize, dtype="float32", device="cpu")


def _live(job: dict[str, Any], quantize: str, texts: list[list[int]], meter: _Meter) -> list[torch.Tensor]:
    """The logits of the base with the adapter live on it; the model is let go again."""
    model = _load(job["base"], quantize)
    model = models.attach_adapter(model, job["adapter"]) if job["adapter"] else model
    found = [meter.logits(model, ids) for ids in texts]
    del model
    gc.collect()
    return found


class _Meter:
    """Counts the texts that were read."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total

    def logits(self, model: Any, ids: list[int]) -> torch.Tensor:
        """Logits of the next token at every position: (positions, vocabulary)."""
        with torch.inference_mode():
            found: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0].float()
        self.done += 1
        progress("measuring the merge", self.done, self.total, "prompt")
        return found


def _divergence(texts: list[list[int]], live: list[torch.Tensor], merged: list[torch.Tensor]) -> dict[str, Any]:
    """Rounded so that another machine's last bits do not change it."""
    kl, same, apart = [], [], []
    lost = {"live": 0.0, "merged": 0.0}
    for ids, one, other in zip(texts, live, merged, strict=True):
        p, q = torch.log_softmax(one, -1), torch.log_softmax(other, -1)
        kl.append(torch.clamp((p.exp() * (p - q)).sum(-1), min=0))
        same.append((one.argmax(-1) == other.argmax(-1)).float())
        apart.append((one - other).abs())
        following = torch.tensor(ids[1:])[:, None]
        for name, logs in (("live", p), ("merged", q)):
            lost[name] -= float(logs[:-1].gather(-1, following).sum())
    tokens = max(1, sum(len(ids) - 1 for ids in texts))
    return {
        "mean_kl": round(float(torch.cat(kl).mean()), 3),
        "max_kl": round(float(torch.cat(kl).max()), 2),
        "agreement": round(float(torch.cat(same).mean()), 2),
        "mean_logit": round(float(sum(a.sum() for a in apart)) / sum(a.numel() for a in apart), 2),
        "max_logit": round(float(max(a.max() for a in apart)), 1),
        "perplexity": {name: float(f"{math.exp(min(loss / tokens, 20)):.4g}") for name, loss in lost.items()},
        "prompts": len(texts),
        "positions": sum(map(len, texts)),
    }


def _judge(found: dict[str, Any], max_kl: float, min_agreement: float) -> None:
    details = []
    if not found["mean_kl"] <= max_kl:
        details.append(f"mean KL divergence {found['mean_kl']:g} nats, allowed {max_kl:g}")
    if not found["agreement"] >= min_agreement:
        details.append(f"same likeliest token at {found['agreement']:.0%} of positions, wanted {min_agreement:.0%}")
    if details:
        said = found["perplexity"]
        details.append(f"perplexity of the prompts: {said['live']:g} live, {said['merged']:g} merged")
        raise Failed(
            "the merged model does not behave as the adapter on its base does",
            hint="the adapter may have been trained on another base; `max_kl` and `min_agreement` set the limits",
            code=4,
            details=details,
        )


def _greedy(model: Any, ids: list[int], count: int, ends: list[int]) -> tuple[list[int], list[int]]:
    """The likeliest token, `count` times, or to the first that ends an answer (kept); and all near it at the first."""
    found: list[int] = []
    near: list[int] = []
    given, past = torch.tensor([ids]), None
    while len(found) < count:
        with torch.inference_mode():
            out = model(input_ids=given, past_key_values=past, use_cache=True, logits_to_keep=1)
        logits = out.logits[0, -1]
        near = near or torch.nonzero(logits >= logits.max() - NEAR).flatten().tolist()
        found.append(int(logits.argmax()))
        if found[-1] in ends:
            break
        given, past = torch.tensor([[found[-1]]]), out.past_key_values
    return found, near


def _texts(tokenizer: Any, folder: Path) -> list[dict[str, Any]]:
    """Difficult texts, the tokenizer's own special tokens among words too, with their ids."""
    own = json.loads((folder / "tokenizer.json").read_bytes())  # transformers may add some of its own
    special = [t["content"] for t in own.get("added_tokens", [])][:40]
    texts = [*TEXTS, *(f"one {token}two\n{token} three" for token in special)]
    found = [{"text": t, "special": False, "ids": tokenizer.encode(t, add_special_tokens=False)} for t in texts]
    return found + [{"text": t, "special": True, "ids": tokenizer.encode(t)} for t in TEXTS[:2]]


def _write(path: Path, value: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value))
    part.replace(path)


if __name__ == "__main__":
    main(work)
