"""Which names a certificate is for, and which CA it leads to."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS SANs."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(extension.value.get_values_for_type(x509.DNSName))


def common_name(certificate: x509.Certificate) -> str:
    """The CN of its subject; empty when it has none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


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
        if any(signed_by(current, ca) for ca in authorities if is_ca(ca)):
            return True
        if following is None or not is_ca(following) or not signed_by(current, following):
            return False
        current = following
    return False


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """True when `issuer`'s key made the signature of `certificate`; whether it may is not asked."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
