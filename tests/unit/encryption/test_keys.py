"""Recipients and private keys: what is taken, what is refused, and what a person is told to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from hyb import certificates
from hyb.encryption import keys
from hyb.errors import Exit, HybError

PEM, SPKI = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
PKCS8, SEC1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
OPEN = serialization.NoEncryption()
EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


def public(path: Path, key: object) -> Path:
    path.write_bytes(key.public_key().public_bytes(PEM, SPKI))  # type: ignore[attr-defined]
    return path


def private(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def refused(call: Callable[[], object]) -> HybError:
    with pytest.raises(HybError) as caught:
        call()
    assert caught.value.code is Exit.INPUT
    return caught.value


def test_a_certificate_and_its_key_are_the_same_recipient(tmp_path: Path) -> None:
    pair = certificates.make_ca("lab", 10, datetime.now(UTC))
    certificate, bare = tmp_path / "cert.pem", tmp_path / "pub.pem"
    certificate.write_bytes(pair.certificate)
    key = serialization.load_pem_private_key(pair.key, None)
    one, two = keys.recipients([certificate]), keys.recipients([public(bare, key)])
    assert one == two
    assert keys.recipients([certificate, bare]) == one
    assert one[0].pem.startswith(b"-----BEGIN PUBLIC KEY-----")


def test_the_private_half_has_the_id_of_the_public_one(tmp_path: Path) -> None:
    for key in (EC, RSA):
        (one,) = keys.recipients([public(tmp_path / "pub.pem", key)])
        assert keys.private_id(private(tmp_path / "key.pem", key.private_bytes(PEM, PKCS8, OPEN))) == one.key_id
    assert keys.private_id(private(tmp_path / "key.pem", RSA.private_bytes(PEM, SEC1, OPEN))) == one.key_id


def test_a_private_key_is_no_recipient_and_its_content_is_not_shown(tmp_path: Path) -> None:
    data = EC.private_bytes(PEM, PKCS8, OPEN)
    error = refused(lambda: keys.recipients([private(tmp_path / "key.pem", data)]))
    assert "is a private key" in error.message
    assert "-pubout" in error.hint
    assert data.splitlines()[1].decode() not in f"{error.message} {error.hint} {error.details}"


def test_all_recipients_that_are_none_are_told_together(tmp_path: Path) -> None:
    texts = {"age": b"age1qqqqqqqq", "ssh": b"ssh-ed25519 AAAA", "empty": b"", "noise": bytes(range(256))}
    for name, data in texts.items():
        (tmp_path / name).write_bytes(data)
    error = refused(lambda: keys.recipients([*(tmp_path / n for n in texts), tmp_path / "absent", tmp_path]))
    assert len(error.details) == 6
    assert "absent" in error.details[4]


@pytest.mark.parametrize(
    "key",
    [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1()), dsa.generate_private_key(1024)],
)
def test_a_key_that_no_layer_can_be_sealed_to_is_refused(tmp_path: Path, key: object) -> None:
    assert "no layer can be sealed" in refused(lambda: keys.recipients([public(tmp_path / "k", key)])).message


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    assert "1024 bits" in refused(lambda: keys.recipients([public(tmp_path / "k", weak)])).message


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    for mode in (0o640, 0o604, 0o622):
        path = private(tmp_path / "key.pem", EC.private_bytes(PEM, PKCS8, OPEN), mode)
        assert refused(lambda p=path: keys.private_id(p)).hint == f"`chmod 600 {path}`"  # type: ignore[misc]


def test_sec1_and_a_passphrase_are_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    sec1 = private(tmp_path / "sec1.pem", EC.private_bytes(PEM, SEC1, OPEN))
    closed = EC.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"secret"))
    for path in (sec1, private(tmp_path / "closed.pem", closed)):
        assert f"openssl pkcs8 -topk8 -nocrypt -in {path}" in refused(lambda p=path: keys.private_id(p)).hint  # type: ignore[misc]


def test_a_public_key_opens_nothing(tmp_path: Path) -> None:
    path = public(tmp_path / "pub.pem", EC)
    path.chmod(0o600)
    assert "is no private key" in refused(lambda: keys.private_id(path)).message
    assert "can't be read" in refused(lambda: keys.private_id(tmp_path / "absent")).message
