"""sha256 of bytes, files, streams and canonical JSON. A digest is written `sha256:<64 hex digits>`, as in OCI."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 20  # bytes read at a time: large enough that OpenSSL's sha256 is the limit
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """True for `sha256:` and 64 hex digits."""
    return _DIGEST.fullmatch(text) is not None


def of_bytes(data: bytes) -> str:
    """Digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def of_stream(stream: BinaryIO, progress: Callable[[int], None] | None = None) -> tuple[str, int]:
    """Digest and size in bytes of what is left in `stream`; `progress` is told the bytes of each chunk."""
    hasher, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        hasher.update(chunk)
        size += len(chunk)
        if progress:
            progress(len(chunk))
    return "sha256:" + hasher.hexdigest(), size


def of_file(path: Path, progress: Callable[[int], None] | None = None) -> tuple[str, int]:
    """Digest and size of a file. Raises OSError."""
    with path.open("rb") as stream:
        return of_stream(stream, progress)


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, no NaN. Raises ValueError on NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def of_json(value: Any) -> str:
    """Digest of a JSON value in its canonical form."""
    return of_bytes(canonical_json(value))


def of_tree(root: Path) -> str:
    """Digest of a file, or of a folder's regular files by relative path and content (hidden files left out)."""
    if root.is_file():
        return of_file(root)[0]
    return of_json(files_of(root))


def files_of(root: Path) -> dict[str, str]:
    """Relative path → digest of a folder's regular files (hidden files left out). Raises OSError."""
    paths = sorted(
        p for p in root.rglob("*") if p.is_file() and not any(x.startswith(".") for x in p.parts[len(root.parts) :])
    )
    return {p.relative_to(root).as_posix(): of_file(p)[0] for p in paths}
