"""A Compose file, for `podman-compose` and for Docker's `compose`.

The model is a volume of type `image`: podman-compose knows it from 1.3 on, Docker's engine from 28 on. Secrets are
files beside the document. They are mounted with their own mode and owner, so the folder is private and they are not.
Source: https://github.com/compose-spec/compose-spec
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hyb.render import kubernetes
from hyb.render.quadlet import PATHS, SOCKETS, published, secrets
from hyb.render.unit import HEALTHY, HOME, MODELS, SCRATCH, ServiceUnit, environment

SECRETS = "secrets"
"""The folder beside the document with one file a secret."""


def document(unit: ServiceUnit) -> dict[str, Any]:
    """The whole file."""
    files = {name: {"file": f"./{SECRETS}/{name}"} for name, _ in secrets(unit)}
    volumes = {"volumes": {"cache": {"name": unit.cache}}} if unit.cache else {}
    return {"name": unit.name, "services": {unit.name: dict(_service(unit))}, **volumes, "secrets": files}


def dump(unit: ServiceUnit) -> str:
    """The file's text."""
    return kubernetes.dump([document(unit)])


def _service(unit: ServiceUnit) -> Iterator[tuple[str, Any]]:
    yield "container_name", unit.name
    yield "image", unit.runtime_image
    yield "pull_policy", "never"  # nothing is fetched at a start: what runs is what was loaded
    if unit.runtime:
        yield "runtime", unit.runtime
    if unit.unix_socket:
        yield "network_mode", "none"
    else:
        yield "ports", [published(unit)]
    yield "environment", environment(unit, PATHS)
    yield "read_only", True
    yield "tmpfs", [f"/tmp:size={SCRATCH},mode=1777"]
    yield "cap_drop", ["ALL"]
    yield "security_opt", ["no-new-privileges"]
    if unit.userns:
        yield "userns_mode", unit.userns
    yield "mem_limit", unit.memory
    yield "memswap_limit", unit.memory  # what a model was told stays off the disk
    yield "pids_limit", unit.pids
    if unit.gpus:
        yield "devices", [unit.gpu_device]
    yield "labels", dict(unit.labels)
    yield "volumes", list(_volumes(unit))
    yield "secrets", [{"source": name, "target": path} for name, path in secrets(unit)]
    yield (
        "healthcheck",
        {
            "test": ["CMD", *HEALTHY],
            "interval": "30s",
            "timeout": "5s",
            "retries": 3,
            "start_period": f"{unit.startup}s",
        },
    )
    yield "restart", "on-failure"
    yield "stop_grace_period", "30s"


def _volumes(unit: ServiceUnit) -> Iterator[dict[str, Any]]:
    if unit.model_image:
        # Read-only as it is; said aloud it becomes an option that Podman 4.3 refuses for an image.
        yield {"type": "image", "source": unit.model_image, "target": MODELS}
    if unit.cache:
        yield {"type": "volume", "source": "cache", "target": HOME}
    if unit.unix_socket:
        yield {"type": "bind", "source": "./sockets", "target": SOCKETS}
