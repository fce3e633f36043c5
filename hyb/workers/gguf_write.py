"""A Hugging Face folder with safetensors → one GGUF file, quantized on the way.

The head (keys, names and places of all tensors) is written first by the `gguf` package; then the data, a block of
rows at a time, quantized in several threads. So the memory needed is that of the tokenizer and a few blocks, whatever
the model's size. The same input gives the same bytes; the file has its final name only when it is whole.

Job: {"model": folder, "out": path, "quantize": a name of hyb.formats.gguf_types, "name": text, "license": text,
"imatrix": path of what hyb.workers.imatrix wrote, or "", "dataset": what it was measured on}.
Done: {"bytes", "tensors", "types": {type: tensors}, "pre", "seconds", "peak_memory"}.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from hyb import templates
from hyb.formats import gguf_model, gguf_types, gguf_vocab
from hyb.formats import safetensors as st
from hyb.workers import ggml
from hyb.workers import weights as wt
from hyb.workers.protocol import Failed, main

_ALIGN = gguf.GGUF_DEFAULT_ALIGNMENT


@dataclass(frozen=True)
class Target:
    """A tensor of the file: its name and type there, its size in bytes, where it comes from, heads to reorder."""

    name: str
    kind: str
    size: int
    source: st.Tensor
    heads: int


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    started = time.monotonic()
    folder, out = Path(job["model"]), Path(job["out"])
    config = _json(folder / "config.json", needed=True)
    targets = _targets(st.read_folder(folder), config, job["quantize"])
    importance, chunks = _importance(job["imatrix"], targets)
    factors = np.array(gguf_model.rope_factors(config), np.float32)
    vocabulary, template = _vocabulary(folder, config)
    part = out.with_name(out.name + ".part")
    general = {"general.type": "model", "general.name": job["name"], "general.license": job["license"]}
    keys = [gguf_model.Key(name, "string", text) for name, text in general.items() if text]
    keys += gguf_model.keys(config)
    keys += [
        gguf_model.Key("general.file_type", "uint32", gguf_types.quantization(job["quantize"]).file_type),
        gguf_model.Key("general.quantization_version", "uint32", gguf.GGML_QUANT_VERSION),
    ]
    if importance:  # the names that llama.cpp's own quantizer gives them
        keys += [
            gguf_model.Key("quantize.imatrix.dataset", "string", job["dataset"]),
            gguf_model.Key("quantize.imatrix.entries_count", "int32", len(importance)),
            gguf_model.Key("quantize.imatrix.chunks_count", "int32", chunks),
        ]
    keys += gguf_vocab.keys(vocabulary, template)
    _write_head(part, gguf_model.architecture(config).name, keys, targets, factors)
    _write_data(part, targets, factors, importance)
    part.chmod(0o644)
    part.replace(out)
    return {
        "bytes": out.stat().st_size,
        "tensors": len(targets) + bool(factors.size),
        "types": dict(sorted(Counter(t.kind for t in targets).items())),
        "pre": vocabulary.pre,
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory": wt.peak_memory(),
    }


def _targets(tensors: Mapping[str, st.Tensor], config: Mapping[str, Any], quantize: str) -> list[Target]:
    """What the file will hold, in order. Raises HybError or Failed when the weights are not those of the config."""
    layers, tied = gguf_model.layers(config), gguf_model.tied(config)
    found = []
    for name, original in gguf_model.names(tensors, config).items():
        source = tensors[original]
        kind = gguf_types.tensor_type(name, source.shape, quantize, layers, tied)
        size = gguf_types.tensor_size(source.shape, kind)
        heads = gguf_model.permuted_heads(name, config)
        found.append(Target(name, kind, size, source, heads))
    rows = found[0].source.rows
    if rows != int(config["vocab_size"]):
        raise Failed(f"the embeddings have {rows} rows, but `vocab_size` is {config['vocab_size']}")
    return found


def _importance(path: str, targets: list[Target]) -> tuple[dict[str, wt.Floats], int]:
    """Columns' weights by GGUF tensor, and over how many conversations they were measured. Raises Failed.

    A column that was never driven keeps a small weight: with none at all in a block, its scale would have no meaning.
    """
    if not path:
        return {}, 0
    widths = {t.name: t.source.shape[-1] for t in targets}
    found = {}
    with wt.Files() as files:
        tensors = st.read_header(Path(path))
        files.open(tensors.values())
        for name, tensor in tensors.items():
            values = files.floats(tensor)
            wt.finite(values, name)
            if widths.get(name) != tensor.rows:
                raise Failed(f"the importance matrix does not fit: `{name}` has {tensor.rows} columns in it")
            found[name] = np.maximum(values, max(float(values.mean()) * 1e-6, 1e-30)).astype(np.float32)
    return found, int(st.read_metadata(Path(path))["chunks"])


def _vocabulary(folder: Path, config: Mapping[str, Any]) -> tuple[gguf_vocab.Vocabulary, str]:
    tokenizer = _json(folder / "tokenizer.json", needed=True)
    settings = _json(folder / "tokenizer_config.json")
    file = folder / "chat_template.jinja"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    template = templates.inference_of(gguf_vocab.template(settings, text))
    return gguf_vocab.read(tokenizer, settings, config), template


def _json(path: Path, *, needed: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if not needed:
            return {}
        hint = "GGUF holds the tokenizer; a fast tokenizer's file is needed" if path.name == "tokenizer.json" else ""
        raise Failed(f"the model has no `{path.name}`", hint=hint) from None
    except ValueError as error:
        raise Failed(f"`{path}` is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Failed(f"`{path}` is no JSON object")
    return value


def _write_head(path: Path, arch: str, keys: list[gguf_model.Key], targets: list[Target], factors: wt.Floats) -> None:
    writer = gguf.GGUFWriter(path, arch)
    for key in keys:
        if key.kind == "array":
            writer.add_array(key.name, key.value)
        else:
            writer.add_key_value(key.name, key.value, gguf.GGUFValueType[key.kind.upper()])
    for target in targets:
        number = gguf.GGMLQuantizationType[target.kind]
        writer.add_tensor_info(target.name, target.source.shape, np.dtype(np.float32), target.size, number)
    if factors.size:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _write_data(path: Path, targets: list[Target], factors: wt.Floats, importance: Mapping[str, wt.Floats]) -> None:
    """Append the tensors' data, each from an aligned place on, and flush it to the disk."""
    meter = wt.Meter("converting", sum(t.source.size for t in targets))
    with wt.Files() as files, path.open("ab") as out:
        files.open(t.source for t in targets)

        def block(item: tuple[Target, int, int]) -> Any:
            target, start, stop = item
            values = files.floats(target.source, start, stop)
            values = wt.pair_rows(values, _head(target)) if target.heads else values
            return ggml.encode(values, target.kind, target.source.name, importance.get(target.name))

        todo = ((t, i, j) for t in targets for _, i, j in wt.blocks(t.source, _head(t)))
        places = ((t, i, j) for t in targets for _, i, j in wt.blocks(t.source, _head(t)))
        for (target, start, stop), data in zip(places, wt.in_order(block, todo, wt.threads()), strict=True):
            if start == 0:
                _pad(out)
            out.write(data.data.cast("B"))
            meter.add((stop - start) * target.source.row_size)
        if factors.size:
            _pad(out)
            out.write(factors.tobytes())
        _pad(out)
        out.flush()
        os.fsync(out.fileno())


def _head(target: Target) -> int:
    """Rows of one head where heads are reordered; 1 elsewhere."""
    return target.source.rows // target.heads if target.heads else 1


def _pad(out: Any) -> None:
    out.write(b"\0" * (-out.tell() % _ALIGN))


if __name__ == "__main__":
    main(work)
