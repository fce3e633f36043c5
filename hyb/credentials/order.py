"""What is wanted of a link's credentials, and what one gets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from hyb.certificates import Pair, in_pkcs1
from hyb.errors import HybError
from hyb.render import names

DAYS = 365
"""How long the server and client certificates last."""
CA_DAYS = 5 * 365 + 1
CUT = {"skupper.io/tls-prior-valid-revisions": "0"}
"""On a server's Secret: Skupper closes the connections that older certificates opened. Without it they live on."""


@dataclass(frozen=True)
class Order:
    """What is wanted of the credentials `name`; lifetimes in days."""

    name: str
    servers: Mapping[str, tuple[str, ...]]
    """Namespace → the hosts of its server certificate. Links that share credentials have one each, of one CA."""
    days: int = DAYS
    ca_days: int = CA_DAYS
    clients: tuple[str, ...] = ("private",)
    """The private sites: a client certificate each, its CN `link-<site>`, which the router shows as the peer's name."""
    issuer: bool = False
    """Skupper's controller makes the server certificates: the CA is RSA and goes into the cluster, too."""


@dataclass(frozen=True)
class Credentials:
    """What all sides need, as the data of their Secrets, and what a person should be told."""

    ca: bytes
    """What is trusted, PEM: the CA's certificate; two of them while the CA is being changed."""
    servers: Mapping[str, Pair]
    clients: Mapping[str, Pair]
    issuer: Pair | None = field(default=None, repr=False)
    """The CA with its open key; only where it was ordered."""
    notes: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    """For the metadata of the Secrets of the OpenShift side."""

    def server_data(self, namespace: str = "") -> dict[str, bytes]:
        """Data of a namespace's Secret; its name may be left out where there is one namespace."""
        pair = _chosen(self.servers, namespace)
        return {"ca.crt": self.ca, "tls.crt": pair.certificate, "tls.key": pair.key}

    def client_data(self, site: str = "") -> dict[str, bytes]:
        """Data of a private site's Secret; its name may be left out where there is one site."""
        pair = _chosen(self.clients, site)
        return {"ca.crt": self.ca, "tls.crt": pair.certificate, "tls.key": pair.key}

    def issuer_data(self) -> dict[str, bytes]:
        """Data of the Secret that Skupper's controller signs with: the CA and its key in PKCS#1.

        The controller signs with the first certificate and hands all of `tls.crt` on as the server's `ca.crt`.
        """
        if self.issuer is None:
            raise ValueError("no issuer was ordered")
        return {"tls.crt": self.ca, "tls.key": in_pkcs1(self.issuer.key)}


SERVER = "hyb link server"
"""CN of every server certificate. The router matches the name that it dials against the CN, too, so it has blanks:
no host can be called so."""
COMMON_NAME_MAX = 64


def client_name(site: str) -> str:
    """CN of a private site's certificate: `link-<site>`; a site whose name is too long for that keeps its beginning,
    and a digest tells it from others. It can't stand for a host: the certificate is for clients only."""
    name = f"link-{site}"
    if len(name) <= COMMON_NAME_MAX:
        return name
    return f"{name[:51]}-{hashlib.sha256(site.encode()).hexdigest()[:12]}"


def _chosen(pairs: Mapping[str, Pair], name: str) -> Pair:
    return pairs[name] if name else next(iter(pairs.values()))


def check(order: Order) -> None:
    """Raises HybError when nobody could use what is ordered; all mistakes together."""
    found = []
    if not order.issuer and not (order.servers and all(order.servers.values())):
        found.append("it has no host, so there is no name for its server certificate")
    for kind, wanted in (("namespace", order.servers), ("private site", order.clients)):
        found += [f"{kind} {problem}" for name in wanted if (problem := names.label_problem(name))]
    for hosts in order.servers.values():
        found += [f"host {problem}" for host in hosts if (problem := names.host_problem(host))]
    if order.days < 1 or order.ca_days < 1:
        found.append("certificates last a day at least")
    if found:
        raise HybError(f"credentials of the link `{order.name}`: {found[0]}", details=found[1:])
