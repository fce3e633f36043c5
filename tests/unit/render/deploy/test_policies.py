"""Who reaches whom: a small evaluator over pods and NetworkPolicies, as the API's reference tells it.

A connection is let through when the source's policies let it out and the target's let it in. A pod that no policy
selects for a direction is open there; one that some select is open to what any of them names.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hyb.render.deploy.facts import ACCESS, DeployFacts
from hyb.render.deploy.kustomize import folder
from tests.deployments import ALL, BUILDS, FACTS, IN_CLUSTER, OIDC, OPENSHIFT, PLAIN, build, pod_of


@dataclass(frozen=True)
class Pod:
    """One end of a connection; without a namespace it is outside of the cluster."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)
    space: dict[str, str] = field(default_factory=dict)
    """Labels of its namespace beside its name."""
    address: str = "10.128.0.9"

    @property
    def spaces(self) -> dict[str, str]:
        return {"kubernetes.io/metadata.name": self.namespace, **self.space}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def is_peer(peer: dict[str, Any], pod: Pod, own: str) -> bool:
    if "ipBlock" in peer:
        return ipaddress.ip_address(pod.address) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
    if not pod.namespace:
        return False
    if "namespaceSelector" in peer:
        return selects(peer["namespaceSelector"], pod.spaces) and selects(peer.get("podSelector", {}), pod.labels)
    return pod.namespace == own and selects(peer["podSelector"], pod.labels)


def is_port(port: dict[str, Any], number: int, protocol: str) -> bool:
    first, last = port.get("port", 0), port.get("endPort", port.get("port", 65535))
    return bool(port.get("protocol", "TCP") == protocol and first <= number <= last)


def lets(policies: list[dict[str, Any]], way: str, pod: Pod, other: Pod, number: int, protocol: str) -> bool:
    """`way`: Ingress into `pod` from `other`, or Egress out of it."""
    mine = [
        p for p in policies
        if p["metadata"]["namespace"] == pod.namespace and selects(p["spec"]["podSelector"], pod.labels)
        and way in p["spec"]["policyTypes"]
    ]  # fmt: skip
    rules = [(p["metadata"]["namespace"], r) for p in mine for r in p["spec"].get(way.lower(), [])]
    key = "from" if way == "Ingress" else "to"
    return not mine or any(
        (key not in r or any(is_peer(peer, other, own) for peer in r[key]))
        and ("ports" not in r or any(is_port(p, number, protocol) for p in r["ports"]))
        for own, r in rules
    )


def reaches(policies: list[dict[str, Any]], source: Pod, target: Pod, number: int, protocol: str = "TCP") -> bool:
    return lets(policies, "Egress", source, target, number, protocol) and lets(
        policies, "Ingress", target, source, number, protocol
    )


STRANGER = Pod("chat", {"app": "stranger"})
NEIGHBOUR = Pod("other", {"app": "stranger"})
LABELS = {
    "app.kubernetes.io/name": "skupper-router", "app.kubernetes.io/part-of": "skupper", "application": "skupper-router",
    "skupper.io/component": "router", "skupper.io/group": "skupper-router", "skupper.io/type": "site",
}  # fmt: skip
"""Of the router's pods, as Skupper 2.2.1 writes them."""
ROUTER = Pod("chat", LABELS)
DNS = Pod("kube-system", {"k8s-app": "kube-dns"})
OPENSHIFT_DNS = Pod("openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"})
HAPROXY = Pod("openshift-ingress", {}, {"network.openshift.io/policy-group": "ingress"})
HAPROXY_NEW = Pod("openshift-ingress", {}, {"policy-group.network.openshift.io/ingress": ""})
NGINX, GATEWAY = Pod("nginx-ingress", {"app": "nginx-ingress"}), Pod("gateways", {"app": "envoy"})
INTERNET = Pod("", address="203.0.113.7")
MODEL = Pod("chat", {"app.kubernetes.io/name": "bot", "app.kubernetes.io/managed-by": "hyb"})
TARGET = 1024
"""Where Skupper's router listens for the first Listener, whatever its port."""
AMQP, METRICS, INTER_ROUTER, EDGE = 5671, 9090, 55671, 45671


def policies_of(facts: DeployFacts, overlay: str) -> tuple[list[dict[str, Any]], Pod]:
    documents = build(folder(facts), overlay)
    chat = Pod("chat", pod_of(documents)["metadata"]["labels"])
    return [d for d in documents if d["kind"] == "NetworkPolicy"], chat


@pytest.mark.parametrize(("name", "overlay"), [b for b in BUILDS if b[0] != "in-cluster"])
def test_only_the_chat_reaches_the_listener(name: str, overlay: str) -> None:
    policies, chat = policies_of(FACTS[name], overlay)
    for port in (TARGET, TARGET + 1, TARGET + 200):
        assert reaches(policies, chat, ROUTER, port)
        for other in (STRANGER, NEIGHBOUR, HAPROXY, HAPROXY_NEW, NGINX, GATEWAY, INTERNET):
            assert not reaches(policies, other, ROUTER, port), other


