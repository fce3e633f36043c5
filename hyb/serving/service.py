"""A service that runs: what is known of it, where that is kept, and whether its process is still the same one.

    DATA/run/NAME.json        the state: written when the process is started
    DATA/run/NAME.ready.json  written by the gateway when the model has answered
    DATA/run/NAME.job.json    what the gateway was told
    DATA/run/NAME.log         what gateway and engine said; prompts and answers are not in it. NAME.log.1: before that
    DATA/run/NAME.lock        held while a service of that name is started or stopped

The process is the gateway's; its engines are on its leash. The sockets of both lie in a folder below the system's own
for such things, for their paths must be short.

A pid alone is no identity: it is taken again. With the start time that the kernel keeps (`/proc/PID/stat`, in clock
ticks since boot) it is. A signal goes through a pidfd that was opened before the start time was compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hyb import fs
from hyb.encryption import memory
from hyb.places import data_home

EXITING = 0x4
"""PF_EXITING (Linux, include/linux/sched.h) among the flags in `/proc/PID/stat`."""
SUFFIXES = (".json", ".ready.json", ".job.json")
"""Of the files that go when a service is gone; the log stays."""
SOCKETS = "hyb-"
"""How the name of a folder of sockets begins."""
SHORT = 60
"""Bytes of a path in which a folder of sockets may lie: with NAME/e123/engine.sock it stays below 107."""


@dataclass(frozen=True)
class Service:
    """One model being served."""

    name: str
    pid: int
    started: int
    """The process's start, in clock ticks since boot."""
    host: str
    port: int
    """0 until the gateway has taken a free one; -1 for none."""
    engine: str
    """`llama.cpp`, `transformers` or `vllm`."""
    why: str
    """Why this engine."""
    artifact: str
    """Digest of what was asked for: a model, an adapter, an image."""
    key_path: str
    log: str
    detached: bool
    where: str = "process"
    """`process` or `podman`: where the engine runs."""
    tls_cert: str = ""
    """The certificate that it shows; "" for plain HTTP."""
    unix_socket: str = ""
    """It listens here, too."""
    admin_socket: str = ""
    """The owner's door."""
    unsealed: str = ""
    """The private folder with what a sealed image was taken out into; "" for any other."""
    ready: bool = False
    """It has announced itself: the model has answered."""
    leash: int | None = field(default=None, compare=False, repr=False)
    """The end of a pipe: when it closes, the gateway ends. None for a detached one, and in every other process."""

    @property
    def url(self) -> str:
        """The base URL that an OpenAI client takes; `unix:PATH` of one that has a socket and no port."""
        if self.port < 0:
            return f"unix:{self.unix_socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}/v1"

    @property
    def key(self) -> str:
        """The API key, read from its file. Raises OSError."""
        return Path(self.key_path).read_text().strip()

    def as_dict(self) -> dict[str, Any]:
        """For `--json` and the state file; without the key."""
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "leash"}
        return {**shown, "url": self.url}


def folder(environ: Mapping[str, str]) -> Path:
    """The folder of states, made when absent, for its owner alone. Raises HybError."""
    path = data_home(environ) / "run"
    with fs.explained(f"can't make `{path}`"):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def sockets(environ: Mapping[str, str], name: str) -> Path:
    """A new private folder for the sockets of a service. Raises HybError."""
    places = [environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]
    short = [p for p in places if p and len(os.fsencode(p)) <= SHORT and os.access(p, os.W_OK | os.X_OK)]
    with fs.explained("can't make a folder for sockets"):
        return Path(tempfile.mkdtemp(prefix=f"{SOCKETS}{name[:16]}-", dir=short[0] if short else "/tmp")).resolve()


def write(run: Path, service: Service) -> None:
    """Keep the state. Raises HybError."""
    with fs.explained(f"can't write in `{run}`"):
        fs.write_atomic(run / f"{service.name}.json", json.dumps(service.as_dict(), indent=1).encode(), mode=0o600)


def read(run: Path, name: str) -> Service | None:
    """The state kept under `name`, with the port that the gateway announced; None when there is none or it is damaged.

    Whether the process lives is another question: `alive`.
    """
    try:
        state = json.loads((run / f"{name}.json").read_bytes())
        known = {f.name for f in fields(Service)} - {"leash"}
        service = Service(**{k: v for k, v in state.items() if k in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return replace(service, port=int(json.loads((run / f"{name}.ready.json").read_bytes())["port"]), ready=True)
    return service


def forget(run: Path, name: str) -> None:
    """Remove the files of a service that is gone, and its private folders."""
    if found := read(run, name):
        remove_sockets(Path(found.admin_socket).parent)
        if found.unsealed:
            memory.remove(Path(found.unsealed))
    for suffix in SUFFIXES:
        (run / f"{name}{suffix}").unlink(missing_ok=True)


def remove_sockets(folder: Path) -> None:
    """Remove a folder that `sockets` has made; no other."""
    if folder.name.startswith(SOCKETS):
        shutil.rmtree(folder, ignore_errors=True)


def names(run: Path) -> list[str]:
    """The names that have a state."""
    found = {p.name for p in run.glob("*.json")}
    return sorted(n.removesuffix(".json") for n in found if not n.endswith(SUFFIXES[1:]) and not n.startswith("."))


def start_time(pid: int) -> int | None:
    """When the process was started, in clock ticks since boot; None when there is none, or one that is ending.

    The kernel closes a killed process's files before it is a zombie: its clients know of its end, while it is still
    said to run. So its flags count, too.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return started_of(text)


def started_of(text: str) -> int | None:
    """`start_time` from the text of `/proc/PID/stat` (proc_pid_stat(5)). Pure."""
    state, *rest = text.rpartition(")")[2].split()  # the program's name, in parentheses, may hold anything
    return None if state in "ZX" or int(rest[5]) & EXITING else int(rest[18])


def alive(service: Service) -> bool:
    """True while the very process that was started is there."""
    with contextlib.suppress(ChildProcessError):  # ours, and ended: let the kernel forget it
        os.waitpid(service.pid, os.WNOHANG)
    return start_time(service.pid) == service.started


@contextlib.contextmanager
def handle(service: Service) -> Iterator[int | None]:
    """A pidfd of the service's process, or None when that is gone. Signals through it can't reach another process."""
    try:
        descriptor = os.pidfd_open(service.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor if alive(service) else None
    finally:
        os.close(descriptor)
