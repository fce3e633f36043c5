"""The tuner in a container of Podman's: the same worker and the same job, with the store's folders at their own paths.

No network, no capability, a read-only root; of this machine it sees the model, the rows (read-only) and the step's
folder. A GPU comes by CDI. The image is one of `containers/tune`, or any with hyb and its extra `tune`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyb import engine, engine_podman
from hyb.containers import Container, Mount, argv
from hyb.errors import HybError

IMAGE = "localhost/hyb-tune:latest"
GPU = "nvidia.com/gpu=all"
HOME = "/tmp"


@dataclass(frozen=True)
class Where:
    """The image, how many processes, and whether they are given the GPUs."""

    image: str
    processes: int = 1
    gpu: bool = False


def worker(job: dict[str, Any], work: Path, where: Where, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """`hyb.engine.worker` for `sft`, in a container. Raises HybError as that does; exit 3: no Podman, or no image."""
    info = engine_podman.available()
    engine_podman.require(info, (4, 3), "tuning in a container")
    if not engine_podman.image_exists(where.image, info):
        raise HybError(
            f"Podman has no image `{where.image}`",
            hint="build it from `containers/tune/Containerfile`, or name another with `--image`",
        )
    container = contained(job, work, where, rootless=info.rootless, selinux=info.selinux)
    prefix = [*engine_podman.PODMAN, *argv(container)]
    engine.note({"pkg:generic/podman": str(info.version)})
    try:
        return engine.worker("sft", job, work, on_event, processes=where.processes, prefix=prefix)
    finally:
        engine_podman.remove_container(container.name, info)


def contained(job: dict[str, Any], work: Path, where: Where, *, rootless: bool, selinux: bool) -> Container:
    """The container. Its user is ours, so that what it writes is ours to read."""
    label, alone = "z" if selinux else "", engine.LOOPBACK if where.processes > 1 else {}
    seen = [job["model"], str(Path(job["train"]).parent)]
    mounts = [Mount("bind", path, path, label=label) for path in dict.fromkeys(seen)]
    mounts.append(Mount("bind", str(work), str(work), read_only=False, label=label))
    return Container(
        image=where.image,
        name=f"hyb-tune-{secrets.token_hex(6)}",
        entrypoint=("env",),
        env={
            **alone,
            **engine.openmp({}),
            **engine.QUIET,
            **engine.OFFLINE,
            "HOME": HOME,
            "XDG_CACHE_HOME": f"{HOME}/.cache",
        },
        mounts=tuple(mounts),
        network="none",
        user="" if rootless else f"{os.getuid()}:{os.getgid()}",
        userns="keep-id" if rootless else "",
        devices=(GPU,) if where.gpu else (),
        labels={"io.hyb.tune": "1"},
        interactive=True,
        log="none",
        shm=1 << 30 if where.processes > 1 else 0,
    )
