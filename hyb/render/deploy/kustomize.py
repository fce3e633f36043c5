"""The whole folder: which file says what.

    base/                what every way in shares
    overlays/NAME/       one way in: its documents, its NetworkPolicy, and patches of the base
    components/monitoring/, monitoring/    where it is wanted: what Prometheus and Grafana need
    host/                NGINX and the chat's settings for a host without a cluster (where no proxy signs people in)
    APPLY.md             what to run

An overlay is a whole: `kubectl apply -k deploy/overlays/openshift`. A component (monitoring) is joined by its folder.
Source: https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyb import digest as dg
from hyb.render.deploy import base, door, gateway, guide, ingress, loadbalancer, monitoring, nginx, policies, route
from hyb.render.deploy.facts import OPENSHIFT_PODS, DeployFacts
from hyb.render.dump import Document, dump_all

Patches = dict[str, tuple[dict[str, str], Any]]
"""File name → (what it patches, a part of that document or a list of operations)."""
KUSTOMIZE = "kustomize.config.k8s.io/v1beta1"
WAYS: dict[str, Callable[[DeployFacts], dict[str, Document]]] = {
    "openshift": route.documents,
    "nginx": ingress.documents,
    "gateway": gateway.documents,
    "loadbalancer": loadbalancer.documents,
}


def folder(facts: DeployFacts) -> dict[str, str]:
    """Path → text of every file, sorted by path."""
    documents = {**base.documents(facts), **policies.documents(facts)}
    files: dict[str, str] = _kustomization("base", documents, {})
    for overlay in facts.overlays:
        files |= _overlay(facts, overlay)
    if not facts.has_proxy:
        files |= {"host/nginx.conf": nginx.site(facts), "host/chat.env": nginx.environment(facts)}
    if facts.monitoring:
        files |= monitoring.files(facts)
    files["APPLY.md"] = guide.guide(facts)
    return dict(sorted(files.items()))


def components(facts: DeployFacts) -> list[str]:
    """Components of every overlay, by their paths from there."""
    return ["../../components/monitoring"] if facts.monitoring else []


def _overlay(facts: DeployFacts, name: str) -> dict[str, str]:
    documents = {**WAYS[name](facts), "networkpolicy-entrance.yaml": policies.entrance(facts, name)}
    if facts.has_proxy:
        documents["networkpolicy-sign-in.yaml"] = policies.sign_in(facts)
    if facts.door(name) == "nginx":
        documents["configmap-nginx.yaml"] = _nginx_map(facts, name)
    more: dict[str, Any] = {"components": found} if (found := components(facts)) else {}
    return _kustomization(f"overlays/{name}", documents, _patches(facts, name), resources=["../../base"], **more)


def _kustomization(
    path: str, documents: dict[str, Document], patches: Patches, resources: list[str] | None = None, **more: Any
) -> dict[str, str]:
    """The files of a folder: documents, patches, and the list of both."""
    listed: dict[str, Any] = {"apiVersion": KUSTOMIZE, "kind": "Kustomization"}
    listed["resources"] = [*(resources or []), *documents]
    listed |= more
    if patches:
        listed["patches"] = [{"path": name, "target": target} for name, (target, _) in patches.items()]
    written: dict[str, Any] = {**documents, "kustomization.yaml": listed}
    written |= {name: patch for name, (_, patch) in patches.items()}
    return {f"{path}/{name}": dump_all([document]) for name, document in written.items()}


def trusted(facts: DeployFacts, overlay: str) -> tuple[str, ...]:
    """Networks that the chat believes when they say who asks: the door in its pod, or the cluster's pods."""
    if facts.door(overlay):
        return (base.LOOPBACK,)
    return facts.pod_network or (OPENSHIFT_PODS if overlay == "openshift" else ())


def _patches(facts: DeployFacts, overlay: str) -> Patches:
    target = {"kind": "Deployment", "name": facts.name}
    patches: Patches = {"patch-deployment.yaml": (target, _deployment(facts, overlay))}
    if facts.door(overlay):
        patches["patch-service.yaml"] = ({"kind": "Service", "name": facts.name}, _service(facts, overlay))
    if facts.door(overlay) == "oauth-proxy":
        metadata = {"name": facts.name, "namespace": facts.namespace, "annotations": door.account_annotations(facts)}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
        patches["patch-serviceaccount.yaml"] = ({"kind": "ServiceAccount", "name": facts.name}, account)
    return patches


def _deployment(facts: DeployFacts, overlay: str) -> Document:
    proxies = {"name": "HYB_CHAT_TRUSTED_PROXIES", "value": ",".join(trusted(facts, overlay))}
    spec: dict[str, Any] = {"containers": [{"name": "chat", "env": [proxies]}]}
    template: dict[str, Any] = {"spec": spec}
    if facts.door(overlay):
        spec["containers"].append(door.container(facts, overlay))
        spec["volumes"] = door.volumes(facts, overlay)
    if facts.door(overlay) == "nginx":
        template["metadata"] = {"annotations": {"io.hyb.nginx": dg.of_json(_nginx_map(facts, overlay)["data"])}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": facts.name, "namespace": facts.namespace},
        "spec": {"template": template},
    }


def _service(facts: DeployFacts, overlay: str) -> list[dict[str, Any]]:
    """The Service leads to the door; where OpenShift's service CA makes its certificate, it is asked for it."""
    number = 443 if facts.ends_tls(overlay) else 80
    port = {"name": "web", "protocol": "TCP", "port": number, "targetPort": "door"}
    patch: list[dict[str, Any]] = [{"op": "replace", "path": "/spec/ports/0", "value": port}]
    if overlay == "openshift" and facts.ends_tls(overlay):
        wanted = {"service.beta.openshift.io/serving-cert-secret-name": facts.serving_secret}
        patch.append({"op": "add", "path": "/metadata/annotations", "value": wanted})
    return patch


def _nginx_map(facts: DeployFacts, overlay: str) -> Document:
    behind = (facts.pod_network or OPENSHIFT_PODS) if overlay == "openshift" else ()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": base.meta(facts, f"{facts.name}-nginx"),
        "data": {door.CONFIG.rpartition("/")[2]: nginx.whole(facts, behind=behind)},
    }
