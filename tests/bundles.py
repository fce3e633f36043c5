"""A recipe that runs in a second without torch, and bundles of it."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

SMALL = 1_500_000  # bytes of the weights


def recipe(folder: Path, name: str = "small", *, boundary: str = "", size: int = SMALL, seed: int = 1) -> Path:
    """A recipe's folder: a model of random bytes, and thirty questions."""
    model = folder / "model"
    model.mkdir(parents=True)
    header = json.dumps({"model.norm.weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    weights = random.Random(seed).randbytes(size)
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights)
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "max_position_embeddings": 128}
    (model / "config.json").write_text(json.dumps(config))
    (model / "tokenizer.json").write_text('{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[]}}')
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (folder / "data").mkdir()
    (folder / "data" / "facts.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in range(30)))
    text = f"hyb: 1\nname: {name}\n{boundary}stages:\n  base: {{stage: pull, source: 'file:model'}}\n"
    (folder / "hyb.yaml").write_text(f"{text}  facts: {{stage: data, source: data/facts.jsonl, holdout: 0.2}}\n")
    return folder


def row(number: int) -> dict[str, object]:
    """One line of data."""
    question, answer = f"What is number {number} of the long list?", f"It is {number * 7}, as the list says."
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
