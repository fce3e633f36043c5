"""A service as plain data, from which the documents of every platform are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

LABEL_MAX = 63
CONTAINER_PORT = 8000
"""Where the server listens inside its container."""
MODELS = "/models"
"""Where the model is mounted; the server looks for a GGUF anywhere below it."""
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_REFERENCE = re.compile(
    r"[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?", re.ASCII
)


@dataclass(frozen=True)
class ServiceUnit:
    """One model behind one port. Image references are whole: registry (or `localhost`), path, tag or digest."""

    name: str
    """An RFC 1123 label; also the model's id in the API."""
    runtime_image: str
    """The image whose entry point is `python -m hyb.serving`; with `model_image` empty it holds the model, too."""
    model_image: str
    """The image (or OCI artifact) with the model, by digest; "" when the runtime image holds it."""
    model_digest: str
    """Of the model's artifact in the store: the label that ties a container to its provenance."""
    host: str = "127.0.0.1"
    """Address of the host that the port is published on."""
    port: int = 8000
    context: int = 4096
    """Tokens a request."""
    parallel: int = 4
    memory: int = 1 << 30
    """Bytes that the container may use."""
    pids: int = 256
    startup: int = 120
    """Seconds that loading may take."""
    artifact: bool = False
    """`model_image` is an OCI artifact, not an image."""
    replicas: int = 1
    runtime_class: str = ""
    """Kubernetes' RuntimeClass, e.g. one of Kata's; "" for the cluster's default."""

    @property
    def secret(self) -> str:
        """Name of the secret with the API key; its value is in no document."""
        return f"{self.name}-api-key"

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of everything that belongs to the service."""
        return {"io.hyb.service": self.name, "io.hyb.model": self.model_digest}


def environment(unit: ServiceUnit, key_file: str) -> dict[str, str]:
    """What the container's entry point is told."""
    return {
        "HOME": "/tmp",  # the root file system is read-only
        "HYB_MODELS": MODELS,
        "HYB_NAME": unit.name,
        "HYB_HOST": "0.0.0.0",  # of the container; what the host publishes is the unit's matter
        "HYB_PORT": str(CONTAINER_PORT),
        "HYB_KEY_FILE": key_file,
        "HYB_CONTEXT": str(unit.context),
        "HYB_PARALLEL": str(unit.parallel),
    }


def label_mistake(name: str) -> str:
    """What is wrong with a name that must be a DNS label (RFC 1123); empty when nothing is."""
    if len(name) > LABEL_MAX:
        return f"`{name}` has {len(name)} letters; at most {LABEL_MAX} make a DNS label (RFC 1123)"
    if not _LABEL.fullmatch(name):
        return f"`{name}` is no DNS label (RFC 1123): lower-case letters, digits and `-`, not `-` at either end"
    return ""


def reference_mistake(text: str) -> str:
    """What is wrong with a whole image reference; empty when nothing is. Short names depend on a host's settings."""
    if not _REFERENCE.fullmatch(text):
        return f"`{text}` is no whole image reference, like `localhost/bot:latest` or `registry.example.com/lab/bot`"
    return ""


def pinned(reference: str, digest: str) -> str:
    """The reference by digest; one that has a digest stays as it is, a tag gives way."""
    if "@" in reference:
        return reference
    head, _, tail = reference.rpartition("/")
    return f"{head}/{tail.partition(':')[0]}@{digest}"
