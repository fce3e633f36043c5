"""The engine of a service in a container of Podman's: no network, no right, nothing of the host but what it needs.

The gateway runs on the host, as always; what reads the model, and what a stranger's prompt reaches, is shut in:

    network      none: only loopback, so the one way in or out is the engine's Unix socket
    host's files the folder of that socket (to write) and the model and adapters (read-only), 0 bytes copied
    root         read-only; /tmp is a tmpfs of 64 MB from which nothing can be run
    user         not root, in a user namespace of its own; no capability, no new privileges, Podman's seccomp profile
    limits       memory, processes
    life         it reads its leash (stdin): when the gateway dies, however it dies, the container ends and is removed

`prepare` asks Podman what can be had, tries it with one short run, and says what is wrong; `launch` makes the command
that the gateway starts; `sweep` removes what a killed hyb has left.

An image in Podman's storage could be mounted in place of the store's folder, but not in a user namespace (see
`hyb.containers.Mount`). The namespace is worth more; only where SELinux is on is the image taken, since a file of the
store would have to be relabelled there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import stat
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hyb import engine as programs
from hyb import engine_podman, fs
from hyb.artifact import Artifact
from hyb.containers import Container, argv
from hyb.engine_podman import PODMAN, PodmanInfo
from hyb.errors import Exit, HybError
from hyb.podman_errors import SUBUIDS, explained
from hyb.progress import Say, silent
from hyb.serving import child
from hyb.serving.box import (
    IDS,
    IMAGES,
    MODELS,
    OWNER,
    SERVICE,
    SOCKETS,
    Settings,
    container,
    device,
    estimate,
    owner,
    pids,
    user_namespace,
)
from hyb.serving.choice import LLAMA
from hyb.serving.gateway.types import GatewayJob

BUILD = "podman build --network=none --build-arg BASE=IMAGE@sha256:… -t {0} -f containers/{1}/Containerfile WHEELS"
OLDEST = (4, 3)
SUBUID = Path("/etc/subuid")
PATIENCE = 120.0  # seconds that a container may take to start; a runtime that hangs is ended then
LOOK = "import os, sys; open(sys.argv[1], 'rb').read(4); os.unlink((open(sys.argv[2], 'x')).name)"


@dataclass(frozen=True)
class Options:
    """What a person asked for."""

    image: str = ""
    """The runtime image; "": the engine's own."""
    runtime: str = ""
    """OCI runtime: a name that Podman knows, or an absolute path."""
    gpu: str = ""
    """`all`, a number, or a CDI name; "" for none."""
    memory: int = 0
    """Bytes; 0: estimated."""


# -- before the start ------------------------------------------------------------------------------------------------


def prepare(job: GatewayJob, given: Artifact, run: Path, options: Options, *, say: Say = silent) -> GatewayJob:
    """The job with how its containers are made; what a killed hyb left under its name is removed.

    `given`: what was asked for, a model or an image of one. `run`: hyb's folder of services.
    Raises HybError: exit 3 for no Podman, one older than 4.3, a socket alone, rootless without ids, an image, a
    runtime or a device that is not there; exit 5 when a container can't be started for another reason.
    """
    if job.engine not in IMAGES and not options.image:
        raise HybError(
            f"no image serves with the engine `{job.engine}`",
            hint="`hyb export … --format gguf` makes what `localhost/hyb-serve-cpu` serves, or give `--runtime-image`",
        )
    if job.adapter:
        raise HybError(
            "in a container an adapter is served beside its base, not in its place",
            hint="serve the base model, with `--adapter` for it",
        )
    info = engine_podman.available()
    check(info)
    sweep(job.name, run, info)
    image = options.image or IMAGES[job.engine]
    if not engine_podman.image_exists(image, info):
        raise missing_image(image)
    packed = "" if job.unsealed else _packed(given, info)
    if not info.limits:
        say("this Podman can limit neither memory nor processes (rootless needs cgroups v2, delegated by systemd)")
    found = Settings(
        podman=programs.which("podman") or "podman",
        image=image,
        owner=owner(run),
        userns=user_namespace(info, job.name, SUBUID.read_text() if SUBUID.exists() else "", bool(packed)),
        memory=(options.memory or estimate(job, given.size)) if info.limits else 0,
        pids=pids(job.engine, os.cpu_count() or 1) if info.limits else 0,
        runtime=options.runtime,
        devices=(device(options.gpu),) if options.gpu else (),
        model_image=packed,
        selinux=info.selinux,
    )
    return _tried(replace(job, where="podman", container=asdict(found)), say)


