"""A GGUF read in llama.cpp itself: how likely is each token of a text, many tokens at once.

llama.cpp's server tells the probability of a token that it chose, and not of one that it was given. So this calls its
C API (`llama.h`) in the library that `xllamacpp` ships: the engine and the kernels that serve the model, on the CPU, in
float32, without a port. A text is evaluated in pieces of `PIECE` tokens; what a text shares with the one before is not
evaluated again, so the answers to one question, or a text that grows by a token, cost what is new.

The two structs of parameters grow from release to release, and only their beginning is used here: `devices`, and
`n_ctx`, `n_batch`, `n_ubatch`, which is looked at before and after. They are passed with room for more than they have:
the C calling conventions of x86-64 and ARM64 allow for it. `struct llama_batch` is what it has been since 2023.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from hyb.workers import ggml, weights
from hyb.workers.protocol import Failed

PIECE = 128
_DEFAULTS = (512, 2048, 512)  # of n_ctx, n_batch, n_ubatch: by these the struct is known
_LONGEST = 1 << 12  # bytes of a token's text, at most

Row = npt.NDArray[np.float32]
"""The logits of the next token, (vocabulary,); gone with the next piece."""


class _ModelParams(ctypes.Structure):
    _fields_ = (("devices", ctypes.c_void_p), ("rest", ctypes.c_uint64 * 127))


class _ContextParams(ctypes.Structure):
    _fields_ = (("sizes", ctypes.c_uint32 * 3), ("rest", ctypes.c_uint32 * 253))


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_P, _INT, _BOOL = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
_INTS = ctypes.POINTER(ctypes.c_int32)
_API: dict[str, tuple[Any, ...]] = {  # name → (result, arguments…)
    "llama_model_default_params": (_ModelParams,),
    "llama_context_default_params": (_ContextParams,),
    "llama_model_load_from_file": (_P, ctypes.c_char_p, _ModelParams),
    "llama_init_from_model": (_P, _P, _ContextParams),
    "llama_model_free": (None, _P),
    "llama_free": (None, _P),
    "llama_n_ctx": (ctypes.c_uint32, _P),
    "llama_n_batch": (ctypes.c_uint32, _P),
    "llama_set_n_threads": (None, _P, _INT, _INT),
    "llama_model_get_vocab": (_P, _P),
    "llama_vocab_n_tokens": (_INT, _P),
    "llama_vocab_is_eog": (_BOOL, _P, _INT),
    "llama_tokenize": (_INT, _P, ctypes.c_char_p, _INT, _INTS, _INT, _BOOL, _BOOL),
    "llama_token_to_piece": (_INT, _P, _INT, ctypes.c_char_p, _INT, _INT, _BOOL),
    "llama_batch_init": (_Batch, _INT, _INT, _INT),
    "llama_batch_free": (None, _Batch),
    "llama_decode": (_INT, _P, _Batch),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), _P, _INT),
    "llama_get_memory": (_P, _P),
    "llama_memory_clear": (None, _P, _BOOL),
    "llama_memory_seq_rm": (_BOOL, _P, _INT, _INT, _INT),
}


class Reader:
    """A GGUF with room for `context` tokens. Raises Failed (exit 4) when llama.cpp can't load it."""

    def __init__(self, gguf: Path, context: int) -> None:
        self._model = self._context = None
        self._c = {name: ggml.function(name, *types) for name, types in _API.items()}
        params = self._c["llama_model_default_params"]()
        nothing = (ctypes.c_void_p * 1)()  # a list of devices that ends at once: the CPU everywhere
        params.devices = ctypes.addressof(nothing)
        self._model = self._c["llama_model_load_from_file"](os.fsencode(gguf), params)
        if not self._model:
            raise Failed(f"llama.cpp can't load the GGUF `{gguf}`", hint="its log has the reason", code=4)
        self._open(max(context, PIECE))
        self._vocab = self._c["llama_model_get_vocab"](self._model)
        self._count = int(self._c["llama_vocab_n_tokens"](self._vocab))
        self._memory = self._c["llama_get_memory"](self._context)
        self._batch = self._c["llama_batch_init"](PIECE, 0, 1)
        self._held: list[int] = []

    def _open(self, context: int) -> None:
        params = self._c["llama_context_default_params"]()
        if tuple(params.sizes) != _DEFAULTS:
            raise Failed("this llama.cpp has another interface", hint="install another xllamacpp")
        params.sizes[:] = (context, PIECE, PIECE)
        self._context = self._c["llama_init_from_model"](self._model, params)
        if not self._context:
            raise Failed(f"llama.cpp has no room for {context} tokens", hint="its log has the reason", code=4)
        if self._c["llama_n_ctx"](self._context) < context or self._c["llama_n_batch"](self._context) != PIECE:
            raise Failed("this llama.cpp has another interface", hint="install another xllamacpp")
        self._c["llama_set_n_threads"](self._context, weights.threads(), weights.threads())

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        if self._context:
            self._c["llama_batch_free"](self._batch)
            self._c["llama_free"](self._context)
        if self._model:
            self._c["llama_model_free"](self._model)
        self._context = self._model = None

    def ids(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text, its special tokens by their words. `special`: with BOS and the like around it."""
        data = text.encode()
        room = (ctypes.c_int32 * (len(data) + 8))()  # a token is at least a byte
        count = self._c["llama_tokenize"](self._vocab, data, len(data), room, len(room), special, True)
        return list(room[:count])

    def likelihood(self, ids: Sequence[int], start: int) -> list[tuple[float, bool]]:
        """For each token from place `start` (at least 1) on: its natural log-probability, and whether none is likelier.

        Raises Failed when they do not fit into the context.
        """
        found = []
        for token, row in zip(ids[start:], self.rows(ids[:-1], start - 1), strict=True):
            found.append((float(row[token]) - log_sum(row), bool(row[token] >= row.max())))
        return found

    def rows(self, ids: Sequence[int], start: int) -> Iterator[Row]:
        """The logits of what follows each token from place `start` on. To be read to the end."""
        place = self._kept(ids, start)
        while place < len(ids):
            piece = ids[place : place + PIECE]
            self._evaluate(piece, place, start)
            self._held += piece
            for number in range(max(0, start - place), len(piece)):
                values = self._c["llama_get_logits_ith"](self._context, number)
                yield np.ctypeslib.as_array(values, (self._count,))
            place += len(piece)

    def answer(self, ids: Sequence[int], count: int, stops: Sequence[str]) -> str:
        """The likeliest text of at most `count` tokens behind `ids`, up to one of `stops` or the model's own end."""
        given, said = list(ids), b""
        text = ""
        while len(given) < len(ids) + count:
            (row,) = self.rows(given, len(given) - 1)
            given.append(int(row.argmax()))
            if self._c["llama_vocab_is_eog"](self._vocab, given[-1]):
                break
            said += self._piece(given[-1])
            text = said.decode(errors="replace")
            if ends := [text.index(stop) for stop in stops if stop in text]:
                return text[: min(ends)]
        return text

    def _piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(_LONGEST)
        count = self._c["llama_token_to_piece"](self._vocab, token, room, len(room), 0, False)
        return room.raw[: max(0, count)]

    def _kept(self, ids: Sequence[int], start: int) -> int:
        """How many tokens need no evaluation, being those of the text before; the rest of that is forgotten."""
        same = 0
        while same < min(len(self._held), start) and self._held[same] == ids[same]:
            same += 1
        if not same or not self._c["llama_memory_seq_rm"](self._memory, 0, same, -1):
            self._c["llama_memory_clear"](self._memory, True)
            same = 0
        self._held = list(ids[:same])
        return same

    def _evaluate(self, piece: Sequence[int], place: int, start: int) -> None:
        batch = self._batch
        batch.n_tokens = len(piece)
        for number, token in enumerate(piece):
            batch.token[number], batch.pos[number] = token, place + number
            batch.n_seq_id[number], batch.seq_id[number][0] = 1, 0
            batch.logits[number] = place + number >= start
        if self._c["llama_decode"](self._context, batch):
            room = self._c["llama_n_ctx"](self._context)
            raise Failed(f"llama.cpp can't evaluate {place + len(piece)} tokens in a context of {room}", code=4)


def log_sum(row: Row) -> float:
    """The logarithm of the sum of e to each: a logit less this is a log-probability."""
    most = float(row.max())
    return most + math.log(float(np.exp(row - most).sum(dtype=np.float64)))
