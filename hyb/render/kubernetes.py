"""Kubernetes documents of a service: Deployment, Service, NetworkPolicy. Of the Secrets only the names.

Written for the restricted Pod Security Standard and OpenShift's restricted-v2: no user id (OpenShift gives one), no
capability, nothing writable but /tmp. The model is an image volume by digest (stable in Kubernetes 1.36, OpenShift
4.20); for older clusters an init container copies it out of its image, which then must hold `cp`.
Source: https://kubernetes.io/docs/reference/kubernetes-api/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from hyb.render.unit import CACHE, CONTAINER_PORT, GPU, HOME, MODELS, SCRATCH, Paths, ServiceUnit, environment

FOLDER = "/run/secrets/hyb"
KEY, KEYS = "api-key", "keys.json"
"""Entries of the secrets with the service's own key and with the hashed ones."""
PATHS = Paths(f"{FOLDER}/{KEY}", f"{FOLDER}-keys/{KEYS}", f"{FOLDER}-tls/tls.crt", f"{FOLDER}-tls/tls.key")
CLIENT = "io.hyb.client"
"""Label of the pods that may call the service; its value is the service's name."""
PROBE = 5  # seconds between two looks at a server that loads
COPIED = "/volume"
"""Where the init container sees the volume that it copies to."""
STEP = 256 << 20  # sizes of volumes are whole multiples of this
LOCKED: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""A container's securityContext."""

Document = Mapping[str, Any]


def documents(unit: ServiceUnit) -> list[Document]:
    """Deployment, Service and NetworkPolicy, in the order in which they are applied."""
    return [policy(unit, select(unit)), _service(unit), _deployment(unit)]


def dump(documents: list[Document]) -> str:
    """The documents as one YAML stream."""
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, explicit_start=True)


class _Plain(yaml.SafeDumper):
    """Writes a value that occurs twice twice: people read an anchor with effort, and some tools not at all."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def metadata(unit: ServiceUnit) -> dict[str, Any]:
    """Name, labels, and the model's digest, which is too long for a label."""
    return {"name": unit.name, "labels": select(unit), "annotations": {"io.hyb.model": unit.model_digest}}


def select(unit: ServiceUnit) -> dict[str, str]:
    """Labels of the service's pods."""
    return {"app.kubernetes.io/name": unit.name, "app.kubernetes.io/managed-by": "hyb"}


def policy(unit: ServiceUnit, pods: Mapping[str, str]) -> Document:
    """In: pods that bear the client's label. Out: nothing; a model has nobody to call."""
    caller = {"podSelector": {"matchLabels": {CLIENT: unit.name}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(unit),
        "spec": {
            "podSelector": {"matchLabels": pods},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [caller], "ports": [{"protocol": "TCP", "port": CONTAINER_PORT}]}],
            "egress": [],
        },
    }


def _service(unit: ServiceUnit) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(unit),
        "spec": {
            "type": "ClusterIP",
            "selector": select(unit),
            "ports": [{"name": "http", "protocol": "TCP", "port": unit.port, "targetPort": "http"}],
        },
    }


def _deployment(unit: ServiceUnit) -> Document:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(unit),
        "spec": {
            "replicas": unit.replicas,
            "strategy": {"type": "Recreate"},  # two models at once would need twice the memory
            "selector": {"matchLabels": select(unit)},
            "template": {
                "metadata": {"labels": select(unit), "annotations": {"io.hyb.model": unit.model_digest}},
                "spec": _pod(unit),
            },
        },
    }


def _pod(unit: ServiceUnit) -> dict[str, Any]:
    copies = unit.copy and unit.model_image
    return {
        **({"runtimeClassName": unit.runtime_class} if unit.runtime_class else {}),
        **({"hostUsers": False} if unit.userns else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        **({"initContainers": [_copier(unit)]} if copies else {}),
        "containers": [container(unit, "model", PATHS, models(unit))],
        "volumes": [*([_volume(unit)] if unit.model_image else []), *volumes(unit)],
    }


def models(unit: ServiceUnit) -> list[dict[str, Any]]:
    """The mount of the model's volume; none when the runtime's image holds the model."""
    return [{"name": "model", "mountPath": MODELS, "readOnly": True}] if unit.model_image else []


def _volume(unit: ServiceUnit) -> dict[str, Any]:
    if unit.copy:
        room = (unit.model_size // STEP + 2) * STEP  # the files' folders take some, too
        return {"name": "model", "emptyDir": {"sizeLimit": str(room)}}
    return {"name": "model", "image": {"reference": unit.model_image, "pullPolicy": "IfNotPresent"}}


def _copier(unit: ServiceUnit) -> dict[str, Any]:
    """Lays the image's folders into the volume as an image volume would show them."""
    folders = ["/models", *(["/adapters"] if unit.adapters else [])]
    return {
        "name": "copy",
        "image": unit.model_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["cp", "-R", *folders, f"{COPIED}/"],
        "resources": {"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": dict(LOCKED),
        "volumeMounts": [{"name": "model", "mountPath": COPIED}],
    }


def volumes(unit: ServiceUnit) -> list[dict[str, Any]]:
    """Secrets by name, and the one place that may be written to."""
    given = [(KEY, unit.secret, KEY)]
    if unit.keys:
        given.append(("keys", unit.keys_secret, KEYS))
    items = [{"name": n, "secret": {"secretName": s, "items": [{"key": k, "path": k}]}} for n, s, k in given]
    if unit.tls:
        items.append({"name": "tls", "secret": {"secretName": unit.tls_secret}})
    if unit.gpus:
        items.append({"name": "cache", "emptyDir": {"sizeLimit": f"{CACHE >> 30}Gi"}})
    return [*items, {"name": "tmp", "emptyDir": {"sizeLimit": f"{SCRATCH >> 20}Mi"}}]


def container(unit: ServiceUnit, name: str, paths: Paths, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    """The server's container; `mounts` beside those of `volumes`."""
    amounts = {"memory": str(unit.memory)} | ({GPU: str(unit.gpus)} if unit.gpus else {})
    return {
        "name": name,
        "image": unit.runtime_image,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": CONTAINER_PORT, "protocol": "TCP"}],
        "env": [{"name": k, "value": v} for k, v in environment(unit, paths).items()],
        "resources": {"requests": {"cpu": "1", **amounts}, "limits": amounts},
        "securityContext": dict(LOCKED),
        "startupProbe": probe(unit, "/ready", PROBE, -(-unit.startup // PROBE)),
        "readinessProbe": probe(unit, "/ready", 10, 3),
        "livenessProbe": probe(unit, "/health", 30, 3),
        "volumeMounts": [
            *mounts,
            {"name": KEY, "mountPath": FOLDER, "readOnly": True},
            *([{"name": "keys", "mountPath": f"{FOLDER}-keys", "readOnly": True}] if unit.keys else []),
            *([{"name": "tls", "mountPath": f"{FOLDER}-tls", "readOnly": True}] if unit.tls else []),
            *([{"name": "cache", "mountPath": HOME}] if unit.gpus else []),
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def probe(unit: ServiceUnit, path: str, period: int, failures: int) -> dict[str, Any]:
    """`/health`: the server lives. `/ready`: the model answers; 503 while it loads or drains. Neither needs a key."""
    get = {"path": path, "port": "http", **({"scheme": "HTTPS"} if unit.tls else {})}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}
