"""Whether the sites of a link fit each other: routing keys, addresses, names, namespaces. Pure.

See `hyb.render.skupper.check`. Sides come as folder name → documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hyb.render import names
from hyb.render.dump import Document
from hyb.render.skupper.facts import ROLES, TLS_PORT
from hyb.render.skupper.fields import as_map, name_of, namespace_of, of, spec_of

Sides = Mapping[str, Sequence[Document]]


def mistakes(private: Sides, public: Sides, namespace: str) -> Iterator[str]:
    """What keeps these sites from meeting. `namespace`: the one that `oc apply -n` will be given."""
    yield from _namespaces(private, public, namespace)
    yield from _site_names(private)
    yield from _keys(private, public)
    accesses = {folder: of(documents, "RouterAccess") for folder, documents in public.items()}
    for found in accesses.values():
        yield from (t for access in found for t in _label(access, namespace_of(access) or namespace))
    known = {folder: found[0] for folder, found in accesses.items() if found}
    if known:
        granting = {folder for folder, documents in public.items() if of(documents, "AccessGrant")}
        yield from _links(private, known, namespace, granting)


# -- names -----------------------------------------------------------------------------------------------------------


def _namespaces(private: Sides, public: Sides, namespace: str) -> Iterator[str]:
    of_private = {n: folder for folder, documents in private.items() for n in _named(documents)}
    of_public: dict[str, str] = {}
    for folder, documents in public.items():
        given = _named(documents)
        for name in given:
            if name in of_public:
                yield f"{of_public[name]} and {folder} are both for namespace `{name}`: one namespace has one Site"
            of_public[name] = folder
        if namespace and given and namespace not in given and len(public) == 1:
            yield f"{folder}: the documents are for `{sorted(given)[0]}`, not for namespace `{namespace}`"
        if namespace and not given:
            of_public[namespace] = folder
    for name in sorted(set(of_private) & set(of_public)):
        yield (
            f"namespace `{name}` is that of both sides, {of_private[name]} and {of_public[name]}:"
            " one of them has the other's"
        )


def _named(documents: Iterable[Document]) -> set[str]:
    kinds = ("Site", "Link", "RouterAccess", "Listener", "MultiKeyListener", "Connector", "Secret")
    return {n for d in of(documents, *kinds) if (n := namespace_of(d))}


def _site_names(private: Sides) -> Iterator[str]:
    counted = Counter(name_of(d) for documents in private.values() for d in of(documents, "Site"))
    for name, count in counted.items():
        if count > 1:
            yield f"{count} private sites are called `{name}`: each needs its own name"


# -- routing keys ----------------------------------------------------------------------------------------------------


def routing_keys(spec: Mapping[str, Any]) -> list[str]:
    """The routing keys of a Listener or MultiKeyListener."""
    if "strategy" not in spec:
        return [str(spec.get("routingKey"))]
    strategy = as_map(spec["strategy"])
    found = [as_map(way).get("routingKeys") for way in strategy.values()]
    return [str(key) for keys in found if isinstance(keys, (list, dict)) for key in keys]


def _keys(private: Sides, public: Sides) -> Iterator[str]:
    connectors = [spec_of(d) for documents in private.values() for d in of(documents, "Connector")]
    there = {str(c.get("routingKey")) for c in connectors}
    listeners = {
        (folder, name_of(d)): set(routing_keys(spec_of(d)))
        for folder, documents in public.items()
        for d in of(documents, "Listener", "MultiKeyListener")
    }
    listened = {key for keys in listeners.values() for key in keys}
    if not there or not listened:
        yield "no Connector on the private side" if not there else "no Listener on the OpenShift side"
    elif not there & listened:
        here = "`, `".join(sorted(there))
        yield f"no routing key in common: the Connector has `{here}`, the Listener `{'`, `'.join(sorted(listened))}`"
    else:
        for (folder, name), keys in listeners.items():
            if not keys & there:
                yield f"{folder}: Listener `{name}`: no Connector has its routing key `{'`, `'.join(sorted(keys))}`"
    for folder, documents in public.items():
        if listened and not of(documents, "Listener", "MultiKeyListener"):
            yield f"{folder}: no Listener: its pods would reach nothing"


# -- addresses -------------------------------------------------------------------------------------------------------


def endpoint_hosts(private: Iterable[Any], role: str = "") -> list[str]:
    """Hosts of all Link endpoints (of one role), in order, once each."""
    ends = [e for d in of(private, "Link") for e in _endpoints(d)]
    return list(dict.fromkeys(str(e.get("host")) for e in ends if not role or e.get("name") == role))


def _endpoints(link: Document) -> list[Mapping[str, Any]]:
    found = spec_of(link).get("endpoints")
    return [e for e in found if isinstance(e, Mapping)] if isinstance(found, list) else []


def _label(access: Document, namespace: str) -> Iterator[str]:
    if spec_of(access).get("accessType") != "route":
        return
    for role in ROLES:
        label = _start(access, namespace, role).split(".")[0]
        if len(label) > names.LABEL_MAX:
            yield f"the Route's host label `{label}` has {len(label)} characters, {names.LABEL_MAX} are the most"


def _start(access: Document, namespace: str, role: str) -> str:
    """What the host for `role` begins with, with a dot where more follows; "" where nothing is known of it."""
    kind = spec_of(access).get("accessType")
    if kind == "ingress-nginx":
        return f"{role}.{namespace}."
    if kind != "route":
        return ""
    domain, route = as_map(spec_of(access).get("settings")).get("domain", ""), f"{name_of(access)}-{role}"
    return f"{route}.{namespace}.{domain}" if domain else f"{route}-{namespace}."


def _links(
    private: Sides, accesses: Mapping[str, Document], namespace: str, granting: Collection[str]
) -> Iterator[str]:
    """Each Link must dial one of the public sites, and each of these must be dialled, as far as its hosts are known.

    `granting`: those for which a token may still come.
    """
    dialled: set[str] = set()
    links = [(f, d) for f, documents in private.items() for d in of(documents, "Link")]
    for folder, link in links:
        faults = {
            name: list(_misses(link, access, namespace_of(access) or namespace)) for name, access in accesses.items()
        }
        fitting = [name for name, found in faults.items() if not found]
        dialled.update(fitting)
        if not fitting:
            prefix = f"{folder}: Link `{name_of(link)}`: " if len(private) > 1 or len(accesses) > 1 else ""
            yield from (prefix + text for text in min(faults.values(), key=len))
    waiting = [name for name in accesses if name not in dialled and name not in granting]
    if len(accesses) > 1 and links:
        yield from (f"{name}: no Link dials it" for name in waiting)


def fits(link: Document, access: Document, namespace: str = "") -> bool:
    """True when a Link may be one to this RouterAccess, as far as its hosts are known."""
    return not list(_misses(link, access, namespace_of(access) or namespace))


def _misses(link: Document, access: Document, namespace: str) -> Iterator[str]:
    """Why a Link is not one to this RouterAccess; nothing where that can't be known."""
    kind = spec_of(access).get("accessType")
    for endpoint in _endpoints(link):
        role, host, port = str(endpoint.get("name")), str(endpoint.get("host")), endpoint.get("port")
        start = _start(access, namespace, role)
        if role in ROLES and start and namespace and not host.startswith(start):
            will = f"{start}<apps domain>" if start.endswith(".") else start
            what = "Route" if kind == "route" else "Ingress"
            yield f"Link endpoint `{role}` goes to `{host}`, but the {what} will be `{will}`"
        if kind in ("route", "ingress-nginx") and isinstance(port, str) and port.isdigit() and port != TLS_PORT:
            yield f"Link endpoint `{role}` goes to port {port}, but a Route or Ingress is reached on {TLS_PORT}"
        if kind in ("loadbalancer",) and role in ROLES and port in (TLS_PORT, *_others(role)):
            yield f"Link endpoint `{role}` goes to port {port}, but the router listens for it on {ROLES[role]}"


def _others(role: str) -> list[str]:
    return [str(port) for name, port in ROLES.items() if name != role]
