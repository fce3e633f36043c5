"""A container as plain data, and the two forms in which Podman takes it: a command line and podman-py's arguments.

The defaults are the tight ones: no capability, no new privileges, a read-only root, no network. Podman's own seccomp
profile stays on, for nothing here switches it off. A GPU is a CDI device: Podman 4.3 takes `--gpus`, and ignores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyb.errors import HybError


@dataclass(frozen=True)
class Mount:
    """`kind` "bind" (a host path), "image" (an image's root folder) or "tmpfs" (no source), at `target`.

    An image can't be mounted in a user namespace of the container's own: Podman (4.3 and 5.4, runc and crun) says
    "permission denied", since the namespace can't walk through Podman's storage.
    """

    kind: str
    source: str
    target: str
    read_only: bool = True
    size: int = 0
    """Bytes that a tmpfs may hold; 0: half of the memory, the kernel's default."""
    label: str = ""
    """SELinux: "z" (all containers may use it) or "Z" (this one alone) has Podman relabel a bind's source."""
    executable: bool = False
    """Programs may be run from a tmpfs."""


@dataclass(frozen=True)
class Secret:
    """A secret of Podman's as a file: `name` of the secret, `target` path in the container."""

    name: str
    target: str
    mode: int = 0o444


@dataclass(frozen=True)
class Port:
    """A port of the host that leads to one of the container; on loopback unless said otherwise."""

    host: int
    container: int
    address: str = "127.0.0.1"


@dataclass(frozen=True)
class Container:
    """What to run. `network`: "none", "host", "bridge" or a network's name."""

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
    """Device nodes, or CDI names such as `nvidia.com/gpu=all`; one that Podman does not know fails the start."""
    labels: Mapping[str, str] = field(default_factory=dict)
    memory: int | None = None
    """Bytes of memory, none of it swapped: what a model was told stays off the disk."""
    detach: bool = False
    remove: bool = True
    pids: int = 0
    """Most processes and threads; 0: Podman's default (2048)."""
    userns: str = ""
    """Podman's `--userns`: `auto`, `keep-id`, …; or `range:FIRST:COUNT`, ids of the host; "": Podman's default."""
    runtime: str = ""
    """OCI runtime: a name that Podman knows (`runc`, `runsc`, `krun`, …) or an absolute path; "": Podman's default."""
    secrets: tuple[Secret, ...] = ()
    tmpfs: bool = True
    """Podman's own tmpfs of any size on /run, /tmp and /var/tmp of a read-only root."""
    init: bool = False
    """An init as process 1, that reaps and passes signals on."""
    stop_timeout: int | None = None
    """Seconds from SIGTERM to SIGKILL."""
    umask: str = ""
    interactive: bool = False
    """Stdin is passed on; it closes when whoever holds our end of it dies. Not together with `detach`."""
    log: str = ""
    """Log driver; "none": Podman keeps nothing of the output."""
    shm: int = 0
    """Bytes of /dev/shm; 0: Podman's default (64 MB)."""


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
    out = [f"--runtime={c.runtime}"] if c.runtime else []  # an option of podman itself, not of `run`
    out += ["run", "--pull=never", "--cap-drop=all", "--security-opt=no-new-privileges", f"--network={c.network}"]
    switches = {"--detach": c.detach, "--rm": c.remove, "--read-only": c.read_only, "--interactive": c.interactive}
    switches |= {"--read-only-tmpfs=false": c.read_only and not c.tmpfs, "--init": c.init}
    out += [switch for switch, on in switches.items() if on]
    values: dict[str, str | int | None] = {
        "--name": c.name,
        "--user": c.user,
        "--umask": c.umask,
        "--log-driver": c.log,
    }
    values |= {"--memory": c.memory, "--memory-swap": c.memory, "--pids-limit": c.pids, "--shm-size": c.shm}
    out += [f"{option}={value}" for option, value in values.items() if value]
    out += [f"--stop-timeout={c.stop_timeout}"] if c.stop_timeout is not None else []
    out += _user_namespace(c.userns)
    out += [f"--entrypoint={c.entrypoint[0]}"] if c.entrypoint else []
    out += [f"--env={k}={v}" for k, v in sorted(c.env.items())]
    out += [f"--label={k}={v}" for k, v in sorted(c.labels.items())]
    out += [f"--device={d}" for d in c.devices]
    out += [f"--publish={p.address}:{p.host}:{p.container}" for p in c.ports]
    out += [_tmpfs(m) if m.kind == "tmpfs" else f"--mount={_mount(m)}" for m in c.mounts]
    out += [f"--secret={s.name},type=mount,target={s.target},mode={s.mode:04o}" for s in c.secrets]
    return [*out, c.image, *c.entrypoint[1:], *c.command]


def needs_program(container: Container) -> bool:
    """True for what Podman's socket can't do, or does not do on Podman 4.3: then the `podman` program must be used.

    Its API ignores a runtime, takes a range of ids in another form, and attaches no stdin.
    """
    c = container
    return bool(c.runtime or c.interactive or c.userns.startswith("range:"))


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
        "log_config": {"Type": c.log or "json-file"},
        "remove": c.remove and c.detach,
    }
    if c.network in ("none", "host", "bridge"):
        out["network_mode"] = c.network
    else:
        out["networks"] = {c.network: {}}
    secrets = [{"source": s.name, "target": s.target, "mode": s.mode} for s in c.secrets]
    optional = {
        "name": c.name,
        "user": c.user,
        "mem_limit": c.memory,
        "memswap_limit": c.memory,
        "entrypoint": list(c.entrypoint[:1]),
        "pids_limit": c.pids,
        "userns_mode": c.userns,
        "secrets": secrets,
        "init": c.init,
        "umask": c.umask,
        "shm_size": c.shm,
        "stop_timeout": c.stop_timeout,
    }
    if c.read_only and not c.tmpfs:
        out["read_write_tmpfs"] = False
    return {**out, **{k: v for k, v in optional.items() if v}}


