"""The entry point of a container: `python -m hyb.serving` finds the model under /models and serves it on port 8000.

As process 1 it does what an init must: it passes SIGTERM on (process 1 ignores it unless it asks for it) and reaps.
Nothing is served without an API key, which is read from a file (a mounted secret), never from an argument.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from hyb import engine as programs
from hyb.serving import child, client
from hyb.serving.choice import LLAMA, MODULE, TRANSFORMERS

MAGIC = b"GGUF"
GRACE = 10  # seconds from SIGTERM to SIGKILL


def options(argv: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """The options; each has a variable of the environment, for an image's unit sets those."""
    parser = argparse.ArgumentParser("python -m hyb.serving", description="Serve the model under a folder.")

    def add(option: str, variable: str, default: str, kind: type, text: str) -> None:
        parser.add_argument(option, type=kind, default=environ.get(variable, default), help=f"{text} (${variable})")

    add("--models", "HYB_MODELS", "/models", Path, "folder with the model")
    add("--name", "HYB_NAME", "model", str, "the model's id in the API")
    add("--host", "HYB_HOST", "0.0.0.0", str, "address to listen on")
    add("--port", "HYB_PORT", "8000", int, "port to listen on")
    add(
        "--unix-socket",
        "HYB_UNIX_SOCKET",
        "",
        str,
        "listen on this socket (a path ending in .sock) instead; llama.cpp only",
    )
    add("--key-file", "HYB_KEY_FILE", "/run/secrets/api-key", Path, "file with the API key")
    add("--context", "HYB_CONTEXT", "4096", int, "tokens a request")
    add("--parallel", "HYB_PARALLEL", "4", int, "requests at once; llama.cpp only")
    parser.add_argument("--healthy", action="store_true", help="ask the server that runs: status 0 when it is ready")
    return parser.parse_args(argv)


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
    return (LLAMA, gguf[0].resolve()) if gguf else (TRANSFORMERS, configs[0].resolve())


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def job(given: argparse.Namespace, engine: str, model: Path, ready: Path) -> child.Job:
    """The engine's job."""
    return child.Job(
        model=str(model),
        name=given.name,
        host=given.unix_socket or given.host,
        port=0 if given.unix_socket else given.port,
        key_path=str(given.key_file.absolute()),
        ready_path=str(ready),
        context=given.context,
        parallel=given.parallel if engine == LLAMA else 1,
    )


def run(given: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises UnableError."""
    child.read_key(given.key_file)
    engine, model = find(given.models)
    if given.unix_socket and (engine != LLAMA or not given.unix_socket.endswith(".sock")):
        raise child.UnableError("a unix socket needs a GGUF and a path that ends in `.sock`")
    with tempfile.TemporaryDirectory(prefix="hyb-") as folder:
        path = Path(folder, "job.json")
        job(given, engine, model, Path(folder, "ready.json")).write(path)
        pid = programs.spawn(programs.python(MODULE[engine], str(path)))
        return _mind(pid)


def _mind(pid: int) -> int:
    """Pass signals on, reap, end with the engine's status."""
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


def main() -> int:
    """See the module's docstring."""
    given = options(sys.argv[1:], os.environ)
    if given.healthy:
        return 0 if client.health("127.0.0.1", given.port) == 200 else 1
    try:
        return run(given)
    except child.UnableError as error:
        return child.give_up(error)


if __name__ == "__main__":
    sys.exit(main())
