"""An importance matrix: how strongly the columns of each weight are driven by a data set's conversations.

For each linear layer, the mean over all tokens of the squares of its inputs: the error of a quantized weight counts
the more, the larger the input that it is multiplied with (llama.cpp's `llama-imatrix` measures the same).
Conversations go through the model one at a time, sums are kept in float64: the memory needed is that of the model in
float32 and one number a column. On one machine the same job gives the same bytes; the means are rounded to three
digits, so that another machine's last bits seldom show.

Job: {"model": folder, "rows": [JSON lines files with `messages`], "out": path}. Done: {"entries": tensors, "chunks":
conversations, "tokens", "seconds", "peak_memory"}. `out` is a safetensors file: GGUF tensor name → float32 (columns,).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyb.formats import gguf_model
from hyb.formats import safetensors as st
from hyb.workers import models, prompts
from hyb.workers import weights as wt
from hyb.workers.protocol import Failed, main, progress

CONVERSATIONS = 256  # at most, evenly taken from the data set
LIMIT = 512  # tokens of one that are read


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    started = time.monotonic()
    models.make_deterministic(0)
    folder = Path(job["model"])
    tokenizer = models.load_tokenizer(folder)
    rows = [json.loads(line)["messages"] for p in job["rows"] for line in Path(p).read_bytes().splitlines() if line]
    chosen = [rows[i * len(rows) // CONVERSATIONS] for i in range(CONVERSATIONS)] if len(rows) > CONVERSATIONS else rows
    texts = [ids for ids in (prompts.ids(tokenizer, m, whole=True, limit=LIMIT) for m in chosen) if ids]
    if not texts:
        raise Failed("the data set has no row to measure importance on", hint="give a data set with training rows")
    model = models.load_causal_lm(folder, dtype="float32", device="cpu")
    sums = _watch(model, gguf_model.tied(wt.read_json(folder / "config.json")))
    for i, ids in enumerate(texts):
        with torch.inference_mode():
            model(input_ids=torch.tensor([ids]), use_cache=False)
        progress("measuring importance", i + 1, len(texts), "conversation")
    tokens = sum(map(len, texts))
    _write(Path(job["out"]), {name: (total / tokens).numpy() for name, total in sorted(sums.items())}, len(texts))
    return {
        "entries": len(sums),
        "chunks": len(texts),
        "tokens": tokens,
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory": wt.peak_memory(),
    }


def _watch(model: Any, tied: bool) -> dict[str, torch.Tensor]:
    """From now on every forward pass adds to these: GGUF tensor name → sums of squares, a column each."""
    sums: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Any:
        def add(_module: Any, inputs: tuple[torch.Tensor, ...], _output: Any) -> None:
            sums[name] += inputs[0].reshape(-1, inputs[0].shape[-1]).double().square().sum(0)

        return add

    for module, layer in model.named_modules():
        name = gguf_model.gguf_name(f"{module}.weight") if isinstance(layer, torch.nn.Linear) else ""
        name = "token_embd.weight" if name == "output.weight" and tied else name
        if name:
            sums[name] = torch.zeros(layer.in_features, dtype=torch.float64)
            layer.register_forward_hook(hook(name))
    return sums


def _write(path: Path, means: dict[str, Any], chunks: int) -> None:
    rounded = {
        name: np.array([f"{x:.3g}" for x in values], np.float64).astype(np.float32) for name, values in means.items()
    }
    for name, values in rounded.items():
        wt.finite(values, name)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as out:
        shapes = [(name, "F32", values.shape) for name, values in rounded.items()]
        out.write(st.header_bytes(shapes, {"chunks": str(chunks)}))
        for values in rounded.values():
            out.write(values.tobytes())
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)


if __name__ == "__main__":
    main(work)
