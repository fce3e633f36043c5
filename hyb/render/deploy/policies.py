"""Who may reach whom, as NetworkPolicies. A pod that a policy selects is closed but for what some policy opens.

    internet ─ ingress controller ─▶ chat ─▶ router ─▶ (the link) ─▶ the model
                                                ▲
                       ingress controller ──────┘ link ports only

Skupper's router listens on ports of its own, not on the Service's, hence the range. Kubelets reach the pods on their
node whatever a policy says, so probes need no rule. Monitoring and the like add policies of their own: they add up.
Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyb.render.deploy.base import meta
from hyb.render.deploy.facts import LINK_PORTS, OPENSHIFT_INGRESS, ROUTER, ROUTER_PORTS, DeployFacts
from hyb.render.dump import Document
from hyb.render.unit import CONTAINER_PORT

NAMESPACE = "kubernetes.io/metadata.name"
"""The label with a namespace's name that Kubernetes sets itself."""
DNS = (
    ({NAMESPACE: "kube-system"}, {"k8s-app": "kube-dns"}, 53),
    ({NAMESPACE: "openshift-dns"}, {"dns.operator.openshift.io/daemonset-dns": "default"}, 5353),
)
"""(namespace, pods, port of the pods) of the cluster's name service; OpenShift's listens on another port than its
Service."""


def documents(facts: DeployFacts) -> dict[str, Document]:
    """File name → policy of the base."""
    found = {"networkpolicy-chat.yaml": chat(facts)}
    if not facts.model_in_cluster:
        found |= {"networkpolicy-router.yaml": router(facts), "networkpolicy-links.yaml": links(facts)}
    return found


def chat(facts: DeployFacts) -> Document:
    """The chat: nobody in (an overlay opens its way in), the model and the name service out."""
    names = [
        {"to": [_pods(pods, space)], "ports": [_port(port, protocol=p) for p in ("UDP", "TCP")]}
        for space, pods, port in DNS
    ]
    return _policy(facts, facts.name, facts.select, {"ingress": [], "egress": [_to_model(facts), *names]})


def _to_model(facts: DeployFacts) -> dict[str, Any]:
    if facts.model_in_cluster:
        model = {"app.kubernetes.io/name": facts.model_host, "app.kubernetes.io/managed-by": "hyb"}
        return {"to": [_pods(model)], "ports": [_port(CONTAINER_PORT)]}
    return {"to": [_pods(ROUTER)], "ports": [_port(*ROUTER_PORTS)]}


def router(facts: DeployFacts) -> Document:
    """Skupper's router: only the chat reaches its listeners. What the router itself calls stays as it was."""
    rule = {"from": [_pods(facts.select)], "ports": [_port(*ROUTER_PORTS)]}
    return _policy(facts, f"{facts.name}-router", ROUTER, {"ingress": [rule]})


def links(facts: DeployFacts) -> Document:
    """The router's link ports: open to what brings links in, and to nothing else. Both ends show certificates there."""
    sources: dict[str, list[dict[str, Any]]] = {
        "route": [_space(labels) for labels in OPENSHIFT_INGRESS],
        "ingress-nginx": [_space({NAMESPACE: "ingress-nginx"})],
        "local": [{"namespaceSelector": {}, "podSelector": {"matchLabels": ROUTER}}],
    }
    rule = (
        {"from": found} if (found := sources.get(facts.access)) else {}
    )  # a load balancer's clients come from anywhere
    ports = [_port(port) for port in LINK_PORTS]
    return _policy(facts, f"{facts.name}-links", ROUTER, {"ingress": [{**rule, "ports": ports}]})


def entrance(facts: DeployFacts, overlay: str) -> Document:
    """The way in of one overlay, and no other."""
    spaces: dict[str, Sequence[dict[str, str]]] = {
        "openshift": OPENSHIFT_INGRESS,
        "nginx": ({NAMESPACE: facts.ingress_namespace},),
        "gateway": ({NAMESPACE: facts.gateway_namespace},),
        "loadbalancer": (),
    }
    rule = {"from": [_space(labels) for labels in spaces[overlay]]} if spaces[overlay] else {}
    ports = [_port(facts.web_port(overlay))]
    return _policy(facts, f"{facts.name}-entrance", facts.select, {"ingress": [{**rule, "ports": ports}]})


def sign_in(facts: DeployFacts) -> Document:
    """The sign-in proxy asks its provider, whose addresses nobody knows beforehand; it shares the chat's pod."""
    ports = [_port(443), _port(6443)] if facts.sign_in == "openshift" else [_port(443)]
    return _policy(facts, f"{facts.name}-sign-in", facts.select, {"egress": [{"ports": ports}]})


def _policy(facts: DeployFacts, name: str, pods: dict[str, str], rules: dict[str, Any]) -> Document:
    types = [kind for kind in ("Ingress", "Egress") if kind.lower() in rules]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta(facts, name),
        "spec": {"podSelector": {"matchLabels": pods}, "policyTypes": types, **rules},
    }


def _pods(labels: dict[str, str], namespace: dict[str, str] | None = None) -> dict[str, Any]:
    return {**(_space(namespace) if namespace else {}), "podSelector": {"matchLabels": labels}}


def _space(labels: dict[str, str]) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": labels}}


def _port(first: int, last: int = 0, protocol: str = "TCP") -> dict[str, Any]:
    return {"protocol": protocol, "port": first, **({"endPort": last} if last else {})}