@pytest.mark.parametrize(("name", "overlay"), [b for b in BUILDS if b[0] != "in-cluster"])
def test_the_chat_reaches_the_listeners_and_the_names_and_nothing_else(name: str, overlay: str) -> None:
    policies, chat = policies_of(FACTS[name], overlay)
    for protocol in ("UDP", "TCP"):
        assert reaches(policies, chat, DNS, 53, protocol) and reaches(policies, chat, OPENSHIFT_DNS, 5353, protocol)
    for other, port in (
        (ROUTER, AMQP), (ROUTER, METRICS), (ROUTER, INTER_ROUTER), (ROUTER, EDGE), (STRANGER, 8080), (NEIGHBOUR, 80),
        (MODEL, 8000), (DNS, 9153), (Pod("kube-system", {"app": "etcd"}), 2379), (INTERNET, 80), (INTERNET, 8000),
        (Pod("", address="169.254.169.254"), 80),
    ):  # fmt: skip
        assert not reaches(policies, chat, other, port), (other, port)
    asks = FACTS[name].sign_in in ("openshift", "oidc")
    assert reaches(policies, chat, INTERNET, 443) == asks, "a sign-in proxy alone asks somebody outside"


WAYS = {"openshift": (HAPROXY, HAPROXY_NEW), "nginx": (NGINX,), "gateway": (GATEWAY,), "loadbalancer": (INTERNET,)}


@pytest.mark.parametrize(("name", "overlay"), [b for b in BUILDS if b[0] != "legacy"])
def test_each_way_in_reaches_the_page_and_no_other_does(name: str, overlay: str) -> None:
    policies, chat = policies_of(FACTS[name], overlay)
    web = FACTS[name].web_port(overlay)
    for way, pods in WAYS.items():
        for pod in pods:
            assert reaches(policies, pod, chat, web) == (way == overlay or overlay == "loadbalancer"), pod
            assert not reaches(policies, pod, chat, METRICS)
            if web != 8080:
                assert not reaches(policies, pod, chat, 8080), "nobody comes past the door"
    for other in (STRANGER, NEIGHBOUR, ROUTER):
        assert reaches(policies, other, chat, web) == (overlay == "loadbalancer")


def test_ingress_nginx_reaches_the_page_from_its_own_namespace() -> None:
    policies, chat = policies_of(FACTS["legacy"], "nginx")
    assert reaches(policies, Pod("ingress-nginx"), chat, 8080)
    assert not reaches(policies, NGINX, chat, 8080)


@pytest.mark.parametrize("access", ACCESS)
def test_the_routers_link_ports_are_open_to_what_brings_links_and_to_nothing_else(access: str) -> None:
    policies, _ = policies_of(replace(PLAIN, access=access), "openshift")
    far = Pod("elsewhere", LABELS)
    let_in = {
        "route": (HAPROXY, HAPROXY_NEW), "ingress-nginx": (Pod("ingress-nginx"),), "local": (far, ROUTER),
        "loadbalancer": (INTERNET, STRANGER), "nodeport": (INTERNET, STRANGER),
    }  # fmt: skip
    for port in (INTER_ROUTER, EDGE):
        for pod in (HAPROXY, HAPROXY_NEW, Pod("ingress-nginx"), far, INTERNET, STRANGER):
            open_to_all = access in ("loadbalancer", "nodeport")
            assert reaches(policies, pod, ROUTER, port) == (open_to_all or pod in let_in[access]), (pod, port)
    for pod in (HAPROXY, HAPROXY_NEW, INTERNET, STRANGER, far):
        assert not reaches(policies, pod, ROUTER, AMQP) and not reaches(policies, pod, ROUTER, METRICS)


def test_no_rule_names_the_listeners_own_port() -> None:
    """Skupper's router does not listen there: such a rule would close the link."""
    policies, _ = policies_of(replace(PLAIN, model_port=18000), "openshift")
    assert "18000" not in str(policies)
    assert "8000" not in str(policies)


def test_a_model_in_the_cluster_is_reached_itself_and_no_router_is_closed() -> None:
    policies, chat = policies_of(IN_CLUSTER, "openshift")
    assert reaches(policies, chat, MODEL, 8000)
    assert not reaches(policies, chat, ROUTER, TARGET)
    assert reaches(policies, STRANGER, ROUTER, TARGET), "the router is another's matter there"


def test_other_pods_of_the_namespace_are_left_alone() -> None:
    for facts in (PLAIN, ALL, OPENSHIFT, OIDC):
        policies, _ = policies_of(facts, "openshift")
        assert reaches(policies, STRANGER, Pod("chat", {"app": "another"}), 80)
        assert reaches(policies, NEIGHBOUR, STRANGER, 443)


def test_the_router_still_reaches_what_it_needs() -> None:
    policies, _ = policies_of(ALL, "openshift")
    assert reaches(policies, ROUTER, Pod("default", address="172.30.0.1"), 443)


def test_the_evaluator_would_see_a_policy_that_is_missing() -> None:
    policies, _ = policies_of(PLAIN, "openshift")
    without = [p for p in policies if p["metadata"]["name"] != "chat-router"]
    assert not reaches(without, STRANGER, ROUTER, TARGET), "the links' policy selects the router, too"
    none = [p for p in without if p["metadata"]["name"] != "chat-links"]
    assert reaches(none, STRANGER, ROUTER, TARGET)
