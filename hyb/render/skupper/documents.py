"""Skupper v2 documents of a link, both sides, as plain data: no file, no clock, no secret of its own.

The private host runs a Skupper site and dials out; the OpenShift namespace accepts. Trust comes from one CA that hyb
made for this link alone, so nothing has to be fetched from the cluster beforehand: no token, no AccessGrant. For that,
the RouterAccess says `generateTlsCredentials: false` (a controller from 2.1.0 on honours it) and names our Secret.

Field names and their meaning: the CRDs of Skupper 2.2.1, `skupper.io/v2alpha1`. What Skupper takes without a word
although it can't work is refused by `hyb.render.skupper.check`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyb.render.dump import Document
from hyb.render.names import LABEL_MAX, NAME_MAX

API = "skupper.io/v2alpha1"
TLS = "kubernetes.io/tls"
ROLES = {"inter-router": 55671, "edge": 45671}
"""Roles of a router's link listener → the port it listens on in the cluster."""
ROUTE_PORT = "443"
"""A Route is reached on 443. A Link's port is a string: a number stops Skupper's loader midway."""
RESERVED_HOSTS = ("skupper-router", "skupper-router-local")
"""Services that Skupper makes for itself in a site's namespace."""


@dataclass(frozen=True)
class LinkFacts:
    """All that the documents of a link say. Names are RFC 1123 labels unless told otherwise."""

    namespace: str
    """The OpenShift namespace."""
    apps_domain: str
    """The cluster's domain for Routes, e.g. `apps.example.com`; not used when `route_domain` is given."""
    port: int
    """The port of the Service that pods of the namespace call."""
    target_port: int
    """The port on the private host where the model answers."""
    routing_key: str = "llm"
    host: str = "llm"
    """Name of that Service: an RFC 1035 label."""
    target_host: str = "127.0.0.1"
    """As the private host's router sees it; its container is on the host's network."""
    name: str = "link-public"
    """The Link and the Secret with its client certificate."""
    site: str = "public"
    private_site: str = "private"
    private_namespace: str = "default"
    router_access: str = "hyb"
    route_domain: str = ""
    """`settings.domain` of the RouterAccess: the controller then asks for hosts under it."""
    cost: int = 1

    @property
    def server_secret(self) -> str:
        """Name of the Secret with the router's server certificate."""
        return f"{self.router_access}-link-server"


def route_host(facts: LinkFacts, role: str) -> str:
    """The host of the Route for `role` ("inter-router" or "edge").

    OpenShift names a Route `<route>-<namespace>.<apps domain>`; with `settings.domain` Skupper's controller asks for
    `<routeraccess>-<role>.<namespace>.<domain>`.
    """
    route = f"{facts.router_access}-{role}"
    if facts.route_domain:
        return f"{route}.{facts.namespace}.{facts.route_domain}"
    return f"{route}-{facts.namespace}.{facts.apps_domain}"


def route_hosts(facts: LinkFacts) -> tuple[str, ...]:
    """Both Route hosts: the names that the server certificate must bear."""
    return tuple(route_host(facts, role) for role in ROLES)


def private_documents(facts: LinkFacts) -> list[dict[str, Any]]:
    """Site, Link and Connector of the private host, without the Secret that the Link names."""
    endpoints = [{"name": role, "host": route_host(facts, role), "port": ROUTE_PORT} for role in ROLES]
    connector = {"routingKey": facts.routing_key, "host": facts.target_host, "port": facts.target_port, "type": "tcp"}
    return [
        _document("Site", facts.private_site, facts.private_namespace),
        _document("Link", facts.name, facts.private_namespace,
                  {"cost": facts.cost, "tlsCredentials": facts.name, "endpoints": endpoints}),
        _document("Connector", facts.host, facts.private_namespace, connector),
    ]  # fmt: skip


def openshift_documents(facts: LinkFacts) -> list[dict[str, Any]]:
    """Site, RouterAccess and Listener of the namespace, without the Secret that the RouterAccess names.

    The Site has no `linkAccess`: with it Skupper would make a second RouterAccess on the same ports.
    """
    access: dict[str, Any] = {
        "accessType": "route",
        "generateTlsCredentials": False,
        "tlsCredentials": facts.server_secret,
        "roles": [{"name": role, "port": port} for role, port in ROLES.items()],
    }
    if facts.route_domain:
        access["settings"] = {"domain": facts.route_domain}
    listener = {"routingKey": facts.routing_key, "host": facts.host, "port": facts.port, "type": "tcp"}
    return [
        _document("Site", facts.site, facts.namespace),
        _document("RouterAccess", facts.router_access, facts.namespace, access),
        _document("Listener", facts.host, facts.namespace, listener),
    ]


def client_secret(facts: LinkFacts, data: Mapping[str, bytes]) -> dict[str, Any]:
    """The private side's Secret; `data`: ca.crt, tls.crt, tls.key as PEM."""
    return secret(facts.name, facts.private_namespace, data)


def server_secret(facts: LinkFacts, data: Mapping[str, bytes]) -> dict[str, Any]:
    """OpenShift's Secret; `data`: ca.crt, tls.crt, tls.key as PEM."""
    return secret(facts.server_secret, facts.namespace, data)


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


def route_problem(facts: LinkFacts) -> str:
    """Why OpenShift would refuse the Route hosts: a first label or a whole name that is too long."""
    longest = max((route_host(facts, role) for role in ROLES), key=len)
    label = longest.split(".")[0]
    if (over := len(label) - LABEL_MAX) > 0:
        part = "router_access" if facts.route_domain else f"namespace` ({len(facts.namespace)}) or `router_access"
        sized = f"shorten `{part}` ({len(facts.router_access)})"
        return (
            f"the Route's host label `{label}` has {len(label)} characters, {LABEL_MAX} are the most: {sized} by {over}"
        )
    if (over := len(longest) - NAME_MAX) > 0:
        fault = f"the Route's host `{longest}` has {len(longest)} characters, {NAME_MAX} are the most"
        return f"{fault}: shorten the domain by {over}"
    return ""
