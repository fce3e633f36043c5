"""llama.cpp's own quantizer, called in the library that `xllamacpp` ships: the same bits as `llama-quantize` makes.

It is C API of ggml (`ggml.h`), and `function` finds any other of that library's:

    size_t ggml_quantize_chunk(enum ggml_type type, const float * src, void * dst,
                               int64_t start, int64_t nrows, int64_t n_per_row, const float * imatrix);

ctypes frees the GIL while it runs, so that several threads quantize at once. It keeps no state between calls for the
types used here.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from hyb.formats.gguf_types import BLOCKS
from hyb.workers.protocol import Failed
from hyb.workers.weights import Floats, finite, to_bf16


def encode(values: Floats, kind: str, name: str, importance: Floats | None = None) -> npt.NDArray[Any]:
    """Rows of float32, shape (rows, width) or (width,), in the GGML type `kind`. Raises Failed for NaN and overflow.

    `name` is the tensor's, for the message. `importance`: a weight for the error in each column, shape (width,), as
    llama.cpp's importance matrix; types that have no use for it (Q8_0, floats) leave it out.
    """
    finite(values, name)
    if kind == "F32":
        return values
    if kind == "F16":
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        finite(halves, name, "float16")
        return halves
    return to_bf16(values) if kind == "BF16" else _quantize(values, kind, importance)


def _quantize(values: Floats, kind: str, importance: Floats | None) -> npt.NDArray[np.uint8]:
    source = np.ascontiguousarray(values)
    rows, width = source.shape
    count, size = BLOCKS[kind]
    out = np.empty((rows, width // count * size), np.uint8)
    number = int(GGMLQuantizationType[kind])
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    if weights is not None and weights.shape != (width,):
        raise RuntimeError(f"importance has shape {weights.shape}, expected ({width},)")
    pointer = None if weights is None else weights.ctypes.data
    written = _quantizer()(number, source.ctypes.data, out.ctypes.data, 0, rows, width, pointer)
    if written != out.nbytes:
        raise RuntimeError(f"ggml_quantize_chunk wrote {written} bytes of {kind}, expected {out.nbytes}")
    return out


@cache
def _quantizer() -> Any:
    """`ggml_quantize_chunk`. Raises Failed."""
    number, size = ctypes.c_int64, ctypes.c_size_t
    pointer = ctypes.c_void_p
    return function("ggml_quantize_chunk", size, ctypes.c_int, pointer, pointer, number, number, number, pointer)


def function(name: str, result: Any, *arguments: Any) -> Any:
    """A C function of llama.cpp. Raises Failed when xllamacpp is not installed, or does not export it."""
    library = _library()
    try:
        found = getattr(library, name)
    except AttributeError as error:
        raise Failed(f"llama.cpp here has no `{name}`", hint="install another xllamacpp") from error
    found.restype, found.argtypes = result, arguments
    return found


@cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("xllamacpp")
    found = sorted(Path(spec.origin).parent.glob("xllamacpp*.so")) if spec and spec.origin else []
    if not found:
        raise Failed("`xllamacpp` is not installed", hint="pip install 'hyb[tune]'")
    try:
        return ctypes.CDLL(str(found[0]))
    except OSError as error:
        raise Failed(f"`{found[0]}` can't be loaded: {error}", hint="install another xllamacpp") from error
