"""Monitoring: a kustomize component for the cluster, files for the private host's Prometheus, Skupper's observer.

    components/monitoring/     ServiceMonitor (the page), PodMonitor (Skupper's router), PrometheusRule, NetworkPolicies
                               for their way in, ConfigMap with the Grafana dashboard
    monitoring/private-host/   prometheus.yml and rules for the service and the link's certificates
    monitoring/observer/       the network observer: a NetworkObserver for its operator, values for its Helm chart
    monitoring/dashboard.json  the same dashboard, to be imported by hand

The component needs the Prometheus operator's kinds (OpenShift has them: user workload monitoring). The observer is
apart: without its operator a cluster does not know the kind. It shows every site, so a person signs in to see it.
Sources: https://prometheus-operator.dev/docs/api-reference/api/, Skupper's chart `network-observer`,
https://prometheus.io/docs/prometheus/latest/configuration/configuration/.
"""

from __future__ import annotations

from typing import Any

from hyb.render.deploy import alerts, dashboard
from hyb.render.deploy.base import meta
from hyb.render.deploy.facts import CLUSTER_PORT, ROUTER, DeployFacts
from hyb.render.dump import Document, dump

COMPONENT = "components/monitoring"
OPERATOR = "monitoring.coreos.com/v1"
ROUTER_METRICS = 9090
"""Port of the router's pods, named `http` there."""
INTERVAL = "30s"


def files(facts: DeployFacts) -> dict[str, str]:
    """Path → text of every file."""
    found = documents(facts)
    listed = {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "resources": list(found),
    }
    written = {f"{COMPONENT}/{name}": dump(document) for name, document in found.items()}
    return {
        **written,
        f"{COMPONENT}/kustomization.yaml": dump(listed),
        "monitoring/dashboard.json": dashboard.text(facts),
        "monitoring/private-host/prometheus.yml": dump(scraping()),
        "monitoring/private-host/hyb.rules.yml": dump({"groups": alerts.private()}),
        "monitoring/observer/networkobserver.yaml": dump(observer(facts)),
        "monitoring/observer/values.yaml": dump(observer_values(facts, openshift="openshift" in facts.overlays)),
    }


def documents(facts: DeployFacts) -> dict[str, Document]:
    """File name → document of the component."""
    found: dict[str, Document] = {
        "servicemonitor.yaml": service_monitor(facts),
        "prometheusrule.yaml": rules(facts),
        "networkpolicy-metrics.yaml": _policy(facts, f"{facts.name}-metrics", facts.select, CLUSTER_PORT),
        "configmap-dashboard.yaml": dashboard_map(facts),
    }
    if not facts.model_in_cluster:
        found["podmonitor.yaml"] = pod_monitor(facts)
        found["networkpolicy-router-metrics.yaml"] = _policy(
            facts, f"{facts.name}-router-metrics", ROUTER, ROUTER_METRICS
        )
    return found


def service_monitor(facts: DeployFacts) -> Document:
    """The page's pods, by the port `metrics` of its Service; the series get the Service's name as `job`."""
    endpoint = {"port": "metrics", "path": "/metrics", "interval": INTERVAL, "scheme": "http"}
    spec = {"selector": {"matchLabels": facts.select}, "endpoints": [endpoint]}
    return {"apiVersion": OPERATOR, "kind": "ServiceMonitor", "metadata": meta(facts), "spec": spec}


def pod_monitor(facts: DeployFacts) -> Document:
    """Skupper's router in the namespace; no Service leads to its metrics."""
    endpoint = {"port": "http", "path": "/metrics", "interval": INTERVAL, "scheme": "http"}
    spec = {"selector": {"matchLabels": ROUTER}, "podMetricsEndpoints": [endpoint]}
    return {"apiVersion": OPERATOR, "kind": "PodMonitor", "metadata": meta(facts, f"{facts.name}-router"), "spec": spec}


def rules(facts: DeployFacts) -> Document:
    """The alerts."""
    return {
        "apiVersion": OPERATOR,
        "kind": "PrometheusRule",
        "metadata": meta(facts),
        "spec": {"groups": alerts.cluster(facts)},
    }


def dashboard_map(facts: DeployFacts) -> Document:
    """The dashboard where Grafana's sidecar finds it, by the label that its chart has by default."""
    metadata = meta(facts, f"{facts.name}-dashboard")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "labels": {**metadata["labels"], "grafana_dashboard": "1"}},
        "data": {f"hyb-{facts.name}.json": dashboard.text(facts)},
    }


def _policy(facts: DeployFacts, name: str, pods: dict[str, str], port: int) -> Document:
    """Prometheus reaches one port of these pods, from its own namespace and no other."""
    space = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": facts.monitoring}}}
    rule = {"from": [space], "ports": [{"protocol": "TCP", "port": port}]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta(facts, name),
        "spec": {"podSelector": {"matchLabels": pods}, "policyTypes": ["Ingress"], "ingress": [rule]},
    }


# -- the private host ----------------------------------------------------------------------------------------------


def scraping() -> Document:
    """prometheus.yml for the private host. The service's key is read from its file, which `hyb ps` names."""
    own = {
        "job_name": alerts.PRIVATE_JOB,
        "metrics_path": "/metrics",
        "authorization": {"type": "Bearer", "credentials_file": "/etc/prometheus/hyb.key"},
        "static_configs": [{"targets": ["127.0.0.1:8000"]}],
    }
    node = {"job_name": "node", "static_configs": [{"targets": ["127.0.0.1:9100"]}]}
    return {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["hyb.rules.yml"],
        "scrape_configs": [own, node],
    }


# -- Skupper's network observer ------------------------------------------------------------------------------------


def observer(facts: DeployFacts) -> Document:
    """For the network observer's operator on OpenShift: people sign in with their account there."""
    return {
        "apiVersion": "observability.skupper.io/v2alpha1",
        "kind": "NetworkObserver",
        "metadata": {"name": "skupper-network-observer", "namespace": facts.namespace},
        "spec": observer_values(facts, openshift=True),
    }


def observer_values(facts: DeployFacts, *, openshift: bool) -> dict[str, Any]:
    """Values of the Helm chart `network-observer`. Without OpenShift: a password file that is given, and no way in but
    `kubectl port-forward`."""
    if openshift:
        return {
            "auth": {"strategy": "openshift"},
            "tls": {"openshiftIssued": True, "skupperIssued": False},
            "route": {"enabled": True},
        }
    return {
        "auth": {"strategy": "basic", "basic": {"create": False, "secretName": f"{facts.name}-observer"}},
        "tls": {"openshiftIssued": False, "skupperIssued": True},
        "route": {"enabled": False},
        "ingress": {"enabled": False},
    }
