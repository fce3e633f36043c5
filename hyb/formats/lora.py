"""A PEFT adapter's settings and its tensors' names, and what a merge of it needs. Pure.

Two kinds are merged: the plain LoRA, W + scaling · B @ A, and DoRA, which gives each row of that sum a trained length.
Whatever else PEFT can do to a weight (rank patterns, trained embeddings, initialisations that change the base, …) is
refused by name, since leaving it out would give another model in silence. So a setting that we don't know must be off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyb.errors import HybError
from hyb.formats.safetensors import Tensor

PREFIX = "base_model.model."
LENGTH = "lora_magnitude_vector"
_HARMLESS = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "runtime_config"),
    *("bias", "init_lora_weights", "ensure_weight_tying"),
}
_PURE_START = (True, False, "gaussian", "orthogonal", None)  # initialisations that leave the base as it is


@dataclass(frozen=True)
class Pair:
    """The two factors of one weight: A is (rank, in), B is (out, rank). DoRA: the length of each row, (out,)."""

    a: Tensor
    b: Tensor
    length: Tensor | None = None


def scaling(config: Mapping[str, Any], *, dora: bool = False) -> float:
    """The factor of B @ A: alpha / rank, or alpha / √rank for rsLoRA.

    Raises HybError for all but plain LoRA, and DoRA where `dora` says that it is understood.
    """
    known = _HARMLESS | ({"use_dora"} if dora else set())
    wrong = [f"`{k}` is set: {_short(v)}" for k, v in sorted(config.items()) if v and k not in known]
    if config.get("peft_type") != "LORA":
        wrong.insert(0, f"`peft_type` is {_short(config.get('peft_type'))}")
    if config.get("bias", "none") != "none":
        wrong.append(f"`bias` is {_short(config['bias'])}")
    if config.get("init_lora_weights", True) not in _PURE_START:
        wrong.append(f"`init_lora_weights` is {_short(config['init_lora_weights'])}, which changes the base model")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        wrong.append(f"`r` is {_short(rank)} and `lora_alpha` is {_short(alpha)}")
        raise _refused(wrong)
    if wrong:
        raise _refused(wrong)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def pairs(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor], *, dora: bool = False) -> dict[str, Pair]:
    """The name of each base weight that the adapter changes → its factors. `dora`: each has a length a row, too.

    Raises HybError (all mistakes together): a tensor that is no LoRA factor, a weight that the base lacks, shapes that
    do not fit, lengths that are missing or too many, embeddings or the output head changed.
    """
    wrong: list[str] = []
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        module, _, kind = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if not name.startswith(PREFIX) or kind not in ("lora_A", "lora_B", LENGTH):
            wrong.append(f"`{name}` is not a factor of a linear layer")
        else:
            found.setdefault(module + ".weight", {})[kind] = tensor
    result: dict[str, Pair] = {}
    for target, factors in found.items():
        if reason := _misfit(target, factors, base, dora):
            wrong.append(reason)
        else:
            result[target] = Pair(factors["lora_A"], factors["lora_B"], factors.get(LENGTH))
    if wrong or not result:
        more = [f"and {len(wrong) - 8} more"] if len(wrong) > 8 else []
        raise HybError(
            "the adapter does not fit the model" if wrong else "the adapter has no tensors",
            hint="give the base model that it was trained on",
            details=wrong[:8] + more,
        )
    return result


def _misfit(target: str, factors: Mapping[str, Tensor], base: Mapping[str, Tensor], dora: bool) -> str:
    """Why the factors can't be added to the base weight `target`; empty when they can."""
    if "embed_tokens" in target or "lm_head" in target:
        return f"it changes `{target}`; hyb merges into the layers between embeddings and head only"
    if target not in base:
        return f"the model has no `{target}`"
    if not {"lora_A", "lora_B"} <= factors.keys():
        return f"one of the two factors of `{target}` is missing"
    a, b, shape = factors["lora_A"].shape, factors["lora_B"].shape, base[target].shape
    if len(a) != 2 or len(b) != 2 or len(shape) != 2 or a[0] != b[1] or (b[0], a[1]) != shape:
        return f"`{target}` is {_dims(shape)}, but its factors are {_dims(b)} and {_dims(a)}"
    if dora != (LENGTH in factors):
        return f"`{target}` has {'no' if dora else 'a'} `{LENGTH}`, and `use_dora` is {str(dora).lower()}"
    if dora and factors[LENGTH].shape != shape[:1]:
        return f"`{target}` has {shape[0]} rows, but its `{LENGTH}` is {_dims(factors[LENGTH].shape)}"
    return ""


def _refused(details: list[str]) -> HybError:
    only_dora = all("`use_dora`" in line for line in details)
    return HybError(
        "only a plain LoRA adapter can be merged or written as GGUF",
        hint="`hyb export --format gguf` merges DoRA"
        if only_dora
        else "train one with `hyb tune`, or merge it with PEFT",
        details=details,
    )


def _dims(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _short(value: Any) -> str:
    text = repr(value)
    return f"`{text if len(text) <= 40 else text[:37] + '...'}`"
