"""safetensors files by their headers: what lies where, so that tensors can be read and written one at a time.

A file is 8 bytes of little-endian header length, the header (JSON: name → dtype, shape, data_offsets), and the data
(https://github.com/huggingface/safetensors, "Format"). A model is one `model.safetensors`, or several files that
`model.safetensors.index.json` lists.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from hyb.errors import HybError

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of one element, for the types that a model's weights have."""

INDEX = "model.safetensors.index.json"
_LIMIT = 100_000_000  # bytes of a header, the format's own limit
_HINT = "the file is damaged or cut off; fetch it again"


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: `offset` and `size` are bytes in `path`; `shape` is outermost first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    size: int

    @property
    def rows(self) -> int:
        """Length of the outermost dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_size(self) -> int:
        """Bytes of one row."""
        return self.size // self.rows if self.rows else 0


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name, in the order of their data. Raises HybError when the header makes no sense."""
    header, start, size = _load(path)
    header.pop("__metadata__", None)
    found = [_tensor(path, name, entry, start) for name, entry in header.items()]
    found.sort(key=lambda t: t.offset)
    end = start
    for tensor in found:
        if tensor.offset != end:
            raise _damaged(path, f"tensor `{tensor.name}` does not start where the one before it ends")
        end += tensor.size
    if end != size:
        raise _damaged(path, f"it has {size} bytes, its header tells of {end}")
    return {t.name: t for t in found}


def read_metadata(path: Path) -> dict[str, str]:
    """The file's own notes. Raises HybError as `read_header` does."""
    return {str(k): str(v) for k, v in _load(path)[0].get("__metadata__", {}).items()}


def _load(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, where the data begins, and the file's size."""
    with path.open("rb") as stream:
        size = path.stat().st_size
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_LIMIT, size - 8):
            raise _damaged(path, "its header has no sensible length")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise _damaged(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    return header, 8 + length, size


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder by name. Raises HybError: no safetensors, a shard missing or damaged."""
    tensors: dict[str, Tensor] = {}
    for path in shards(folder):
        found = read_header(path)
        if twice := sorted(tensors.keys() & found.keys()):
            raise HybError(f"tensor `{twice[0]}` is in several files of `{folder}`", hint=_HINT)
        tensors.update(found)
    return tensors


def shards(folder: Path) -> list[Path]:
    """The weight files of a model folder, sorted. Raises HybError when there are none, or one is missing."""
    index = folder / INDEX
    if not index.exists():
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise HybError(
                f"`{folder}` has no safetensors file", hint="pull the model in safetensors, or convert it first"
            )
        return found
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(index, "it has no `weight_map`") from error
    missing = [n for n in names if not (folder / n).is_file()]
    if missing:
        raise HybError(f"`{folder}` lacks {', '.join(f'`{n}`' for n in missing)}", hint="fetch the model again")
    return [folder / n for n in names]


def header_bytes(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The head of a file whose data follows in this order: (name, dtype, shape) each. Padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, dtype, shape in tensors:
        size = SIZES[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _tensor(path: Path, name: str, entry: Any, base: int) -> Tensor:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"the header's entry of `{name}` makes no sense") from error
    if dtype not in SIZES:
        raise HybError(f"tensor `{name}` of `{path}` has type `{dtype}`", hint=f"hyb reads {', '.join(SIZES)}")
    if end - begin != SIZES[dtype] * prod(shape) or begin < 0:
        raise _damaged(path, f"the size of tensor `{name}` does not fit its shape")
    return Tensor(name, dtype, shape, path, base + begin, end - begin)


def _damaged(path: Path, why: str) -> HybError:
    return HybError(f"`{path}` is no safetensors file: {why}", hint=_HINT)
