"""Skupper v2 documents of a link, all sides, as plain data: no file, no clock, no secret of its own.

Private sites run a Skupper site each and dial out; public sites (namespaces) accept. Where trust comes from is the
link's `way`:

    given    one CA that hyb made for this link alone; the RouterAccess says `generateTlsCredentials: false` (a
             controller from 2.1.0 on honours it) and names our Secret. Nothing is fetched from the cluster beforehand
    issuer   that CA's key is put into the namespace, and the controller signs the server certificate for whatever
             hosts it finds
    token    the controller's own CA; a private site gets its certificate for a token of an AccessGrant. The grant's
             issuer and the server's are both the Site's default: they trust each other

Field names and their meaning: the CRDs of Skupper 2.2.1, `skupper.io/v2alpha1`. What Skupper takes without a word
although it can't work is refused by `hyb.render.skupper.check`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from hyb.render.dump import Document
from hyb.render.skupper.facts import ROLES, LinkFacts, PrivateSite, PublicSite, Service, endpoints

API = "skupper.io/v2alpha1"
TLS = "kubernetes.io/tls"
PLATFORM = "io.hyb.platform"
"""Annotation of a private Site in a cluster: a folder's documents are judged by it."""
COST = "io.hyb.link-cost"
"""Annotation of a private Site whose Link comes later (`hyb link accept`)."""
RESERVED_HOSTS = ("skupper-router", "skupper-router-local")
"""Services that Skupper makes for itself in a site's namespace."""


def private_documents(facts: LinkFacts, site: PrivateSite) -> list[dict[str, Any]]:
    """Site, Links and Connectors of a private site, without the Secret that the Links name.

    With the way `token`, or while no address is known, there are no Links: they come later.
    """
    documents = [_document("Site", site.name, site.namespace)]
    told = {PLATFORM: site.platform} if site.platform == "kubernetes" else {}
    told |= {COST: str(site.cost)} if facts.way == "token" and site.cost != 1 else {}
    if told:
        documents[0]["metadata"]["annotations"] = told
    for public in facts.public:
        found = endpoints(facts.access, public.namespace)
        if facts.way != "token" and found:
            documents.append(link(public.link, site.namespace, facts.name, site.cost, [
                {"name": e.role, "host": e.host, "port": e.port} for e in found
            ]))  # fmt: skip
    for target in site.targets:
        where = {"selector": target.selector} if target.selector else {"host": target.host}
        spec = {"routingKey": target.routing_key, **where, "port": target.port, "type": "tcp"}
        documents.append(_document("Connector", target.name, site.namespace, spec))
    return documents


def public_documents(facts: LinkFacts, site: PublicSite) -> list[dict[str, Any]]:
    """Site, RouterAccess, Listeners and AccessGrants of a namespace, without the Secrets.

    The Site has no `linkAccess`: with it Skupper would make a second RouterAccess on the same ports.
    """
    documents = [
        _document("Site", site.name, site.namespace),
        _document("RouterAccess", facts.access.name, site.namespace, _access(facts)),
    ]
    if facts.way == "token":
        names = [facts.grant_name(private) for private in facts.private]
        documents += [grant(name, site.namespace, 1, facts.grant_window) for name in names]
    return documents + [_listener(service, site.namespace) for service in facts.services]


def _access(facts: LinkFacts) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessType": facts.access.kind,
        "generateTlsCredentials": facts.way != "given",
        "tlsCredentials": facts.access.server_secret,
        "roles": [{"name": role, "port": port} for role, port in ROLES.items()],
    }
    if facts.way == "issuer":
        spec["issuer"] = facts.access.issuer_secret
    settings = {"domain": facts.access.route_domain, "ingressClassName": facts.access.ingress_class}
    if settings := {key: value for key, value in settings.items() if value}:
        spec["settings"] = settings
    return spec


def _listener(service: Service, namespace: str) -> dict[str, Any]:
    """A Listener, or a MultiKeyListener where a strategy chooses among several routing keys."""
    end: dict[str, Any] = {"observer": service.observer} if service.observer else {}
    where = {"host": service.host, "port": service.port}
    if not service.strategy:
        spec = {"routingKey": service.routing_keys[0], **where, "type": "tcp", **end}
        return _document("Listener", service.name or service.host, namespace, spec)
    keys: Any = list(service.routing_keys)
    if service.strategy == "weighted":
        keys = dict(zip(service.routing_keys, service.weights, strict=True))
    spec = {**where, "strategy": {service.strategy: {"routingKeys": keys}}, **end}
    return _document("MultiKeyListener", service.name or service.host, namespace, spec)


# -- single documents ------------------------------------------------------------------------------------------------


def link(name: str, namespace: str, secret: str, cost: int, ends: list[dict[str, str]]) -> dict[str, Any]:
    """A Link; `ends`: name (the role), host, port and perhaps group, all text."""
    return _document("Link", name, namespace, {"cost": cost, "tlsCredentials": secret, "endpoints": ends})


def grant(name: str, namespace: str, uses: int, window: str) -> dict[str, Any]:
    """An AccessGrant. `window`: a duration as Go writes it, `15m`; left out, the controller takes ten minutes."""
    return _document("AccessGrant", name, namespace, {"redemptionsAllowed": uses, "expirationWindow": window})


def token(name: str, namespace: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """An AccessToken; `spec`: url, code, ca, and perhaps linkCost."""
    return _document("AccessToken", name, namespace, spec)


def secret(name: str, namespace: str, data: Mapping[str, bytes]) -> dict[str, Any]:
    """A TLS Secret. `data` and not `stringData`, which nothing outside Kubernetes converts; the type is the one that
    reaches the router."""
    encoded = {key: base64.b64encode(value).decode("ascii") for key, value in data.items()}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": TLS, "data": encoded}


def file_name(document: Document) -> str:
    """`Kind-name.yaml`: the name that Skupper itself gives a resource, so that `skupper system apply` replaces it."""
    return f"{document['kind']}-{document['metadata']['name']}.yaml"


def _document(kind: str, name: str, namespace: str, spec: Mapping[str, Any] | None = None) -> dict[str, Any]:
    document: dict[str, Any] = {"apiVersion": API, "kind": kind, "metadata": {"name": name, "namespace": namespace}}
    return {**document, "spec": dict(spec)} if spec else document
