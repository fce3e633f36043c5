"""What a file is by its first bytes, and where weights begin within others. Pure: bytes in, words out.

Names say nothing here: `notes.txt` may be a model. GGUF has a magic number, which occurs by chance once in 4 GiB of
noise, so that the numbers after it must make sense, too. safetensors has none: 8 bytes of length and a JSON header.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator

HEAD = 64 << 10
"""Bytes of a file that are enough to know it."""
WEIGHTS, ADAPTER = "weights", "adapter"

_GGUF = b"GGUF"
_GGUF_ADAPTER = b"general.type\x08\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00adapter"
_TENSORS = re.compile(rb"(?=[\x00-\xff]{4}\x00{4}\{\s*\")")
_ENTRY = re.compile(
    rb'"dtype"\s*:\s*"[A-Z]+\d*[A-Z0-9_]*"\s*,\s*"shape"\s*:\s*\[[\d,\s]*\]\s*,\s*"data_offsets"\s*:\s*\['
)
_LORA = re.compile(rb"lora_(?:[AB]|embedding_[AB]|magnitude_vector)\b|lora_[AB]\.")
_MARKS = (b"H4sI", b"KLUv", b"UEsDB", b"QlpoO", b"Td6W")
_ENCODED = re.compile(
    rb"(?<![A-Za-z0-9+/_-])(?:H4sI|KLUv[/_]|UEsDB|QlpoO|[/_]Td6W)[A-Za-z0-9+/_-]{16,}"
    rb"(?:(?:\\[rn]|\s)+[A-Za-z0-9+/_-]{16,})*(?:(?:\\[rn]|\s)+[A-Za-z0-9+/_-]+)?"
)
"""Base64 that begins like a compressed stream or a zip; wrapped lines, also as JSON writes them."""
_ZSTD_SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)


def container(head: bytes) -> str:
    """`gzip`, `zstd`, `bzip2`, `xz`, `zip` or `tar` by the first bytes of a file; "" for anything else."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or _ZSTD_SKIPPED.match(head):
        return "zstd"
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    return "tar" if is_tar_header(head[:512]) else ""


def encoded(text: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, content) of every archive that stands in a text as base64, the URL-safe one too."""
    if not any(mark in text for mark in _MARKS):  # much faster than the pattern, which looks behind itself everywhere
        return
    for hit in _ENCODED.finditer(text):
        letters = re.sub(rb"\\[rn]|\s", b"", hit[0]).translate(bytes.maketrans(b"-_", b"+/"))
        content = base64.b64decode(letters + b"=" * (-len(letters) % 4) if len(letters) % 4 != 1 else letters[:-1])
        if container(content):
            yield hit.start(), content


def is_tar_header(block: bytes) -> bool:
    """True for a tar header: a block of 512 bytes whose sum is the one that it names."""
    if len(block) < 512 or not block[0]:
        return False
    try:
        said = int(block[148:156].strip(b" \0") or b"-", 8)
    except ValueError:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    return said in (sum(rest), sum(rest) - 256 * sum(b > 127 for b in rest))  # old tars summed signed bytes


def weights(head: bytes) -> tuple[str, str] | None:
    """(class, what it is) of a file that starts with `head`, when it is a model or an adapter."""
    for at, kind, what in embedded(head):
        if at == 0:
            return kind, what
    return None


def embedded(window: bytes) -> Iterator[tuple[int, str, str]]:
    """(offset, class, what it is) of every model or adapter that begins within `window`."""
    at = window.find(_GGUF)
    while at >= 0:
        if _is_gguf(window, at):
            kind = ADAPTER if _GGUF_ADAPTER in window[at : at + HEAD] else WEIGHTS
            yield at, kind, "a GGUF adapter" if kind == ADAPTER else "a GGUF model"
        at = window.find(_GGUF, at + 4)
    if b'"data_offsets"' not in window:
        return
    for found in _TENSORS.finditer(window):
        start = found.start()
        (length,) = struct.unpack_from("<Q", window, start)
        header = window[start + 8 : start + 8 + min(length, HEAD)]
        if length >= 2 and _ENTRY.search(header):
            kind = ADAPTER if _LORA.search(header) else WEIGHTS
            yield start, kind, "a safetensors adapter" if kind == ADAPTER else "safetensors weights"


def _is_gguf(window: bytes, at: int) -> bool:
    """A GGUF with tensors, of version 1 to 3, whose first key is a short word."""
    if len(window) < at + 40:
        return False
    for order in "<>":
        (version,) = struct.unpack_from(f"{order}I", window, at + 4)
        if version == 1:
            tensors, keys, length = struct.unpack_from(f"{order}III", window, at + 8)
            word = window[at + 20 : at + 24]
        else:
            tensors, keys, length = struct.unpack_from(f"{order}QQQ", window, at + 8)
            word = window[at + 32 : at + 36]
        sane = 1 <= version <= 3 and 0 < tensors < 1 << 20 and keys < 1 << 20
        if sane and (keys == 0 or (0 < length < 1 << 16 and word.isascii() and word.decode().isprintable())):
            return True
    return False


def is_text(head: bytes) -> bool:
    """True for what people read: no zero byte, and UTF-8 but for a letter that is cut at the end."""
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and error.end == len(head)
    return True
