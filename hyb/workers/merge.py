"""Merge a LoRA adapter into its base model, one block of rows at a time, from safetensors to safetensors.

W + scaling · B @ A, in float32, cast once to the type that W has (or to bfloat16 or float16: a number too large for it
is an error that names the tensor). DoRA gives each row of that sum the length that was trained for it. The result is
never a 4-bit one: its rounding would swallow what was learnt. But W may be the values that the base has in 4 bits
(`values: nf4`): an adapter that was trained on those was trained to make up for their rounding, and what comes out is
the model that was trained. Such a weight is unpacked whole.

The product of the factors is formed in float64, so that its last bit does not hang on the order in which a machine's
BLAS adds, and the result is the same bytes everywhere.

Job: {"base": folder, "adapter": folder or "", "out": folder, "dtype": "" (as in base), "bf16" or "f16", "values": ""
(the base's own) or "nf4"}. Without an adapter it only casts. Every other file of the base is linked beside the weights;
a reasoning model's chat template is its family's pinned one (`hyb.templates`). A file has its final name only when
it is whole; one that is there already is not written again.
Done: {"merged": weights changed, "tensors", "bytes", "seconds", "peak_memory"}.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyb import templates
from hyb.formats import gguf_vocab, lora
from hyb.formats import safetensors as st
from hyb.fs import link_or_copy
from hyb.workers import weights as wt
from hyb.workers.protocol import Failed, main

_FLOATS = ("F64", "F32", "F16", "BF16")
_DTYPES = {"bf16": ("BF16", "bfloat16"), "f16": ("F16", "float16")}  # of the job → safetensors, config.json


@dataclass(frozen=True)
class Delta:
    """How one weight changes: scaling · B, A, and with DoRA the length of each row. All float64."""

    b: npt.NDArray[np.float64]
    a: npt.NDArray[np.float64]
    length: npt.NDArray[np.float64] | None

    def applied(self, values: wt.Floats, start: int, stop: int) -> wt.Floats:
        """Rows `start` to `stop` of the weight, changed."""
        values += (self.b[start:stop] @ self.a).astype(np.float32)
        if self.length is None:
            return values
        norm = np.sqrt(np.square(values, dtype=np.float64).sum(axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):  # a row of zeros has no direction: `finite` tells of it
            values *= (self.length[start:stop] / norm).astype(np.float32)[:, None]
        return values


def work(job: dict[str, Any]) -> dict[str, Any]:
    """See the module's docstring."""
    started = time.monotonic()
    base, out = Path(job["base"]), Path(job["out"])
    tensors = st.read_folder(base)
    deltas = _deltas(Path(job["adapter"]), tensors) if job["adapter"] else {}
    rounded = _rounded(base, tensors) if job.get("values") == "nf4" else frozenset()
    out.mkdir(parents=True, exist_ok=True)
    _link_others(base, out, job["dtype"])
    _pin_template(out)
    meter = wt.Meter("merging" if deltas else "casting", sum(t.size for t in tensors.values()))
    for path in st.shards(base):
        _write_shard(path, out / path.name, job["dtype"], deltas, rounded, meter)
    if (base / st.INDEX).exists():
        _write_index(out, tensors)
    return {
        "merged": len(deltas),
        "tensors": len(tensors),
        "bytes": sum((out / p.name).stat().st_size for p in st.shards(base)),
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory": wt.peak_memory(),
    }


def _deltas(adapter: Path, base: Mapping[str, st.Tensor]) -> dict[str, Delta]:
    """The factors of every weight that changes. They stay in memory: a few per cent of the model."""
    settings = wt.read_json(adapter / "adapter_config.json")
    factor = lora.scaling(settings, dora=True)
    found = lora.pairs(st.read_folder(adapter), base, dora=bool(settings.get("use_dora")))
    deltas: dict[str, Delta] = {}
    with wt.Files() as files:
        files.open(t for pair in found.values() for t in (pair.a, pair.b, pair.length) if t)

        def read(tensor: st.Tensor) -> npt.NDArray[np.float64]:
            values = files.floats(tensor)
            wt.finite(values, tensor.name)
            return values.astype(np.float64)

        for name, pair in found.items():
            length = read(pair.length) if pair.length else None
            deltas[name] = Delta(read(pair.b) * factor, read(pair.a), length)
    return deltas


