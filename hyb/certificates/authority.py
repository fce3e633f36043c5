"""What keeps a CA that somebody brings from signing for a link."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from hyb.certificates.lasting import lasting
from hyb.certificates.names import is_ca, signed_by
from hyb.certificates.pairs import Pair, load, private_key

RSA_LEAST = 2048
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
"""What TLS 1.3 signs with; other curves make fine certificates and fail in the handshake."""


def authority_mistakes(pair: Pair, now: datetime, *, for_skupper: bool = False) -> list[str]:
    """All that is wrong with a CA and its open key; empty when it can sign for a link.

    It has to be a root: OpenSSL takes no intermediate for a trust anchor, and with the root above it in `ca.crt` the
    router would let in everything that this root ever signed. `for_skupper`: Skupper's controller signs, too.
    """
    try:
        certificates = load(pair.certificate)
    except ValueError:
        return ["there is no certificate in PEM"]
    ca, found = certificates[0], []
    if len(certificates) > 1:
        found.append(f"there are {len(certificates)} certificates; the link trusts one root and nothing beside it")
    if (validity := lasting("CA", pair.certificate, now)).state in ("expired", "not yet"):
        found.append(str(validity))
    found += _may_sign(ca)
    if ca.issuer != ca.subject or not signed_by(ca, ca):
        found.append(
            "it is not self-signed; a link needs a root of its own, as the router lets in all that its root has signed"
        )
    return found + _key(pair, ca, for_skupper)


def _may_sign(ca: x509.Certificate) -> list[str]:
    """What its extensions forbid."""
    if not is_ca(ca):
        return ["it is no CA (basic constraints)"]
    found = []
    by_class = {type(e.value): e.value for e in ca.extensions}
    usage = by_class.get(x509.KeyUsage)
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        found.append("its key usage forbids signing certificates (no keyCertSign)")
    allowed = by_class.get(x509.ExtendedKeyUsage)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if isinstance(allowed, x509.ExtendedKeyUsage) and not both <= set(allowed):
        found.append("its extended key usage forbids serverAuth or clientAuth below it")
    if x509.NameConstraints in by_class:
        found.append("it has name constraints, which hyb can't judge")
    return found


def _key(pair: Pair, ca: x509.Certificate, for_skupper: bool) -> list[str]:
    if not pair.key:
        return ["there is no private key"]
    if pair.key.count(b"-----BEGIN") > 1:
        return ["there is more than one private key"]
    try:
        key = private_key(pair.key)
    except ValueError as error:
        return [f"its key {error}"]
    found = []
    if key.public_key() != ca.public_key():
        found.append("the key is another CA's: it doesn't belong to the certificate")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < RSA_LEAST:
        found.append(f"its RSA key has {key.key_size} bits; {RSA_LEAST} are the least")
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if for_skupper:
            found.append("its key is ECDSA; Skupper's controller signs with RSA only")
        if key.curve.name not in CURVES:
            found.append(f"its curve {key.curve.name} is none of {', '.join(CURVES.values())}")
    return found
