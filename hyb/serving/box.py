"""The container of an engine as plain data: what it may see, use and take. Pure; `contained` makes real ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb.containers import Container, Mount
from hyb.engine_podman import PodmanInfo
from hyb.errors import HybError
from hyb.serving import child
from hyb.serving.choice import LLAMA, VLLM
from hyb.serving.gateway.types import GatewayJob

IMAGES = {LLAMA: "localhost/hyb-serve-cpu:latest", VLLM: "localhost/hyb-serve-gpu:latest"}
"""The image that serves with an engine, where no other is given."""
USER = "1001:0"
IDS = 2048  # user ids that a container gets
RANGES = (1879048192, 2147352576)
"""User ids that no system uses (systemd's UIDS-GIDS), for root's containers where `containers` has no range."""
SOCKETS, MODELS, ADAPTERS = "/run/hyb", "/models", "/adapters"
CACHE = "/home/hyb/.cache"
"""Where the image of vLLM keeps the kernels that it compiles, and runs."""
TMP = 64 << 20
BYTES_A_TOKEN = 128 << 10  # of key-value cache: on the safe side for models of a few billion parameters
FIXED = {LLAMA: 1 << 30, VLLM: 16 << 30}
"""Bytes beside the model: the program, its buffers, its cache of prompts."""
STEP = 256 << 20  # memory limits are whole multiples of this
SERVICE, OWNER = "io.hyb.service", "io.hyb.owner"


@dataclass(frozen=True)
class Settings:
    """How the containers of a service are made. Plain data: it goes into the gateway's job."""

    podman: str
    image: str
    owner: str
    userns: str = ""
    memory: int = 0
    pids: int = 0
    runtime: str = ""
    devices: tuple[str, ...] = ()
    model_image: str = ""
    """Mounted in place of the job's model."""
    selinux: bool = False

    @staticmethod
    def of(fields: Mapping[str, Any]) -> Settings:
        """From what JSON made of it."""
        return Settings(**{**fields, "devices": tuple(fields.get("devices", ()))})


def user_namespace(info: PodmanInfo, name: str, subuid: str, shared: bool = False) -> str:
    """Which user ids a container gets (`hyb.containers.Container.userns`).

    Rootless, or where root's `containers` has a range in /etc/subuid (its text): a range that Podman picks, and no
    other container has. Else a range of this name's own among ids that no system uses. `shared`: none of its own,
    since an image is to be mounted; the user inside is nobody's all the same.
    """
    if shared:
        return ""
    rows = [line.split(":") for line in subuid.splitlines()]
    if info.rootless or any(r[0] == "containers" and len(r) == 3 and int(r[2]) >= IDS for r in rows):
        return f"auto:size={IDS}"
    first, last = RANGES
    slot = int(dg.of_bytes(name.encode())[7:19], 16) % ((last - first) // IDS)
    return f"range:{first + slot * IDS}:{IDS}"


def estimate(job: GatewayJob, size: int) -> int:
    """Bytes of memory for a model of `size` bytes, rounded up."""
    need = size + FIXED.get(job.engine, FIXED[LLAMA]) + job.context * job.parallel * BYTES_A_TOKEN
    return -(-need // STEP) * STEP


def pids(engine: str, processors: int) -> int:
    """Most processes and threads: llama.cpp takes a few a processor, torch many more."""
    return 256 + (64 if engine == VLLM else 4) * processors


def device(gpu: str) -> str:
    """The CDI name of a GPU: `all` and numbers are NVIDIA's. Raises HybError for what can't be one."""
    if "=" in gpu and "/" in gpu.partition("=")[0]:
        return gpu
    if gpu == "all" or gpu.isdigit():
        return f"nvidia.com/gpu={gpu}"
    raise HybError(f"`{gpu}` names no GPU", hint="give `all`, a number, or a CDI name such as `nvidia.com/gpu=0`")


def owner(run: Path) -> str:
    """Whose a container is: two hyb with folders of their own never touch each other's."""
    return dg.of_bytes(os.fsencode(run.resolve()))[7:19]


def container(settings: Settings, job: GatewayJob, told: child.Job, *, name: str, weights: Path) -> Container:
    """The engine's container. Pure. `weights`: the folder with the model."""
    label = "z" if settings.selinux else ""
    model = (
        Mount("image", settings.model_image, MODELS)
        if settings.model_image
        else Mount("bind", str(weights), MODELS, label=label)
    )
    adapters = [Mount("bind", a.path, _inside(i, a), label=label) for i, a in enumerate(told.adapters)]
    folder = str(Path(told.socket).parent)
    gpu = job.engine == VLLM
    return Container(
        settings.image,
        name=name,
        command=("--engine-only",),
        entrypoint=("python3", "-P", "-m", "hyb.serving"),
        env=environment(job, told),
        mounts=(
            model,
            *adapters,
            Mount("bind", folder, SOCKETS, read_only=False, label="Z" if settings.selinux else ""),
            Mount("tmpfs", "", "/tmp", size=TMP if not gpu else TMP << 4),
            *((Mount("tmpfs", "", CACHE, size=TMP << 6, executable=True),) if gpu else ()),
        ),
        network="none",
        user=USER,
        devices=settings.devices,
        labels={SERVICE: job.name, OWNER: settings.owner, "io.hyb.model": job.digest},
        memory=settings.memory or None,
        pids=settings.pids,
        userns=settings.userns,
        runtime=settings.runtime,
        tmpfs=False,
        stop_timeout=10,
        umask="0000",  # the gateway is another user, and must be able to connect
        interactive=True,
        log="none",
        shm=(2 << 30) if gpu else 0,
    )


def environment(job: GatewayJob, told: child.Job) -> dict[str, str]:
    """What the container's entry point is told."""
    return {
        "HOME": "/tmp",  # the root file system is read-only
        "HYB_MODELS": MODELS,
        "HYB_ADAPTERS": ADAPTERS if told.adapters else "",
        "HYB_NAME": job.name,
        "HYB_CONTEXT": str(told.context),
        "HYB_PARALLEL": str(told.parallel),
        "HYB_UNIX_SOCKET": f"{SOCKETS}/{Path(told.socket).name}",
        "HYB_LEASH": "1",
    }


def _inside(index: int, adapter: child.Adapter) -> str:
    """Where an adapter is mounted. The number keeps their order, by which llama.cpp knows them."""
    where = f"{ADAPTERS}/{index:04d}.{adapter.name}"
    return f"{where}/adapter.gguf" if adapter.path.endswith(".gguf") else where
