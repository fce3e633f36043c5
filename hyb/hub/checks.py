"""Is a file what its name says: headers of safetensors and GGUF, and configurations that ask for foreign code.

Only the standard library, and only the header is read, so that a hostile file costs nothing. Formats:
https://github.com/huggingface/safetensors#format and https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from hyb.errors import Exit, HybError

MAX_HEADER = 100 << 20  # bytes: what the safetensors library allows too
MAX_STRING = 1 << 20  # bytes of one GGUF string that is kept: a chat template may be long
MAX_SIDES = 64  # dimensions of a tensor
MAX_ITEMS = 1 << 24  # items of a GGUF array, tensors, keys
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a weight file's header says: number of values, tensor names, GGUF metadata."""

    parameters: int
    tensors: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def safetensors(path: Path, name: str = "") -> Header:
    """Check a safetensors file: its header is whole, and its tensors cover the rest exactly, without overlap.

    Raises HybError (exit 4).
    """
    shown = name or path.name
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little") if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise _no(
                shown, "safetensors", _guess(start + stream.read(64)) or f"its header would be {length} bytes long"
            )
        data = stream.read(length)
    try:
        header = json.loads(data, object_pairs_hook=_no_twins)
        spans = [_span(shown, n, t) for n, t in header.items() if n != "__metadata__"]
    except (ValueError, RecursionError, AttributeError) as error:
        raise _no(shown, "safetensors", _guess(start + data[:64]) or "its header is not a JSON object") from error
    end = 0
    for begin, stop, tensor, _ in sorted(spans):
        if begin != end:
            raise _no(shown, "safetensors", f"tensor `{tensor}` starts at byte {begin}, expected {end}")
        end = stop
    if 8 + length + end != size:
        raise _no(shown, "safetensors", f"its tensors end at byte {8 + length + end}, the file at {size}")
    return Header(sum(count for *_, count in spans), tuple(t for _, _, t, _ in spans))


def _span(shown: str, name: str, tensor: Any) -> tuple[int, int, str, int]:
    """(begin, end, name, values) of a tensor; its shape and type must fill its bytes."""
    try:
        begin, end = tensor["data_offsets"]
        shape, count, bits = list(tensor["shape"]), 1, BITS[tensor["dtype"]]
        whole = all(type(n) is int and 0 <= n < 1 << 63 for n in (begin, end, *shape)) and begin <= end
        whole = whole and len(shape) <= MAX_SIDES
        for side in shape if whole else ():
            count *= side
    except (KeyError, TypeError, ValueError) as error:
        raise _no(shown, "safetensors", f"tensor `{name}` is not described as one") from error
    if not whole or count * bits != (end - begin) * 8:
        raise _no(shown, "safetensors", f"tensor `{name}` does not fill its bytes {begin} to {end}")
    return begin, end, name, count


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name twice")
    return made


def gguf(path: Path, name: str = "") -> Header:
    """Check a GGUF file's magic, version, metadata and tensor table. Of an array, `metadata` has the length only.

    Raises HybError (exit 4).
    """
    shown = name or path.name
    with path.open("rb") as stream:
        magic = stream.read(4)
        if magic != b"GGUF":
            raise _no(shown, "GGUF", _guess(magic + stream.read(64)) or "it does not start with `GGUF`")
        reader = _Reader(stream, path.stat().st_size, shown)
        version = reader.number("<I")
        if version not in (2, 3):
            raise _no(shown, "GGUF", f"version {version} is not known")
        tensors, keys = reader.count(), reader.count()
        metadata = {reader.text(): reader.value(reader.number("<I")) for _ in range(keys)}
        table = [reader.tensor() for _ in range(tensors)]
        if table and stream.tell() + max(offset for _, _, offset in table) >= reader.size:
            raise _no(shown, "GGUF", "its tensors lie past its end")
        if sum(values for _, values, _ in table) > 8 * reader.size:  # no type has less than a bit for a value
            raise _no(shown, "GGUF", "its tensors have more values than it has bits")
    return Header(sum(values for _, values, _ in table), tuple(name for name, _, _ in table), metadata)


