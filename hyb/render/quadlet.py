"""A Quadlet unit: a `.container` file from which Podman's generator makes a systemd service.

An unknown key makes Quadlet's generator drop the whole unit, so only keys that the oldest Podman meant knows are used.
Podman 4.4, the first with Quadlet, has none for mounts, secrets, health and limits: those are said with `PodmanArgs`,
which means the same in every version. A unit for 5.0 or newer says them with keys.
Source: podman-systemd.unit(5), podman-run(1).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from hyb.render.unit import CONTAINER_PORT, HEALTHY, HOME, MODELS, Paths, ServiceUnit, environment

FOLDER = "/etc/hyb"
"""Not below /run/secrets: with a read-only root, Podman puts a read-only folder there and fails to mount into it."""
SOCKETS = "/sockets"
VERSIONS = ("4.4", "5.0")
"""The Podman versions from which on a unit can be had; later ones take both."""
PATHS = Paths(
    key=f"{FOLDER}/api-key",
    keys=f"{FOLDER}/keys.json",
    tls_cert=f"{FOLDER}/tls.crt",
    tls_key=f"{FOLDER}/tls.key",
    socket=f"{SOCKETS}/hyb.sock",
)

Section = list[tuple[str, str]]


def container(unit: ServiceUnit, podman: str = "4.4") -> str:
    """The text of `NAME.container`."""
    service = [("Restart", "on-failure"), ("RestartSec", "5"), ("TimeoutStopSec", "30")]
    if unit.unix_socket:
        # The server's user owns the folder (`U`), so others may only walk through to a path that they know.
        service += [("RuntimeDirectory", f"hyb-{unit.name}"), ("RuntimeDirectoryMode", "0711")]
    sections: dict[str, Section] = {
        "Unit": [("Description", f"{unit.name}: a language model behind an OpenAI-compatible port")],
        "Container": [*_container(unit, podman)],
        "Service": service,
        "Install": [("WantedBy", "default.target")],
    }
    return "\n".join(f"[{name}]\n{_lines(section)}" for name, section in sections.items())


def secrets(unit: ServiceUnit) -> Iterator[tuple[str, str]]:
    """(name of Podman's secret, path in the container) of all that must not be in a document."""
    yield unit.secret, PATHS.key
    if unit.keys:
        yield unit.keys_secret, PATHS.keys
    if unit.tls:
        yield f"{unit.tls_secret}-crt", PATHS.tls_cert
        yield f"{unit.tls_secret}-key", PATHS.tls_key


def published(unit: ServiceUnit) -> str:
    """ADDRESS:PORT:CONTAINERPORT, for Podman and Compose."""
    host = f"[{unit.host}]" if ":" in unit.host else unit.host
    return f"{host}:{unit.port}:{CONTAINER_PORT}"


def _container(unit: ServiceUnit, podman: str) -> Iterator[tuple[str, str]]:
    yield "ContainerName", unit.name
    yield "Image", unit.runtime_image
    if unit.unix_socket:
        yield "Network", "none"
        yield "Volume", f"%t/hyb-{unit.name}:{SOCKETS}:U,z"
    else:
        yield "PublishPort", published(unit)
    for name, value in environment(unit, PATHS).items():
        yield "Environment", f"{name}={value}"
    yield "ReadOnly", "true"
    yield "DropCapability", "all"
    yield "NoNewPrivileges", "true"
    if unit.gpus:
        yield "AddDevice", unit.gpu_device
        yield "Volume", f"{unit.cache}:{HOME}"
    for name, value in unit.labels.items():
        yield "Label", f"{name}={value}"
    yield from (_keys(unit) if podman == "5.0" else (("PodmanArgs", text) for text in _arguments(unit)))


def _arguments(unit: ServiceUnit) -> Iterator[str]:
    yield "--pull=never"  # nothing is fetched at a start: what runs is what was loaded
    if unit.model_image:
        yield f"--mount {_mount(unit)}"
    for name, path in secrets(unit):
        yield f"--secret {_secret(name, path)}"
    yield f"{_memory(unit)} --pids-limit {unit.pids}"
    if unit.runtime:
        yield f"--runtime {unit.runtime}"
    if unit.userns:
        yield f"--userns {unit.userns}"
    # an array: the image needs no shell for it
    yield f"--health-cmd '{_health()}'"
    yield f"--health-interval 30s --health-timeout 5s --health-retries 3 --health-start-period {unit.startup}s"


def _keys(unit: ServiceUnit) -> Iterator[tuple[str, str]]:
    """The same with the keys of Podman 5.0. Memory and runtime have none there."""
    yield "Pull", "never"
    if unit.model_image:
        yield "Mount", _mount(unit)
    for name, path in secrets(unit):
        yield "Secret", _secret(name, path)
    yield "PidsLimit", str(unit.pids)
    if unit.userns:
        yield "UserNS", unit.userns
    yield "HealthCmd", _health()
    yield "HealthInterval", "30s"
    yield "HealthTimeout", "5s"
    yield "HealthRetries", "3"
    yield "HealthStartPeriod", f"{unit.startup}s"
    yield "PodmanArgs", _memory(unit) + (f" --runtime {unit.runtime}" if unit.runtime else "")


def _memory(unit: ServiceUnit) -> str:
    """As much swap as memory means none: what a model was told stays off the disk."""
    return f"--memory {unit.memory} --memory-swap {unit.memory}"


def _mount(unit: ServiceUnit) -> str:
    kind = "artifact" if unit.artifact else "image"
    return f"type={kind},source={unit.model_image},destination={MODELS}"


def _secret(name: str, path: str) -> str:
    return f"{name},type=mount,target={path},mode=0444"


def _health() -> str:
    return json.dumps(HEALTHY, separators=(",", ":"))


def _lines(section: Section) -> str:
    return "".join(f"{key}={value}\n" for key, value in section)
