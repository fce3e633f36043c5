"""How fast this machine reads its memory, and how much of it a token needs: the limit of decoding on a CPU.

Each new token reads all weights once, so no engine decodes faster than (bytes of the weights) / (bytes a second), for
one client or for a batch that goes through the layers together. The reading is libc's `memchr`, a vector loop that
only loads, called through ctypes, which lets go of Python's lock: one thread a core, each with memory of its own that
is larger than its share of any cache. No library is needed. The best of many passes is the limit.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from pathlib import Path

from hyb.errors import HybError
from hyb.hub import checks

TOTAL = 512 << 20  # bytes that are read in a pass
SECONDS = 1.0


def measure(*, total: int = TOTAL, seconds: float = SECONDS, threads: int = 0) -> float:
    """Bytes a second that all cores together read. Takes a little more than `seconds`."""
    count = threads or len(os.sched_getaffinity(0))
    size = total // count // mmap.PAGESIZE * mmap.PAGESIZE
    areas = [mmap.mmap(-1, size) for _ in range(count)]
    best, gate, over = 0.0, threading.Barrier(count + 1), threading.Event()

    def read(area: mmap.mmap) -> None:
        libc = ctypes.CDLL(None)
        libc.memchr.restype, libc.memchr.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        view = ctypes.c_char.from_buffer(area)
        ctypes.memset(ctypes.addressof(view), 1, size)  # real pages of its own: untouched ones are all the same page
        while True:
            gate.wait()
            if over.is_set():
                return
            libc.memchr(ctypes.addressof(view), 0, size)  # a byte that is not there
            gate.wait()

    workers = [threading.Thread(target=read, args=(area,), daemon=True) for area in areas]
    for worker in workers:
        worker.start()
    end = 0.0
    while not end or time.perf_counter() < end:
        gate.wait()
        began = time.perf_counter()
        end = end or began + seconds  # the first pass begins when all pages are there
        gate.wait()
        best = max(best, count * size / (time.perf_counter() - began))
    over.set()
    gate.wait()
    for worker in workers:
        worker.join()
    return best


def weights(path: Path) -> int:
    """Bytes of a GGUF that each token reads; 0 when it is none.

    All of it where the input embedding is the output layer, too; otherwise without the embedding, of which a token
    reads one row. The embedding's bytes are taken from its share of the values.
    """
    try:
        header = checks.gguf(path)
        size = path.stat().st_size
    except (OSError, HybError):
        return 0
    if "output.weight" not in header.tensors:
        return size
    kind = header.metadata.get("general.architecture", "")
    rows, wide = header.metadata.get("tokenizer.ggml.tokens", 0), header.metadata.get(f"{kind}.embedding_length", 0)
    return round(size * (1 - rows * wide / header.parameters)) if header.parameters else size
