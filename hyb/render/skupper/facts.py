"""All that the documents of a link say, as plain data, and what follows from it: hosts, ports, names of certificates.

A link joins private sites, where models answer, to public sites, namespaces whose pods call them. The private side
dials; how a public site can be reached is its `Access`. What pods call is a `Service`, what a private router dials is
a `Target`; a routing key joins the two. Behaviour: Skupper 2.2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hyb.render.names import LABEL_MAX, NAME_MAX

ROLES: Mapping[str, int] = MappingProxyType({"inter-router": 55671, "edge": 45671})
"""Roles of a router's link listener → the port it listens on in the cluster."""
WAYS = ("given", "issuer", "token", "cli")
"""Where trust comes from: certificates of a CA that hyb keeps; the same CA put into the cluster, which signs its
server certificate itself; a token of the cluster; whatever the program `skupper` makes."""
ACCESS = ("route", "loadbalancer", "ingress-nginx", "nodeport", "local")
CLI_ACCESS = ("route", "loadbalancer")
"""What `skupper site create --link-access-type` takes."""
ENABLED = ("route", "loadbalancer", "local")
"""What a Skupper controller takes unless told otherwise."""
PLATFORMS = ("podman", "docker", "linux", "kubernetes")
STRATEGIES = ("priority", "weighted")
TLS_PORT = "443"
"""A Route or Ingress is reached on 443. A Link's port is a string: a number stops Skupper's loader midway."""


@dataclass(frozen=True)
class Access:
    """How the routers of public sites are reached from outside."""

    kind: str = "route"
    name: str = "hyb"
    """The RouterAccess; Routes are called `<name>-inter-router` and `<name>-edge`."""
    apps_domain: str = ""
    """`route`: the cluster's domain for Routes. `ingress-nginx`: the controller's SKUPPER_INGRESS_DOMAIN."""
    route_domain: str = ""
    """`route`: `settings.domain`; the controller then asks for hosts under it."""
    ingress_class: str = ""
    """`ingress-nginx`: `settings.ingressClassName`."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Namespace → the address under which its router is reached, where it doesn't follow from a domain."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """`nodeport`: role → port of the nodes."""

    @property
    def server_secret(self) -> str:
        """The Secret with the router's server certificate."""
        return f"{self.name}-link-server"

    @property
    def issuer_secret(self) -> str:
        """The Secret with the CA that signs it, where that is the controller's work."""
        return f"{self.name}-link-ca"


@dataclass(frozen=True)
class Endpoint:
    """Where one role of a public site's router is dialled."""

    role: str
    host: str
    port: str


@dataclass(frozen=True)
class Target:
    """A model as a private router reaches it: an address, or on Kubernetes pods by `selector` (then no address)."""

    name: str
    routing_key: str
    port: int
    host: str = "127.0.0.1"
    selector: str = ""


@dataclass(frozen=True)
class PrivateSite:
    """A host (or a namespace of a private cluster) where models answer. Names are RFC 1123 labels."""

    targets: tuple[Target, ...]
    name: str = "private"
    namespace: str = "default"
    """Skupper's: a folder on a host; a real one on Kubernetes."""
    platform: str = "podman"
    cost: int = 1
    """Of its links: connections go where the sum of costs is least, then where fewest are open."""
    folder: str = "private"


@dataclass(frozen=True)
class Service:
    """A Service that pods call, on every public site. Several routing keys need a `strategy`."""

    host: str
    port: int
    routing_keys: tuple[str, ...]
    name: str = ""
    """Of its document, where it is not `host`."""
    strategy: str = ""
    weights: tuple[int, ...] = ()
    """One a routing key, for the strategy `weighted`."""
    observer: str = ""
    """How the router looks into the traffic for its metrics: auto, none, http1, http2; "": as Skupper does, auto."""


@dataclass(frozen=True)
class PublicSite:
    """A namespace whose pods call the models."""

    namespace: str
    name: str = "public"
    link: str = "link-public"
    """The Link to it, on every private site."""
    folder: str = "openshift"


