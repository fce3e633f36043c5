"""What Skupper accepts without a word although it can't work, said by hyb instead. Pure: documents in, mistakes out.

Used on what hyb renders and on folders that a person has edited. The CRDs alone miss most of it: the API server drops
unknown fields, and a site outside Kubernetes reads no schema at all. One document: `fields` and `kinds`; the documents
of one side together, and the sides against each other: here. Certificates are read elsewhere (`hyb.certificates`);
here a Secret only has to have the right shape. Behaviour: Skupper 2.2.1.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyb.render import names
from hyb.render.dump import Document
from hyb.render.skupper import across
from hyb.render.skupper import documents as sk
from hyb.render.skupper.across import endpoint_hosts
from hyb.render.skupper.fields import (
    FIELDS,
    GROUP,
    NEWER,
    NOT_ON_HOSTS,
    as_map,
    field_mistakes,
    name_of,
    namespace_of,
    of,
    spec_of,
    title,
)
from hyb.render.skupper.kinds import kind_mistakes

__all__ = ["KEYS", "SIDES", "Side", "check", "check_sides", "endpoint_hosts", "name_of", "spec_of", "title"]

SIDES = ("private", "openshift")
KEYS = ("ca.crt", "tls.crt", "tls.key")
OWN = "skupper-"
MULTI_KEY_NAME_MAX = names.LABEL_MAX - len("multiaddress-")
CONTROLLED = "internal.skupper.io/controlled"
_V1 = "of Skupper 1: its sites and those of Skupper 2 can't be in one network"


@dataclass(frozen=True)
class Side:
    """The documents of one site. `name`: its folder; `platform`: what runs the router of a private one."""

    name: str
    documents: Sequence[Any]
    public: bool
    platform: str = "podman"
    named: Collection[str] = field(default=())
    """Secrets that are not among the documents but will be there (hyb's artifact only names them)."""

    @property
    def kubernetes(self) -> bool:
        """A controller in a cluster reads them."""
        return self.public or self.platform == "kubernetes"

    @property
    def whole(self) -> list[Document]:
        """Those that have a kind."""
        return [d for d in self.documents if isinstance(d, Mapping) and isinstance(d.get("kind"), str)]


def check(
    private: Sequence[Any],
    openshift: Sequence[Any],
    *,
    named: Collection[str] = (),
    namespace: str = "",
    platform: str = "podman",
) -> list[str]:
    """All mistakes of a link between one host and one namespace, one line each; empty when there are none.

    `namespace`: the one that `oc apply -n` will be given, for documents that name none.
    """
    sides = (
        Side(SIDES[0], private, public=False, platform=platform, named=named),
        Side(SIDES[1], openshift, public=True, named=named),
    )
    return check_sides(sides, namespace=namespace)


def check_sides(sides: Sequence[Side], *, namespace: str = "") -> list[str]:
    """The same for any number of private and public sites. Without private ones only the public are judged."""
    mistakes: list[str] = []
    granted = any(of(side.documents, "AccessGrant") for side in sides if side.public)
    for side in sides:
        if len(side.whole) < len(side.documents):
            mistakes.append(f"{side.name}: a document has no `kind`")
        mistakes += [f"{side.name}: {text}" for text in _side(side, granted)]
    private = {s.name: s.whole for s in sides if not s.public}
    public = {s.name: s.whole for s in sides if s.public}
    return mistakes + list(across.mistakes(private, public, namespace) if private and public else ())


def _side(side: Side, granted: bool) -> Iterator[str]:
    documents = side.whole
    yield from _together(side, documents, granted)
    secrets = {name_of(d): d for d in of(documents, "Secret")}
    for document in documents:
        kind, where = document["kind"], title(document)
        yield from (f"{where}: {text}" for text in _identity(side, document))
        if kind in FIELDS:
            spec = spec_of(document)
            texts = [*field_mistakes(kind, spec)]
            texts += kind_mistakes(kind, spec, public=side.public, kubernetes=side.kubernetes)
            texts += _reference(kind, spec, secrets, set(side.named))
            yield from (f"{where}: {text}" for text in texts)
        elif kind == "Secret":
            yield from (f"{where}: {text}" for text in _secret(document, documents))


# -- documents of one side, together ---------------------------------------------------------------------------------


def _together(side: Side, documents: Sequence[Document], granted: bool) -> Iterator[str]:
    ours = [d for d in documents if d["kind"] in FIELDS or d["kind"] == "Secret"]
    sites = of(documents, "Site")
    if len(sites) != 1:
        yield f"{len(sites)} Sites, there must be exactly one" if sites else "no Site"
    default = "" if side.public else "default"
    namespaces = {namespace_of(d) or default for d in ours}
    if len(namespaces) > 1:
        given = ", ".join(f"`{n}`" if n else "none" for n in sorted(namespaces))
        yield f"resources in several namespaces: {given}; one site has one"
    for (kind, name), count in Counter((d["kind"], name_of(d)) for d in documents).items():
        if count > 1:
            yield f"{kind} `{name}` is there {count} times"
    access = of(documents, "RouterAccess")
    for site in sites:
        if access and spec_of(site).get("linkAccess", "none") not in ("", "none"):
            yield "Site has `linkAccess` beside a RouterAccess: both take the same router ports; leave `linkAccess` out"
    if len(access) > 1:
        yield "several RouterAccess: they would take the same router ports; keep one"
    if side.public and not access:
        yield "no RouterAccess: the two sides would never meet"
    if not side.public and not granted and not of(documents, "Link", "AccessToken"):
        yield "no Link: the two sides would never meet"
    for one in access if side.public else ():
        yield from (f"{title(one)}: {text}" for text in _trust(spec_of(one), documents))
    yield from _listeners(side, documents)


def _trust(access: Mapping[str, Any], documents: Sequence[Document]) -> Iterator[str]:
    """Who signs the server's certificate, and who the clients'."""
    grants, generated = of(documents, "AccessGrant"), access.get("generateTlsCredentials")
    issuer = access.get("issuer")
    if grants and (generated is not True or issuer):
        yield "a token gives a certificate of the Site's own CA, which this router won't trust: give no own credentials"
    elif generated is not True and generated is not False:
        yield "spec.generateTlsCredentials must be false (with an own Secret) or true (with an `issuer`): say which"
    elif generated is True and not grants and not issuer:
        yield "spec.generateTlsCredentials must be false: else the server gets a certificate that the link won't trust"
    own = [d for d in of(documents, "Secret") if name_of(d) == access.get("tlsCredentials")]
    if generated is True and own:
        yield f"the controller is to make the Secret `{name_of(own[0])}`, and won't touch one that is there already"


def _listeners(side: Side, documents: Sequence[Document]) -> Iterator[str]:
    specs = [spec_of(d) for d in of(documents, "Listener", "MultiKeyListener")]
    hosts = [(str(s.get("host")), str(s.get("port"))) for s in specs]
    for (host, port), count in Counter(hosts).items():
        if count > 1:
            yield f"{count} Listeners on `{host}:{port}`: only one can have it"
    observers: dict[str, set[str]] = {}
    for spec in specs:
        for key in across.routing_keys(spec):
            observers.setdefault(key, set()).add(str(spec.get("observer", "auto")))
    for key, found in observers.items():
        if len(found) > 1:
            which = ", ".join(f"`{o}`" for o in sorted(found))
            yield f"routing key `{key}` has Listeners with several observers ({which}): one key, one protocol"
    if not side.kubernetes:
        return
    taken = {name_of(d): "a Service in this folder" for d in of(documents, "Service")}
    taken |= {name_of(d): "the Service that Skupper makes for the RouterAccess" for d in of(documents, "RouterAccess")}
    taken |= dict.fromkeys(sk.RESERVED_HOSTS, "a Service of Skupper itself")
    for host in sorted({h for h, _ in hosts} & set(taken)):
        yield f"Listener host `{host}` is the name of {taken[host]}: the Listener would only err; choose another host"


def _identity(side: Side, document: Document) -> Iterator[str]:
    kind, metadata = document["kind"], document.get("metadata")
    yield from _version(document)
    if not side.kubernetes and (kind in NOT_ON_HOSTS or kind not in (*FIELDS, "Secret", "ConfigMap")):
        yield "Skupper ignores this kind outside Kubernetes"
    if not isinstance(metadata, Mapping):
        yield "no `metadata`"
        return
    if "spec" in document and not isinstance(document["spec"], Mapping):
        yield "`spec` is no map"
    if kind in FIELDS or kind == "Secret":
        if problem := names.label_problem(metadata.get("name")):
            yield f"metadata.name {problem}"
        if kind == "MultiKeyListener" and side.kubernetes and (over := len(name_of(document)) - MULTI_KEY_NAME_MAX) > 0:
            yield f"metadata.name is too long by {over}: the port of its Service is called `multiaddress-<name>`"
        if "namespace" in metadata and (problem := names.label_problem(metadata["namespace"])):
            yield f"metadata.namespace {problem}"
    if kind in ("RouterAccess", "Secret") and str(metadata.get("name")).startswith(OWN):
        yield f"names that begin with `{OWN}` are Skupper's own: the controller may overwrite or delete it"
    if CONTROLLED in as_map(metadata.get("annotations")):
        yield f"annotation `{CONTROLLED}` lets the controller overwrite it; take it away"
    if f"{GROUP}/type" in as_map(metadata.get("labels")) or (kind, name_of(document)) == ("ConfigMap", "skupper-site"):
        yield f"it is {_V1}"


def _version(document: Document) -> Iterator[str]:
    kind, given = document["kind"], document.get("apiVersion")
    want = sk.API if kind in FIELDS else "v1" if kind in ("Secret", "ConfigMap", "Service") else ""
    ours = isinstance(given, str) and given.startswith(f"{GROUP}/")
    if not want and ours:
        yield f"Skupper has no such kind ({NEWER})"
    elif want and given != want:
        end = ""
        if want == sk.API and ours:
            end = f": {_V1}" if given == f"{GROUP}/v1alpha1" else ": from a newer Skupper?"
        yield f"apiVersion is `{given}`, not `{want}`{end}"


# -- Secrets ---------------------------------------------------------------------------------------------------------


def _referenced(documents: Iterable[Document]) -> tuple[set[str], set[str]]:
    """Secrets that a router is to be given, and those that the controller is to sign with."""
    accesses = of(documents, "RouterAccess")
    signing = {str(spec_of(d).get("issuer")) for d in accesses if spec_of(d).get("generateTlsCredentials") is True}
    return {str(spec_of(d).get("tlsCredentials")) for d in [*of(documents, "Link"), *accesses]}, signing


def _reference(kind: str, spec: Mapping[str, Any], secrets: Collection[str], named: set[str]) -> Iterator[str]:
    if kind not in ("Link", "RouterAccess"):
        return
    made = kind == "RouterAccess" and spec.get("generateTlsCredentials") is True
    what = "issuer" if made else "tlsCredentials"
    name = spec.get(what)
    own = made and str(name).startswith(OWN)  # of Skupper's own making
    if name and not own and str(name) not in {*secrets, *named}:
        yield f"spec.{what} names the Secret `{name}`, which is not there"


def _secret(document: Document, documents: Iterable[Document]) -> Iterator[str]:
    if document.get("stringData"):
        yield "`stringData` is not read outside Kubernetes: the certificates would be empty; write `data` in base64"
    given, signing = _referenced(documents)
    signs = name_of(document) in signing
    if name_of(document) not in given and not signs:
        return
    if document.get("type") != sk.TLS:
        yield f"type is `{document.get('type') or 'Opaque'}`: only `{sk.TLS}` is delivered to the router"
    data = document.get("data")
    if not isinstance(data, Mapping):
        yield "no `data`"
        return
    for key in KEYS[1:] if signs else KEYS:
        try:
            value = base64.b64decode(data.get(key) or "", validate=True)
        except (binascii.Error, ValueError, TypeError):
            yield f"data[{key}] is not base64"
            continue
        if not value.lstrip().startswith(b"-----BEGIN "):
            yield f"data[{key}] is {'not PEM' if value else 'missing'}"
        elif signs and key == "tls.key" and b"-----BEGIN RSA PRIVATE KEY-----" not in value:
            yield "data[tls.key] must be RSA in PKCS#1 (`BEGIN RSA PRIVATE KEY`): the controller reads no other form"
