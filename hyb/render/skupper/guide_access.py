"""The part of APPLY.md that differs by access type: what the cluster needs, and which addresses must come out. Pure."""

from __future__ import annotations

from hyb.render.skupper.facts import ENABLED, LinkFacts, PublicSite, endpoints


def access_text(facts: LinkFacts, site: PublicSite) -> str:
    """What is true of the router's addresses when the documents are applied. Begins within a paragraph."""
    kind = facts.access.kind
    found = endpoints(facts.access, site.namespace)
    if kind == "route" and found:
        return _route("\n".join(f"    {e.host}" for e in found))
    listed = "\n".join(f"    {e.role} {e.host}:{e.port}" for e in found)
    must = f"The endpoints must be exactly\n\n{listed}\n" if found else "Its addresses are known then."
    return must if kind == "route" else f"{must}\n{_needs(facts)}"


def _route(hosts: str) -> str:
    return f"""The Routes must be exactly

{hosts}

If they are not, the cluster's domain is another one (`oc get ingresses.config cluster -o jsonpath='{{.spec.domain}}'`):
set it in the recipe and write this folder again."""


def _needs(facts: LinkFacts) -> str:
    access = facts.access
    texts = []
    if access.kind not in ENABLED:
        texts.append(
            f"The Skupper controller takes `{access.kind}` only when it is told so, in its Deployment:\n"
            f"SKUPPER_ENABLED_ACCESS_TYPES with `{access.kind}` in its list{_also(facts)}."
        )
    texts.append(_WORDS[access.kind])
    if facts.way == "given" and access.kind in ("loadbalancer", "nodeport"):
        texts.append("The server certificate is for that address: with another one, write this folder again.")
    return "\n".join(texts)


def _also(facts: LinkFacts) -> str:
    if facts.access.kind == "nodeport":
        hosts = sorted(set(facts.access.hosts.values()))
        return f", SKUPPER_CLUSTER_HOST{f'={hosts[0]}' if hosts else ' with the address of the nodes'}"
    return f", SKUPPER_INGRESS_DOMAIN={facts.access.apps_domain}"


_WORDS = {
    "loadbalancer": (
        "The cluster must give out addresses for Services of type LoadBalancer; the router is reached there on 55671"
        "\nand 45671."
    ),
    "ingress-nginx": (
        "NGINX must run with `--enable-ssl-passthrough`, and DNS must know the names. The project ingress-nginx has"
        "\nbeen out of support since March 2026: choose another access type where you can."
    ),
    "nodeport": "The nodes' ports are given out by the cluster; a firewall must let them in.",
    "local": "The router is reached from inside the cluster only.",
}
