"""Certificates of a link: a real mutual TLS handshake under the router's name rule, and what is refused."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hyb import certificates as cs
from tests.handshake import handshake, router_accepts

NOW = datetime.now(UTC)
HOSTS = ("hyb-inter-router-chat.apps.example.com", "hyb-edge-chat.apps.example.com")
CA = cs.make_ca("hyb link CA test", 1826, NOW)
SERVER = cs.make_leaf(CA, "link-server", 365, NOW, hosts=HOSTS)
CLIENT = cs.make_leaf(CA, "link-private", 365, NOW)


def data(pair: cs.Pair, ca: bytes = CA.certificate) -> dict[str, bytes]:
    return {"ca.crt": ca, "tls.crt": pair.certificate, "tls.key": pair.key}


def test_the_right_hosts_pass_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    client, server = handshake(tmp_path, data(CLIENT), data(SERVER))
    assert client.version() == "TLSv1.3"
    assert all(router_accepts(client, host) for host in HOSTS)
    assert not router_accepts(client, "hyb-inter-router-other.apps.example.com")
    assert dict(part[0] for part in server.getpeercert()["subject"]) == {"commonName": "link-private"}  # type: ignore


def test_a_strangers_client_certificate_is_refused(tmp_path: Path) -> None:
    other = cs.make_ca("hyb link CA test", 365, NOW)  # the same name, another key
    stranger = cs.make_leaf(other, "link-private", 365, NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, data(stranger), data(SERVER))


def test_a_strangers_server_is_refused(tmp_path: Path) -> None:
    other = cs.make_ca("hyb link CA test", 365, NOW)
    stranger = cs.make_leaf(other, "link-server", 365, NOW, hosts=HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, data(CLIENT), data(stranger, other.certificate))


def test_a_client_certificate_does_not_pass_for_a_server(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, data(CLIENT), data(CLIENT))


def test_a_leaf_can_not_sign_another(tmp_path: Path) -> None:
    forged = cs.make_leaf(SERVER, "link-private", 365, NOW)
    both = cs.Pair(forged.certificate + SERVER.certificate, forged.key)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, data(both), data(SERVER))
    assert not cs.issued_by(cs.load(both.certificate), cs.load(CA.certificate))


def test_an_ip_is_a_dns_name_too_as_the_router_ignores_ip_sans(tmp_path: Path) -> None:
    server = cs.make_leaf(CA, "link-server", 365, NOW, hosts=("10.0.0.7", "2001:db8::7"))
    client, _ = handshake(tmp_path, data(CLIENT), data(server))
    assert router_accepts(client, "10.0.0.7") and router_accepts(client, "2001:db8::7")
    kinds = {kind for kind, _ in client.getpeercert()["subjectAltName"]}  # type: ignore
    assert kinds == {"DNS", "IP Address"}


def test_leaves_have_the_extensions_that_strict_verifiers_ask_for() -> None:
    for pair, usage in ((SERVER, ExtendedKeyUsageOID.SERVER_AUTH), (CLIENT, ExtendedKeyUsageOID.CLIENT_AUTH)):
        leaf = cs.load(pair.certificate)[0]
        get = leaf.extensions.get_extension_for_class
        assert list(get(x509.ExtendedKeyUsage).value) == [usage]
        assert get(x509.KeyUsage).critical and get(x509.KeyUsage).value.digital_signature
        assert not get(x509.BasicConstraints).value.ca
        authority = cs.load(CA.certificate)[0].extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert get(x509.AuthorityKeyIdentifier).value.key_identifier == authority.digest
        assert b"BEGIN PRIVATE KEY" in pair.key  # PKCS#8
    assert cs.dns_names(cs.load(CLIENT.certificate)[0]) == ()


def test_a_leaf_never_outlives_its_ca_and_bears_a_clock_that_is_behind() -> None:
    short = cs.make_ca("short", 10, NOW)
    leaf = cs.load(cs.make_leaf(short, "x", 365, NOW).certificate)[0]
    assert leaf.not_valid_after_utc == cs.load(short.certificate)[0].not_valid_after_utc
    assert leaf.not_valid_before_utc <= NOW - timedelta(minutes=59)


def test_a_long_name_is_cut_to_what_a_cn_may_be() -> None:
    assert len(cs.names(cs.load(cs.make_ca("n" * 200, 1, NOW).certificate)[0])[0]) == 64


def test_a_wildcard_stands_for_one_label() -> None:
    leaf = cs.load(cs.make_leaf(CA, "link-server", 1, NOW, hosts=("*.apps.example.com",)).certificate)[0]
    assert cs.covers(leaf, "Hyb-edge-chat.apps.example.com")
    assert not cs.covers(leaf, "a.b.apps.example.com") and not cs.covers(leaf, "apps.example.com")


# -- mistakes ------------------------------------------------------------------------------------------------------

PEM, PLAIN = serialization.Encoding.PEM, serialization.NoEncryption()
RSA = rsa.generate_private_key(65537, 2048)


def own_leaf(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, host: str, *, ip_only: bool = False) -> bytes:
    """A server certificate made without hyb's own code, for the key given."""
    import ipaddress

    signer = serialization.load_pem_private_key(CA.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    names = [x509.IPAddress(ipaddress.ip_address(host))] if ip_only else [x509.DNSName(host)]
    builder = x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")]))
    builder = builder.issuer_name(cs.load(CA.certificate)[0].subject).public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(NOW - timedelta(1)).not_valid_after(NOW + timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(PEM)


def test_good_pairs_have_no_mistake_whatever_the_keys_format() -> None:
    assert cs.mistakes(data(CLIENT), data(SERVER), HOSTS, NOW) == []
    leaf = own_leaf(RSA, HOSTS[0])
    for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
        server = {"ca.crt": CA.certificate, "tls.crt": leaf, "tls.key": RSA.private_bytes(PEM, form, PLAIN)}
        assert cs.mistakes(data(CLIENT), server, HOSTS[:1], NOW) == []


def _put(key: str, value: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda given: given.update({key: value})


ENCRYPTED = RSA.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x"))
ED = ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN)
IP_ONLY = ec.generate_private_key(ec.SECP256R1())
OTHER_CA = cs.make_ca("other", 365, NOW)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_put("tls.key", ENCRYPTED), "tls.key is encrypted"),
        (_put("tls.key", ED), "tls.key is neither RSA nor ECDSA"),
        (_put("tls.key", b"-----BEGIN PRIVATE KEY-----\nx\n"), "tls.key is no private key in PEM"),
        (_put("tls.key", CLIENT.key), "tls.key is not the key of tls.crt"),
        (_put("tls.key", CA.key), "tls.key is the CA's own key"),
        (_put("tls.crt", CA.certificate), "tls.crt begins with a CA"),
        (_put("tls.crt", CLIENT.certificate), "tls.crt is not for serverAuth"),
        (_put("tls.crt", b"-----BEGIN CERTIFICATE-----\nx\n"), "tls.crt is no certificate in PEM"),
        (_put("ca.crt", b""), "ca.crt is no certificate in PEM"),
        (_put("ca.crt", SERVER.certificate), "ca.crt holds a certificate that is no CA"),
        (_put("ca.crt", OTHER_CA.certificate), "openshift: its ca.crt did not sign the client certificate"),
    ],
)
def test_a_server_secret_that_would_not_work_is_refused(
    change: Callable[[dict[str, bytes]], None], expected: str
) -> None:
    server = data(SERVER)
    change(server)
    found = cs.mistakes(data(CLIENT), server, HOSTS, NOW)
    assert any(expected in text for text in found), found


