"""The fields of Skupper's kinds and their types, and how documents are read that may have any shape at all. Pure.

Source of the tables: the CRDs of Skupper 2.2.1, `skupper.io/v2alpha1`. The API server drops a field that it does not
know without a word, and a site outside Kubernetes reads no schema at all: so a typo is silent, and so is a field of a
newer Skupper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hyb.render.dump import Document

GROUP = "skupper.io"
NEWER = "a typo, or from a newer Skupper?"

_COMMON = {"settings": dict, "tlsCredentials": str}
FIELDS: Mapping[str, Mapping[str, type]] = {
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
    "AccessGrant": {
        "redemptionsAllowed": int, "expirationWindow": str, "code": str, "issuer": str, "settings": dict,
    },
    "AccessToken": {"url": str, "code": str, "ca": str, "linkCost": int, "settings": dict},
    "AttachedConnector": {
        **_COMMON, "siteNamespace": str, "port": int, "selector": str, "useClientCert": bool, "type": str,
        "includeNotReadyPods": bool,
    },
    "AttachedConnectorBinding": {
        "connectorNamespace": str, "routingKey": str, "exposePodsByName": bool, "settings": dict,
    },
    "Certificate": {
        "ca": str, "subject": str, "hosts": list, "client": bool, "server": bool, "signing": bool, "settings": dict,
    },
    "SecuredAccess": {
        "ports": list, "selector": dict, "issuer": str, "certificate": str, "accessType": str, "settings": dict,
    },
}  # fmt: skip
"""Kind → field of its `spec` → type."""
REQUIRED = {
    "Link": ("endpoints", "tlsCredentials"),
    "RouterAccess": ("roles", "tlsCredentials"),
    "Listener": ("routingKey", "host", "port"),
    "MultiKeyListener": ("host", "port", "strategy"),
    "Connector": ("routingKey", "port"),
    "AccessToken": ("url", "code", "ca"),
    "AttachedConnector": ("siteNamespace", "port", "selector"),
    "AttachedConnectorBinding": ("connectorNamespace", "routingKey"),
    "Certificate": ("ca", "subject"),
    "SecuredAccess": ("ports", "selector"),
}
"""Of these, what can't be left out; for a Link the CRD lets the credentials be, and then it never connects."""
NOT_ON_HOSTS = ("AttachedConnector", "AttachedConnectorBinding")
"""Kinds that only a controller in a cluster reads."""

_WORDS = {
    str: "a text (quote it)",
    int: "a whole number (no quotes)",
    bool: "true or false",
    list: "a list",
    dict: "a map",
}


def field_mistakes(kind: str, spec: Mapping[str, Any]) -> Iterator[str]:
    """What the CRD itself says of a `spec`: unknown fields, wrong types, missing ones."""
    yield from typed(FIELDS[kind], spec, "spec.")
    yield from (f"spec.{name} is missing" for name in REQUIRED.get(kind, ()) if spec.get(name) in (None, "", [], {}))
    if "type" in FIELDS[kind] and spec.get("type", "tcp") != "tcp":
        yield f"spec.type is `{spec['type']}`; Skupper 2 knows `tcp` only"


def typed(fields: Mapping[str, type], values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Unknown fields, wrong types, and maps whose values are not all text."""
    for name, value in values.items():
        if name not in fields:
            yield f"unknown field {prefix}{name}: it would be dropped without a word ({NEWER})"
        elif not isinstance(value, fields[name]) or (fields[name] is int and isinstance(value, bool)):
            yield f"{prefix}{name} is `{value!r}`, it must be {_WORDS[fields[name]]}"
        elif name in ("settings", "selector") and not all(isinstance(v, str) for v in as_map(value).values()):
            yield f"{prefix}{name}: every value must be a text (quote it)"


# -- reading ---------------------------------------------------------------------------------------------------------


def of(documents: Iterable[Any], *kinds: str) -> list[Document]:
    """The documents of these kinds."""
    return [d for d in documents if isinstance(d, Mapping) and d.get("kind") in kinds]


def spec_of(document: Document) -> Mapping[str, Any]:
    """Its `spec`; empty when it has none or no map."""
    return as_map(document.get("spec"))


def as_map(value: Any) -> Mapping[str, Any]:
    """The value when it is a map, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def name_of(document: Document) -> str:
    """Its `metadata.name`, or ""."""
    return str(as_map(document.get("metadata")).get("name") or "")


def namespace_of(document: Document) -> str:
    """Its `metadata.namespace`, or ""."""
    return str(as_map(document.get("metadata")).get("namespace") or "")


def title(document: Document) -> str:
    """How a document is called in messages: `Kind name`."""
    return f"{document['kind']} `{name_of(document)}`"