@dataclass(frozen=True)
class LinkFacts:
    """A whole link."""

    private: tuple[PrivateSite, ...]
    public: tuple[PublicSite, ...]
    services: tuple[Service, ...]
    access: Access
    name: str = "link-public"
    """Its name, and that of the Secret with a private site's client certificate."""
    way: str = "given"
    grant_window: str = "15m"

    @property
    def pending(self) -> bool:
        """Nobody knows yet where the routers will be reached, so the private side can't be written."""
        own = self.way in ("given", "issuer")
        return own and any(not endpoints(self.access, site.namespace) for site in self.public)

    def client_name(self, public: PublicSite, private: PrivateSite) -> str:
        """What Skupper's own program is to call the certificate of a private site for a public one."""
        words = [public.namespace] if len(self.public) > 1 else []
        words += [private.name] if len(self.private) > 1 else []
        return "-".join([self.name, *words])

    def grant_name(self, site: PrivateSite) -> str:
        """The AccessGrant for one private site: its token can be taken back alone."""
        return self.access.name if len(self.private) == 1 else f"{self.access.name}-{site.name}"


# -- hosts ---------------------------------------------------------------------------------------------------------


def access_host(access: Access, namespace: str, role: str) -> str:
    """The host that is dialled for `role`; "" when it is not known beforehand.

    A Route is named `<route>-<namespace>.<apps domain>` by OpenShift; with `settings.domain` Skupper's controller asks
    for `<route>.<namespace>.<domain>`. For an Ingress it is `<role>.<namespace>.<domain>`.
    """
    route = f"{access.name}-{role}"
    if access.kind == "route" and access.route_domain:
        return f"{route}.{namespace}.{access.route_domain}"
    if access.kind in ("route", "ingress-nginx"):
        first = f"{route}-{namespace}" if access.kind == "route" else f"{role}.{namespace}"
        return f"{first}.{access.apps_domain}" if access.apps_domain else ""
    given = access.hosts.get(namespace, "")
    return given or (f"{access.name}.{namespace}" if access.kind == "local" else "")


def endpoints(access: Access, namespace: str) -> tuple[Endpoint, ...]:
    """Both endpoints of a public site, or none when an address or port is not known beforehand."""
    found = []
    for role, port in ROLES.items():
        shown = TLS_PORT if access.kind in ("route", "ingress-nginx") else str(access.ports.get(role, port))
        if access.kind == "nodeport" and role not in access.ports:
            shown = ""
        found.append(Endpoint(role, access_host(access, namespace, role), shown))
    return tuple(found) if all(e.host and e.port for e in found) else ()


def server_names(access: Access, namespace: str) -> tuple[str, ...]:
    """The names that the server certificate of a public site must bear: what is dialled, once each."""
    hosts = [e.host for e in endpoints(access, namespace)]
    if access.kind == "local":  # every name that a Service has for pods
        short = f"{access.name}.{namespace}"
        hosts += [short, f"{short}.svc", f"{short}.svc.cluster.local"]
    return tuple(dict.fromkeys(hosts))


def host_problem(access: Access, namespace: str) -> str:
    """Why the cluster would refuse the hosts that it makes: a first label or a whole name that is too long."""
    hosts = [host for role in ROLES if (host := access_host(access, namespace, role))]
    if access.kind not in ("route", "ingress-nginx") or not hosts:
        return ""
    longest = max(hosts, key=len)
    label = longest.split(".")[0]
    if (over := len(label) - LABEL_MAX) > 0:
        part = "router_access" if access.route_domain else f"namespace` ({len(namespace)}) or `router_access"
        sized = f"shorten `{part}` ({len(access.name)})"
        return (
            f"the Route's host label `{label}` has {len(label)} characters, {LABEL_MAX} are the most: {sized} by {over}"
        )
    if (over := len(longest) - NAME_MAX) > 0:
        what = "Route" if access.kind == "route" else "Ingress"
        fault = f"the {what}'s host `{longest}` has {len(longest)} characters, {NAME_MAX} are the most"
        return f"{fault}: shorten the domain by {over}"
    return ""
