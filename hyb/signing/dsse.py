"""A signed payload: a DSSE envelope in a sigstore bundle v0.3, as model-signing and cosign write it.

What is signed is the payload with its type (DSSE's pre-authentication encoding), so neither can be exchanged. A bundle
holds exactly one signature, as its specification says: several signers make several bundles. The hint of the key is
not covered by the signature and decides nothing; `keyid` stays empty, since other verifiers name keys in their own ways
and pass over a signature whose id is not theirs. No transparency log: it has no meaning without a network.

Sources: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md, https://docs.sigstore.dev/about/bundle/.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyb.errors import Exit, HybError
from hyb.formats import strict_json
from hyb.formats.oci import SIGSTORE_BUNDLE as BUNDLE
from hyb.signing.keys import PrivateKey, PublicKey, known, short_id

IN_TOTO = "application/vnd.in-toto+json"
MOST = 32 << 20
"""Bytes of a bundle: a model of 100,000 files has 20 MB."""
_HINT = "have it signed again; `hyb sign` writes one"


@dataclass(frozen=True)
class Verified:
    """What a signature was found to cover, and whose it is."""

    payload: bytes
    key_id: str


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a DSSE signature covers."""
    return f"DSSEv1 {len(payload_type.encode())} {payload_type} {len(payload)} ".encode() + payload


def sign(payload: bytes, payload_type: str, key: PrivateKey) -> bytes:
    """A bundle (JSON) over `payload`."""
    signature = key.sign(pae(payload_type, payload))
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key.public.hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _text(payload),
            "payloadType": payload_type,
            "signatures": [{"sig": _text(signature), "keyid": ""}],
        },
    }
    return json.dumps(bundle, separators=(",", ":")).encode()


def verify(bundle: bytes, payload_type: str, keys: Sequence[PublicKey]) -> Verified:
    """The payload of a bundle, when one of `keys` signed it as `payload_type`.

    Raises HybError (exit 4) for anything else: no bundle, another type, more or fewer signatures than one, a
    signature by none of the keys.
    """
    payload, signature, claimed = parse(bundle, payload_type)
    message = pae(payload_type, payload)
    for key in keys:
        if key.verifies(signature, message):
            return Verified(payload, key.key_id)
    names = {name: k.key_id for k in keys for name in (k.key_id, k.hint)}
    if claimed in names:
        raise _wrong(
            f"the signature that names key `{short_id(names[claimed])}` is not good: what it covers was changed"
        )
    said = f"it names the key whose PEM file has sha256 `{claimed[:16]}…`; " if claimed else ""
    raise HybError(f"signed by none of the keys asked for: {said}asked for: {known(keys)}",
                   hint="give the public key of who signed it, if you trust them", code=Exit.CHECK)  # fmt: skip


def parse(bundle: bytes, payload_type: str) -> tuple[bytes, bytes, str]:
    """Payload, signature and the key that it names, not verified. No type asked: any. Raises HybError (exit 4)."""
    try:
        value = strict_json.load(bundle, MOST)
    except ValueError as error:
        raise _wrong(f"no signature: {error}") from error
    if not isinstance(value, dict) or value.get("mediaType") != BUNDLE:
        found = value.get("mediaType") if isinstance(value, dict) else None
        raise _wrong(f"no signature: its media type is {found!r}, not `{BUNDLE}`")
    try:
        envelope: dict[str, Any] = value["dsseEnvelope"]
        found_type, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        signatures = envelope["signatures"]
        if not isinstance(signatures, list) or not isinstance(found_type, str):
            raise TypeError("not a list")
        if len(signatures) != 1:
            raise _wrong(f"a bundle holds one signature, this one has {len(signatures)}")
        signature = base64.b64decode(signatures[0]["sig"], validate=True)
        material = value["verificationMaterial"]
        claimed = material.get("publicKey", {}).get("hint") or ""
        claimed = signatures[0].get("keyid") or claimed
    except (KeyError, TypeError, AttributeError, binascii.Error, ValueError) as error:
        raise _wrong("no signature: this bundle holds no DSSE envelope that can be read") from error
    if payload_type and found_type != payload_type:
        raise _wrong(f"signed as {found_type!r}, wanted `{payload_type}`")
    return payload, signature, claimed if isinstance(claimed, str) and claimed.isprintable() else ""


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _wrong(message: str) -> HybError:
    return HybError(message, hint=_HINT, code=Exit.CHECK)
