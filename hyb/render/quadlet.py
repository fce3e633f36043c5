"""A Quadlet unit: a `.container` file from which Podman's generator makes a systemd service.

Only keys that Podman 4.4, the first with Quadlet, knows: an unknown key makes its generator drop the whole unit. What
4.4 has no key for (mounts, secrets, health, limits) is said with `PodmanArgs`, which means the same in every version.
Source: podman-systemd.unit(5), podman-run(1).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from hyb.render.unit import CONTAINER_PORT, MODELS, ServiceUnit, environment

KEY_FILE = "/etc/hyb/api-key"
"""Not below /run/secrets: with a read-only root, Podman puts a read-only folder there and fails to mount into it."""
HEALTH = ("python3", "-P", "-m", "hyb.serving", "--healthy")

Section = list[tuple[str, str]]


def container(unit: ServiceUnit) -> str:
    """The text of `NAME.container`."""
    sections: dict[str, Section] = {
        "Unit": [("Description", f"{unit.name}: a language model behind an OpenAI-compatible port")],
        "Container": [*_container(unit)],
        "Service": [("Restart", "on-failure"), ("RestartSec", "5"), ("TimeoutStopSec", "30")],
        "Install": [("WantedBy", "default.target")],
    }
    return "\n".join(f"[{name}]\n{_lines(section)}" for name, section in sections.items())


def _container(unit: ServiceUnit) -> Section:
    host = f"[{unit.host}]" if ":" in unit.host else unit.host
    return [
        ("ContainerName", unit.name),
        ("Image", unit.runtime_image),
        ("PublishPort", f"{host}:{unit.port}:{CONTAINER_PORT}"),
        *[("Environment", f"{k}={v}") for k, v in environment(unit, KEY_FILE).items()],
        ("ReadOnly", "true"),
        ("DropCapability", "all"),
        ("NoNewPrivileges", "true"),
        *[("Label", f"{k}={v}") for k, v in unit.labels.items()],
        *[("PodmanArgs", text) for text in _arguments(unit)],
    ]


def _arguments(unit: ServiceUnit) -> Iterator[str]:
    yield "--pull=never"  # nothing is fetched at a start: what runs is what was loaded
    if unit.model_image:
        kind = "artifact" if unit.artifact else "image"
        yield f"--mount type={kind},source={unit.model_image},destination={MODELS}"
    yield f"--secret {unit.secret},type=mount,target={KEY_FILE},mode=0444"
    yield f"--memory {unit.memory} --pids-limit {unit.pids}"
    # an array: the image needs no shell for it
    yield f"--health-cmd '{json.dumps(HEALTH, separators=(',', ':'))}'"
    yield f"--health-interval 30s --health-timeout 5s --health-retries 3 --health-start-period {unit.startup}s"


def _lines(section: Section) -> str:
    return "".join(f"{key}={value}\n" for key, value in section)
