"""What keeps two Secrets from a mutual TLS link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from hyb.certificates.authority import authority_mistakes
from hyb.certificates.make import USAGE
from hyb.certificates.names import covers, is_ca, issued_by
from hyb.certificates.pairs import Pair, load, private_key

_AUTH = {True: "serverAuth", False: "clientAuth"}


def mistakes(
    client: Mapping[str, bytes], server: Mapping[str, bytes], hosts: Sequence[str], now: datetime
) -> list[str]:
    """What keeps two Secrets (ca.crt, tls.crt, tls.key as PEM) from a mutual TLS link over `hosts`."""
    found: list[str] = []
    for side, data, is_server in (("private", client, False), ("openshift", server, True)):
        found += [f"{side}: {text}" for text in _one(data, is_server, hosts, now)]
    if found:
        return found
    if not issued_by(load(server["tls.crt"]), _good(client["ca.crt"], now)):
        found.append("private: its ca.crt did not sign the server certificate of the OpenShift side")
    if not issued_by(load(client["tls.crt"]), _good(server["ca.crt"], now)):
        found.append("openshift: its ca.crt did not sign the client certificate of the private side")
    return found


def issuer_mistakes(client: Mapping[str, bytes], issuer: Mapping[str, bytes], now: datetime) -> list[str]:
    """What keeps a private side's Secret from a link whose server certificate Skupper's controller signs with
    `issuer` (tls.crt, tls.key)."""
    found = [f"private: {text}" for text in _one(client, False, (), now)]
    try:
        certificates = load(issuer["tls.crt"])
    except ValueError:
        return [*found, "openshift: tls.crt is no certificate in PEM"]
    signer = Pair(certificates[0].public_bytes(serialization.Encoding.PEM), issuer["tls.key"])
    found += [f"openshift: the issuer: {text}" for text in authority_mistakes(signer, now, for_skupper=True)]
    if found:
        return found
    if certificates[0] not in load(client["ca.crt"]):
        found.append("private: its ca.crt is not the CA that signs the server certificate of the OpenShift side")
    if not issued_by(load(client["tls.crt"]), certificates):
        found.append("openshift: its issuer did not sign the client certificate of the private side")
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
    if not _good(data["ca.crt"], now):
        found += [text.replace("tls.crt", "ca.crt") for ca in authorities for text in _time(ca, now)]
    if not all(is_ca(ca) for ca in authorities):
        found.append("ca.crt holds a certificate that is no CA")
    if server and (missing := [host for host in hosts if not covers(leaf, host)]):
        found.append(
            f"the server certificate is not for `{'`, `'.join(missing)}`, which the Link dials (IP SANs don't count)"
        )
    try:
        public = private_key(data["tls.key"]).public_key()
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
    if USAGE[server] not in usages and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usages:
        found.append(f"tls.crt is not for {_AUTH[server]}")
    return found


def _good(authorities: bytes, now: datetime) -> list[x509.Certificate]:
    """Those that are valid now. While a link's CA is changed there are two, and the old one may be over."""
    return [ca for ca in load(authorities) if not _time(ca, now)]


def _time(certificate: x509.Certificate, now: datetime) -> list[str]:
    if now > certificate.not_valid_after_utc:
        return [f"tls.crt expired on {certificate.not_valid_after_utc:%Y-%m-%d}"]
    if now < certificate.not_valid_before_utc:
        return [f"tls.crt is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: check the clock"]
    return []
