"""Weights as numpy arrays, read a few rows at a time: the memory needed is that of a block, not of the model.

Files are read with `pread`, not mapped: mapped pages would count as resident, and several threads can read at once.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hyb.formats.safetensors import Tensor
from hyb.workers.protocol import Failed, progress

Floats = npt.NDArray[np.float32]
Block = tuple[Tensor, int, int]
"""Rows from the second up to the third, of a tensor."""

BLOCK = 1 << 21  # elements handled at a time: 8 MB in float32
_KINDS: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_T = TypeVar("_T")
_R = TypeVar("_R")


class Files:
    """The weight files of a job, each opened once. `with Files() as files: files.floats(tensor, 0, 8)`."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: dict[Path, int] = {}

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self, tensors: Iterable[Tensor]) -> None:
        """Open the files of these tensors, before threads read them."""
        for path in {t.path for t in tensors} - self._open.keys():
            self._open[path] = self._stack.enter_context(path.open("rb")).fileno()

    def raw(self, tensor: Tensor, start: int = 0, stop: int | None = None) -> bytearray:
        """The bytes of rows `start` to `stop`. Raises Failed when the file ends before."""
        rows = (tensor.rows if stop is None else stop) - start
        data = bytearray(rows * tensor.row_size)
        at, view = tensor.offset + start * tensor.row_size, memoryview(data)
        while view:
            count = os.preadv(self._open[tensor.path], [view], at)
            if not count:
                raise Failed(f"`{tensor.path}` ends within tensor `{tensor.name}`", hint="fetch it again")
            at, view = at + count, view[count:]
        return data

    def floats(self, tensor: Tensor, start: int = 0, stop: int | None = None) -> Floats:
        """Rows `start` to `stop` in float32, shape (rows, …). Raises Failed for types that are no floats."""
        if tensor.dtype not in _KINDS:
            raise Failed(f"tensor `{tensor.name}` has type `{tensor.dtype}`", hint="only float weights can be used")
        values = np.frombuffer(self.raw(tensor, start, stop), _KINDS[tensor.dtype]).reshape(-1, *tensor.shape[1:])
        return from_bf16(values) if tensor.dtype == "BF16" else values.astype(np.float32, copy=False)


def from_bf16(bits: npt.NDArray[np.uint16]) -> Floats:
    """bfloat16, held as its bits, to float32 (exact)."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values: Floats) -> npt.NDArray[np.uint16]:
    """float32 to the bits of bfloat16, to the nearest, ties to even. Not for NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def cast(values: Floats, dtype: str) -> npt.NDArray[Any]:
    """float32 to a safetensors float type, to the nearest; BF16 comes as its bits."""
    if dtype == "BF16":
        return to_bf16(values)
    with np.errstate(over="ignore"):  # an overflow shows as an infinity, which `finite` finds
        return values.astype(_KINDS[dtype])


def finite(values: npt.NDArray[Any], name: str, kind: str = "") -> None:
    """Raises Failed (exit 4) when a number is infinite or NaN; `kind` is the type it was cast to."""
    if np.isfinite(values).all():
        return
    why = f" does not fit into {kind}" if kind else " holds NaN or infinity"
    raise Failed(f"tensor `{name}`{why}", hint="choose `bf16`" if kind else "the model is damaged", code=4)


def blocks(tensor: Tensor, multiple: int = 1) -> Iterator[Block]:
    """The tensor in blocks of whole rows, about BLOCK elements each, their number of rows a multiple of `multiple`."""
    if not tensor.size:
        return
    step = max(1, BLOCK // prod(tensor.shape[1:]) // multiple) * multiple
    for start in range(0, tensor.rows, step):
        yield tensor, start, min(start + step, tensor.rows)


def in_order(work: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """`map` over threads, results in order, with no more than a few items in flight."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def pair_rows(values: Floats, size: int) -> Floats:
    """Rows of whole heads, `size` rows each, from halves (Hugging Face) to neighbouring pairs (llama.cpp)."""
    halves = values.reshape(len(values) // size, 2, size // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises Failed."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Failed(f"`{path}` can't be read: {error}") from error
    if not isinstance(value, dict):
        raise Failed(f"`{path}` is no JSON object")
    return value


class Meter:
    """Tells of bytes done, a few times a second."""

    def __init__(self, task: str, total: int) -> None:
        self.task, self.total, self.done, self._told = task, total, 0, 0.0

    def add(self, count: int) -> None:
        """`count` more bytes are done."""
        self.done += count
        if (now := time.monotonic()) - self._told > 0.2 or self.done >= self.total:
            progress(self.task, self.done, self.total, "B")
            self._told = now


def threads() -> int:
    """Threads worth starting: the cores that we may use, at most 16."""
    return min(16, len(os.sched_getaffinity(0)))


def give_back() -> None:
    """Give memory that is no longer used back to the system. What was needed to load a model lies scattered in the
    allocator's heaps (glibc has one for each thread), and the large tensors that come next don't fit into it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim:
        trim(0)


def peak_memory() -> int:
    """Bytes resident at the peak of this process since it was started (a fork's parent does not count)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
