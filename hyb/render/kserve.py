"""KServe's documents of a service, for clusters where KServe 0.20 or newer looks after models.

InferenceService (v1beta1) with a ServingRuntime of its own: one Deployment, any number of replicas.
LLMInferenceService (v1alpha2): the same pods behind KServe's router for language models.
Both name the model as `oci+native://IMAGE@sha256:…`: KServe makes an image volume of it at `/mnt/models`, nothing is
downloaded. It mounts the image's folder `models` alone, so adapters beside it are out of reach.
Source: KServe's API reference, and its Go types at 0.20.
"""

from __future__ import annotations

from typing import Any

from hyb.render import kubernetes
from hyb.render.kubernetes import PATHS, Document
from hyb.render.unit import CONTAINER_PORT, Paths, ServiceUnit

MOUNT = "/mnt/models"
"""Where KServe mounts the model's image."""
COMMAND = ("python3", "-P", "-m", "hyb.serving")
AT_MOUNT = Paths(PATHS.key, PATHS.keys, PATHS.tls_cert, PATHS.tls_key, models=MOUNT)


def uri(unit: ServiceUnit) -> str:
    """The model for KServe."""
    return f"oci+native://{unit.model_image}"


def inference_service(unit: ServiceUnit) -> list[Document]:
    """NetworkPolicy, ServingRuntime and InferenceService."""
    pods = {"serving.kserve.io/inferenceservice": unit.name}
    return [kubernetes.policy(unit, pods), _runtime(unit), _inference_service(unit)]


def llm_inference_service(unit: ServiceUnit) -> list[Document]:
    """One LLMInferenceService. No NetworkPolicy: KServe's gateway must reach the pods; the site knows where that is."""
    return [
        {
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": kubernetes.metadata(unit),
            "spec": {
                "model": {"uri": uri(unit), "name": unit.name},
                "replicas": unit.replicas,
                "router": {"route": {}, "gateway": {}},
                "template": {**_pod(unit), "containers": [_container(unit, "main")]},
            },
        }
    ]


def _runtime(unit: ServiceUnit) -> Document:
    form = {"name": "gguf", "version": "1", "autoSelect": False}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": kubernetes.metadata(unit),
        "spec": {
            "supportedModelFormats": [form],
            "containers": [_container(unit, "kserve-container")],
            "volumes": kubernetes.volumes(unit),
        },
    }


def _inference_service(unit: ServiceUnit) -> Document:
    given = kubernetes.metadata(unit)
    given["annotations"]["serving.kserve.io/deploymentMode"] = "Standard"  # a Deployment, no Knative
    model = {"modelFormat": {"name": "gguf"}, "runtime": unit.name, "storageUri": uri(unit)}
    pod = {k: v for k, v in _pod(unit).items() if k != "volumes"}  # those of the runtime
    replicas = {"minReplicas": unit.replicas, "maxReplicas": max(1, unit.replicas)}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": given,
        "spec": {"predictor": {**replicas, **pod, "model": model}},
    }


def _pod(unit: ServiceUnit) -> dict[str, Any]:
    return {
        **({"runtimeClassName": unit.runtime_class} if unit.runtime_class else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": kubernetes.volumes(unit),
    }


def _container(unit: ServiceUnit, name: str) -> dict[str, Any]:
    """KServe mounts the model. Command and port are said aloud: its presets for vLLM would fill them in otherwise."""
    made = kubernetes.container(unit, name, AT_MOUNT, [])
    made["command"] = list(COMMAND)
    made["args"] = ["--port", str(CONTAINER_PORT)]
    return made
