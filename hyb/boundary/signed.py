"""Which files bear a signature by a key that somebody trusts: DSSE envelopes over in-toto statements.

Plain envelopes and Sigstore bundles are read (what `cosign`, `model_signing` and `witness` write). A file is signed
when its sha256 is a subject of the statement, or one of its `predicate.resources` (model_signing), or when it is a
layer of an OCI manifest that is. Sources: https://github.com/secure-systems-lab/dsse, https://in-toto.io/Statement/v1.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from hyb import fs
from hyb.errors import HybError

MOST = 8 << 20
"""Bytes of an envelope or a manifest."""


def trusted(paths: Sequence[Path]) -> list[Any]:
    """Public keys of PEM files: keys or certificates. Raises HybError (exit 3)."""
    found = []
    for path in paths:
        with fs.explained(f"can't read `{path}`"):
            data = path.read_bytes()
        try:
            certificate = b"-----BEGIN CERTIFICATE-----" in data
            key = x509.load_pem_x509_certificate(data).public_key() if certificate else (
                serialization.load_pem_public_key(data))  # fmt: skip
        except ValueError as error:
            raise HybError(f"`{path}` is no public key in PEM", hint="the public half of the key that signs") from error
        if not isinstance(key, (ed25519.Ed25519PublicKey, ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
            raise HybError(f"`{path}` is a key of a kind that is not known", hint="Ed25519, ECDSA or RSA")
        found.append(key)
    return found


@dataclass
class Signed:
    """Signatures and manifests that were seen, whatever their order. Digests are `sha256:<hex>`."""

    keys: Sequence[Any] = ()
    digests: set[str] = field(default_factory=set)
    layers: dict[str, list[str]] = field(default_factory=dict)

    def look(self, data: bytes, digest: str) -> None:
        """Remember what a JSON file says, when it is an envelope or an OCI manifest."""
        if data.lstrip()[:1] != b"{" or len(data) > MOST:
            return
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict) and isinstance(value.get("layers"), list) and isinstance(value.get("config"), dict):
            self.layers[digest] = [str(x["digest"]) for x in value["layers"] if isinstance(x, dict) and "digest" in x]
        elif self.keys and isinstance(value, dict):
            self.digests |= set(subjects(value.get("dsseEnvelope", value), self.keys))

    def has(self, digest: str) -> bool:
        """True for a file that is signed, or a layer of a manifest that is."""
        return digest in self.digests or any(
            digest in layers for manifest, layers in self.layers.items() if manifest in self.digests
        )


def subjects(envelope: Any, keys: Sequence[Any]) -> Iterator[str]:
    """The digests that an envelope speaks of, when one of its signatures is by one of the keys."""
    try:
        kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(s["sig"], validate=True) for s in envelope["signatures"]]
        statement = json.loads(payload)
        told = [s["digest"] for s in statement["subject"]]
        resources = statement.get("predicate", {}).get("resources", [])
        told += [{str(r["algorithm"]): r["digest"]} for r in resources]
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, RecursionError):
        return
    message = f"DSSEv1 {len(kind.encode())} {kind} {len(payload)} ".encode() + payload
    if any(_verifies(key, signature, message) for key in keys for signature in signatures):
        yield from (f"sha256:{d['sha256']}" for d in told if isinstance(d, dict) and isinstance(d.get("sha256"), str))


def _verifies(key: Any, signature: bytes, message: bytes) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            wide: hashes.HashAlgorithm = {384: hashes.SHA384(), 521: hashes.SHA512()}.get(key.key_size, hashes.SHA256())
            key.verify(signature, message, ec.ECDSA(wide))
    except InvalidSignature:
        return False
    return True
