"""A Hugging Face model's config and tensor names, as GGUF has them. Pure: a table an architecture.

Names and keys are those of the GGUF specification (ggml-org/ggml, docs/gguf.md). llama.cpp wants the rows of Llama's
query and key projections in another order (its rotary embedding pairs neighbours, Hugging Face's pairs halves); Qwen2's
not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hyb.errors import HybError

_BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_QKV = ("attn_q", "attn_k", "attn_v")


@dataclass(frozen=True)
class Architecture:
    """`name` in GGUF; which projections must and may have a bias; whether q and k rows are reordered."""

    name: str
    biases: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    permute: bool = False


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", optional=(*_QKV, "attn_output"), permute=True),
    "Qwen2ForCausalLM": Architecture("qwen2", biases=_QKV),
}


@dataclass(frozen=True)
class Key:
    """One key of the file's head; `kind` is a GGUF value type ("string", "uint32", "float32", "bool", "array")."""

    name: str
    kind: str
    value: Any


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a `config.json`. Raises HybError for one that we can't write."""
    names = config.get("architectures") or ["none"]
    if names[0] not in ARCHITECTURES:
        raise HybError(
            f"architecture `{names[0]}` can't be written as GGUF",
            hint=f"hyb writes {', '.join(ARCHITECTURES)}; export `format: safetensors` and serve that",
        )
    return ARCHITECTURES[names[0]]


def layers(config: Mapping[str, Any]) -> int:
    """How many layers the model has."""
    return int(config["num_hidden_layers"])


def tied(config: Mapping[str, Any]) -> bool:
    """True when the embeddings are the output matrix too."""
    return bool(config.get("tie_word_embeddings", False))


def keys(config: Mapping[str, Any]) -> list[Key]:
    """The model's shape as GGUF keys. Raises HybError for what llama.cpp would compute otherwise."""
    arch = architecture(config)
    _refuse_unknown(config)
    heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
    size = head_size(config)
    theta, scale = _rope(config)
    found: list[tuple[str, str, Any]] = [
        ("block_count", "uint32", layers(config)),
        ("context_length", "uint32", int(config["max_position_embeddings"])),
        ("embedding_length", "uint32", width),
        ("feed_forward_length", "uint32", int(config["intermediate_size"])),
        ("attention.head_count", "uint32", heads),
        ("attention.head_count_kv", "uint32", int(config.get("num_key_value_heads") or heads)),
        ("attention.layer_norm_rms_epsilon", "float32", float(config["rms_norm_eps"])),
        ("rope.freq_base", "float32", theta),
        ("rope.dimension_count", "uint32", size),
        ("vocab_size", "uint32", int(config["vocab_size"])),
    ]
    if size * heads != width:
        found += [("attention.key_length", "uint32", size), ("attention.value_length", "uint32", size)]
    if scale.get("rope_type", scale.get("type")) == "linear":
        found += [("rope.scaling.type", "string", "linear"), ("rope.scaling.factor", "float32", float(scale["factor"]))]
    return [Key(f"{arch.name}.{name}", kind, value) for name, kind, value in found]


