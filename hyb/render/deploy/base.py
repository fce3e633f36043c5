"""The base: what every way in shares. A cluster with the restricted Pod Security Standard takes it, and OpenShift's
restricted-v2: no user id (OpenShift gives one), no capability, nothing to write to.

A Deployment says no number of replicas: the HorizontalPodAutoscaler does, and what applies these files again and again
(Argo CD) would fight with it. Sources: https://kubernetes.io/docs/reference/kubernetes-api/, docs/chat.md (settings).
"""

from __future__ import annotations

from typing import Any

from hyb import digest as dg
from hyb.render.deploy.facts import BODY_BYTES, CLUSTER_PORT, PEOPLE_PORT, DeployFacts
from hyb.render.dump import Document
from hyb.render.kubernetes import CLIENT, LOCKED

DRAIN, GRACE = 10, 25
"""Seconds after SIGTERM: the proxies learn that the pod ends; answers under way may end."""
TERMINATION = DRAIN + GRACE + 15
SECRETS = "/run/secrets/hyb"
LOOPBACK = "127.0.0.1/32"
CONFIG = "io.hyb.config"
"""Annotation of the pods: the settings' digest, so that new settings are new pods."""


def meta(facts: DeployFacts, name: str = "", **more: Any) -> dict[str, Any]:
    """Metadata of an object; `name` is the chat's own when not given."""
    return {"name": name or facts.name, "namespace": facts.namespace, "labels": facts.labels, **more}


def documents(facts: DeployFacts) -> dict[str, Document]:
    """File name → document, in the order in which they are applied."""
    return {
        "serviceaccount.yaml": service_account(facts),
        "configmap.yaml": config_map(facts),
        "service.yaml": service(facts),
        "deployment.yaml": deployment(facts),
        "horizontalpodautoscaler.yaml": autoscaler(facts),
        "poddisruptionbudget.yaml": budget(facts),
    }


def service_account(facts: DeployFacts) -> Document:
    """One of its own, without a right and without a token in the pod."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta(facts),
        "automountServiceAccountToken": False,
    }


def settings(facts: DeployFacts) -> dict[str, str]:
    """The chat's environment, what differs from its defaults. Secrets are files, which it names."""
    given = {
        "HYB_CHAT_MODEL_URL": f"http://{facts.model_host}:{facts.model_port}/v1",
        "HYB_CHAT_MODEL": facts.model,
        "HYB_CHAT_KEY_FILE": f"{SECRETS}/model/api-key",
        "HYB_CHAT_HOST": "0.0.0.0",
        "HYB_CHAT_PORT": str(PEOPLE_PORT),
        "HYB_CHAT_METRICS_PORT": str(CLUSTER_PORT),
        "HYB_CHAT_HOSTS": facts.host,
        "HYB_CHAT_TITLE": facts.title,
        "HYB_CHAT_NOTE": facts.note,
        "HYB_CHAT_OPENAI": "on" if facts.openai else "",
        "HYB_CHAT_SIGN_IN": "proxy" if facts.has_proxy else facts.sign_in,
        "HYB_CHAT_ACCESS_CODE_FILE": f"{SECRETS}/access/access-code" if facts.sign_in == "code" else "",
        "HYB_CHAT_TRUSTED_PROXIES": LOOPBACK if facts.has_proxy else "",  # else each overlay says its own
        "HYB_CHAT_PARALLEL": str(facts.parallel),
        "HYB_CHAT_BODY_BYTES": str(BODY_BYTES),
        "HYB_CHAT_DRAIN_SECONDS": str(DRAIN),
        "HYB_CHAT_GRACE_SECONDS": str(GRACE),
    }
    return {name: value for name, value in given.items() if value}


def config_map(facts: DeployFacts) -> Document:
    """The settings."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(facts), "data": settings(facts)}


def service(facts: DeployFacts) -> Document:
    """`web` is for the way in, `metrics` for the cluster's monitoring."""
    ports = [
        {"name": "web", "protocol": "TCP", "port": 80, "targetPort": "web"},
        {"name": "metrics", "protocol": "TCP", "port": CLUSTER_PORT, "targetPort": "metrics"},
    ]
    spec = {"type": "ClusterIP", "selector": facts.select, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta(facts), "spec": spec}


def deployment(facts: DeployFacts) -> Document:
    """A new pod first, then the old one goes: no moment without the page."""
    labels = {**facts.labels, **({CLIENT: facts.model_host} if facts.model_in_cluster else {})}
    annotations = {"kubectl.kubernetes.io/default-container": "chat", CONFIG: dg.of_json(settings(facts))}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta(facts),
        "spec": {
            "revisionHistoryLimit": 5,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": facts.select},
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": _pod(facts)},
        },
    }


def _pod(facts: DeployFacts) -> dict[str, Any]:
    return {
        "serviceAccountName": facts.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "topologySpreadConstraints": [
            _spread(facts, key) for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
        "containers": [_chat(facts)],
        "volumes": [
            {"name": name, "secret": {"secretName": secret, "items": [{"key": key, "path": key}]}}
            for name, secret, key in _secrets(facts)
        ],
    }


def _spread(facts: DeployFacts, key: str) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": facts.select},
    }


def _secrets(facts: DeployFacts) -> list[tuple[str, str, str]]:
    """(volume, secret, its entry)."""
    more = [("access", facts.code_secret, "access-code")] if facts.sign_in == "code" else []
    return [("model", facts.key_secret, "api-key"), *more]


def _chat(facts: DeployFacts) -> dict[str, Any]:
    return {
        "name": "chat",
        "image": facts.image,
        "imagePullPolicy": "IfNotPresent",
        "ports": [
            {"name": "web", "containerPort": PEOPLE_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": CLUSTER_PORT, "protocol": "TCP"},
        ],
        "envFrom": [{"configMapRef": {"name": facts.name}}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": dict(LOCKED),
        "startupProbe": probe("/health", "metrics", 2, 30),
        "readinessProbe": probe("/health" if facts.page_only else "/ready", "metrics", 5, 2),
        "livenessProbe": probe("/health", "metrics", 20, 3),
        "volumeMounts": [
            {"name": name, "mountPath": f"{SECRETS}/{name}", "readOnly": True} for name, _, _ in _secrets(facts)
        ],
    }


def probe(path: str, port: str, period: int, failures: int, scheme: str = "HTTP") -> dict[str, Any]:
    """`/health`: the process lives. `/ready`: the model answers, too, and the pod is not about to end."""
    get = {"path": path, "port": port, "scheme": scheme}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures}


def autoscaler(facts: DeployFacts) -> Document:
    """More pods for more open streams (they cost CPU here); fewer only after ten calm minutes, one at a time."""
    target = {"type": "Utilization", "averageUtilization": 70}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": meta(facts),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": facts.name},
            "minReplicas": facts.replicas,
            "maxReplicas": facts.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            "behavior": {
                "scaleDown": {
                    "stabilizationWindowSeconds": 600,
                    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
                }
            },
        },
    }


def budget(facts: DeployFacts) -> Document:
    """A drained node takes one pod at a time. Pods that are not ready (the model is away) never block it."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta(facts),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": facts.select},
        },
    }
