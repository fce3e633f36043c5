"""Key pairs: their files, their ids, and what is refused."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hyb.errors import HybError
from hyb.signing import keys


def pem(key: object) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def private(path: Path, data: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", keys.KINDS)
def test_a_new_pair_signs_and_its_private_half_is_its_owners_alone(tmp_path: Path, kind: str) -> None:
    made = keys.generate(tmp_path / "new", "lab", kind=kind)
    key, public = keys.load_private(made.private), keys.load_public(made.public)
    assert stat.S_IMODE(made.private.stat().st_mode) == 0o600
    assert sorted(p.name for p in made.private.parent.iterdir()) == ["lab.key", "lab.pub"]
    assert key.public == public
    assert public.kind == kind
    assert public.verifies(key.sign(b"text"), b"text")
    assert not public.verifies(key.sign(b"text"), b"texT")
    assert not public.verifies(b"no signature", b"text")


def test_the_id_of_a_key_is_what_openssl_hashes(tmp_path: Path) -> None:
    made = keys.generate(tmp_path)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", made.public, "-outform", "DER"], capture_output=True, check=True
    ).stdout
    assert made.key_id == "sha256:" + hashlib.sha256(der).hexdigest()
    assert keys.load_public(made.public).hint == hashlib.sha256(made.public.read_bytes()).hexdigest()


def test_a_pair_is_never_written_over(tmp_path: Path) -> None:
    made = keys.generate(tmp_path)
    before = made.private.read_bytes()
    with pytest.raises(HybError, match="is there already"):
        keys.generate(tmp_path)
    assert made.private.read_bytes() == before
    made.private.unlink()
    made.private.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HybError, match="is there already"):
        keys.generate(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a\nb", "a/b"])
def test_a_name_that_leaves_the_folder_is_no_keys_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(HybError, match="can't be a key's name"):
        keys.generate(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_passphrase_locks_the_private_half(tmp_path: Path) -> None:
    made = keys.generate(tmp_path, passphrase=b"open sesame")
    assert b"ENCRYPTED" in made.private.read_bytes()
    assert keys.load_private(made.private, b"open sesame").public.key_id == made.key_id
    with pytest.raises(HybError, match="is encrypted"):
        keys.load_private(made.private)
    with pytest.raises(HybError, match="does not open"):
        keys.load_private(made.private, b"open barley")


def test_a_passphrase_for_a_key_that_has_none_does_no_harm(tmp_path: Path) -> None:
    made = keys.generate(tmp_path)
    assert keys.load_private(made.private, b"not needed").public.key_id == made.key_id


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    made = keys.generate(tmp_path)
    made.private.chmod(0o640)
    with pytest.raises(HybError, match=r"other users can get at the signing key .*0640"):
        keys.load_private(made.private)


def test_keys_that_openssl_and_cosign_made_are_taken_or_refused_by_name(tmp_path: Path) -> None:
    for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()):
        path = private(tmp_path / f"{curve.name}.key", pem(ec.generate_private_key(curve)))
        key = keys.load_private(path)
        assert key.public.verifies(key.sign(b"x"), b"x")
    refused = {
        "rsa": (pem(rsa.generate_private_key(65537, 2048)), "a kind that is not taken"),
        "koblitz": (pem(ec.generate_private_key(ec.SECP256K1())), "is on the curve `secp256k1`"),
        "cosign": (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "only cosign opens"),
        "nothing": (b"", "is no private key"),
        "garbage": (os.urandom(64), "is no private key"),
    }
    for name, (data, words) in refused.items():
        with pytest.raises(HybError, match=words):
            keys.load_private(private(tmp_path / name, data))
    with pytest.raises(HybError, match="no such file"):
        keys.load_private(tmp_path / "absent")


def test_a_private_key_given_as_the_public_one_is_told_from_it_and_not_quoted(tmp_path: Path) -> None:
    made = keys.generate(tmp_path)
    with pytest.raises(HybError, match="is a private key") as caught:
        keys.load_public(made.private)
    assert made.private.read_text().splitlines()[1] not in f"{caught.value} {caught.value.hint}"
    assert "key" not in repr(keys.load_private(made.private)).lower().replace("privatekey", "")


@pytest.mark.parametrize("data", [b"", b"-----BEGIN PUBLIC KEY-----\n", b"x" * 70000])
def test_what_is_no_public_key_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pub").write_bytes(data)
    with pytest.raises(HybError, match="is no public key"):
        keys.load_public(tmp_path / "x.pub")
