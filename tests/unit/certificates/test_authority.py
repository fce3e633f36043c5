"""A CA that somebody brings: all that keeps it from signing for a link, by what OpenSSL makes of it, too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hyb import certificates as cs
from tests.handshake import HOST, works

NOW = datetime.now(UTC)
PEM, PLAIN = serialization.Encoding.PEM, serialization.NoEncryption()
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)


def pem_of(key: object) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN)  # type: ignore[attr-defined,no-any-return]


def own_ca(
    key: object = P256, *, name: str = "lab root", issuer: str = "", signer: object = None, ca: bool | None = True,
    pathlen: int | None = None, begins: float = -1, ends: float = 100, extensions: tuple[x509.ExtensionType, ...] = (),
) -> cs.Pair:  # fmt: skip
    """A CA made without hyb's own code."""
    named = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (name, issuer or name)]
    builder = x509.CertificateBuilder().subject_name(named[0]).issuer_name(named[1]).serial_number(7)
    builder = builder.public_key(key.public_key())  # type: ignore[attr-defined]
    builder = builder.not_valid_before(NOW + timedelta(begins)).not_valid_after(NOW + timedelta(ends))
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, pathlen if ca else None), critical=True)
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())  # type: ignore[attr-defined]
    builder = builder.add_extension(ski, critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(signer or key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = builder.sign(signer or key, algorithm)  # type: ignore[arg-type]
    return cs.Pair(made.public_bytes(PEM), pem_of(key))


def usage(**given: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{n: given.get(n, False) for n in names})


GOOD = [
    own_ca(), own_ca(RSA), own_ca(pathlen=0), own_ca(ec.generate_private_key(ec.SECP384R1())),
    own_ca(ec.generate_private_key(ec.SECP521R1())), own_ca(extensions=(usage(key_cert_sign=True),)),
    own_ca(extensions=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),)),
]  # fmt: skip


@pytest.mark.parametrize("ca", GOOD)
def test_a_good_ca_is_taken_and_its_certificates_make_a_session(ca: cs.Pair, tmp_path: Path) -> None:
    assert cs.authority_mistakes(ca, NOW) == []
    server = cs.make_leaf(ca, "link-server", 365, NOW, hosts=(HOST,))
    client = cs.make_leaf(ca, "link-private", 365, NOW)
    data = [{"ca.crt": ca.certificate, "tls.crt": p.certificate, "tls.key": p.key} for p in (client, server)]
    assert cs.mistakes(*data, (HOST,), NOW) == []
    has_usage = any(isinstance(e.value, x509.KeyUsage) for e in cs.load(ca.certificate)[0].extensions)
    assert works(tmp_path, *data, strict=has_usage)  # a CA without key usage passes everywhere but there


LEAF = cs.make_leaf(own_ca(), "x", 5, NOW, hosts=(HOST,))
OTHER = own_ca(RSA)
MIDDLE = own_ca(RSA, name="middle", issuer="lab root", signer=P256)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: own_ca(begins=-200, ends=-1), "the CA expired on"),
        (lambda: own_ca(begins=1), "the CA is not valid before"),
        (lambda: own_ca(ca=False), "it is no CA"),
        (lambda: own_ca(ca=None), "it is no CA"),
        (lambda: LEAF, "it is no CA"),
        (lambda: own_ca(extensions=(usage(digital_signature=True),)), "no keyCertSign"),
        (lambda: own_ca(extensions=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),)), "extended key usage"),
        (lambda: own_ca(extensions=(x509.NameConstraints([x509.DNSName("a.example")], None),)), "name constraints"),
        (lambda: MIDDLE, "it is not self-signed"),
        (lambda: cs.Pair(MIDDLE.certificate + own_ca().certificate, MIDDLE.key), "there are 2 certificates"),
        (lambda: own_ca(name="lab root", signer=RSA), "it is not self-signed"),
        (lambda: cs.Pair(own_ca().certificate, OTHER.key), "the key is another CA's"),
        (lambda: cs.Pair(own_ca().certificate, b""), "there is no private key"),
        (lambda: cs.Pair(own_ca().certificate, OTHER.key * 2), "more than one private key"),
        (lambda: cs.Pair(own_ca().certificate, b"-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n"),
         "its key is no private key"),
        (lambda: cs.encrypted(own_ca(), b"x"), "its key is encrypted"),
        (lambda: cs.Pair(b"", OTHER.key), "there is no certificate"),
        (lambda: cs.Pair(OTHER.certificate[:200] + OTHER.certificate[-60:], OTHER.key), "there is no certificate"),
        (lambda: own_ca(WEAK), "its RSA key has 1024 bits"),
        (lambda: own_ca(ec.generate_private_key(ec.SECP256K1())), "its curve secp256k1"),
        (lambda: own_ca(ed25519.Ed25519PrivateKey.generate()), "neither RSA nor ECDSA"),
    ],
)  # fmt: skip
def test_a_ca_that_could_not_sign_for_a_link_is_refused(make: Callable[[], cs.Pair], expected: str) -> None:
    found = cs.authority_mistakes(make(), NOW)
    assert any(expected in text for text in found), found


def test_all_mistakes_are_told_at_once() -> None:
    bad = cs.Pair(own_ca(WEAK, begins=-20, ends=-1, extensions=(usage(crl_sign=True),)).certificate, pem_of(P256))
    assert len(cs.authority_mistakes(bad, NOW)) == 3


def test_skuppers_own_controller_needs_rsa() -> None:
    assert cs.authority_mistakes(own_ca(RSA), NOW, for_skupper=True) == []
    assert any("RSA only" in text for text in cs.authority_mistakes(own_ca(), NOW, for_skupper=True))
    made = cs.make_ca("hyb link CA x", 100, NOW, for_skupper=True)
    assert cs.authority_mistakes(made, NOW, for_skupper=True) == []
    assert cs.in_pkcs1(made.key).startswith(b"-----BEGIN RSA PRIVATE KEY-----\n")


def test_a_pem_text_is_split_whatever_its_order_and_what_else_is_in_it() -> None:
    ca = own_ca()
    text = b"Bag Attributes: x\r\n" + ca.key + b"\nsubject=CN = lab root\n" + ca.certificate.rstrip(b"\n")
    split = cs.split_pem(text)
    assert cs.load(split.certificate) == cs.load(ca.certificate)
    assert cs.private_key(split.key).public_key() == P256.public_key()
    assert cs.split_pem(b"nothing") == cs.Pair(b"", b"")


def test_an_encrypted_pair_opens_with_its_passphrase_alone() -> None:
    ca = own_ca()
    locked = cs.encrypted(ca, b"correct horse")
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in locked.key and cs.is_encrypted(locked.key)
    assert cs.decrypted(locked, b"correct horse").key == ca.key
    for wrong in (b"correct hors", b"", None):
        with pytest.raises(ValueError, match=r"passphrase|encrypted"):
            cs.decrypted(locked, wrong)
