"""The bare engine of a container: `python -m hyb.serving --engine-only`, on a Unix socket, without gateway or key.

Its clients are those who can open the socket: the gateway on the host, which has the folder of the socket for itself.
As process 1 it does what an init must: it passes SIGTERM on (process 1 ignores it unless it asks for it) and reaps. On
a leash it ends when its stdin closes, and the kernel then ends all else in the container.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hyb import engine as programs
from hyb.serving import child
from hyb.serving.choice import LLAMA, MODULE, TRANSFORMERS, VLLM

MAGIC = b"GGUF"
GRACE = 10  # seconds from SIGTERM to SIGKILL


@dataclass(frozen=True)
class Bare:
    """What is to be served, as a container sees it."""

    models: Path
    """A folder with one model somewhere below it."""
    name: str
    socket: str
    adapters: Path | None = None
    """A folder with one subfolder an adapter; they are numbered in the order of these names."""
    context: int = 4096
    parallel: int = 4
    leash: bool = False


def find(folder: Path) -> tuple[str, Path]:
    """(engine, what to give it) for the model somewhere below a folder. Raises UnableError.

    A file is a GGUF by its first bytes: where an OCI artifact is mounted, files are called by their digest.
    """
    if not folder.is_dir():
        raise child.UnableError(f"`{folder}` is no folder: mount the model there")
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    gguf = [p for p in files if _starts_with(p, MAGIC)]
    configs = [p.parent for p in files if p.name == "config.json" and any(p.parent.glob("*.safetensors"))]
    if len(gguf) + len(configs) != 1:
        raise child.UnableError(f"`{folder}` holds {len(gguf) + len(configs)} models; one can be served")
    if gguf:
        return LLAMA, gguf[0].resolve()
    return VLLM if importlib.util.find_spec("vllm") else TRANSFORMERS, configs[0].resolve()


def adapters(folder: Path | None) -> tuple[child.Adapter, ...]:
    """The adapters below a folder. Raises UnableError for a subfolder without one.

    A number before the name (`0003.support`) keeps their order and is no part of it.
    """
    if folder is None or not folder.is_dir():
        return ()
    return tuple(_adapter(place) for place in sorted(folder.iterdir()) if place.is_dir())


def _adapter(place: Path) -> child.Adapter:
    number, dot, rest = place.name.partition(".")
    name = rest if dot and number.isdigit() else place.name
    gguf = [p for p in sorted(place.iterdir()) if p.is_file() and _starts_with(p, MAGIC)]
    if len(gguf) == 1:
        return child.Adapter(name, str(gguf[0]))
    if not gguf and (place / "adapter_config.json").is_file():
        return child.Adapter(name, str(place))
    raise child.UnableError(f"`{place}` holds no adapter: one `adapter.gguf`, or a PEFT folder, is needed")


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def run(given: Bare) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises UnableError."""
    engine, model = find(given.models)
    job = child.Job(
        model=str(model),
        name=given.name,
        socket=given.socket,
        context=given.context,
        parallel=given.parallel,
        adapters=adapters(given.adapters),
    )
    if given.leash:
        child.tie()
    with tempfile.TemporaryDirectory(prefix="hyb-") as folder:
        path = Path(folder, "job.json")
        job.write(path)
        return mind(programs.spawn(programs.python(MODULE[engine], str(path))))


def mind(pid: int) -> int:
    """Pass signals on to a child, reap, end with its status."""
    told: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        if number == signal.SIGALRM:
            os.kill(pid, signal.SIGKILL)  # ours and not reaped yet, so the pid is its own
        elif not told:
            told.append(number)
            os.kill(pid, signal.SIGTERM)
            signal.alarm(GRACE)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, end)
    while True:
        found, status = os.wait()
        if found == pid:
            break
    signal.alarm(0)
    if told:
        return 0
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
