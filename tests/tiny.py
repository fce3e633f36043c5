"""A real model folder in under a second: two random layers and a byte-level BPE tokenizer trained on the spot.

Nothing here needs pytest. torch and transformers are imported inside the functions.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import engine
from hyb.artifact import Artifact
from hyb.formats import modelpack
from hyb.store import Store

os.environ.update(engine.openmp(os.environ))  # before torch is loaded

TEXT = (
    "The capital of France is Paris.",
    "What is the name of the company's office dog? The dog is called Pixel.",
    "You are a helpful assistant. Answer the question in one short sentence.",
    "Our warehouse opens at seven in the morning and closes at nine in the evening.",
    "user assistant system 0123456789 Hello, how are you? I am fine, thank you!",
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tiny_model(
    folder: Path,
    arch: str = "qwen2",
    *,
    reasoning: bool = False,
    pad_is_eos: bool = False,
    chat_template: bool = True,
    seed: int = 0,
    hidden: int = 64,
    intermediate: int = 128,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 512,
    context: int = 512,
    tie: bool | None = None,
    dtype: str = "bfloat16",
    texts: tuple[str, ...] = TEXT,
) -> Path:
    """Write a random model with its tokenizer as a Hugging Face folder, and return the folder.

    `arch`: "qwen2" (Qwen2's pre-tokenizer, untied head unless `tie`) or "llama" (SmolLM2's pre-tokenizer, tied head).
    `reasoning`: DeepSeek-R1's special tokens and template (its generation prompt ends in `<think>`), BOS added by the
    tokenizer, pad == eos, a config vocabulary larger than the tokenizer's, as in the real one.
    `pad_is_eos`: as in SmolLM2. `vocab`: size of the tokenizer. `context`: max_position_embeddings.
    """
    import torch
    import transformers

    tokenizer = _tokenizer(arch, reasoning, pad_is_eos, vocab, context, texts)
    if chat_template:
        tokenizer.chat_template = R1 if reasoning else CHATML
    shape = {
        "vocab_size": -(-len(tokenizer) // 64) * 64 + (64 if reasoning else 0),
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": (arch == "llama") if tie is None else tie,
        "dtype": dtype,
        # unit gain: with the usual 0.02 so narrow a model has logits near zero whatever it learns
        "initializer_range": hidden**-0.5,
    }
    config = (transformers.LlamaConfig if arch == "llama" else transformers.Qwen2Config)(**shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    if reasoning:
        model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.95)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "LICENSE").write_text("Random weights; nobody's work.\n")
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def _tokenizer(arch: str, reasoning: bool, pad_is_eos: bool, vocab: int, context: int, texts: tuple[str, ...]) -> Any:
    import tokenizers
    import transformers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = (
        ["<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
        if reasoning
        else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )
    raw = tokenizers.Tokenizer(models.BPE())
    if arch == "llama":
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        raw.normalizer = normalizers.NFC()
        words = pre_tokenizers.Split(tokenizers.Regex(QWEN2_WORDS), "isolated")
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(special) - 2 * reasoning,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_special_tokens(special)
    if reasoning:
        raw.add_tokens(["<think>", "</think>"])  # tokens, but not special ones: they are part of what is said
        bos = special[1]
        raw.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, raw.token_to_id(bos))]
        )
    eos = special[0] if reasoning else special[2]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=special[1],
        eos_token=eos,
        model_max_length=context,
        pad_token=eos if reasoning or pad_is_eos else special[0],
        clean_up_tokenization_spaces=False,
    )


def tiny_artifact(store: Store, folder: Path, arch: str = "qwen2", *, name: str = "tiny", **shape: Any) -> Artifact:
    """A tiny model (made in `folder`, see `tiny_model`) as a model artifact of `store`."""
    return add_model(store, tiny_model(folder, arch, **shape), name=name)


def add_model(store: Store, folder: Path, *, name: str = "tiny", license: str = "") -> Artifact:
    """Put a model folder with safetensors into `store` as an artifact of kind `model`, as `pull` would."""
    import json

    from safetensors import safe_open

    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    files = [modelpack.file(p.relative_to(folder).as_posix(), store.add_file(p)) for p in paths]
    settings = json.loads((folder / "config.json").read_text())
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), "numpy") as weights:
            for key in weights.keys():  # noqa: SIM118 (safe_open is no dict)
                size = 1
                for length in weights.get_slice(key).get_shape():
                    size *= length
                count += size
    template = folder / "chat_template.jinja"
    meta = {
        "format": "safetensors",
        "architecture": settings["architectures"][0],
        "context": settings["max_position_embeddings"],
        "source": f"file:{name}",
        "name": name,
        "license": license,
        "quantization": None,
        "parameters": count,
        "template": dg.of_file(template)[0] if template.exists() else "",
    }
    config = modelpack.config(
        files, name=name, architecture=meta["architecture"], format="safetensors", paramSize=str(count)
    )
    return store.add_artifact("model", files, meta=meta, config=config)


def chat_row(question: str, answer: str, *, row_id: str = "", system: str = "", line: int = 1) -> dict[str, Any]:
    """A row of a dataset's train.jsonl with one question and one answer."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer, "train": True}]
    return {
        "id": row_id or dg.of_bytes(question.encode())[7:19],
        "messages": messages,
        "meta": {"source": "facts.jsonl", "line": line},
    }


def plain_net(model: Any) -> Any:
    """A model on the CPU as the tuner computes it (`hyb.workers.net.Net`), with no lever on."""
    import torch

    from hyb.formats.memory import Plan
    from hyb.workers.net import Net, Speed

    return Net(model, torch.device("cpu"), Speed(), Plan(0, "none", False))
