"""A byte-level BPE `tokenizer.json` as GGUF keys. Pure.

GGUF holds no regular expression, only the name of a pre-tokenizer that llama.cpp has built in. A wrong name splits
text otherwise and makes a model dumber in silence, so one that we don't recognise by what it does is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hyb.errors import HybError
from hyb.formats.gguf_model import Key

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""llama.cpp's token types."""

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_ENGLISH + r"\p{N}" + _REST: "qwen2", _ENGLISH + r"\p{N}{1,3}" + _REST: "llama-bpe"}
_SPACE = "\u0120"  # how byte-level BPE writes a space


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer: texts and types by id, merges in order, the pre-tokenizer's name, what is put around a text."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    bos: int | None
    eos: int | None
    pad: int | None
    unk: int | None
    add_bos: bool
    add_eos: bool


def read(tokenizer: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any]) -> Vocabulary:
    """From `tokenizer.json`, `tokenizer_config.json` and `config.json`. Raises HybError for what GGUF can't hold."""
    tokens, types = _tokens(tokenizer, int(config["vocab_size"]))
    ids = {text: i for i, text in enumerate(tokens)}
    first, last = _around(tokenizer.get("post_processor"))

    def special(name: str) -> int | None:
        value = settings.get(f"{name}_token")
        text = value.get("content") if isinstance(value, Mapping) else value
        given = config.get(f"{name}_token_id")
        return ids.get(text) if text else given if isinstance(given, int) else None

    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=[
            m if isinstance(m, str) else " ".join(part.replace(" ", _SPACE) for part in m)
            for m in tokenizer["model"]["merges"]
        ],
        pre=pre_tokenizer(tokenizer, tokens),
        bos=ids.get(first) if first else special("bos"),
        eos=special("eos"),
        pad=special("pad"),
        unk=special("unk"),
        add_bos=bool(first) or settings.get("add_bos_token") is True,
        add_eos=bool(last) or settings.get("add_eos_token") is True,
    )


def keys(vocabulary: Vocabulary, template: str) -> list[Key]:
    """The GGUF keys of a vocabulary and a chat template ("" for none)."""
    found = [
        Key("tokenizer.ggml.model", "string", "gpt2"),
        Key("tokenizer.ggml.pre", "string", vocabulary.pre),
        Key("tokenizer.ggml.tokens", "array", vocabulary.tokens),
        Key("tokenizer.ggml.token_type", "array", vocabulary.types),
        Key("tokenizer.ggml.merges", "array", vocabulary.merges),
    ]
    ids = {"bos": vocabulary.bos, "eos": vocabulary.eos, "unknown": vocabulary.unk, "padding": vocabulary.pad}
    found += [Key(f"tokenizer.ggml.{n}_token_id", "uint32", i) for n, i in ids.items() if i is not None]
    found += [
        Key("tokenizer.ggml.add_bos_token", "bool", vocabulary.add_bos),
        Key("tokenizer.ggml.add_eos_token", "bool", vocabulary.add_eos),
    ]
    return found + ([Key("tokenizer.chat_template", "string", template)] if template else [])


def template(settings: Mapping[str, Any], file: str) -> str:
    """The chat template: `chat_template.jinja`'s text where there is one, else the settings' (its default one)."""
    given = file or settings.get("chat_template") or ""
    if isinstance(given, list):
        given = next((t["template"] for t in given if t.get("name") == "default"), "")
    return str(given)


def pre_tokenizer(tokenizer: Mapping[str, Any], tokens: list[str]) -> str:
    """llama.cpp's name of the tokenizer's pre-tokenizer. Raises HybError for one that it does not have."""
    whole = not tokenizer["model"].get("ignore_merges", False)
    normalizer = [n["type"] for n in _flat(tokenizer.get("normalizer"), "normalizers")]
    steps = list(_flat(tokenizer.get("pre_tokenizer"), "pretokenizers"))
    name = _known(steps) if set(normalizer) <= {"NFC"} else ""
    if name == "qwen2" and "<｜Assistant｜>" in tokens:
        name = "deepseek-r1-qwen"
    if not name or whole == (name == "llama-bpe"):
        shown = " + ".join(str(s.get("type")) for s in steps) or "none"
        raise HybError(
            f"the pre-tokenizer of `tokenizer.json` is not one that llama.cpp knows by name: {shown}",
            hint="export `format: safetensors` and serve that; a guess would make the model dumber in silence",
        )
    return name


def _known(steps: list[Mapping[str, Any]]) -> str:
    """The name of these steps; empty when it is not known."""
    kinds = [s.get("type") for s in steps]
    if not kinds or kinds[-1] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return ""
    words = steps[-1].get("use_regex", True)
    if kinds == ["ByteLevel"] and words:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and words and steps[0].get("individual_digits"):
        return "smollm"
    if (
        kinds == ["Split", "ByteLevel"]
        and not words
        and steps[0].get("behavior") == "Isolated"
        and not steps[0].get("invert")
    ):
        return _SPLITS.get(steps[0].get("pattern", {}).get("Regex", ""), "")
    return ""


def _tokens(tokenizer: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Texts and types by id; ids that the tokenizer has not, up to `size`, are padding. Raises HybError."""
    model = tokenizer.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise HybError(
            f"the tokenizer is `{model.get('type')}`{' with byte fallback' if model.get('byte_fallback') else ''}",
            hint="hyb writes byte-level BPE; export `format: safetensors` and serve that",
        )
    tokens, types = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    added = {t["id"]: t for t in tokenizer.get("added_tokens", [])}
    highest = max([*model["vocab"].values(), *added, 0])
    if highest >= size:
        raise HybError(
            f"the tokenizer has token {highest}, but `vocab_size` is {size}", hint="`config.json` is another model's"
        )
    for text, i in model["vocab"].items():
        tokens[i], types[i] = text, NORMAL
    for i, token in added.items():
        tokens[i], types[i] = token["content"], CONTROL if token.get("special") else USER_DEFINED
    return tokens, types


def _around(processor: Mapping[str, Any] | None) -> tuple[str, str]:
    """The special tokens that the tokenizer puts before and after a text: empty for none."""
    for step in _flat(processor, "processors"):
        single = step.get("single")
        if step.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
            ends = [part.get("SpecialToken", {}).get("id", "") for part in (single[0], single[-1])]
            return ends[0], ends[1] if len(single) > 1 else ""
    return "", ""


def _flat(step: Mapping[str, Any] | None, name: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a sequence in order, or the one step, or none."""
    if step and step.get("type") == "Sequence":
        for inner in step.get(name, []):
            yield from _flat(inner, name)
    elif step:
        yield step
