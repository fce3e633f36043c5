"""What every engine's process does: read its job, end with whoever holds its leash, listen on its Unix socket.

An engine has no TCP port and no API key: its socket lies in a folder that only its owner (or its container) can enter,
and the gateway is the only client. A job is a JSON file, so that nothing of it shows in the list of processes.
Only the standard library is imported here.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from hyb import engine, fs
from hyb.errors import HybError

SOCKET_PATH = 107
"""Bytes of a Unix socket's path (unix(7))."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter beside the base: its name in the API, its file (GGUF) or folder (PEFT)."""

    name: str
    path: str


@dataclass(frozen=True)
class Job:
    """What an engine is to do. Paths are absolute, for an engine's working directory is `/`."""

    model: str
    """A GGUF file (llama.cpp), or a folder with safetensors (transformers, vLLM)."""
    name: str
    """The model's id in the API."""
    socket: str
    """The Unix socket to listen on; ends in `.sock`."""
    context: int = 4096
    """Tokens of prompt and answer together, a request."""
    parallel: int = 1
    """Requests answered at the same time."""
    adapter: str = ""
    """A PEFT adapter folder that is part of the base; "" for none. transformers and vLLM only."""
    adapters: tuple[Adapter, ...] = ()
    """Those that a request may ask for, in the order in which llama.cpp numbers them."""
    leash: bool = False
    """Stdin is a pipe: end when it closes."""

    def write(self, path: Path) -> None:
        """Write the job, readable by its owner alone. Raises OSError."""
        fs.write_atomic(path, json.dumps(asdict(self), indent=1).encode(), mode=0o600)


class UnableError(Exception):
    """The engine can't serve this: its text is the last line of the log."""


def main(argv: list[str]) -> Job:
    """The job named on the command line, with the leash tied and OpenMP set. Raises UnableError."""
    os.environ.update(engine.openmp(os.environ))  # read when its library is loaded, which is later
    fields = json.loads(Path(argv[1]).read_bytes())
    fields["adapters"] = tuple(Adapter(**a) for a in fields.get("adapters", ()))
    job = Job(**fields)
    os.chdir("/")
    if job.leash:
        tie()
    if not job.socket.endswith(".sock") or len(os.fsencode(job.socket)) > SOCKET_PATH:
        raise UnableError(f"`{job.socket}` can't be a socket: at most {SOCKET_PATH} bytes that end in `.sock`")
    Path(job.socket).unlink(missing_ok=True)  # what a killed engine left
    return job


def tie() -> None:
    """Tie the leash: this process ends when its stdin closes, which happens when the holder dies, however it dies."""
    threading.Thread(target=_die_with_holder, daemon=True).start()


def read_key(path: Path) -> str:
    """The API key in a file. Raises UnableError when there is none: nothing is served without one."""
    try:
        key = path.read_text().strip()
    except OSError as error:
        raise UnableError(f"the API key `{path}` can't be read: {os.strerror(error.errno or 0).lower()}") from error
    if len(key) < 16 or not key.isascii() or any(c.isspace() for c in key):
        raise UnableError(f"`{path}` holds no API key: at least 16 letters, digits or signs in one word are needed")
    return key


def give_up(error: Exception) -> int:
    """Put a mistake in one line into the log; the process's exit status."""
    message = error.message if isinstance(error, HybError) else str(error)
    say(message)
    return 1


def say(line: str) -> None:
    """One line into the log."""
    sys.stderr.write(f"hyb: {line}\n")
    sys.stderr.flush()


def _die_with_holder() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)
