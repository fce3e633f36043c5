"""What Skupper accepts without a word although it can't work, said by hyb instead. Pure: documents in, mistakes out.

Used on what hyb renders and on folders that a person has edited. The CRDs alone miss most of it: the API server drops
unknown fields, and a site outside Kubernetes reads no schema at all. Certificates are read elsewhere
(`hyb.certificates`); here a Secret only has to have the right shape. Behaviour: Skupper 2.2.1.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hyb.render import names
from hyb.render.dump import Document
from hyb.render.skupper import documents as sk

SIDES = ("private", "openshift")
KEYS = ("ca.crt", "tls.crt", "tls.key")
OWN = "skupper-"
CONTROLLED = "internal.skupper.io/controlled"

_COMMON = {"settings": dict, "tlsCredentials": str}
_FIELDS: Mapping[str, Mapping[str, type]] = {
    "Site": {
        "serviceAccount": str, "linkAccess": str, "defaultIssuer": str, "ha": bool, "edge": bool, "settings": dict,
    },
    "Link": {**_COMMON, "endpoints": list, "cost": int},
    "RouterAccess": {
        **_COMMON, "roles": list, "generateTlsCredentials": bool, "issuer": str, "accessType": str, "bindHost": str,
        "subjectAlternativeNames": list,
    },
    "Listener": {
        **_COMMON, "routingKey": str, "host": str, "port": int, "type": str, "observer": str, "exposePodsByName": bool,
    },
    "MultiKeyListener": {
        **_COMMON, "host": str, "port": int, "strategy": dict, "observer": str, "requireClientCert": bool,
    },
    "Connector": {
        **_COMMON, "routingKey": str, "port": int, "selector": str, "host": str, "type": str, "useClientCert": bool,
        "verifyHostname": bool, "includeNotReadyPods": bool, "exposePodsByName": bool,
    },
}  # fmt: skip
"""Fields of each `spec` and their types, from the CRDs."""
_REQUIRED = {
    "Link": ("endpoints", "tlsCredentials"),
    "RouterAccess": ("roles", "tlsCredentials"),
    "Listener": ("routingKey", "host", "port"),
    "MultiKeyListener": ("host", "port", "strategy"),
    "Connector": ("routingKey", "port"),
}
_ENDPOINT = {"name": str, "host": str, "port": str, "group": str}
_ROLE = {"name": str, "port": int}
_OTHER_SKUPPER = ("AccessGrant", "AccessToken", "Certificate", "SecuredAccess")
_OPENSHIFT_ONLY = ("AttachedConnector", "AttachedConnectorBinding")
_OBSERVERS = ("auto", "none", "http1", "http2")


def check(
    private: Sequence[Document],
    openshift: Sequence[Document],
    *,
    named: Collection[str] = (),
    namespace: str = "",
) -> list[str]:
    """All mistakes of both sides at once, one line each; empty when there are none.

    `named`: Secrets that are not among the documents but will be there (hyb's artifact only names them).
    `namespace`: the one that `oc apply -n` will be given, for documents that name none.
    """
    mistakes: list[str] = []
    for side, documents in zip(SIDES, (private, openshift), strict=True):
        whole = [d for d in documents if isinstance(d, Mapping) and isinstance(d.get("kind"), str)]
        if len(whole) < len(documents):
            mistakes.append(f"{side}: a document has no `kind`")
        mistakes += [f"{side}: {text}" for text in _side(side, whole, set(named))]
    return mistakes + list(_across(_of(private, "Connector"), openshift, private, namespace))


def _side(side: str, documents: Sequence[Document], named: set[str]) -> Iterator[str]:
    yield from _together(side, documents)
    secrets = {name_of(d): d for d in _of(documents, "Secret")}
    for document in documents:
        kind, where = document["kind"], title(document)
        yield from (f"{where}: {text}" for text in _identity(side, document))
        if kind in _FIELDS:
            texts = [*_fields(kind, spec_of(document)), *_CHECKS[kind](side, spec_of(document))]
            texts += _reference(kind, spec_of(document), secrets, named)
            yield from (f"{where}: {text}" for text in texts)
        elif kind == "Secret":
            yield from (f"{where}: {text}" for text in _secret(document, _referenced(documents)))


# -- documents of one side, together ---------------------------------------------------------------------------------


def _together(side: str, documents: Sequence[Document]) -> Iterator[str]:
    ours = [d for d in documents if d["kind"] in _FIELDS or d["kind"] == "Secret"]
    sites = _of(documents, "Site")
    if len(sites) != 1:
        yield f"{len(sites)} Sites, there must be exactly one" if sites else "no Site"
    default = "default" if side == "private" else ""
    namespaces = {_namespace(d) or default for d in ours}
    if len(namespaces) > 1:
        given = ", ".join(f"`{n}`" if n else "none" for n in sorted(namespaces))
        yield f"resources in several namespaces: {given}; one site has one"
    for (kind, name), count in Counter((d["kind"], name_of(d)) for d in documents).items():
        if count > 1:
            yield f"{kind} `{name}` is there {count} times"
    access = _of(documents, "RouterAccess")
    for site in sites:
        if access and spec_of(site).get("linkAccess", "none") not in ("", "none"):
            yield "Site has `linkAccess` beside a RouterAccess: both take the same router ports; leave `linkAccess` out"
    if len(access) > 1:
        yield "several RouterAccess: they would take the same router ports; keep one"
    needed = "Link" if side == "private" else "RouterAccess"
    if not _of(documents, needed):
        yield f"no {needed}: the two sides would never meet"
    yield from _listeners(side, documents)


def _listeners(side: str, documents: Sequence[Document]) -> Iterator[str]:
    specs = [spec_of(d) for d in _of(documents, "Listener", "MultiKeyListener")]
    hosts = [(str(s.get("host")), str(s.get("port"))) for s in specs]
    for (host, port), count in Counter(hosts).items():
        if count > 1:
            yield f"{count} Listeners on `{host}:{port}`: only one can have it"
    if side == "private":
        return
    taken = {name_of(d): "a Service in this folder" for d in _of(documents, "Service")}
    taken |= {name_of(d): "the Service that Skupper makes for the RouterAccess" for d in _of(documents, "RouterAccess")}
    taken |= dict.fromkeys(sk.RESERVED_HOSTS, "a Service of Skupper itself")
    for host in sorted({h for h, _ in hosts} & set(taken)):
        yield f"Listener host `{host}` is the name of {taken[host]}: the Listener would only err; choose another host"


def _identity(side: str, document: Document) -> Iterator[str]:
    kind, metadata = document["kind"], document.get("metadata")
    skupper = (*_FIELDS, *_OTHER_SKUPPER, *_OPENSHIFT_ONLY)
    known = (*_FIELDS, *_OTHER_SKUPPER, "Secret", "ConfigMap")
    if side == "private" and kind not in known:
        yield "Skupper ignores this kind outside Kubernetes"
    want = sk.API if kind in skupper else "v1" if kind in ("Secret", "ConfigMap", "Service") else ""
    if want and document.get("apiVersion") != want:
        yield f"apiVersion is `{document.get('apiVersion')}`, not `{want}`"
    if not isinstance(metadata, Mapping):
        yield "no `metadata`"
        return
    if "spec" in document and not isinstance(document["spec"], Mapping):
        yield "`spec` is no map"
    if kind in skupper or kind == "Secret":
        if problem := names.label_problem(metadata.get("name")):
            yield f"metadata.name {problem}"
        if "namespace" in metadata and (problem := names.label_problem(metadata["namespace"])):
            yield f"metadata.namespace {problem}"
    if kind in ("RouterAccess", "Secret") and str(metadata.get("name")).startswith(OWN):
        yield f"names that begin with `{OWN}` are Skupper's own: the controller may overwrite or delete it"
    annotations = metadata.get("annotations")
    if isinstance(annotations, Mapping) and CONTROLLED in annotations:
        yield f"annotation `{CONTROLLED}` lets the controller overwrite it; take it away"


# -- one document ----------------------------------------------------------------------------------------------------


def _fields(kind: str, spec: Mapping[str, Any]) -> Iterator[str]:
    yield from _typed(_FIELDS[kind], spec, "spec.")
    yield from (f"spec.{name} is missing" for name in _REQUIRED.get(kind, ()) if spec.get(name) in (None, "", []))
    if spec.get("type", "tcp") != "tcp":
        yield f"spec.type is `{spec['type']}`; Skupper 2 knows `tcp` only"


def _typed(fields: Mapping[str, type], values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    words = {
        str: "a text (quote it)",
        int: "a whole number (no quotes)",
        bool: "true or false",
        list: "a list",
        dict: "a map",
    }
    for name, value in values.items():
        if name not in fields:
            yield f"unknown field {prefix}{name}: it would be dropped without a word"
        elif not isinstance(value, fields[name]) or (fields[name] is int and isinstance(value, bool)):
            yield f"{prefix}{name} is `{value!r}`, it must be {words[fields[name]]}"
        elif name != "strategy" and isinstance(value, dict) and not all(isinstance(v, str) for v in value.values()):
            yield f"{prefix}{name}: every value must be a text (quote it)"


def _site(side: str, spec: Mapping[str, Any]) -> Iterator[str]:
    if side == "openshift" and spec.get("edge"):
        yield "spec.edge is true: an edge site accepts no link"
    if spec.get("edge") and spec.get("ha"):
        yield "spec.edge and spec.ha are both true: an edge site can't have two routers"
    if spec.get("defaultIssuer"):
        yield "spec.defaultIssuer signs clients only; the server keeps Skupper's own CA, so they don't trust each other"


def _link(_side: str, spec: Mapping[str, Any]) -> Iterator[str]:
    endpoints = spec.get("endpoints")
    names = []
    for index, endpoint in enumerate(endpoints if isinstance(endpoints, list) else []):
        where = f"spec.endpoints[{index}]"
        if not isinstance(endpoint, Mapping):
            yield f"{where} is no map"
            continue
        names.append(endpoint.get("name"))
        yield from _typed(_ENDPOINT, endpoint, f"{where}.")
        yield from (f"{where}.{text}" for text in _endpoint(endpoint))
    if names and "inter-router" not in names:
        yield "no endpoint is named `inter-router`: an interior site would not connect at all"
    cost = spec.get("cost", 1)
    if isinstance(cost, int) and cost < 1:
        yield f"spec.cost is {cost}, it must be 1 or more"


def _endpoint(endpoint: Mapping[str, Any]) -> Iterator[str]:
    if endpoint.get("name") not in tuple(sk.ROLES):
        yield f"name is `{endpoint.get('name') or ''}`, it must be `inter-router` or `edge`: else no connector is made"
    if problem := names.host_problem(endpoint.get("host")):
        yield f"host {problem}"
    port = endpoint.get("port")
    if isinstance(port, str) and (not port.isascii() or not port.isdigit() or names.port_problem(int(port))):
        yield f"port `{port}` is no port: 1 to 65535"
    if port is None:
        yield "port is missing"


def _router_access(side: str, spec: Mapping[str, Any]) -> Iterator[str]:
    roles = spec.get("roles")
    roles = [r for r in roles if isinstance(r, Mapping)] if isinstance(roles, list) else []
    for role in roles:
        yield from _typed(_ROLE, role, "spec.roles[].")
        if role.get("name") not in tuple(sk.ROLES):
            yield f"role `{role.get('name') or ''}` must be `inter-router` or `edge`"
        if "port" in role and (problem := names.port_problem(role["port"])):
            yield f"role `{role.get('name')}`: port {problem}"
    ports = [r.get("port", sk.ROLES.get(str(r.get("name")))) for r in roles]
    if len(set(map(str, ports))) < len(ports):
        yield "two roles have the same port"
    if side != "openshift":
        return
    if missing := [name for name in sk.ROLES if name not in [r.get("name") for r in roles]]:
        yield f"no role `{'`, `'.join(missing)}`"
    if spec.get("generateTlsCredentials") is not False:
        yield "spec.generateTlsCredentials must be false: else the server gets a certificate that the link won't trust"
    if spec.get("issuer"):
        yield "spec.issuer has no effect with given credentials; take it away"
    if spec.get("accessType") != "route":
        yield f"spec.accessType is `{spec.get('accessType')}`, it must be `route`"


def _listener(side: str, spec: Mapping[str, Any]) -> Iterator[str]:
    problem = names.service_problem(spec.get("host")) if side == "openshift" else names.host_problem(spec.get("host"))
    if "host" in spec and problem:
        yield f"spec.host {problem}"
    if "port" in spec and (problem := names.port_problem(spec["port"])):
        yield f"spec.port {problem}"
    if spec.get("observer", "auto") not in _OBSERVERS:
        yield f"spec.observer is `{spec['observer']}`, it must be one of {', '.join(_OBSERVERS)}"


def _connector(side: str, spec: Mapping[str, Any]) -> Iterator[str]:
    if bool(spec.get("selector")) == bool(spec.get("host")):
        yield "spec must have exactly one of `host` and `selector`"
    if side == "private" and spec.get("selector"):
        yield "spec.selector means pods, there are none on the private host: use `host`"
    if spec.get("host") and (problem := names.host_problem(spec["host"])):
        yield f"spec.host {problem}"
    if "port" in spec and (problem := names.port_problem(spec["port"])):
        yield f"spec.port {problem}"


def _multi_key_listener(side: str, spec: Mapping[str, Any]) -> Iterator[str]:
    yield from _listener(side, spec)
    strategy = spec.get("strategy")
    if isinstance(strategy, Mapping) and (len(strategy) != 1 or not {*strategy} <= {"priority", "weighted"}):
        yield "spec.strategy must have exactly one of `priority` and `weighted`"
    elif isinstance(strategy, Mapping) and not routing_keys(spec):
        yield "spec.strategy names no routing key"
    elif isinstance(strategy, Mapping) and "weighted" in strategy:
        weights = strategy["weighted"]["routingKeys"]
        if not isinstance(weights, Mapping) or any(not isinstance(w, int) or w < 1 for w in weights.values()):
            yield "spec.strategy.weighted.routingKeys must give each key a whole number from 1"


def routing_keys(spec: Mapping[str, Any]) -> list[str]:
    """The routing keys of a Listener or MultiKeyListener."""
    strategy = spec.get("strategy")
    if not isinstance(strategy, Mapping):
        return [str(spec.get("routingKey"))]
    found = [way.get("routingKeys") for way in strategy.values() if isinstance(way, Mapping)]
    return [str(key) for keys in found if isinstance(keys, (list, dict)) for key in keys]


_CHECKS = {
    "Site": _site, "Link": _link, "RouterAccess": _router_access, "Listener": _listener, "Connector": _connector,
    "MultiKeyListener": _multi_key_listener,
}  # fmt: skip


# -- Secrets ---------------------------------------------------------------------------------------------------------


def _referenced(documents: Iterable[Document]) -> set[str]:
    return {str(spec_of(d).get("tlsCredentials")) for d in _of(documents, "Link", "RouterAccess")}


def _reference(kind: str, spec: Mapping[str, Any], secrets: Collection[str], named: set[str]) -> Iterator[str]:
    name = spec.get("tlsCredentials")
    if kind in ("Link", "RouterAccess") and name and str(name) not in {*secrets, *named}:
        yield f"spec.tlsCredentials names the Secret `{name}`, which is not there"


def _secret(document: Document, referenced: set[str]) -> Iterator[str]:
    if document.get("stringData"):
        yield "`stringData` is not read outside Kubernetes: the certificates would be empty; write `data` in base64"
    if name_of(document) not in referenced:
        return
    if document.get("type") != sk.TLS:
        yield f"type is `{document.get('type') or 'Opaque'}`: only `{sk.TLS}` is delivered to the router"
    data = document.get("data")
    if not isinstance(data, Mapping):
        yield "no `data`"
        return
    for key in KEYS:
        try:
            value = base64.b64decode(data.get(key) or "", validate=True)
        except (binascii.Error, ValueError, TypeError):
            yield f"data[{key}] is not base64"
            continue
        if not value.lstrip().startswith(b"-----BEGIN "):
            yield f"data[{key}] is {'not PEM' if value else 'missing'}"


# -- both sides ------------------------------------------------------------------------------------------------------


def _across(
    connectors: Sequence[Document], openshift: Sequence[Document], private: Sequence[Document], namespace: str
) -> Iterator[str]:
    keys = {str(spec_of(d).get("routingKey")) for d in connectors}
    listeners = _of(openshift, "Listener", "MultiKeyListener")
    listened = {key for d in listeners for key in routing_keys(spec_of(d))}
    if keys and listened and not keys & listened:
        here, there = "`, `".join(sorted(keys)), "`, `".join(sorted(listened))
        yield f"no routing key in common: the Connector has `{here}`, the Listener `{there}`"
    elif not keys or not listened:
        yield "no Connector on the private side" if not keys else "no Listener on the OpenShift side"
    for access in _of(openshift, "RouterAccess"):
        yield from _routes(access, private, _namespace(access) or namespace)


def _routes(access: Document, private: Sequence[Document], namespace: str) -> Iterator[str]:
    settings = spec_of(access).get("settings")
    domain = settings.get("domain", "") if isinstance(settings, Mapping) else ""
    for role in sk.ROLES:
        route = f"{name_of(access)}-{role}"
        label = route if domain else f"{route}-{namespace}"
        if len(label) > names.LABEL_MAX:
            yield f"the Route's host label `{label}` has {len(label)} characters, {names.LABEL_MAX} are the most"
        start = f"{route}.{namespace}.{domain}" if domain else f"{label}."
        for host in endpoint_hosts(private, role):
            if namespace and not host.startswith(start):
                will = start if domain else f"{start}<apps domain>"
                yield f"Link endpoint `{role}` goes to `{host}`, but the Route will be `{will}`"


def endpoint_hosts(private: Iterable[Document], role: str = "") -> list[str]:
    """Hosts of all Link endpoints (of one role), in order, once each."""
    lists = [spec_of(d).get("endpoints") for d in _of(private, "Link")]
    endpoints = [e for found in lists if isinstance(found, list) for e in found if isinstance(e, Mapping)]
    return list(dict.fromkeys(str(e.get("host")) for e in endpoints if not role or e.get("name") == role))


# -- reading ---------------------------------------------------------------------------------------------------------


def title(document: Document) -> str:
    """How a document is called in messages: `Kind name`."""
    return f"{document['kind']} `{name_of(document)}`"


def _of(documents: Iterable[Document], *kinds: str) -> list[Document]:
    return [d for d in documents if isinstance(d, Mapping) and d.get("kind") in kinds]


def spec_of(document: Document) -> Mapping[str, Any]:
    """Its `spec`; empty when it has none or no map."""
    spec = document.get("spec")
    return spec if isinstance(spec, Mapping) else {}


def _metadata(document: Document, key: str) -> str:
    metadata = document.get("metadata")
    return str(metadata.get(key) or "") if isinstance(metadata, Mapping) else ""


def name_of(document: Document) -> str:
    """Its `metadata.name`, or ""."""
    return _metadata(document, "name")


def _namespace(document: Document) -> str:
    return _metadata(document, "namespace")
