"""Key pairs that sign: `NAME.key` (PKCS #8 in PEM, 0600, a passphrase if you like) and `NAME.pub` (SPKI in PEM).

EC P-256 unless asked otherwise: model-signing and cosign know it. Ed25519 is taken, too; model-signing does not know
it. A key's id is the sha256 of its public half in DER; OpenSSL says the same:

    openssl pkey -pubin -in NAME.pub -outform DER | sha256sum
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hyb import fs
from hyb.errors import HybError

KINDS = ("p256", "ed25519")
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512(),
}  # fmt: skip
_MOST = 1 << 16  # bytes of a file that is said to be a public key
_PKCS8, _SPKI = serialization.PrivateFormat.PKCS8, serialization.PublicFormat.SubjectPublicKeyInfo
_PEM, _DER = serialization.Encoding.PEM, serialization.Encoding.DER
_PUBLIC = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_PRIVATE = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class PublicKey:
    """The half that checks. `key_id`: `sha256:<hex>` of the SPKI in DER. `kind`: `p256`, `p384`, `p521`, `ed25519`."""

    key: _PUBLIC
    key_id: str
    kind: str

    @property
    def pem(self) -> bytes:
        """SPKI in PEM, as OpenSSL writes it."""
        return self.key.public_bytes(_PEM, _SPKI)

    @property
    def hint(self) -> str:
        """What model-signing calls this key: hex of the sha256 of the PEM."""
        return hashlib.sha256(self.pem).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """True when `signature` (of an EC key: in DER) is this key's, over `message`."""
        try:
            if isinstance(self.key, ed25519.Ed25519PublicKey):
                self.key.verify(signature, message)
            else:
                self.key.verify(signature, message, ec.ECDSA(_HASHES[self.key.curve.name]))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """The half that signs; nothing prints it."""

    key: _PRIVATE
    public: PublicKey

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.key_id})"

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`: ECDSA in DER with the hash that fits the curve, or Ed25519."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(message)
        return self.key.sign(message, ec.ECDSA(_HASHES[self.key.curve.name]))


@dataclass(frozen=True)
class Made:
    """A new pair: its two files and its id."""

    private: Path
    public: Path
    key_id: str


def generate(folder: Path, name: str = "hyb", *, kind: str = "p256", passphrase: bytes | None = None) -> Made:
    """Make a key pair: `folder/NAME.key` (0600) and `folder/NAME.pub`. Raises HybError when one is there already."""
    if kind not in KINDS:
        raise HybError(f"there is no kind of key `{kind}`", hint=f"one of {', '.join(KINDS)}")
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise HybError(f"`{name!r}` can't be a key's name", hint="letters, digits and dashes make good ones")
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    key: _PRIVATE = ec.generate_private_key(ec.SECP256R1()) if kind == "p256" else ed25519.Ed25519PrivateKey.generate()
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    half = _public(key.public_key())
    with fs.explained(f"can't write a key to `{folder}`"):
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700)
        with fs.locked(folder / f".{name}.lock"):
            for path in (private, public):
                if path.exists() or path.is_symlink():
                    raise HybError(f"`{path}` is there already", hint="give another name: a key is never written over")
            fs.write_atomic(private, key.private_bytes(_PEM, _PKCS8, locked), mode=0o600)
            fs.write_atomic(public, half.pem)
        (folder / f".{name}.lock").unlink(missing_ok=True)
    return Made(private, public, half.key_id)


def load_private(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """A private key of a PEM file that only its owner can read. Raises HybError (exit 3): all that may be wrong."""
    data = fs.read_private(path, "the signing key")
    hint = "`hyb sign --new-key DIR` makes one; EC P-256, P-384, P-521 or Ed25519, in PEM"
    if b"SIGSTORE PRIVATE KEY" in data or b"COSIGN PRIVATE KEY" in data:
        raise HybError(f"`{path}` is a key in cosign's own encrypted form, which only cosign opens", hint=hint)
    encrypted = b"ENCRYPTED" in data
    if encrypted and passphrase is None:
        raise HybError(f"the signing key `{path}` is encrypted",
                       hint="`--passphrase-file FILE`, or the variable HYB_SIGN_PASSPHRASE, opens it")  # fmt: skip
    try:
        key = serialization.load_pem_private_key(data, passphrase if encrypted else None)
    except ValueError as error:
        if encrypted:
            raise HybError(f"the passphrase does not open the signing key `{path}`") from error
        raise HybError(f"`{path}` is no private key in PEM", hint=hint) from error
    except UnsupportedAlgorithm as error:
        raise HybError(f"`{path}` is a private key of a kind that is not known here", hint=hint) from error
    if not isinstance(key, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
        raise HybError(f"`{path}` is a private key of a kind that is not taken", hint=hint)
    return PrivateKey(key, _public(key.public_key(), path))


def load_public(path: Path) -> PublicKey:
    """A public key of a PEM file. Raises HybError (exit 3)."""
    with fs.explained(f"can't read the public key `{path}`"), path.open("rb") as stream:
        return parse_public(stream.read(_MOST + 1), path)


def parse_public(data: bytes, where: Path | str) -> PublicKey:
    """A public key from PEM. `where` it was found is for the error. Raises HybError (exit 3)."""
    hint = "the public half of the key that signs: EC P-256, P-384, P-521 or Ed25519, in PEM"
    if b"PRIVATE KEY" in data:
        raise HybError(f"`{where}` is a private key; the public half is wanted",
                       hint=f"`openssl pkey -in {where} -pubout` prints it")  # fmt: skip
    if len(data) > _MOST:
        raise HybError(f"`{where}` is no public key: it has more than {_MOST >> 10} KiB", hint=hint)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise HybError(f"`{where}` is no public key in PEM", hint=hint) from error
    if not isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        raise HybError(f"`{where}` is a public key of a kind that is not taken", hint=hint)
    return _public(key, where)


def known(keys: Sequence[PublicKey]) -> str:
    """Their ids, for an error."""
    return ", ".join(short_id(k.key_id) for k in keys) or "none"


def short_id(key_id: str) -> str:
    """The first 16 hex digits of a key's id, for people."""
    return key_id.removeprefix("sha256:")[:16]


def _public(key: _PUBLIC, where: Path | str = "") -> PublicKey:
    if isinstance(key, ed25519.Ed25519PublicKey):
        kind = "ed25519"
    elif key.curve.name in _HASHES:
        kind = "p" + key.curve.name[4:7]
    else:
        raise HybError(f"`{where}` is on the curve `{key.curve.name}`", hint="P-256, P-384 and P-521 are taken")
    der = key.public_bytes(_DER, _SPKI)
    return PublicKey(key, "sha256:" + hashlib.sha256(der).hexdigest(), kind)
