"""An adapter may leave with a signature by a key that is trusted, and with no other."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from hyb import digest as dg
from hyb.boundary.check import Order, check
from hyb.boundary.report import Report
from hyb.errors import HybError
from hyb.formats import safetensors
from hyb.formats.boundary import Boundary

ADAPTER = safetensors.header_bytes([("m.q_proj.lora_A.weight", "F32", (8, 8))]) + b"\x01" * 256
MAKERS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}


def sign(key: Any, message: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return bytes(key.sign(message, ec.ECDSA(hashes.SHA384() if key.key_size == 384 else hashes.SHA256())))


def envelope(key: Any, statement: dict[str, Any], kind: str = "application/vnd.in-toto+json") -> dict[str, Any]:
    payload = json.dumps(statement).encode()
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    return {
        "payloadType": kind, "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": base64.b64encode(sign(key, message)).decode()}],
    }  # fmt: skip


def statement(digest: str) -> dict[str, Any]:
    return {"_type": "https://in-toto.io/Statement/v1", "subject": [{"name": "a", "digest": {"sha256": digest[7:]}}]}


class Place:
    def __init__(self, root: Path, kind: str = "ed25519") -> None:
        self.root, self.key = root / "out", MAKERS[kind]()
        self.root.mkdir()
        (self.root / "adapter_model.safetensors").write_bytes(ADAPTER)
        self.public = root / "key.pem"
        self.write_public(self.key, self.public)

    @staticmethod
    def write_public(key: Any, path: Path) -> None:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))

    def sign(self, value: dict[str, Any]) -> None:
        (self.root / "a.sig.json").write_text(json.dumps(value))

    def look(self, *trusted: Path) -> Report:
        return check(Order([str(self.root)], Boundary(), trusted=trusted), {"HOME": "/nonexistent"})


@pytest.mark.parametrize("kind", MAKERS)
def test_a_signed_adapter_may_leave(tmp_path: Path, kind: str) -> None:
    place = Place(tmp_path, kind)
    place.sign(envelope(place.key, statement(dg.of_bytes(ADAPTER))))
    report = place.look(place.public)
    assert report.details == []
    assert "1 adapter with a signature by a trusted key" in report.notes


def test_a_sigstore_bundle_of_model_signing_counts(tmp_path: Path) -> None:
    place = Place(tmp_path)
    resources = [{"name": "adapter_model.safetensors", "algorithm": "sha256", "digest": dg.of_bytes(ADAPTER)[7:]}]
    told = {**statement("sha256:" + "0" * 64), "predicate": {"resources": resources}}
    place.sign(
        {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope(place.key, told)}
    )
    assert place.look(place.public).clean


def test_a_signature_of_the_manifest_is_one_of_its_layers(tmp_path: Path) -> None:
    place = Place(tmp_path)
    layer = {"digest": dg.of_bytes(ADAPTER), "size": len(ADAPTER), "mediaType": "x"}
    manifest = json.dumps({"schemaVersion": 2, "config": {"digest": "x"}, "layers": [layer]}).encode()
    (place.root / "manifest.blob").write_bytes(manifest)
    place.sign(envelope(place.key, statement(dg.of_bytes(manifest))))
    assert place.look(place.public).clean


def test_without_a_key_without_a_signature_or_with_a_stranger_s_it_stays(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert "no key to check a signature with" in place.look().details[0]
    assert "without a signature by a trusted key" in place.look(place.public).details[0]
    place.sign(envelope(MAKERS["ed25519"](), statement(dg.of_bytes(ADAPTER))))
    assert not place.look(place.public).clean
    other = tmp_path / "other.pem"
    Place.write_public(MAKERS["p256"](), other)
    place.sign(envelope(place.key, statement(dg.of_bytes(ADAPTER))))
    assert not place.look(other).clean
    assert place.look(other, place.public).clean


@pytest.mark.parametrize(
    "change",
    [
        {"payloadType": "text/plain"},
        {"payload": base64.b64encode(json.dumps(statement(dg.of_bytes(b"other"))).encode()).decode()},
        {"signatures": []},
        {"signatures": [{"sig": "!!"}]},
        {"payload": 7},
    ],
)
def test_an_envelope_that_was_changed_says_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    place = Place(tmp_path)
    place.sign(envelope(place.key, statement(dg.of_bytes(ADAPTER))) | change)
    assert not place.look(place.public).clean


def test_an_adapter_that_was_changed_after_it_was_signed_stays(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.sign(envelope(place.key, statement(dg.of_bytes(ADAPTER))))
    (place.root / "adapter_model.safetensors").write_bytes(ADAPTER[:-1] + b"\x02")
    assert not place.look(place.public).clean


def test_what_is_no_public_key_is_the_user_s_mistake(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.public.write_text("nothing")
    with pytest.raises(HybError, match="no public key"):
        place.look(place.public)
