"""What every engine's process does: read its job, end with whoever holds its leash, announce its port.

A job is a JSON file, so that nothing of it shows in the list of processes. The API key is not in it: the job names
the key's file. Only the standard library is imported here.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from hyb import fs
from hyb.errors import HybError


@dataclass(frozen=True)
class Job:
    """What an engine is to do. Paths are absolute, for an engine's working directory is `/`."""

    model: str
    """A GGUF file (llama.cpp), or a folder with safetensors (transformers)."""
    name: str
    """The model's id in the API."""
    host: str
    port: int
    """0: one that is free."""
    key_path: str
    """A file with the API key that every request but `/health` must bear."""
    ready_path: str
    """Written when the port answers: {"port": …}."""
    context: int = 4096
    """Tokens of prompt and answer together, a request."""
    parallel: int = 1
    """Requests answered at the same time."""
    adapter: str = ""
    """A PEFT adapter folder to put on the model; "" for none. transformers only."""
    leash: bool = False
    """Stdin is a pipe: end when it closes."""

    def write(self, path: Path) -> None:
        """Write the job, readable by its owner alone. Raises OSError."""
        fs.write_atomic(path, json.dumps(asdict(self), indent=1).encode(), mode=0o600)


class UnableError(Exception):
    """The engine can't serve this: its text is the last line of the log."""


def main(argv: list[str]) -> tuple[Job, str]:
    """The job named on the command line and its API key, with the leash tied. Raises UnableError."""
    job = Job(**json.loads(Path(argv[1]).read_bytes()))
    os.chdir("/")
    if job.leash:
        threading.Thread(target=_die_with_holder, daemon=True).start()
    return job, read_key(Path(job.key_path))


def read_key(path: Path) -> str:
    """The API key in a file. Raises UnableError when there is none: nothing is served without one."""
    try:
        key = path.read_text().strip()
    except OSError as error:
        raise UnableError(f"the API key `{path}` can't be read: {os.strerror(error.errno or 0).lower()}") from error
    if len(key) < 16 or not key.isascii() or any(c.isspace() for c in key):
        raise UnableError(f"`{path}` holds no API key: at least 16 letters, digits or signs in one word are needed")
    return key


def announce(job: Job, port: int) -> None:
    """Say that `port` answers."""
    fs.write_atomic(Path(job.ready_path), json.dumps({"port": port}).encode(), mode=0o600)


def give_up(error: Exception) -> int:
    """Put a mistake in one line into the log; the process's exit status."""
    message = error.message if isinstance(error, HybError) else str(error)
    sys.stderr.write(f"hyb: {message}\n")
    return 1


def _die_with_holder() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)
