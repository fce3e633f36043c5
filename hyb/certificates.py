"""X.509 for a link: one CA, one server and one client certificate, and what is wrong with certificates given.

Pure: bytes in, bytes out; the clock comes in as `now`. Keys are ECDSA P-256 in PKCS#8, which the Skupper router (and
OpenSSL below it) takes for its server and client certificates; only a CA that Skupper's controller is to sign with has
to be PKCS#1 RSA, and ours never goes there.

The router matches the name it dialled against DNS SANs, then the CN; it ignores IP SANs. So an IP is written as
both. Certificates are strict RFC 5280: basic constraints, key usage, SKI and AKI in all of them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATED = timedelta(hours=1)
"""How far the clocks of the two sides may differ when a certificate is new."""
COMMON_NAME_MAX = 64

_USAGE = {True: ExtendedKeyUsageOID.SERVER_AUTH, False: ExtendedKeyUsageOID.CLIENT_AUTH}
_AUTH = {True: "serverAuth", False: "clientAuth"}


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM (the key PKCS#8, not encrypted)."""

    certificate: bytes
    key: bytes = field(repr=False)


# -- making --------------------------------------------------------------------------------------------------------


def make_ca(name: str, days: int, now: datetime) -> Pair:
    """A new CA that may sign end certificates only. `name` becomes its CN, cut at 64 characters."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:COMMON_NAME_MAX])])
    builder = _builder(subject, subject, key.public_key(), now, now + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
    return _signed(builder, key, key)


def make_leaf(ca: Pair, name: str, days: int, now: datetime, *, hosts: Sequence[str] = ()) -> Pair:
    """A new server certificate for `hosts`, or without any a client certificate; signed by `ca`, over when it is."""
    issuer, issuer_key = load(ca.certificate)[0], _private_key(ca.key)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:COMMON_NAME_MAX])])
    end = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    builder = _builder(subject, issuer.subject, key.public_key(), now, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage("digital_signature"), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([_USAGE[bool(hosts)]]), critical=False)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    builder = builder.add_extension(authority, critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(_alternative_names(hosts)), critical=False)
    return _signed(builder, key, issuer_key)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before((now - BACKDATED).replace(microsecond=0))
    builder = builder.not_valid_after(end.replace(microsecond=0))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: _Key) -> Pair:
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


# -- reading -------------------------------------------------------------------------------------------------------

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def load(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM text, in order. Raises ValueError when there is none or one is damaged."""
    return x509.load_pem_x509_certificates(pem)


def _private_key(pem: bytes) -> _Key:
    """An RSA or ECDSA key. Raises ValueError with the reason."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise ValueError("is encrypted: the router has no way to ask for a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("is no private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("is neither RSA nor ECDSA")
    return key


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS SANs."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(extension.value.get_values_for_type(x509.DNSName))


def names(certificate: x509.Certificate) -> tuple[str, ...]:
    """What the router matches the dialled name against: DNS SANs, then the CN. IP SANs are not among them."""
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return (*dns_names(certificate), *(str(a.value) for a in common))


def covers(certificate: x509.Certificate, host: str) -> bool:
    """True when the router accepts this certificate from `host`; a `*` stands for the first label."""
    parent = host.partition(".")[2]
    return any(
        n.lower() in (host.lower(), f"*.{parent}".lower() if parent else host.lower()) for n in names(certificate)
    )


def is_ca(certificate: x509.Certificate) -> bool:
    """True when the certificate may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def issued_by(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> bool:
    """True when `chain` (the end certificate first) leads to one of `authorities`."""
    current = chain[0]
    for following in (*chain[1:], None):
        if any(_signed_by(current, ca) for ca in authorities if is_ca(ca)):
            return True
        if following is None or not is_ca(following) or not _signed_by(current, following):
            return False
        current = following
    return False


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def matches(pair: Pair) -> bool:
    """True when the key is the certificate's. Raises ValueError when either can't be read."""
    return load(pair.certificate)[0].public_key() == _private_key(pair.key).public_key()


# -- what is wrong -------------------------------------------------------------------------------------------------


def mistakes(
    client: Mapping[str, bytes], server: Mapping[str, bytes], hosts: Sequence[str], now: datetime
) -> list[str]:
    """What keeps two Secrets (ca.crt, tls.crt, tls.key as PEM) from a mutual TLS link over `hosts`."""
    found: list[str] = []
    for side, data, is_server in (("private", client, False), ("openshift", server, True)):
        found += [f"{side}: {text}" for text in _one(data, is_server, hosts, now)]
    if found:
        return found
    if not issued_by(load(server["tls.crt"]), load(client["ca.crt"])):
        found.append("private: its ca.crt did not sign the server certificate of the OpenShift side")
    if not issued_by(load(client["tls.crt"]), load(server["ca.crt"])):
        found.append("openshift: its ca.crt did not sign the client certificate of the private side")
    return found


def _one(data: Mapping[str, bytes], server: bool, hosts: Sequence[str], now: datetime) -> list[str]:
    found: list[str] = []
    try:
        authorities = load(data["ca.crt"])
    except ValueError:
        return ["ca.crt is no certificate in PEM"]
    try:
        leaf = load(data["tls.crt"])[0]
    except ValueError:
        return ["tls.crt is no certificate in PEM"]
    found += _leaf(leaf, server, now)
    found += [text.replace("tls.crt", "ca.crt") for ca in authorities for text in _time(ca, now)]
    if not all(is_ca(ca) for ca in authorities):
        found.append("ca.crt holds a certificate that is no CA")
    if server and (missing := [host for host in hosts if not covers(leaf, host)]):
        found.append(
            f"the server certificate is not for `{'`, `'.join(missing)}`, which the Link dials (IP SANs don't count)"
        )
    try:
        public = _private_key(data["tls.key"]).public_key()
    except ValueError as error:
        return [*found, f"tls.key {error}"]
    if any(public == ca.public_key() for ca in authorities):
        found.append("tls.key is the CA's own key: it must never leave the folder of the credentials")
    elif public != leaf.public_key():
        found.append("tls.key is not the key of tls.crt")
    return found


def _leaf(leaf: x509.Certificate, server: bool, now: datetime) -> list[str]:
    found = _time(leaf, now)
    if is_ca(leaf):
        found.append("tls.crt begins with a CA; the end certificate must come first")
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return found
    if _USAGE[server] not in usages and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usages:
        found.append(f"tls.crt is not for {_AUTH[server]}")
    return found


def _time(certificate: x509.Certificate, now: datetime) -> list[str]:
    if now > certificate.not_valid_after_utc:
        return [f"tls.crt expired on {certificate.not_valid_after_utc:%Y-%m-%d}"]
    if now < certificate.not_valid_before_utc:
        return [f"tls.crt is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: check the clock"]
    return []
