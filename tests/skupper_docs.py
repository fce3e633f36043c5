"""Links of all kinds for tests of what speaks Skupper, and the CRDs as a judge of their documents."""

from __future__ import annotations

import copy
import functools
from typing import Any

import yaml

from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.render.skupper import facts as f
from tests.need import crds

DATA = {
    "ca.crt": b"-----BEGIN CERTIFICATE-----\nca\n",
    "tls.crt": b"-----BEGIN CERTIFICATE-----\nleaf\n",
    "tls.key": b"-----BEGIN PRIVATE KEY-----\nkey\n",
}
ISSUER = {"tls.crt": DATA["tls.crt"], "tls.key": b"-----BEGIN RSA PRIVATE KEY-----\nkey\n"}
Docs = dict[str, dict[str, Any]]
"""Kind → document, of a side that has one of each."""

ACCESSES = {
    "route": f.Access(apps_domain="apps.example.com"),
    "route, own domain": f.Access(route_domain="link.example.com", name="van"),
    "loadbalancer": f.Access("loadbalancer", hosts={"chat": "192.0.2.7", "shop": "lb.example.com"}),
    "ingress-nginx": f.Access("ingress-nginx", apps_domain="in.example.com", ingress_class="public"),
    "nodeport": f.Access(
        "nodeport", hosts={"chat": "192.0.2.7", "shop": "192.0.2.8"}, ports={"inter-router": 30671, "edge": 30672}
    ),
    "local": f.Access("local"),
}


def target(name: str = "llm", key: str = "llm", **more: Any) -> f.Target:
    return f.Target(name, key, more.pop("port", 8001), **more)


def link_facts(
    way: str = "given", access: str = "route", platform: str = "podman", *, private: tuple[str, ...] = ("private",),
    public: tuple[str, ...] = ("chat",), services: tuple[f.Service, ...] = (f.Service("llm", 8000, ("llm",)),),
    **targets: Any,
) -> f.LinkFacts:  # fmt: skip
    """A link with as many sides as asked for."""
    where = {"host": "", "selector": "app=llm"} if platform == "kubernetes" else {}
    sites = []
    for number, name in enumerate(private):
        folder = "private" if len(private) == 1 else f"private-{name}"
        mine = tuple(target(key, key, **where, **targets) for s in services for key in s.routing_keys)
        cost = 1 if number == 0 else 10
        sites.append(f.PrivateSite(mine, name, f"skupper-{name}", platform, cost, folder))
    publics = [
        f.PublicSite(n, *(() if len(public) == 1 else (f"public-{n}", f"link-public-{n}", f"openshift-{n}")))
        for n in public
    ]
    return f.LinkFacts(tuple(sites), tuple(publics), services, ACCESSES[access], way=way)


def sides_of(facts: f.LinkFacts) -> list[skupper_check.Side]:
    """All sides with their Secrets, as hyb writes them."""
    found = []
    for site in () if facts.pending else facts.private:
        documents = sk.private_documents(facts, site)
        if facts.way != "token":
            documents.append(sk.secret(facts.name, site.namespace, DATA))
        found.append(skupper_check.Side(site.folder, documents, False, site.platform))
    for public in facts.public:
        documents = sk.public_documents(facts, public)
        if facts.way == "given":
            documents.append(sk.secret(facts.access.server_secret, public.namespace, DATA))
        if facts.way == "issuer":
            documents.append(sk.secret(facts.access.issuer_secret, public.namespace, ISSUER))
        found.append(skupper_check.Side(public.folder, documents, True))
    return copy.deepcopy(found)


def both(facts: f.LinkFacts) -> tuple[Docs, Docs]:
    """The two sides of a link that has two."""
    private, public = sides_of(facts)
    return ({d["kind"]: d for d in private.documents}, {d["kind"]: d for d in public.documents})


def crd_mistakes(document: dict[str, Any]) -> list[str]:
    """What the CRD of a document says against it; a field that it does not know is a mistake."""
    from jsonschema import Draft202012Validator

    return [e.message for e in Draft202012Validator(_schemas()[document["kind"]]).iter_errors(document)]


@functools.cache
def _schemas() -> dict[str, Any]:
    folder = crds()
    assert folder
    found = {}
    for path in folder.glob("*_crd.yaml"):
        crd = yaml.safe_load(path.read_text())
        (version,) = [v for v in crd["spec"]["versions"] if f"{crd['spec']['group']}/{v['name']}" == sk.API]
        schema = _closed(version["schema"]["openAPIV3Schema"])
        schema["properties"] |= {
            "apiVersion": {"const": sk.API}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        }  # fmt: skip
        found[crd["spec"]["names"]["kind"]] = schema
    return found


def _closed(schema: Any) -> Any:
    """The schema with objects that take no unknown field, as a typo is one."""
    if isinstance(schema, list):
        return [_closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    result = {k: v if k in ("oneOf", "anyOf", "allOf") else _closed(v) for k, v in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        result["additionalProperties"] = False
    return result
