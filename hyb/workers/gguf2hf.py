"""A GGUF as a Hugging Face folder in bf16: `config.json`, `model.safetensors`, tokenizer, chat template.

Job: `{"gguf": FILE, "out": FOLDER, "pre": TEXT, "context": TOKENS}`, the last two as the GGUF's header has them.
transformers reads GGUF itself but loses two things, which are mended here: the pre-tokenizer of models whose
`tokenizer.ggml.pre` is not plain GPT-2, and the context length of the tokenizer. The same GGUF gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyb.workers.protocol import Failed, main, progress

STEPS = 4
NO_MAX = 1e29  # transformers writes 1e30 for "no limit"
LOCAL = ("is_local", "local_files_only")  # how it was loaded here: nothing of the model

PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    },
}
"""`tokenizer.ggml.pre` → the `pre_tokenizer` of tokenizer.json, for those that the GGUF loader flattens."""

PLAIN = ("", "default", "gpt-2")
"""Those that the loader gets right. For any other we would write wrong token ids without a word: refused."""


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Write the folder and return `{"files": […], "parameters": n}`. Raises Failed for a model that can't be turned."""
    gguf, out = Path(job["gguf"]), Path(job["out"])
    if job["pre"] not in PRE_TOKENIZERS and job["pre"] not in PLAIN:
        raise Failed(
            f"`{gguf.name}` has the tokenizer `{job['pre']}`, which can't be turned without loss",
            hint="pull the model's safetensors from a hub, or keep the GGUF with `format: gguf`",
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    task, where = f"turn {gguf.name} into safetensors", {"gguf_file": gguf.name, "local_files_only": True}
    progress(task, 0, STEPS, "step")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    progress(task, 1, STEPS, "step")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    progress(task, 2, STEPS, "step")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    progress(task, 3, STEPS, "step")
    _mend(out, job["pre"], int(job["context"]))
    progress(task, STEPS, STEPS, "step")
    return {"files": sorted(p.name for p in out.iterdir()), "parameters": sum(p.numel() for p in model.parameters())}


def _mend(out: Path, pre: str, context: int) -> None:
    """Put right what transformers lost or added, and let every user read the files."""
    if pre in PRE_TOKENIZERS:
        _edit(out / "tokenizer.json", lambda d: d.update(pre_tokenizer=PRE_TOKENIZERS[pre]))
    _edit(out / "tokenizer_config.json", lambda d: _tokenizer_config(d, context))
    for name in ("config.json", "generation_config.json"):  # the same model from the next version of the library, too
        if (out / name).exists():
            _edit(out / name, lambda d: d.pop("transformers_version", None))
    for path in out.iterdir():
        path.chmod(0o644)


def _tokenizer_config(config: dict[str, Any], context: int) -> None:
    for key in LOCAL:
        config.pop(key, None)
    if context and float(config.get("model_max_length") or NO_MAX) >= NO_MAX:
        config["model_max_length"] = context


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(work)
