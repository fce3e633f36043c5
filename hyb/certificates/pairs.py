"""A certificate and its private key as PEM: read, match, encrypt with a passphrase."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.utils import CryptographyDeprecationWarning

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----[^\S\n]*\n?", re.DOTALL)
_PEM, _PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM. The key is PKCS#8; that of a CA may be encrypted."""

    certificate: bytes
    key: bytes = field(repr=False)


def split_pem(data: bytes) -> Pair:
    """The certificates and the private keys of one PEM text, whatever their order; either may be empty."""
    blocks = [(m[1], m[0] if m[0].endswith(b"\n") else m[0] + b"\n") for m in _BLOCK.finditer(data)]
    return Pair(
        b"".join(text for kind, text in blocks if kind == b"CERTIFICATE"),
        b"".join(text for kind, text in blocks if kind.endswith(b"PRIVATE KEY")),
    )


def load(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM text, in order. Raises ValueError when there is none or one is damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # of a stranger's; a later version refuses it
        return x509.load_pem_x509_certificates(pem)


def private_key(pem: bytes, passphrase: bytes | None = None) -> Key:
    """An RSA or ECDSA key; `passphrase` is looked at only where the key is encrypted. Raises ValueError: the reason."""
    closed = is_encrypted(pem)
    try:
        key = serialization.load_pem_private_key(pem, passphrase if closed else None)
    except TypeError as error:
        raise ValueError("is encrypted: the router has no way to ask for a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("isn't opened by this passphrase" if closed else "is no private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("is neither RSA nor ECDSA")
    return key


def is_encrypted(key: bytes) -> bool:
    """True when the key needs a passphrase (PKCS#8, or OpenSSL's older way of a header)."""
    return b"ENCRYPTED" in key


def is_rsa(certificate: bytes) -> bool:
    """True when the first certificate's key is RSA."""
    return isinstance(load(certificate)[0].public_key(), rsa.RSAPublicKey)


def encrypted(pair: Pair, passphrase: bytes) -> Pair:
    """The same pair, its open key encrypted: PKCS#8 with PBES2 (AES-256-CBC, PBKDF2)."""
    how = serialization.BestAvailableEncryption(passphrase)
    return Pair(pair.certificate, private_key(pair.key).private_bytes(_PEM, _PKCS8, how))


def decrypted(pair: Pair, passphrase: bytes | None) -> Pair:
    """The same pair, its key open in PKCS#8. Raises ValueError when the passphrase is not the key's."""
    plain = serialization.NoEncryption()
    return Pair(pair.certificate, private_key(pair.key, passphrase).private_bytes(_PEM, _PKCS8, plain))


def in_pkcs1(key: bytes) -> bytes:
    """An open RSA key as `BEGIN RSA PRIVATE KEY`: the one form that Skupper's controller signs with."""
    form, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    return private_key(key).private_bytes(_PEM, form, plain)


def matches(pair: Pair) -> bool:
    """True when the open key is the certificate's. Raises ValueError when either can't be read."""
    return load(pair.certificate)[0].public_key() == private_key(pair.key).public_key()