def _rounded(base: Path, tensors: Mapping[str, st.Tensor]) -> frozenset[str]:
    """The weights that the base has in 4 bits when it is trained so."""
    import torch

    from hyb.workers import models

    torch.set_num_threads(1)  # the blocks have threads of their own
    names = models.nf4_weights(base)
    if missing := sorted(names - tensors.keys()):
        raise Failed(
            f"the base has no `{missing[0]}`, so what it is in 4 bits is not known",
            hint="`merge: base` merges into its own weights",
        )
    return frozenset(names)


def _nf4(values: wt.Floats) -> wt.Floats:
    """What these values are in 4 bits."""
    import torch

    from hyb.workers import models

    found: wt.Floats = models.nf4_values(torch.from_numpy(values)).numpy()
    return found


def _write_shard(
    path: Path,
    target: Path,
    dtype: str,
    deltas: Mapping[str, Delta],
    rounded: frozenset[str],
    meter: wt.Meter,
) -> None:
    """Write one file of weights, in the order of the base's file."""
    tensors = list(st.read_header(path).values())
    if target.exists():
        meter.add(sum(t.size for t in tensors))
        return
    kinds = {t.name: _DTYPES[dtype][0] if dtype and t.dtype in _FLOATS else t.dtype for t in tensors}
    part = target.with_name(target.name + ".part")
    with wt.Files() as files, part.open("wb") as out:
        files.open(tensors)
        out.write(st.header_bytes(((t.name, kinds[t.name], t.shape) for t in tensors), {"format": "pt"}))

        def block(item: wt.Block) -> tuple[int, bytes | bytearray | memoryview]:
            tensor, start, stop = item
            size = (stop - start) * tensor.row_size
            if not {tensor.name} & (deltas.keys() | rounded) and kinds[tensor.name] == tensor.dtype:
                return size, files.raw(tensor, start, stop)
            values = files.floats(tensor, start, stop)
            if tensor.name in rounded:
                values = _nf4(values)
            if tensor.name in deltas:
                values = deltas[tensor.name].applied(values, start, stop)
            wt.finite(values, tensor.name)
            result = wt.cast(values, kinds[tensor.name])
            if kinds[tensor.name] == "F16":
                wt.finite(result, tensor.name, "float16")
            return size, memoryview(result.data).cast("B")

        whole = ([(t, 0, t.rows)] if t.name in rounded else wt.blocks(t) for t in tensors)
        for size, data in wt.in_order(block, itertools.chain.from_iterable(whole), wt.threads()):
            out.write(data)
            meter.add(size)
        out.flush()
        os.fsync(out.fileno())
    part.chmod(0o644)
    part.replace(target)


def _link_others(base: Path, out: Path, dtype: str) -> None:
    """Link what is no weight beside the result; in `config.json` only the type of the weights may change."""
    for path in sorted(p for p in base.rglob("*") if p.is_file()):
        target = out / path.relative_to(base)
        if path.suffix in (".safetensors", ".gguf") or path.name == st.INDEX:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        config = json.loads(path.read_bytes()) if target == out / "config.json" and dtype else {}
        wanted = _DTYPES[dtype][1] if dtype else ""
        if config and config.get("dtype", config.get("torch_dtype")) != wanted:
            config.pop("torch_dtype", None)
            target.write_text(json.dumps({**config, "dtype": wanted}, indent=2, sort_keys=True) + "\n")
        else:
            link_or_copy(path, target)


def _pin_template(out: Path) -> None:
    """Give a reasoning model its family's template to ask with, in both places where servers look for it."""
    settings, file = out / "tokenizer_config.json", out / "chat_template.jinja"
    said = json.loads(settings.read_bytes()) if settings.exists() else {}
    pinned = templates.pair_of(gguf_vocab.template(said, file.read_text(encoding="utf-8") if file.exists() else ""))
    if not pinned:
        return
    for path, text in (
        (file, pinned.inference),
        (settings, json.dumps({**said, "chat_template": pinned.inference}, indent=2, ensure_ascii=False) + "\n"),
    ):
        path.unlink(missing_ok=True)  # it is a link into the store
        path.write_text(text, encoding="utf-8")


def _write_index(out: Path, base: Mapping[str, st.Tensor]) -> None:
    """The list of the shards: names as in the base, sizes as written."""
    shards = sorted({out / t.path.name for t in base.values()})
    index = {
        "metadata": {"total_size": sum(t.size for path in shards for t in st.read_header(path).values())},
        "weight_map": {name: base[name].path.name for name in sorted(base)},
    }
    (out / st.INDEX).write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main(work)
