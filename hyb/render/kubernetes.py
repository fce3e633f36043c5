"""Kubernetes documents of a service: Deployment, Service, NetworkPolicy. Of the Secret only the name.

Written for the restricted Pod Security Standard and OpenShift's restricted-v2: no user id (OpenShift gives one), no
capability, nothing writable but /tmp. The model is an image volume by digest (beta since Kubernetes 1.33).
Source: https://kubernetes.io/docs/reference/kubernetes-api/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from hyb.render.unit import CONTAINER_PORT, MODELS, ServiceUnit, environment

KEY_FOLDER, KEY = "/run/secrets/hyb", "api-key"
CLIENT = "io.hyb.client"
"""Label of the pods that may call the service; its value is the service's name."""
PROBE = 5  # seconds between two looks at a server that loads
SCRATCH = "64Mi"

Document = Mapping[str, Any]


def documents(unit: ServiceUnit) -> list[Document]:
    """Deployment, Service and NetworkPolicy, in the order in which they are applied."""
    return [_policy(unit), _service(unit), _deployment(unit)]


def dump(unit: ServiceUnit) -> str:
    """The documents as one YAML stream."""
    return yaml.safe_dump_all(documents(unit), sort_keys=False, explicit_start=True)


def _meta(unit: ServiceUnit) -> dict[str, Any]:
    notes = {"io.hyb.model": unit.model_digest}  # a digest is too long for a label
    return {"name": unit.name, "labels": _select(unit), "annotations": notes}


def _select(unit: ServiceUnit) -> dict[str, str]:
    return {"app.kubernetes.io/name": unit.name, "app.kubernetes.io/managed-by": "hyb"}


def _policy(unit: ServiceUnit) -> Document:
    """In: pods that bear the client's label. Out: nothing; a model has nobody to call."""
    caller = {"podSelector": {"matchLabels": {CLIENT: unit.name}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(unit),
        "spec": {
            "podSelector": {"matchLabels": _select(unit)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [caller], "ports": [{"protocol": "TCP", "port": CONTAINER_PORT}]}],
            "egress": [],
        },
    }


def _service(unit: ServiceUnit) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(unit),
        "spec": {
            "type": "ClusterIP",
            "selector": _select(unit),
            "ports": [{"name": "http", "protocol": "TCP", "port": unit.port, "targetPort": "http"}],
        },
    }


def _deployment(unit: ServiceUnit) -> Document:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(unit),
        "spec": {
            "replicas": unit.replicas,
            "strategy": {"type": "Recreate"},  # two models at once would need twice the memory
            "selector": {"matchLabels": _select(unit)},
            "template": {
                "metadata": {"labels": _select(unit), "annotations": {"io.hyb.model": unit.model_digest}},
                "spec": _pod(unit),
            },
        },
    }


def _pod(unit: ServiceUnit) -> dict[str, Any]:
    return {
        **({"runtimeClassName": unit.runtime_class} if unit.runtime_class else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(unit)],
        "volumes": [
            *([{"name": "model", "image": _image(unit)}] if unit.model_image else []),
            {"name": "api-key", "secret": {"secretName": unit.secret, "items": [{"key": KEY, "path": KEY}]}},
            {"name": "tmp", "emptyDir": {"sizeLimit": SCRATCH}},
        ],
    }


def _image(unit: ServiceUnit) -> dict[str, str]:
    return {"reference": unit.model_image, "pullPolicy": "IfNotPresent"}


def _container(unit: ServiceUnit) -> dict[str, Any]:
    memory = {"memory": str(unit.memory)}
    mounts = [
        *([{"name": "model", "mountPath": MODELS, "readOnly": True}] if unit.model_image else []),
        {"name": "api-key", "mountPath": KEY_FOLDER, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    return {
        "name": "model",
        "image": unit.runtime_image,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": CONTAINER_PORT, "protocol": "TCP"}],
        "env": [{"name": k, "value": v} for k, v in environment(unit, f"{KEY_FOLDER}/{KEY}").items()],
        "resources": {"requests": {"cpu": "1", **memory}, "limits": memory},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe(PROBE, -(-unit.startup // PROBE)),
        "readinessProbe": _probe(10, 3),
        "livenessProbe": _probe(30, 3),
        "volumeMounts": mounts,
    }


def _probe(period: int, failures: int) -> dict[str, Any]:
    """`/health` needs no key, and says 503 until the model is loaded."""
    get = {"path": "/health", "port": "http"}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}