def check(info: PodmanInfo) -> None:
    """Raise HybError (exit 3) when this Podman can't do what is needed."""
    engine_podman.require(info, OLDEST, "serving in a container")
    if info.rootless and info.ids <= IDS:
        raise HybError("rootless Podman has no range of user ids for a container", hint=SUBUIDS)


def missing_image(image: str) -> HybError:
    """The error for a runtime image that Podman does not have."""
    own = {name: engine for engine, name in IMAGES.items()}
    if image not in own:
        return HybError(f"Podman does not have the image `{image}`", hint="`podman images` lists those that it has")
    kind = "serve-cpu" if own[image] == LLAMA else "serve-gpu"
    return HybError(
        f"Podman does not have the image `{image}`",
        hint=f"build it: `{BUILD.format(image, kind)}` (containers/{kind}/Containerfile says what goes into WHEELS)",
    )


def _packed(given: Artifact, info: PodmanInfo) -> str:
    """The name of the model's image, where it is to be mounted: SELinux is on, and Podman has this very image."""
    if not info.selinux or given.kind != "image" or given.meta.get("runnable"):
        return ""
    name = engine_podman.full_name(str(given.meta.get("name", "")))
    wanted = str(given.manifest["config"]["digest"]).removeprefix("sha256:")
    return name if engine_podman.image_id(name, info) == wanted else ""


def _tried(job: GatewayJob, say: Say) -> GatewayJob:
    """The job, when a container starts with its settings. Raises HybError.

    A runtime that shuts in by other means may not be able to mount a private folder in a user namespace (gVisor of 2022
    is not): then it does without one. The user inside is nobody's all the same.
    """
    failure = _try(job)
    if failure and failure.code == Exit.BELOW and job.container["runtime"] and job.container["userns"]:
        plain = replace(job, container={**job.container, "userns": ""})
        if not (failure := _try(plain)):
            say(f"the runtime `{job.container['runtime']}` takes no user namespace here; it goes without one")
            return plain
    if failure:
        raise failure
    return job


