"""One engine process: started on a leash, waited for until it has answered with a real token, watched, ended.

The leash is a pipe: the engine's stdin. When the gateway dies, killed with SIGKILL even, the kernel closes its end and
the engine ends itself (`hyb.serving.child.tie`). A pidfd tells when the engine ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hyb import engine as programs
from hyb.serving import child
from hyb.serving.choice import LLAMA, MODULE, VLLM
from hyb.serving.gateway import wire
from hyb.serving.gateway.types import AdapterSpec, EngineLostError, GatewayJob

READY = 45.0  # seconds until an engine is ready, and
COMPILES = 900.0  # seconds more for vLLM, which compiles what it runs at its first start
BOX = 60.0  # seconds more for a container
SLOW = 20 << 20  # bytes of the model a second, from a slow disk. llama.cpp runs the chat template: one may never end
TEMPLATE = 20.0  # seconds for a chat template to render one word
WARM = 300.0  # seconds for the first token: a large model on a slow machine
HI = {"messages": [{"role": "user", "content": "Hi"}]}


def rss(pid: int) -> int:
    """Bytes that a process has in memory; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:")), 0)


@dataclass(frozen=True)
class Launch:
    """How an engine is started: its command line, and what to do when it is gone."""

    argv: Sequence[str]
    socket: str
    cleanup: Callable[[], None] = field(default=lambda: None)
    memory: Callable[[int], int] = field(default=rss)
    """Bytes of memory that the engine of this process id uses."""


def launch(job: GatewayJob, adapters: Sequence[AdapterSpec], folder: Path) -> Launch:
    """How to start the engine of `job` with these adapters, its files in `folder` (made here). Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    socket = str(folder / "engine.sock")
    told = child.Job(
        model=job.model, name=job.name, socket=socket, context=job.context, parallel=job.parallel, adapter=job.adapter,
        adapters=tuple(child.Adapter(a.name, a.path) for a in adapters), leash=True,
    )  # fmt: skip
    if job.where == "process":
        path = folder / "job.json"
        told.write(path)
        return Launch(programs.python(MODULE[job.engine], str(path)), socket)
    contained = importlib.import_module("hyb.serving.contained")
    return Launch(**contained.launch(job, told))


class EngineProcess:
    """An engine that was started."""

    def __init__(self, job: GatewayJob, how: Launch) -> None:
        """Start it. Must be called in the event loop. Raises OSError."""
        self.job, self.how, self.socket = job, how, how.socket
        self.since = time.monotonic()
        self.ready = False
        theirs, self._leash = os.pipe()
        try:
            self.pid = programs.spawn(how.argv, stdin=theirs)
        except BaseException:
            os.close(self._leash)
            raise
        finally:
            os.close(theirs)
        self._handle = os.pidfd_open(self.pid)
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """Its exit status, negative for a signal's number."""
        self._loop.add_reader(self._handle, self._reap)

    def _reap(self) -> None:
        self._loop.remove_reader(self._handle)
        self.ready = False
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:  # somebody else has reaped it
            status = -signal.SIGKILL
        os.close(self._handle)
        os.close(self._leash)
        Path(self.socket).unlink(missing_ok=True)
        self.how.cleanup()
        if not self.ended.done():
            self.ended.set_result(status)

    async def until_ready(self) -> None:
        """Wait for its socket, then for one real token. Raises UnableError when it ends or does not answer in time."""
        answering = asyncio.ensure_future(self._answering())
        try:
            await asyncio.wait((answering, asyncio.shield(self.ended)), return_when=asyncio.FIRST_COMPLETED)
            if self.ended.done():
                raise child.UnableError(
                    f"the engine {self.job.engine} ended{how(self.ended.result())} before it was ready"
                )
            await answering
        finally:
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await answering
        self.ready = True

    async def _answering(self) -> None:
        seconds = READY + size(Path(self.job.model)) / SLOW
        seconds += COMPILES * (self.job.engine == VLLM) + BOX * (self.job.where == "podman")
        why = " (does its chat template ever end?)" if self.job.engine == LLAMA else ""
        await self._within(seconds, f"was not ready{why}", self._healthy())
        if self.job.engine == LLAMA:
            await self._within(
                TEMPLATE, "did not come to the end of its chat template", self._post("/apply-template", HI)
            )
        token = {**HI, "max_tokens": 1, "model": self.job.name}
        await self._within(WARM, "gave no token", self._first_token(token))

    async def _within(self, seconds: float, what: str, waiting: object) -> None:
        try:
            await asyncio.wait_for(waiting, seconds)  # type: ignore[arg-type]
        except TimeoutError as error:
            raise child.UnableError(f"the engine {self.job.engine} {what} within {seconds:.0f} s") from error
        except (OSError, EngineLostError) as error:
            raise child.UnableError(f"the engine {self.job.engine} ended before it was ready") from error

    async def _healthy(self) -> None:
        pause = 0.01
        while True:
            with contextlib.suppress(OSError, EngineLostError):
                if (await wire.whole(self.socket, "GET", "/health"))[0] == 200:
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, 0.1)

    async def _first_token(self, token: Mapping[str, object]) -> None:
        if (await self._post("/v1/chat/completions", token))[0] == 200:
            return
        status, said = await self._post("/v1/embeddings", {"input": "Hi", "model": self.job.name})  # of such a model
        if status != 200:
            raise child.UnableError(f"the engine {self.job.engine} can't answer: {_message(said)}")

    async def _post(self, path: str, body: Mapping[str, object]) -> tuple[int, bytes]:
        return await wire.whole(self.socket, "POST", path, json.dumps(body).encode())

    def memory(self) -> int:
        """Bytes of memory that it uses; 0 when it is gone."""
        return 0 if self.ended.done() else self.how.memory(self.pid)

    async def end(self, grace: float = 2) -> None:
        """SIGTERM, and after `grace` seconds SIGKILL; returns when it is gone."""
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, None)):
            if self.ended.done():
                return
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)
            await asyncio.wait((self.ended,), timeout=seconds)


def how(status: int) -> str:
    """` with SIGKILL`, for a status as `ended` has it."""
    return f" with {signal.Signals(-status).name}" if status < 0 else f" with status {status}"


def size(model: Path) -> int:
    """Bytes of a model's file, or of the files in its folder; 0 when it is not there."""
    try:
        files = [model] if model.is_file() else [p for p in model.iterdir() if p.is_file()]
        return sum(p.stat().st_size for p in files)
    except OSError:
        return 0


def _message(said: bytes) -> str:
    try:
        return str(json.loads(said)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return said[:200].decode("utf-8", "replace")