class _Reader:
    """Reads GGUF's little-endian values; whatever runs past the end of the file is an error."""

    _SCALARS = ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", "", "", "<Q", "<q", "<d")

    def __init__(self, stream: BinaryIO, size: int, shown: str) -> None:
        self.stream, self.size, self.shown = stream, size, shown

    def number(self, form: str) -> Any:
        data = self.stream.read(struct.calcsize(form))
        try:
            return struct.unpack(form, data)[0]
        except struct.error as error:
            raise _no(self.shown, "GGUF", "it is cut off within its header") from error

    def count(self) -> int:
        found = int(self.number("<Q"))
        if found > MAX_ITEMS:
            raise _no(self.shown, "GGUF", f"its header counts {found} items")
        return found

    def skip(self, length: int) -> None:
        if self.stream.tell() + length > self.size:
            raise _no(self.shown, "GGUF", "it is cut off within its header")
        self.stream.seek(length, os.SEEK_CUR)

    def text(self) -> str:
        length = int(self.number("<Q"))
        if length > MAX_STRING:
            raise _no(self.shown, "GGUF", f"a text of {length} bytes in its header")
        data = self.stream.read(length)
        if len(data) != length:
            raise _no(self.shown, "GGUF", "it is cut off within its header")
        return data.decode(errors="replace")

    def tensor(self) -> tuple[str, int, int]:
        """(name, values, offset) of the next entry of the tensor table."""
        name, sides, values = self.text(), int(self.number("<I")), 1
        if sides > 4:
            raise _no(self.shown, "GGUF", f"tensor `{name}` has {sides} dimensions")
        for _ in range(sides):
            values *= int(self.number("<Q"))
        self.skip(4)
        return name, values, int(self.number("<Q"))

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind == 9:
            return self._array()
        if kind >= len(self._SCALARS):
            raise _no(self.shown, "GGUF", f"a value of unknown type {kind}")
        return self.number(self._SCALARS[kind])

    def _array(self) -> int:
        kind, count = int(self.number("<I")), self.count()
        if kind == 8:
            for _ in range(count):
                self.skip(int(self.number("<Q")))
        elif kind < len(self._SCALARS) and self._SCALARS[kind]:
            self.skip(count * struct.calcsize(self._SCALARS[kind]))
        else:
            raise _no(self.shown, "GGUF", f"an array of unknown type {kind}")
        return count


def no_remote_code(configs: Iterable[tuple[str, Mapping[str, Any]]], what: str) -> None:
    """Refuse a model whose configuration asks for Python files of its own. Raises HybError (exit 3)."""
    found = [
        f"`{name}`: `auto_map` names {', '.join(_modules(c['auto_map']))}" for name, c in configs if c.get("auto_map")
    ]
    if found:
        raise HybError(
            f"`{what}` needs Python code that comes with it, which hyb never runs: refused",
            hint="take a revision or a model that transformers supports by itself (no `auto_map` in its `config.json`)",
            details=found,
        )


def _modules(auto_map: Any) -> list[str]:
    values = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    flat = [v for value in values for v in (value if isinstance(value, list) else [value]) if v]
    return sorted({f"`{str(v).rpartition('--')[2].split('.')[0]}.py`" for v in flat})


def json_file(path: Path, name: str = "") -> dict[str, Any]:
    """A JSON object from a file. Raises HybError (exit 4) when it is none."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _no(name or path.name, "JSON", _guess(path.read_bytes()[:64])) from error
    if not isinstance(value, dict):
        raise _no(name or path.name, "JSON", "it is no object")
    return value


def is_html(start: bytes) -> bool:
    """True when these first bytes are those of a web page."""
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


def _guess(start: bytes) -> str:
    """What a file seems to be that is not what its name says."""
    if is_html(start):
        return "it is a web page"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull` in that folder"
    if start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")):
        return "it is a pickle under another name"
    return ""


def _no(name: str, form: str, why: str) -> HybError:
    return HybError(
        f"`{name}` is not a whole {form} file" + (f": {why}" if why else ""),
        hint="fetch it again; when it stays so, the model was damaged where it was made",
        code=Exit.CHECK,
    )
