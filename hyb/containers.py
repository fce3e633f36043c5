"""A container as plain data, and the two forms in which Podman takes it: a command line and podman-py's arguments.

The defaults are the tight ones: no capability, no new privileges, a read-only root, no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyb.errors import HybError


@dataclass(frozen=True)
class Mount:
    """`kind` "bind" (a host path), "image" (an image's root folder) or "tmpfs" (no source), at `target`."""

    kind: str
    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Port:
    """A port of the host that leads to one of the container; on loopback unless said otherwise."""

    host: int
    container: int
    address: str = "127.0.0.1"


@dataclass(frozen=True)
class Container:
    """What to run. `network`: "none", "host", "bridge" or a network's name. `memory` in bytes."""

    image: str
    command: tuple[str, ...] = ()
    name: str = ""
    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Port, ...] = ()
    network: str = "none"
    user: str = ""
    read_only: bool = True
    devices: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    memory: int | None = None
    detach: bool = False
    remove: bool = True


@dataclass(frozen=True)
class Ended:
    """What became of a container: exit status and output, or the id of a detached one."""

    status: int
    stdout: bytes
    stderr: bytes
    identity: str = ""


def argv(container: Container) -> list[str]:
    """The arguments of `podman` (`run …`). Nothing is pulled: the image must be there."""
    c = container
    out = ["run", "--pull=never", "--cap-drop=all", "--security-opt=no-new-privileges", f"--network={c.network}"]
    out += ["--detach"] if c.detach else []
    out += ["--rm"] if c.remove else []
    out += ["--read-only"] if c.read_only else []
    out += [f"--name={c.name}"] if c.name else []
    out += [f"--user={c.user}"] if c.user else []
    out += [f"--memory={c.memory}"] if c.memory else []
    out += [f"--entrypoint={c.entrypoint[0]}"] if c.entrypoint else []
    out += [f"--env={k}={v}" for k, v in sorted(c.env.items())]
    out += [f"--label={k}={v}" for k, v in sorted(c.labels.items())]
    out += [f"--device={d}" for d in c.devices]
    out += [f"--publish={p.address}:{p.host}:{p.container}" for p in c.ports]
    out += [f"--mount={_mount(m)}" for m in c.mounts]
    return [*out, c.image, *c.entrypoint[1:], *c.command]


def api_arguments(container: Container) -> dict[str, Any]:
    """The keyword arguments of podman-py's `containers.create`, by what it really does with them.

    `security_opt` would be taken as SELinux options and do nothing, and a mount of type image is refused; their own
    keywords work. Output can be read back from the json-file log only.
    """
    c = container
    out: dict[str, Any] = {
        "image": c.image,
        "command": [*c.entrypoint[1:], *c.command],
        "cap_drop": ["all"],
        "no_new_privileges": True,
        "read_only": c.read_only,
        "environment": dict(c.env),
        "labels": dict(c.labels),
        "devices": list(c.devices),
        "mounts": [_api_mount(m) for m in c.mounts if m.kind != "image"],
        "image_volumes": [
            {"Source": m.source, "Destination": m.target, "ReadWrite": not m.read_only}
            for m in c.mounts
            if m.kind == "image"
        ],
        "ports": {f"{p.container}/tcp": (p.address, p.host) for p in c.ports},
        "log_config": {"Type": "json-file"},
        "remove": c.remove and c.detach,
    }
    if c.network in ("none", "host", "bridge"):
        out["network_mode"] = c.network
    else:
        out["networks"] = {c.network: {}}
    optional = {"name": c.name, "user": c.user, "mem_limit": c.memory, "entrypoint": list(c.entrypoint[:1])}
    return {**out, **{k: v for k, v in optional.items() if v}}


def _mount(mount: Mount) -> str:
    """The value of `--mount`, a list of fields between commas; so a comma can't be in a path."""
    if "," in mount.source + mount.target:
        raise HybError(f"Podman can't mount a path with a comma: `{mount.source}`", hint="give a path without one")
    fields = [f"type={mount.kind}", f"destination={mount.target}"]
    if mount.source:
        fields.insert(1, f"source={mount.source}")
    if mount.kind == "image":
        return ",".join([*fields, *([] if mount.read_only else ["rw=true"])])
    return ",".join([*fields, *(["ro=true"] if mount.read_only and mount.kind == "bind" else [])])


def _api_mount(mount: Mount) -> dict[str, Any]:
    out: dict[str, Any] = {"type": mount.kind, "target": mount.target}
    if mount.kind == "bind":
        out |= {"source": mount.source, "read_only": mount.read_only}
    return out