def _user_namespace(userns: str) -> list[str]:
    if not userns.startswith("range:"):
        return [f"--userns={userns}"] if userns else []
    ids = userns.removeprefix("range:")
    return [f"--uidmap=0:{ids}", f"--gidmap=0:{ids}"]


def _tmpfs(mount: Mount) -> str:
    """`--tmpfs` and not `--mount`, which knows no `noexec`."""
    size = [f"size={mount.size}"] if mount.size else []
    options = [*size, "mode=1777", "nosuid", "nodev", *([] if mount.executable else ["noexec"])]
    return f"--tmpfs={mount.target}:{','.join(options)}"


def _mount(mount: Mount) -> str:
    """The value of `--mount`, a list of fields between commas; so a comma can't be in a path."""
    if "," in mount.source + mount.target:
        raise HybError(f"Podman can't mount a path with a comma: `{mount.source}`", hint="give a path without one")
    fields = [f"type={mount.kind}", f"destination={mount.target}"]
    if mount.source:
        fields.insert(1, f"source={mount.source}")
    if mount.kind == "image":
        fields += [] if mount.read_only else ["rw=true"]
    else:
        fields += ["ro=true"] if mount.read_only else []
        fields += [f"relabel={ {'z': 'shared', 'Z': 'private'}[mount.label] }"] if mount.label else []
    return ",".join(fields)


def _api_mount(mount: Mount) -> dict[str, Any]:
    out: dict[str, Any] = {"type": mount.kind, "target": mount.target}
    if mount.kind == "bind":
        out |= {"source": mount.source, "read_only": mount.read_only}
        out |= {"relabel": mount.label} if mount.label else {}
    else:  # podman-py has no word for noexec; without a source, Podman would make a plain folder
        out |= {"source": "tmpfs", "mode": "1777"}
        out |= {"size": mount.size} if mount.size else {}
    return out
