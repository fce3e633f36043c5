"""Recipients and private keys, read and refused before any other program sees them.

A recipient is a public key or a certificate in PEM, RSA (2048 bits or more) or ECDSA on P-256, P-384 or P-521: what
ocicrypt's JWE can wrap a key for. Of a certificate only its key counts; nothing checks who signed it, or until when.
The id of a recipient is the sha256 of the DER form of the public key, the same for a key and its certificate.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.utils import CryptographyDeprecationWarning

from hyb import digest as dg
from hyb.errors import Exit, HybError

MAX = 1 << 20  # bytes of a file with a key
RSA_BITS = 2048
CURVES = ("secp256r1", "secp384r1", "secp521r1")
_DER, _PEM = serialization.Encoding.DER, serialization.Encoding.PEM
_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True)
class Recipient:
    """Who may read: a public key as PEM (SubjectPublicKeyInfo) and its id."""

    key_id: str
    pem: bytes


def recipients(paths: Iterable[Path]) -> tuple[Recipient, ...]:
    """The recipients in files, sorted by id, once each. Raises HybError (exit 3) with all that is wrong with them."""
    found, wrong, hints = {}, [], []
    for path in paths:
        try:
            one = _recipient(path)
            found[one.key_id] = one
        except HybError as error:
            wrong.append(error.message)
            hints.append(error.hint)
    if wrong:
        raise HybError(wrong[0], details=wrong if len(wrong) > 1 else (), hint=next(filter(None, hints), ""))
    return tuple(sorted(found.values(), key=lambda r: r.key_id))


def private_id(path: Path) -> str:
    """The id of the public half of the private key in a file, which must be its owner's alone.

    Raises HybError: exit 3 for a file that others can read, a key with a passphrase, or one in a form that no container
    tool opens, with the command that mends it.
    """
    data = _read(path)
    if path.stat().st_mode & 0o077:
        raise HybError(f"others can read or change the private key `{path}`", hint=f"`chmod 600 {path}`")
    if b"PRIVATE KEY" not in data:
        raise HybError(f"`{path}` is no private key in PEM", hint="give the private half of what it was sealed to")
    if b"ENCRYPTED" in data:
        raise HybError(
            f"the private key `{path}` has a passphrase, and nobody is there to type it",
            hint=f"`(umask 077; openssl pkcs8 -topk8 -nocrypt -in {path} -out OPEN.pem)`, best on a tmpfs",
        )
    if b"BEGIN EC PRIVATE KEY" in data:  # skopeo says "missing private key" to it
        raise HybError(
            f"the EC key `{path}` is in the form SEC1, which skopeo, Podman and CRI-O do not open",
            hint=f"`(umask 077; openssl pkcs8 -topk8 -nocrypt -in {path} -out PKCS8.pem)`",
        )
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise HybError(f"`{path}` is no private key that can be read") from error
    return key_id(_suitable(key.public_key(), path))


def key_id(key: Public) -> str:
    """`sha256:` of the DER form (SubjectPublicKeyInfo)."""
    return dg.of_bytes(key.public_bytes(_DER, _SPKI))


def _recipient(path: Path) -> Recipient:
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise HybError(
            f"`{path}` is a private key; what is sealed is sealed to a public one",
            hint=f"`openssl pkey -in {path} -pubout -out PUBLIC.pem`, and keep the private key where it will be read",
        )
    try:
        key = _public(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise HybError(
            f"`{path}` is neither a public key nor a certificate in PEM",
            hint="an age or SSH key seals bundles, not images; `openssl pkey -pubout` writes a public key in PEM",
        ) from error
    good = _suitable(key, path)
    return Recipient(key_id(good), good.public_bytes(_PEM, _SPKI))


def _public(data: bytes) -> object:
    if b"BEGIN CERTIFICATE" not in data:
        return serialization.load_pem_public_key(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_pem_x509_certificates(data)[0].public_key()


def _suitable(key: object, path: Path) -> Public:
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < RSA_BITS:
            raise HybError(f"the RSA key `{path}` has {key.key_size} bits", hint=f"{RSA_BITS} at least; make another")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return key
    raise HybError(f"`{path}` is a key that no layer can be sealed to", hint="RSA, or ECDSA on P-256, P-384 or P-521")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX + 1)
    except OSError as error:
        raise HybError(f"the key `{path}` can't be read: {(error.strerror or '').lower()}") from error
    if len(data) > MAX:
        raise HybError(f"`{path}` is too big to be a key", code=Exit.INPUT)
    return data
