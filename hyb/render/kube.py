"""A Pod for `podman kube play`: Kubernetes' words, with what Podman makes of them from 4.3 on.

Where Podman differs, the document takes the way that every version goes:
- The model and the secrets are named volumes, made by a command each (APPLY.md). Podman knows image volumes in a Pod
  from 5.3 on only, while a named volume can be an image since 4.3. The model's volume bears the image's digest in its
  name: a new image is a new volume.
- A Secret's value would reach the container as base64 in 4.3 and as itself later, and without `optional` 4.3 crashes.
- An annotation of more than 63 letters, as a digest is, makes 4.3 refuse the Pod: digests are in the environment.
- A probe is a command: Podman turns `httpGet` into a call of curl, which the image doesn't have.
Source: podman-kube-play(1); tried with Podman 4.3.1.
"""

from __future__ import annotations

import re
from typing import Any

from hyb.render import kubernetes
from hyb.render.unit import CONTAINER_PORT, HEALTHY, HOME, MODELS, SCRATCH, Paths, ServiceUnit, environment

FOLDER = "/etc/hyb"
PATHS = Paths(
    key=f"{FOLDER}/api-key/api-key",
    keys=f"{FOLDER}/keys/keys.json",
    tls_cert=f"{FOLDER}/tls/tls.crt",
    tls_key=f"{FOLDER}/tls/tls.key",
)
PIDS = "io.podman.annotations.pids-limit"


def documents(unit: ServiceUnit) -> list[kubernetes.Document]:
    """One Pod."""
    notes = {f"{PIDS}/model": str(unit.pids)}
    named = [*([("model", model_volume(unit), MODELS)] if unit.model_image else []), *_secrets(unit)]
    claims = [{"name": n, "persistentVolumeClaim": {"claimName": c, "readOnly": True}} for n, c, _ in named]
    scratch = {"name": f"{unit.name}-tmp", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SCRATCH >> 20}Mi"}}
    mounts = [{"name": n, "mountPath": p, "readOnly": True} for n, _, p in named]
    mounts.append({"name": scratch["name"], "mountPath": "/tmp"})
    if unit.cache:
        claims.append({"name": "cache", "persistentVolumeClaim": {"claimName": unit.cache}})
        mounts.append({"name": "cache", "mountPath": HOME})
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": unit.name, "labels": kubernetes.select(unit), "annotations": notes},
            "spec": {
                "restartPolicy": "OnFailure",
                "terminationGracePeriodSeconds": 30,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "containers": [_container(unit, mounts)],
                "volumes": [*claims, scratch],
            },
        }
    ]


def model_volume(unit: ServiceUnit) -> str:
    """Name of the volume that is the model's image."""
    return f"{unit.name}-model-{re.split('sha256:|:opened-', unit.model_image)[-1][:12]}"


def _secrets(unit: ServiceUnit) -> list[tuple[str, str, str]]:
    """(name in the Pod, the volume's, folder in the container)."""
    given = [("api-key", unit.secret, f"{FOLDER}/api-key")]
    if unit.keys:
        given.append(("keys", unit.keys_secret, f"{FOLDER}/keys"))
    if unit.tls:
        given.append(("tls", unit.tls_secret, f"{FOLDER}/tls"))
    return given


def _digests(unit: ServiceUnit) -> dict[str, str]:
    """Where the model comes from."""
    given = {"HYB_DIGEST": unit.model_digest}
    return {**given, "HYB_MODEL_IMAGE": unit.model_image} if unit.model_image else given


def _container(unit: ServiceUnit, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    port = {"containerPort": CONTAINER_PORT, "hostPort": unit.port, "hostIP": unit.host, "protocol": "TCP"}
    amounts = {"memory": str(unit.memory)} | ({unit.gpu_device: "1"} if unit.gpus else {})
    probe = {"exec": {"command": list(HEALTHY)}, "initialDelaySeconds": unit.startup}
    return {
        "name": "model",
        "image": unit.runtime_image,
        "imagePullPolicy": "Never",  # nothing is fetched at a start
        "ports": [port],
        "env": [{"name": k, "value": v} for k, v in {**environment(unit, PATHS), **_digests(unit)}.items()],
        "resources": {"limits": amounts},
        "securityContext": dict(kubernetes.LOCKED),
        "livenessProbe": {**probe, "periodSeconds": 30, "timeoutSeconds": 5, "failureThreshold": 3},
        "volumeMounts": mounts,
    }
