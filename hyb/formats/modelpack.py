"""CNCF ModelPack 0.0.7: media types of a model's files and the config document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyb.artifact import MODEL_CONFIG, RAW, Blob, File

WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"
DATASET = "application/vnd.cncf.model.dataset.v1.raw"

_CONFIGS = (".json", ".jinja", ".model", ".txt")


def media_type(path: str) -> str:
    """The ModelPack media type of a model's file, from its name."""
    name = path.lower()
    if name.endswith((".safetensors", ".gguf")):
        return WEIGHT
    if name.endswith((".md", ".svg")) or name.split("/")[-1].startswith(("license", "notice", "readme")):
        return DOC
    if name.endswith(".jsonl"):
        return DATASET
    return WEIGHT_CONFIG if name.endswith(_CONFIGS) else RAW


def file(path: str, blob: Blob) -> File:
    """A model's file with its ModelPack media type."""
    return File(path, blob, media_type(path))


def config(files: list[File], *, name: str = "", **facts: Any) -> tuple[str, Mapping[str, Any]]:
    """The (media type, document) for `Store.add_artifact(config=…)`.

    `facts`: any of the spec's `config` fields (architecture, format, paramSize, precision, quantization) and of its
    `descriptor` fields (family, version, licenses, sourceURL, revision); None and "" are left out. No time is
    written: the same files give the same bytes.
    """
    in_config = ("architecture", "format", "paramSize", "precision", "quantization", "capabilities")
    given = {k: v for k, v in {"name": name, **facts}.items() if v not in (None, "")}
    weights = [f.blob.digest for f in files]
    return MODEL_CONFIG, {
        "descriptor": {k: v for k, v in given.items() if k not in in_config},
        "config": {k: v for k, v in given.items() if k in in_config},
        "modelfs": {"type": "layers", "diffIds": weights},
    }


def param_size(parameters: int | None) -> str:
    """`1.8B`, `135M`, `33K`: as ModelPack writes a parameter count; "" when it is not known."""
    if not parameters:
        return ""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.0f}M" if parameters >= 1e6 else f"{parameters / 1e3:.0f}K"
