"""The gateway's process: `python -m hyb.serving.gateway JOB.json`.

It listens before the model is loaded (`/health` answers, `/ready` says 503), and announces itself when the model has
answered with one real token. SIGTERM or SIGINT: no new request is taken, those that run have `grace` seconds, then the
engines end; a second signal ends all at once. Whatever ends this process ends its engines, SIGKILL too: they are on a
leash (see `process`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

from hyb import fs
from hyb.encryption import memory
from hyb.errors import HybError
from hyb.serving import child
from hyb.serving.gateway import admin, app, listen
from hyb.serving.gateway.engines import Engines
from hyb.serving.gateway.listen import Listener
from hyb.serving.gateway.types import GatewayJob

LOG = 4 << 20  # bytes of the log; what is older goes to LOG.1, and in the end away
LOOK = 20.0  # seconds between two looks at the log's size


async def serve(job: GatewayJob, listener: socket.socket | None) -> int:
    """Serve until a signal, or until the engine can't be started. The exit status. Raises UnableError."""
    engines = Engines(job)
    edge = app.build(job, engines)
    doors: list[Listener] = []
    if listener:
        doors.append(Listener(edge, [listener], cert=job.tls_cert, key=job.tls_key, grace=job.grace))
    if job.unix_socket:
        doors.append(Listener(edge, [listen.unix(job.unix_socket, 0o660)], grace=job.grace))
    owners = job.admin_socket or str(Path(job.run, f"{job.name}.admin.sock"))
    doors.append(Listener(admin.build(engines), [listen.unix(owners)], grace=1))
    ending = _signals()
    work = asyncio.create_task(engines.run())
    listening = [asyncio.create_task(door.listen()) for door in doors]
    extra = [asyncio.create_task(_announce(job, engines, listener)), asyncio.create_task(_keep_log_small(job.log))]
    stopped = asyncio.create_task(ending.wait())
    try:
        await asyncio.wait((work, stopped, *listening), return_when=asyncio.FIRST_COMPLETED)
        if not ending.is_set():
            await work  # raises why the engine can't be started
        await _drain(job, engines, doors, listening)
    finally:
        for task in (work, stopped, *extra, *listening):
            task.cancel()
        await engines.aclose(0)
        edge.close()
        for path in filter(None, (job.unix_socket, owners)):
            Path(path).unlink(missing_ok=True)
        await asyncio.gather(work, stopped, *extra, *listening, return_exceptions=True)
    return 0


def _signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second one ends the process at once, and the leashes the engines."""
    ending = asyncio.Event()

    def told() -> None:
        if ending.is_set():
            os._exit(0)
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told)
    return ending


async def _drain(job: GatewayJob, engines: Engines, doors: list[Listener], listening: list[asyncio.Task[None]]) -> None:
    engines.drain()
    for door in doors:
        door.end()
    await asyncio.wait(listening, timeout=job.grace + 1)


async def _announce(job: GatewayJob, engines: Engines, listener: socket.socket | None) -> None:
    while not engines.ready:
        await asyncio.sleep(0.01)
    gc.freeze()  # what is here now stays: no collection between two tokens has to look at it
    if job.ready_path:
        number = listener.getsockname()[1] if listener else -1
        fs.write_atomic(Path(job.ready_path), json.dumps({"port": number}).encode(), mode=0o600)


async def _keep_log_small(path: str) -> None:
    """Everyone writes to the log with O_APPEND, so it can be emptied under them."""
    while path:
        with contextlib.suppress(OSError):
            if Path(path).stat().st_size > LOG:
                shutil.copyfile(path, f"{path}.1")
                Path(f"{path}.1").chmod(0o600)
                os.truncate(path, 0)
        await asyncio.sleep(LOOK)


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    try:
        job = GatewayJob.read(Path(argv[1]))
        os.chdir("/")
        if job.leash:
            child.tie()
        child.read_key(Path(job.key_path))
        listen.room_for_connections()
        listener = listen.tcp(job)  # first: a port that is taken should not cost a model's loading
        with memory.held(Path(job.unsealed)) if job.unsealed else contextlib.nullcontext():
            return asyncio.run(serve(job, listener))
    except (child.UnableError, HybError) as error:
        return child.give_up(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
