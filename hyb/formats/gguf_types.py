"""Which GGML type each tensor of a GGUF gets. Pure; the rules are llama.cpp's own (`llama-quantize`), so that our
files are those that it would make from the same weights.

A 1-D tensor (norms, biases) is always F32. A K-quant needs rows of a multiple of 256 values; where they are not, the
nearest type with blocks of 32 takes its place, as in llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from hyb.errors import HybError


@dataclass(frozen=True)
class Quantization:
    """A way to store a model: `file_type` is llama.cpp's number for it, `most` the type of most matrices, `more` that
    of the half that matters more (see `_matters`), `head` that of the output matrix. `bits`: about, a weight."""

    file_type: int
    most: str
    more: str = ""
    head: str = ""
    bits: float = 16.0


QUANTIZATIONS = {
    "f32": Quantization(0, "F32", bits=32.0),
    "f16": Quantization(1, "F16"),
    "bf16": Quantization(32, "BF16"),
    "q8_0": Quantization(7, "Q8_0", bits=8.5),
    "q6_k": Quantization(18, "Q6_K", head="Q6_K", bits=6.6),
    "q5_k_m": Quantization(17, "Q5_K", more="Q6_K", head="Q6_K", bits=5.7),
    "q4_k_m": Quantization(15, "Q4_K", more="Q6_K", head="Q6_K", bits=4.9),
}

BLOCKS = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q8_0": (32, 34),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
"""Type → (values, bytes) of one block."""

_INSTEAD = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def quantization(name: str) -> Quantization:
    """The quantization called `name`. Raises HybError for one that is not known."""
    if name not in QUANTIZATIONS:
        raise HybError(f"quantization `{name}` is not known", hint=f"one of {', '.join(QUANTIZATIONS)}")
    return QUANTIZATIONS[name]


def tensor_type(name: str, shape: tuple[int, ...], quantize: str, layers: int, tied: bool) -> str:
    """The type of the GGUF tensor `name`, whose shape is outermost first, in a model of `layers` layers.

    `tied`: the embeddings are the output matrix too.
    """
    how = quantization(quantize)
    if len(shape) < 2:
        return "F32"
    kind = how.most
    if how.head and (name == "output.weight" or (tied and name == "token_embd.weight")):
        kind = how.head if shape[-1] % BLOCKS[how.most][0] == 0 else "Q8_0"
    elif how.more and _matters(name, layers):
        kind = how.more
    if shape[-1] % BLOCKS[kind][0]:
        kind = _INSTEAD.get(kind, kind)
    return kind if shape[-1] % BLOCKS[kind][0] == 0 else "F16"


def tensor_size(shape: tuple[int, ...], kind: str) -> int:
    """Bytes of a tensor in this type."""
    values, size = BLOCKS[kind]
    return prod(shape) // values * size


def _matters(name: str, layers: int) -> bool:
    """True for the value and down projections of the first and last eighth of the layers, and every third between."""
    parts = name.split(".")
    if parts[0] != "blk" or parts[2] not in ("attn_v", "ffn_down"):
        return False
    layer, eighth = int(parts[1]), layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
