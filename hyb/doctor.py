"""What this machine has: one finding a thing, with what it gives and how to get it.

The network is asked only when told to.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hyb import engine
from hyb.errors import HybError
from hyb.podman_errors import CDI

if TYPE_CHECKING:
    from hyb import engine_podman


@dataclass(frozen=True)
class Finding:
    """`ok`: it is there and fit. `found`: what is there. `gives`: what it is good for. `get`: how to install it."""

    name: str
    ok: bool
    found: str
    gives: str
    get: str = ""


def examine(store: Path, environ: Mapping[str, str], *, network: bool) -> list[Finding]:
    """All findings. `network`: ask the hub, too."""
    findings = [_python(), *_packages(), _gpu(), _vllm(environ), _memory(), _disk(store), *_podman(), *_links(environ)]
    findings += map(_program, _PROGRAMS)
    if network:
        findings.append(_hub(environ))
    return findings


_PROGRAMS = {
    "skopeo": "copies images between the store, Podman and registries",
    "skupper": "starts the private side of a link",
    "oc": "applies the namespace's side of a link",
}


def _python() -> Finding:
    version = platform.python_version()
    return Finding("python", sys.version_info >= (3, 11), version, "runs hyb", "Python 3.11 or newer")


def _packages() -> list[Finding]:
    wanted = {
        "torch": ("tune, eval, export", "pip install torch (CPU: --index-url https://download.pytorch.org/whl/cpu)"),
        "transformers": ("tune, eval", "pip install 'hyb[tune]'"),
        "peft": ("tune, eval", "pip install 'hyb[tune]'"),
        "bitsandbytes": ("4-bit NF4 training", "pip install 'hyb[tune]'"),
        "gguf": ("export to GGUF", "pip install 'hyb[tune]'"),
        "xllamacpp": ("serving GGUF models, quantizing", "pip install 'hyb[serve]'"),
        "uvicorn": ("serving safetensors models", "pip install 'hyb[serve]'"),
    }
    return [
        Finding(name, bool(v := _version(name)), v or "not installed", gives, get)
        for name, (gives, get) in wanted.items()
    ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _gpu() -> Finding:
    get = "an NVIDIA driver; without a GPU small models train and serve on the CPU"
    if not engine.which("nvidia-smi"):
        return Finding("gpu", False, "no nvidia-smi", "training and serving of larger models", get)
    ask = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = engine.run(ask, check=False, timeout=20)
    text = done.stdout.decode(errors="replace").strip().replace("\n", "; ")
    return Finding(
        "gpu", done.returncode == 0 and bool(text), text or "nvidia-smi fails", "training of larger models", get
    )


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    text = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB unused, {os.cpu_count()} processors"
    return Finding("memory", total > 4e9, text, "the quickstart needs 4 GB, a 1.5B model on the CPU 10 GB")


def _disk(store: Path) -> Finding:
    there = next(p for p in (store, *store.parents) if p.exists())
    usage = shutil.disk_usage(there)
    return Finding(
        "disk",
        usage.free > 5e9,
        f"{usage.free / 1e9:.1f} GB free at {there}",
        "the store",
        "free some, or `--store DIR`",
    )


def _podman() -> list[Finding]:
    """Podman, and what `hyb serve --in podman` can have of it."""
    from hyb import engine_podman
    from hyb.serving import contained

    gives = "running models in containers: `hyb serve --in podman`"
    try:
        info = engine_podman.available()
    except HybError as error:
        return [Finding("podman", False, error.message, gives, error.hint)]
    who = "rootless" if info.rootless else "root"
    try:
        contained.check(info)
        fit = Finding("podman", True, f"{info.version}, {who}", gives)
    except HybError as error:
        fit = Finding("podman", False, f"{info.version}, {who}: {error.message}", gives, error.hint)
    return [
        fit,
        Finding(
            "podman socket",
            bool(info.socket),
            info.socket or "off",
            "podman-py",
            "systemctl --user enable --now podman.socket",
        ),
        Finding(
            "podman limits",
            info.limits,
            "memory, processes" if info.limits else "neither memory nor processes",
            "a model that can't take the whole machine",
            "cgroups v2, with the controllers `memory` and `pids` delegated to your user by systemd",
        ),
        _runtime_image(info),
        _cdi(),
    ]


def _runtime_image(info: engine_podman.PodmanInfo) -> Finding:
    from hyb import engine_podman
    from hyb.serving import box, contained

    names = list(box.IMAGES.values())
    there = [name for name in names if engine_podman.image_exists(name, info)]
    get = contained.missing_image(names[0]).hint
    return Finding("runtime image", bool(there), ", ".join(there) or "none", "the engine of a container", get)


def _cdi() -> Finding:
    """Files that describe devices to containers, where Podman looks for them."""
    found = [p for folder in ("/etc/cdi", "/run/cdi") for p in sorted(Path(folder).glob("*.[jy]*"))]
    text = ", ".join(map(str, found)) or "no file in /etc/cdi or /run/cdi"
    return Finding("cdi", bool(found), text, "a GPU in a container: `--gpu all`", CDI)


def _vllm(environ: Mapping[str, str]) -> Finding:
    from hyb.serving import vllm

    get = f"pip install vllm in an environment of its own, and {vllm.VARIABLE}=ITS/bin/vllm"
    try:
        found = vllm.program(environ)
    except HybError as error:
        return Finding("vllm", False, error.message, "serving on a GPU", get)
    return Finding("vllm", bool(found), found[0] if found else "none", "serving on a GPU", get)


def _links(environ: Mapping[str, str]) -> list[Finding]:
    """A finding for each certificate of a link that is soon out, expired or otherwise not good; none when all are."""
    from hyb.credentials import survey

    try:
        found = survey(environ, datetime.now(UTC))
    except HybError as error:
        return [Finding("links", False, error.message, "the links' credentials", error.hint)]
    faults = [(one.name, c.said, "renew") for one in found for c in one.certificates if c.state != "ok"]
    faults += [(one.name, text, "list") for one in found for text in one.problems]
    return [
        Finding(f"link {name}", False, said, "the link", f"`hyb link {verb}{f' {name}' if verb == 'renew' else ''}`")
        for name, said, verb in faults
    ]  # fmt: skip


def _program(name: str) -> Finding:
    path = engine.which(name)
    return Finding(name, bool(path), path or "not installed", _PROGRAMS[name], engine.INSTALL[name].strip("`"))


def _hub(environ: Mapping[str, str]) -> Finding:
    import urllib.error
    import urllib.request

    endpoint = environ.get("HF_ENDPOINT", "https://huggingface.co")
    check: Callable[[str], int] = lambda url: urllib.request.urlopen(url, timeout=10).status  # noqa: E731
    try:
        found, ok = f"{endpoint}: {check(endpoint)}", True
    except (OSError, ValueError) as error:
        found, ok = f"{endpoint}: {getattr(error, 'reason', error)}", isinstance(error, urllib.error.HTTPError)
    return Finding("hub", ok, found, "pulling models", "check the network, or set HF_ENDPOINT to your mirror")
