"""Whether the certificates in the Secrets of a link's sides fit each other. Pure: documents in, mistakes out."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from hyb import certificates
from hyb.render.dump import Document
from hyb.render.skupper import check as skupper_check
from hyb.render.skupper.across import fits
from hyb.render.skupper.fields import name_of, of, spec_of


def mistakes(sides: Sequence[skupper_check.Side], now: datetime, namespace: str = "") -> list[str]:
    """What keeps each Link's certificate and those of the site that it dials apart; and what two hosts share."""
    found: list[str] = []
    public = [side for side in sides if side.public]
    for private in (side for side in sides if not side.public):
        for link in of(private.whole, "Link"):
            results = sorted(_results(private, link, public, now, namespace), key=len)
            found += results[0] if results else []  # with several namespaces it is one of them that it dials
    return [*dict.fromkeys(found), *_shared(sides)]


def _results(
    private: skupper_check.Side, link: Document, public: Sequence[skupper_check.Side], now: datetime, namespace: str
) -> Iterator[list[str]]:
    """For each side that the Link may dial, what is wrong; nothing where there are no whole Secrets to judge."""
    client = secret_data(private.whole, str(spec_of(link).get("tlsCredentials")))
    hosts = skupper_check.endpoint_hosts([link])
    for side in public:
        for access in of(side.whole, "RouterAccess"):
            if not client or (len(public) > 1 and not fits(link, access, namespace)):
                continue
            texts = _pair(client, access, side, hosts, now)
            if texts is not None:
                yield [_named(text, private.name, side.name) for text in texts]


def _pair(
    client: dict[str, bytes], access: Document, side: skupper_check.Side, hosts: Sequence[str], now: datetime
) -> list[str] | None:
    spec = spec_of(access)
    if spec.get("generateTlsCredentials") is True:
        issuer = secret_data(side.whole, str(spec.get("issuer")), skupper_check.KEYS[1:])
        return certificates.issuer_mistakes(client, issuer, now) if issuer else None
    server = secret_data(side.whole, str(spec.get("tlsCredentials")))
    return certificates.mistakes(client, server, hosts, now) if server else None


def _named(text: str, private: str, public: str) -> str:
    """A text that begins with `private:` or `openshift:`, with the side's own name."""
    side, _, rest = text.partition(": ")
    return f"{ {'private': private, 'openshift': public}.get(side, side) }: {rest}"


def _shared(sides: Sequence[skupper_check.Side]) -> Iterator[str]:
    """Hosts that show the same certificate can't be told apart, nor revoked alone."""
    holders: dict[bytes, str] = {}
    for side in (side for side in sides if not side.public):
        names = dict.fromkeys(str(spec_of(link).get("tlsCredentials")) for link in of(side.whole, "Link"))
        for certificate in {data["tls.crt"] for name in names if (data := secret_data(side.whole, name))}:
            if certificate in holders:
                both = f"{holders[certificate]} and {side.name}"
                yield f"{both} have the same client certificate: neither can be revoked alone"
            holders[certificate] = side.name


def secret_data(documents: Sequence[Any], name: str, keys: Sequence[str] = skupper_check.KEYS) -> dict[str, bytes]:
    """The decoded data of the Secret `name`; empty when it is not there or not of the right shape."""
    for document in of(documents, "Secret"):
        if name_of(document) == name:
            try:
                return {k: base64.b64decode(document["data"][k], validate=True) for k in keys}
            except (KeyError, TypeError, ValueError, binascii.Error):
                return {}
    return {}
