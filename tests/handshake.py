"""Mutual TLS as two Skupper routers make it, held in memory: no socket, no file but the two that `ssl` insists on."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

HOST = "hyb-inter-router-chat.apps.example.com"


def context(folder: Path, purpose: int, given: Mapping[str, bytes], strict: bool) -> ssl.SSLContext:
    """What a router sets up: both sides show a certificate and ask for one; names are matched by `router_accepts`."""
    made = ssl.SSLContext(purpose)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    if strict:
        made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=given["ca.crt"].decode())
    path = folder / f"{purpose}.pem"
    path.write_bytes(given["tls.key"] + given["tls.crt"])
    made.load_cert_chain(path)
    return made


def handshake(
    folder: Path, client: Mapping[str, bytes], server: Mapping[str, bytes], *, strict: bool = True
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a TLS 1.3 session held in memory. Raises ssl.SSLError when one side refuses the other.

    `strict`: all of RFC 5280, which is more than a router asks for.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        context(folder, ssl.PROTOCOL_TLS_CLIENT, client, strict).wrap_bio(to_client, to_server, server_hostname=HOST),
        context(folder, ssl.PROTOCOL_TLS_SERVER, server, strict).wrap_bio(to_server, to_client, server_side=True),
    )
    done: set[int] = set()
    for _ in range(10):
        for index, end in enumerate(ends):
            try:
                end.do_handshake()
                done.add(index)
            except ssl.SSLWantReadError:
                continue
    assert done == {0, 1}
    ends[0].write(b"ping")  # TLS 1.3: the server's word about the client's certificate comes after the handshake
    assert ends[1].read(4) == b"ping"
    return ends


def router_accepts(end: ssl.SSLObject, host: str) -> bool:
    """The Skupper router's rule: DNS SANs, then the CN; IP SANs are not looked at."""
    peer = end.getpeercert()
    assert peer
    names = [value for kind, value in peer.get("subjectAltName", ()) if kind == "DNS"]
    names += [value for part in peer["subject"] for key, value in part if key == "commonName"]
    return host in names


def works(folder: Path, client: Mapping[str, bytes], server: Mapping[str, bytes], *, strict: bool = True) -> bool:
    """True when the two sides make a session and the client takes the server for `HOST`."""
    try:
        end, _ = handshake(folder, client, server, strict=strict)
    except ssl.SSLError:
        return False
    return router_accepts(end, HOST)
