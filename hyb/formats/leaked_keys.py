"""Keys in text by their shape: PEM private keys and API keys that bear a prefix. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 16 << 10
"""Bytes of the longest key that is known."""
_BEGIN = b"PRIVATE KEY-----"
_PEM = re.compile(
    rb"-----BEGIN ((?:[A-Z0-9]+ ){0,3})PRIVATE KEY-----((?:[A-Za-z0-9+/=\s:,.-]|\\[nrt]){64,16000}?)"
    rb"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----"
)
_RUN = re.compile(rb"[A-Za-z0-9+/_\-\s]{1,24000}")
_RUN_BACK = re.compile(rb"[A-Za-z0-9+/_\-\s]*$")
_API = (
    (b"hyb_sk_", re.compile(rb"hyb_sk_[A-Za-z0-9_-]{43}"), "an API key of hyb"),
    *(
        (prefix, re.compile(rb"(?<![A-Za-z0-9_-])" + prefix + rest + rb"(?![A-Za-z0-9_-])"), what)
        for prefix, rest, what in (
            (b"hf_", rb"[A-Za-z0-9]{34}", "a token of Hugging Face"),
            (b"ghp_", rb"[A-Za-z0-9]{36}", "a token of GitHub"),
            (b"ghs_", rb"[A-Za-z0-9]{36}", "a token of GitHub"),
            (b"github_pat_", rb"[A-Za-z0-9_]{70,90}", "a token of GitHub"),
            (b"AKIA", rb"[A-Z2-7]{16}", "an access key of AWS"),
            (b"sk-", rb"(?:proj-)?[A-Za-z0-9_-]{40,}", "an API key (`sk-…`)"),
        )
    ),
)
NAMES = re.compile(
    r"(?:^|[_.-])(?:api[_-]?keys?|(?:access|auth|bearer|hf|session)[_-]?token|token|passwords?|passwd|passphrase|"
    r"(?:client|cookie|session)[_-]?secret|secret|access[_-]?code|private[_-]?key)$",
    re.IGNORECASE,
)
"""Names of settings whose value is a secret; `…_FILE` is none of them."""


@dataclass(frozen=True)
class Found:
    """A key: where it begins, what it is, and the key itself, which is never shown."""

    at: int
    what: str
    value: bytes


def find(window: bytes) -> Iterator[Found]:
    """The keys in a window of bytes."""
    if _BEGIN in window:
        for hit in _PEM.finditer(window):
            yield Found(hit.start(), f"a private key ({_kind(hit)})", hit[0])
    for prefix, pattern, what in _API:
        at = window.find(prefix)  # much faster than the pattern, which has to look behind itself everywhere
        while at >= 0:
            if key := pattern.match(window, at):
                yield Found(at, what, key[0])
            at = window.find(prefix, at + 1)


def in_base64(window: bytes, at: int) -> Iterator[Found]:
    """The keys within base64 around `at`, where a mark of a key stands in base64."""
    left = _RUN_BACK.search(window[max(0, at - 120) : at])
    right = _RUN.match(window, at)
    run = b"".join((left[0] if left else b"").split() + (right[0] if right else b"").split())
    run = run.replace(b"-", b"+").replace(b"_", b"/")
    for first in range(4):
        piece = run[first:]
        data = base64.b64decode(piece[: len(piece) // 4 * 4] + _last(piece))
        if keys := list(find(data)):
            yield from (Found(at, f"{key.what}, in base64", key.value) for key in keys)
            return


def _last(run: bytes) -> bytes:
    """The last letters, filled up."""
    rest = run[len(run) // 4 * 4 :]
    return rest + b"=" * (-len(rest) % 4) if len(rest) > 1 else b""


def der(pem: bytes) -> bytes:
    """The bytes of a PEM key, whether or not it stood in a JSON string; b"" when it is none."""
    hit = _PEM.search(pem)
    if not hit:
        return b""
    body = re.sub(rb"\\[nrt]|\s", b"", hit[2])
    body = body[body.rfind(b",") + 1 :] if b":" in body else body
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        return b""


def _kind(hit: re.Match[bytes]) -> str:
    return hit[1].decode().strip().lower() or "PKCS #8"
