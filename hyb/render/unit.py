"""A service as plain data, from which the documents of every platform are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

CONTAINER_PORT = 8000
"""Where the server listens inside its container."""
MODELS = "/models"
"""Where the model is mounted; the server looks for a GGUF anywhere below it."""
GPU = "nvidia.com/gpu"
"""The resource that Kubernetes counts, and the kind of the CDI devices, of NVIDIA's GPUs."""
HOME = "/home/hyb"
"""Home of the server's image, where a GPU's kernels are compiled to: a volume that outlives the container."""
CACHE = 8 << 30
"""Bytes that those may take."""
SCRATCH = 64 << 20
"""Bytes that `/tmp` may hold, the one place that a server may write to."""
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
    runtime: str = ""
    """Podman's OCI runtime, a name or a path; "" for its default."""
    adapters: tuple[str, ...] = ()
    """Adapters that lie in the model's image under `/adapters`: ids in the API beside `name`."""
    canary: Mapping[str, int] = field(default_factory=dict)
    """Adapter → percent of the requests for `name` that it answers."""
    keys: bool = False
    """A second secret has a file of hashed keys with limits (`hyb key`)."""
    tls: bool = False
    """The port speaks TLS, with certificate and key from a secret."""
    gpus: int = 0
    """GPUs: CDI devices for Podman (any number means `gpu_device`), a counted resource on Kubernetes."""
    gpu_device: str = f"{GPU}=all"
    """CDI name of the device that Podman gives to the container."""
    userns: str = ""
    """`auto`: a user namespace of the container's own; "": Podman's default."""
    unix_socket: bool = False
    """No port and no network at all: the server listens on a socket in a folder of the host."""
    copy: bool = False
    """The model is copied out of its image by an init container: for clusters without image volumes."""
    model_size: int = 0
    """Bytes of the model's image, for the room that a copy needs."""
    sealed_to: tuple[str, ...] = ()
    """Key ids of those who can open the image with the model; () for one that everybody can."""

    @property
    def secret(self) -> str:
        """Name of the secret with the API key; its value is in no document."""
        return f"{self.name}-api-key"

    @property
    def cache(self) -> str:
        """Name of the volume with what a GPU's server compiles; "" when it compiles nothing."""
        return f"{self.name}-cache" if self.gpus else ""

    @property
    def keys_secret(self) -> str:
        """Name of the secret with the hashed keys."""
        return f"{self.name}-keys"

    @property
    def tls_secret(self) -> str:
        """Name of the secret with certificate and key."""
        return f"{self.name}-tls"

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of everything that belongs to the service."""
        return {"io.hyb.service": self.name, "io.hyb.model": self.model_digest}


@dataclass(frozen=True)
class Paths:
    """Where a container finds what is mounted into it. Which of them are told depends on the unit."""

    key: str
    keys: str
    tls_cert: str
    tls_key: str
    models: str = MODELS
    socket: str = ""


def environment(unit: ServiceUnit, paths: Paths) -> dict[str, str]:
    """What the container's entry point is told."""
    given = {
        "HOME": HOME if unit.gpus else "/tmp",  # the root file system is read-only
        "HYB_MODELS": f"{paths.models}/models" if unit.adapters and unit.model_image else paths.models,
        "HYB_NAME": unit.name,
        "HYB_HOST": "0.0.0.0",  # of the container; what the host publishes is the unit's matter
        "HYB_PORT": str(CONTAINER_PORT),
        "HYB_KEY_FILE": paths.key,
        "HYB_CONTEXT": str(unit.context),
        "HYB_PARALLEL": str(unit.parallel),
    }
    if unit.adapters:  # a mounted image has both folders below the mount, a whole one at its root
        given["HYB_ADAPTERS"] = f"{paths.models}/adapters" if unit.model_image else "/adapters"
    if unit.canary:
        given["HYB_CANARY"] = ",".join(f"{name}={percent}" for name, percent in sorted(unit.canary.items()))
    if unit.keys:
        given["HYB_KEYS_FILE"] = paths.keys
    if unit.tls:
        given |= {"HYB_TLS_CERT": paths.tls_cert, "HYB_TLS_KEY": paths.tls_key}
    if unit.unix_socket:
        given["HYB_UNIX_SOCKET"] = paths.socket
    return given


HEALTHY = ("python3", "-P", "-m", "hyb.serving", "--healthy")
"""Asks the server that runs in the same container; it takes place, port and TLS from the environment."""


def reference_mistake(text: str) -> str:
    """What is wrong with a whole image reference; empty when nothing is. Short names depend on a host's settings."""
    if not _REFERENCE.fullmatch(text):
        return f"`{text}` is no whole image reference, like `localhost/bot:latest` or `registry.example.com/lab/bot`"
    return ""


def for_podman(unit: ServiceUnit) -> ServiceUnit:
    """The unit as Podman's documents have it: a sealed image lies opened in Podman's storage, where nothing has the
    digest that it has sealed. So its tag there says from which sealed image it came."""
    if not unit.sealed_to:
        return unit
    name, _, digest = (unit.model_image or unit.runtime_image).partition("@sha256:")
    opened = f"{name}:opened-{digest[:12]}"
    return replace(unit, model_image=opened) if unit.model_image else replace(unit, runtime_image=opened)


def pinned(reference: str, digest: str) -> str:
    """The reference by digest; one that has a digest stays as it is, a tag gives way."""
    if "@" in reference:
        return reference
    head, _, tail = reference.rpartition("/")
    return f"{head}/{tail.partition(':')[0]}@{digest}"