def test_a_client_that_trusts_another_ca_is_refused() -> None:
    found = cs.mistakes(data(CLIENT, OTHER_CA.certificate), data(SERVER), HOSTS, NOW)
    assert found == ["private: its ca.crt did not sign the server certificate of the OpenShift side"]


def test_a_server_certificate_for_other_hosts_is_refused() -> None:
    found = cs.mistakes(data(CLIENT), data(SERVER), (*HOSTS, "other.example.com"), NOW)
    assert len(found) == 1 and "is not for `other.example.com`" in found[0]


def test_an_ip_san_alone_does_not_cover_an_ip() -> None:
    key = IP_ONLY.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN)
    server = {"ca.crt": CA.certificate, "tls.crt": own_leaf(IP_ONLY, "10.0.0.7", ip_only=True), "tls.key": key}
    found = cs.mistakes(data(CLIENT), server, ("10.0.0.7",), NOW)
    assert len(found) == 1 and "is not for `10.0.0.7`" in found[0]


def test_expired_and_not_yet_valid_certificates_are_refused() -> None:
    late = cs.mistakes(data(CLIENT), data(SERVER), HOSTS, NOW + timedelta(days=400))
    assert len(late) == 2 and all("tls.crt expired on" in text for text in late)
    early = cs.mistakes(data(CLIENT), data(SERVER), HOSTS, NOW - timedelta(days=2))
    assert len(early) == 4 and all("is not valid before" in text for text in early)


def test_while_the_ca_is_changed_an_old_one_that_has_ended_does_not_matter() -> None:
    old = cs.make_ca("hyb link CA test", 10, NOW)
    later = NOW + timedelta(days=20)
    both = CA.certificate + old.certificate
    assert cs.mistakes(data(CLIENT, both), data(SERVER, both), HOSTS, later) == []
    stale = cs.make_leaf(old, "link-private", 365, NOW)
    found = cs.mistakes(data(stale, both), data(SERVER, both), HOSTS, NOW)
    assert found == []
    alone = cs.mistakes(data(CLIENT, old.certificate), data(SERVER), HOSTS, later)
    assert any("private: ca.crt expired on" in text for text in alone)