def head_size(config: Mapping[str, Any]) -> int:
    """Length of one attention head's vector."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def names(tensors: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """GGUF name → Hugging Face name, in the order of the file: embeddings, layers, norm, head.

    Raises HybError (all together) for tensors that are missing and those that llama.cpp would not use.
    """
    arch, given = architecture(config), set(tensors)
    found = {gguf_name(name): name for name in given}
    found.pop("", None)
    if tied(config):
        found.pop("output.weight", None)
    must, may = _expected(arch, layers(config), tied(config))
    extra = sorted(n for n in given if not gguf_name(n) and not n.endswith("rotary_emb.inv_freq"))
    extra += sorted(found[n] for n in found.keys() - may)
    missing = sorted(must - found.keys())
    if missing or extra:
        lines = [f"missing: `{n}`" for n in missing[:4]] + [f"not known: `{n}`" for n in extra[:4]]
        count = f"{len(missing)} missing, {len(extra)} not known"
        raise HybError(
            f"the tensors are not those of a {arch.name} model with {layers(config)} layers: {count}",
            hint="the model is not complete, or its `config.json` is another's",
            details=lines,
        )
    return {n: found[n] for n in sorted(found, key=place)}


def permuted_heads(name: str, config: Mapping[str, Any]) -> int:
    """How many heads' rows must be reordered in the GGUF tensor `name`; 0 for none."""
    parts = name.split(".")
    if not architecture(config).permute or parts[0] != "blk" or parts[2] not in ("attn_q", "attn_k"):
        return 0
    heads = int(config["num_attention_heads"])
    return heads if parts[2] == "attn_q" else int(config.get("num_key_value_heads") or heads)


def rope_factors(config: Mapping[str, Any]) -> list[float]:
    """Llama 3's divisors of the rotary frequencies, one a pair of dimensions; empty for a model without them.

    Wavelengths short against the first context keep their frequency, long ones are divided by `factor`, those between
    are blended (transformers, `_compute_llama3_parameters`).
    """
    theta, scale = _rope(config)
    if scale.get("rope_type", scale.get("type")) != "llama3":
        return []
    size, factor = head_size(config), float(scale["factor"])
    low, high = float(scale["low_freq_factor"]), float(scale["high_freq_factor"])
    first = float(scale["original_max_position_embeddings"])
    factors = []
    for i in range(0, size, 2):
        wave = 2 * math.pi * theta ** (i / size)
        if wave < first / high:
            factors.append(1.0)
        elif wave > first / low:
            factors.append(factor)
        else:
            smooth = (first / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def _rope(config: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
    """Base of the rotary embedding, and its settings (transformers 5 has them in `rope_parameters`)."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return float(settings.get("rope_theta") or config.get("rope_theta") or 10000.0), settings


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    scale = _rope(config)[1]
    kind = scale.get("rope_type", scale.get("type", "default"))
    wrong = [f"`rope_type` is `{kind}`"] if kind not in ("default", "linear", "llama3") else []
    if config.get("hidden_act", "silu") != "silu":
        wrong.append(f"`hidden_act` is `{config['hidden_act']}`")
    if config.get("use_sliding_window"):
        wrong.append("`use_sliding_window` is on")
    if config.get("quantization_config"):
        wrong.append("the weights are quantized already")
    if wrong:
        raise HybError("this model can't be written as GGUF", hint="export `format: safetensors`", details=wrong)


def _expected(arch: Architecture, count: int, is_tied: bool) -> tuple[set[str], set[str]]:
    """The GGUF tensors that must be there, and those that may."""
    must = {"token_embd.weight", "output_norm.weight"} | (set() if is_tied else {"output.weight"})
    must |= {f"blk.{i}.{part}.weight" for i in range(count) for part in _BLOCK.values()}
    must |= {f"blk.{i}.{part}.bias" for i in range(count) for part in arch.biases}
    return must, must | {f"blk.{i}.{part}.bias" for i in range(count) for part in arch.optional}


def gguf_name(name: str) -> str:
    """The GGUF name of a Hugging Face tensor; empty for one that is not known."""
    if hit := _LAYER.fullmatch(name):
        part = _BLOCK.get(hit[2])
        return f"blk.{int(hit[1])}.{part}.{hit[3]}" if part else ""
    whole, _, kind = name.rpartition(".")
    return f"{_WHOLE[whole]}.{kind}" if whole in _WHOLE and kind == "weight" else ""


def place(name: str) -> tuple[int, int, str]:
    """Sorts GGUF names into the order of the file."""
    if name.startswith("blk."):
        return 1, int(name.split(".")[1]), name
    return (0 if name.startswith("token_embd") else 2), 0, name