def _try(job: GatewayJob) -> HybError | None:
    """One short run with the very same settings; what is wrong, in words. Raises HybError when it hangs."""
    folder = Path(job.run, "try")
    with fs.explained(f"can't make `{folder}`"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings, name = Settings.of(job.container), _new_name(job)
    told = child.Job(model=job.model, name=job.name, socket=str(folder / "engine.sock"))
    made = container(settings, job, told, name=name, weights=_open_up(job, told))
    look = replace(
        made,
        entrypoint=("python3",),
        command=("-P", "-c", LOOK, f"{MODELS}/{_file(job, settings)}", f"{SOCKETS}/try"),
        interactive=False,
    )
    pidfile = Path(job.run, f"{name}.pid")
    try:
        done = programs.run(_command(settings, look, pidfile), check=False, timeout=PATIENCE)
    except BaseException:  # it hangs, or ^C: what it has started is ended, too
        _remove(name, pidfile)
        raise
    finally:
        _drop(pidfile)
        with contextlib.suppress(OSError):
            folder.rmdir()
    return explained(done.stderr.decode(errors="replace"), "podman run") if done.returncode else None


def _file(job: GatewayJob, settings: Settings) -> str:
    """A file of the model as the container sees it, to look whether it may be read; "" for none."""
    if settings.model_image:
        return "../etc/hostname"  # an image's files are Podman's matter
    return Path(job.model).name if Path(job.model).is_file() else "config.json"


# -- the command -----------------------------------------------------------------------------------------------------


def launch(job: GatewayJob, told: child.Job) -> dict[str, Any]:
    """How the gateway starts an engine: the fields of its `Launch`. Raises OSError.

    The socket's folder is opened to all: the one it lies in is its owner's alone, and in the container it is all there
    is.
    """
    settings, name = Settings.of(job.container), _new_name(job)
    pidfile = Path(job.run, f"{name}.pid")
    made = container(settings, job, told, name=name, weights=_open_up(job, told))
    return {
        "argv": _command(settings, made, pidfile),
        "socket": told.socket,
        "cleanup": functools.partial(_forget, name, pidfile),
        "memory": functools.partial(_memory, pidfile),
    }


def _new_name(job: GatewayJob) -> str:
    """Of a container: a new one each time, for the one before may still be going."""
    return f"hyb-{job.name}-{secrets.token_hex(4)}"


def _command(settings: Settings, made: Container, pidfile: Path) -> list[str]:
    """`podman run …`, that writes the process ids of the container and of its monitor beside each other."""
    line = argv(made)
    at = line.index("run") + 1
    files = [f"--pidfile={pidfile}", f"--conmon-pidfile={_monitor(pidfile)}"]
    return [settings.podman, *PODMAN[1:], *line[:at], *files, *line[at:]]


def _monitor(pidfile: Path) -> Path:
    return pidfile.with_suffix(".conmon")


def _open_up(job: GatewayJob, told: child.Job) -> Path:
    """Let the container's user walk through the folders that it is given; the folder with the model.

    Folders of hyb's own alone, whose files are read-only: below a folder that others can't enter, they stay private.
    """
    Path(told.socket).parent.chmod(0o777)
    model = Path(job.model)
    weights = model.parent if model.is_file() else model
    for top in (weights, *(Path(a.path) for a in told.adapters)):
        for folder in (top, *top.rglob("*")) if top.is_dir() else ():
            mode = folder.stat().st_mode
            if stat.S_ISDIR(mode) and mode & 0o5 != 0o5:
                folder.chmod(stat.S_IMODE(mode) | 0o5)
    return weights


# -- afterwards ------------------------------------------------------------------------------------------------------


def sweep(name: str, run: Path, info: PodmanInfo | None = None) -> int:
    """Remove the containers of the service `name` that hyb (with this folder) started; how many. Raises HybError."""
    info = info or engine_podman.available()
    found = engine_podman.containers({SERVICE: name, OWNER: owner(run)}, info)
    for identity in found:
        engine_podman.remove_container(identity, info)
    return len(found)


def _forget(name: str, pidfile: Path) -> None:
    """Remove a container whose `podman run` has ended: killed itself, it can't have done so. Does not wait for it."""
    threading.Thread(target=_remove, args=(name, pidfile)).start()


def _remove(name: str, pidfile: Path) -> None:
    """Remove a container, and end its monitor with what hangs in it."""
    with contextlib.suppress(HybError):
        programs.run([*PODMAN, "rm", "--force", "--ignore", "--time=0", name], check=False, timeout=PATIENCE)
    with contextlib.suppress(OSError, ValueError):
        monitor = Path("/proc", _monitor(pidfile).read_text().strip())
        if name.encode() in (monitor / "cmdline").read_bytes().split(b"\0"):  # else the id is another's by now
            for process in (*_children(monitor), int(monitor.name)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
    _drop(pidfile)


def _drop(pidfile: Path) -> None:
    for path in (pidfile, _monitor(pidfile)):
        path.unlink(missing_ok=True)


def _children(process: Path) -> list[int]:
    return [int(p) for p in (process / "task" / process.name / "children").read_text().split()]


def _memory(pidfile: Path, _client: int) -> int:
    """Bytes that the processes of the container have in memory; 0 when it is gone."""
    try:
        waiting = [int(pidfile.read_text())]
    except (OSError, ValueError):
        return 0
    total = 0
    while waiting:
        process = Path("/proc", str(waiting.pop()))
        with contextlib.suppress(OSError):
            lines = (process / "status").read_text().splitlines()
            total += next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:")), 0)
            waiting += _children(process)
    return total
