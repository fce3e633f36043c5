"""X.509 for a link: CAs, server and client certificates, and what is wrong with certificates given.

    pairs.py      a certificate and its key, both PEM: read, match, encrypt with a passphrase
    make.py       new CAs and end certificates
    names.py      which names a certificate is for, and which CA it leads to
    lasting.py    until when certificates are good
    mistakes.py   what keeps two Secrets from a mutual TLS link
    authority.py  what keeps a CA that somebody brings from signing for one

Pure: bytes in, bytes out; the clock comes in as `now`. Keys are ECDSA P-256 in PKCS#8, which the Skupper router (and
OpenSSL below it) takes for its server and client certificates. Only a CA that Skupper's own controller is to sign with
has to be RSA, its key in PKCS#1.

The router matches the name it dialled against DNS SANs, then the CN; it ignores IP SANs. So an IP is written as
both. Certificates are strict RFC 5280: basic constraints, key usage, SKI and AKI in all of them.
"""

from __future__ import annotations

from hyb.certificates.authority import authority_mistakes
from hyb.certificates.lasting import WARN, Lasting, expiring, lasting
from hyb.certificates.make import BACKDATED, make_ca, make_leaf
from hyb.certificates.mistakes import issuer_mistakes, mistakes
from hyb.certificates.names import common_name, covers, dns_names, is_ca, issued_by, names, signed_by
from hyb.certificates.pairs import (
    Pair,
    decrypted,
    encrypted,
    in_pkcs1,
    is_encrypted,
    is_rsa,
    load,
    matches,
    private_key,
    split_pem,
)

__all__ = [
    "BACKDATED",
    "WARN",
    "Lasting",
    "Pair",
    "authority_mistakes",
    "common_name",
    "covers",
    "decrypted",
    "dns_names",
    "encrypted",
    "expiring",
    "in_pkcs1",
    "is_ca",
    "is_encrypted",
    "is_rsa",
    "issued_by",
    "issuer_mistakes",
    "lasting",
    "load",
    "make_ca",
    "make_leaf",
    "matches",
    "mistakes",
    "names",
    "private_key",
    "signed_by",
    "split_pem",
]
