"""New CAs and end certificates."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hyb.certificates.pairs import Key, Pair, load, private_key

BACKDATED = timedelta(hours=1)
"""How far the clocks of the two sides may differ when a certificate is new."""
COMMON_NAME_MAX = 64
RSA_BITS = 3072
USAGE = {True: ExtendedKeyUsageOID.SERVER_AUTH, False: ExtendedKeyUsageOID.CLIENT_AUTH}

_Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def make_ca(name: str, days: int, now: datetime, *, for_skupper: bool = False) -> Pair:
    """A new CA that may sign end certificates only. `name` becomes its CN, cut at 64 characters.

    `for_skupper`: RSA, as Skupper's controller takes no other key to sign with.
    """
    key: Key = rsa.generate_private_key(65537, RSA_BITS) if for_skupper else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:COMMON_NAME_MAX])])
    builder = _builder(subject, subject, key.public_key(), now, now + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
    return _signed(builder, key, key)


def make_leaf(ca: Pair, name: str, days: int, now: datetime, *, hosts: Sequence[str] = ()) -> Pair:
    """A new server certificate for `hosts`, or without any a client certificate; signed by `ca`, over when it is."""
    issuer, issuer_key = load(ca.certificate)[0], private_key(ca.key)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:COMMON_NAME_MAX])])
    end = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    builder = _builder(subject, issuer.subject, key.public_key(), now, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage("digital_signature"), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([USAGE[bool(hosts)]]), critical=False)
    builder = builder.add_extension(_authority_key(issuer, issuer_key.public_key()), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(_alternative_names(hosts)), critical=False)
    return _signed(builder, key, issuer_key)


def _authority_key(issuer: x509.Certificate, public: _Public) -> x509.AuthorityKeyIdentifier:
    """What OpenSSL compares with the CA's SKI; a CA of somebody else's making may have none."""
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: _Public, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before((now - BACKDATED).replace(microsecond=0))
    builder = builder.not_valid_after(end.replace(microsecond=0))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _signed(builder: x509.CertificateBuilder, key: Key, signer: Key) -> Pair:
    certificate = builder.sign(signer, hashes.SHA256())
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return Pair(certificate.public_bytes(pem), key.private_bytes(pem, pkcs8, serialization.NoEncryption()))


def _key_usage(*given: str) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in given for name in names})


def _alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            continue
    return names
