"""A PEFT LoRA adapter → one GGUF file that llama.cpp puts on its base while it runs.

llama.cpp adds scale · B @ A to a weight, with scale = `adapter.lora.alpha` / rank; so the alpha written here is that of
a plain LoRA with the same factor (for rsLoRA: alpha · √rank). Names are those of the base's tensors with `.lora_a` and
`.lora_b`; the rows of B are reordered where the base's rows are (Llama's queries and keys). What is no plain LoRA is
refused by `hyb.formats.lora`, as in a merge.

Job: {"model": the base's folder, "adapter": folder, "out": path, "quantize": "f16"|"f32", "name": text}.
Done: {"bytes", "tensors", "rank", "alpha", "seconds", "peak_memory"}.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from hyb.formats import gguf_model, gguf_types, lora
from hyb.formats import safetensors as st
from hyb.workers import ggml
from hyb.workers import weights as wt
from hyb.workers.protocol import Failed, main


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    started = time.monotonic()
    folder, adapter, out = Path(job["model"]), Path(job["adapter"]), Path(job["out"])
    config, settings = wt.read_json(folder / "config.json"), wt.read_json(adapter / "adapter_config.json")
    factor, rank = lora.scaling(settings), int(settings["r"])
    pairs = lora.pairs(st.read_folder(adapter), st.read_folder(folder))
    if wrong := [name for name, pair in pairs.items() if pair.a.rows != rank]:
        raise Failed(f"`{wrong[0]}` has another rank than `r: {rank}`", hint="the adapter's settings are another's")
    kind = gguf_types.quantization(job["quantize"])
    part = out.with_name(out.name + ".part")
    writer = gguf.GGUFWriter(part, gguf_model.architecture(config).name)
    writer.add_string("general.type", "adapter")
    if job["name"]:
        writer.add_string("general.name", job["name"])
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", factor * rank)
    writer.add_uint32("general.file_type", kind.file_type)
    with wt.Files() as files:
        files.open(t for pair in pairs.values() for t in (pair.a, pair.b))
        for name, pair in sorted(pairs.items(), key=lambda item: gguf_model.place(gguf_model.gguf_name(item[0]))):
            _add(writer, name, pair, config, kind.most, files)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.chmod(0o644)
    part.replace(out)
    return {
        "bytes": out.stat().st_size,
        "tensors": 2 * len(pairs),
        "rank": rank,
        "alpha": factor * rank,
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory": wt.peak_memory(),
    }


def _add(writer: Any, name: str, pair: lora.Pair, config: Mapping[str, Any], kind: str, files: wt.Files) -> None:
    """One weight's factors. They are small: all stay in memory until the file is written."""
    target = gguf_model.gguf_name(name)
    if not target:
        raise Failed(f"the adapter changes `{name}`, which a GGUF has no name for", hint="merge it instead")
    heads = gguf_model.permuted_heads(target, config)
    b = files.floats(pair.b)
    b = wt.pair_rows(b, len(b) // heads) if heads else b
    for values, source, letter in ((files.floats(pair.a), pair.a, "a"), (b, pair.b, "b")):
        writer.add_tensor(f"{target}.lora_{letter}", np.ascontiguousarray(ggml.encode(values, kind, source.name)))


if __name__ == "__main__":
    main(work)
