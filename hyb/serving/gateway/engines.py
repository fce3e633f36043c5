"""The engines of a service: one that answers, and while its model or adapters change a second one that takes over.

A `_Seat` is a model and a set of adapters with the process that has them loaded. A process that dies is started again
in its seat, after a pause that doubles; requests that were in it get an EngineLostError, requests that come wait for
the next one. When adapters come or go, or the model becomes another one, a new seat is made and warmed (the weights of
one model are the page cache's, shared), then takes every new request; the old one ends when its last request has. A
request is sent to the seat that its Pick was made for, because the engine knows an adapter by its number in the set.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyb.errors import Exit, HybError
from hyb.serving import child
from hyb.serving.gateway import process, wire
from hyb.serving.gateway.adapters import AdapterSet, checked
from hyb.serving.gateway.process import EngineProcess, Launch
from hyb.serving.gateway.types import (
    AdapterSpec,
    EngineAnswer,
    EngineDrainingError,
    EngineLostError,
    GatewayJob,
    Model,
    Pick,
)

PATIENCE = 30.0  # seconds that a request waits for an engine that is being started again
PAUSE = (0.1, 30.0)  # seconds before an engine is started again: the first, and the most
DYING = 0.5  # seconds between the end of an engine and the moment at which everyone has seen it
STEADY = 60.0  # seconds after which an engine's crash counts as the first one
DRAIN = 600.0  # seconds that the requests of an engine which was replaced have to end
SETTLE = 0.5  # seconds for requests that were picked for it and not sent yet

Launcher = Callable[[GatewayJob, Sequence[AdapterSpec], Path], Launch]


class Engines:
    """The interface that the gateway's edge builds on."""

    def __init__(self, job: GatewayJob, *, launch: Launcher = process.launch, seed: int | None = None) -> None:
        """Nothing is started before `run`. Raises HybError for adapters that can't be served together."""
        self.restarts = 0
        self._set = AdapterSet(job, checked(job.adapters))
        self._launch, self._chance = launch, random.Random(seed)
        self._seat: _Seat | None = None
        self._seats: dict[int, _Seat] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._swap = asyncio.Lock()
        self._draining = False
        self._began = time.monotonic()

    @property
    def job(self) -> GatewayJob:
        """What is served now: the job that it was begun with, or the one of the last `swap`."""
        return self._set.job

    @property
    def ready(self) -> bool:
        """The present engine has answered with one real token, and the service is not ending."""
        return not self._draining and self._seat is not None and self._seat.ready.is_set()

    @property
    def running(self) -> int:
        """Requests that are in an engine or wait for one."""
        return sum(seat.running for seat in self._seats.values())

    async def run(self) -> None:
        """Start the engine and watch it until `aclose`. Raises UnableError when the first start fails."""
        seat = self._new_seat(self._set)
        self._seat = seat
        try:
            await seat.start()
        except (child.UnableError, OSError) as error:
            await self.aclose(0)
            raise child.UnableError(str(error)) from error
        self._keep(seat.watch())
        await seat.closed.wait()
        while not self._draining and self._seat and not self._seat.closed.is_set():  # a new seat has taken over
            await self._seat.closed.wait()

    def drain(self) -> None:
        """Take no new request from now on."""
        self._draining = True

    async def aclose(self, grace: float) -> None:
        """Take no new request, let those that run end for `grace` seconds, end the engines."""
        self.drain()
        end = time.monotonic() + grace
        while self.running and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await asyncio.gather(*(seat.close() for seat in list(self._seats.values())))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def models(self) -> tuple[Model, ...]:
        """The base first, then the adapters."""
        return self._set.models()

    def pick(self, model: str = "") -> Pick:
        """Who answers a request for `model`; "" or the service's name: the base, or an adapter by its weight.

        Raises UnknownModelError.
        """
        return self._set.pick(model, self._chance)

    @contextlib.asynccontextmanager
    async def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None,
        *, pick: Pick | None = None,
    ) -> AsyncIterator[EngineAnswer]:  # fmt: skip
        """Ask the engine; waits up to 30 s for one that is being restarted. With `pick`: the engine that it is for.

        Raises EngineLostError on entering the context and from `chunks`.
        """
        if self._draining:
            raise EngineDrainingError("the service is ending")
        seat = self._seat if pick is None else self._seats.get(pick.generation)
        if seat is None:
            raise EngineLostError("the service's model or adapters have changed; send the request again")
        seat.running += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                yield await self._answer(stack, seat, method, path, body, headers)
        finally:
            seat.running -= 1

    async def _answer(
        self, stack: contextlib.AsyncExitStack, seat: _Seat, method: str, path: str, body: bytes,
        headers: Mapping[str, str] | None,
    ) -> wire.Answer:  # fmt: skip
        end, again = time.monotonic() + PATIENCE, False
        while True:
            try:
                await asyncio.wait_for(seat.ready.wait(), max(0.0, end - time.monotonic()))
            except TimeoutError as error:
                raise EngineLostError("the engine is not there") from error
            if seat.process is None:
                raise EngineLostError("the engine has ended")
            asked = time.monotonic()
            try:
                return await stack.enter_async_context(wire.ask(seat.process.socket, method, path, body, headers))
            except OSError:  # nothing listens: it has just died, and nothing was asked of it
                await asyncio.sleep(0.05)
            except EngineLostError:
                if again or time.monotonic() - asked > DYING:
                    raise
                again = True  # it was dying when it was asked; a request that kills an engine gets no third one
                await asyncio.sleep(0.05)

    def state(self) -> dict[str, Any]:
        """What the owner may see of it: engine, pid, memory, adapters, restarts."""
        engine = self._seat.process if self._seat else None
        return {
            "name": self.job.name,
            "engine": self.job.engine,
            "where": self.job.where,
            "digest": self.job.digest,
            "context": self.job.context,
            "parallel": self.job.parallel,
            "pid": engine.pid if engine else 0,
            "ready": self.ready,
            "draining": self._draining,
            "restarts": self.restarts,
            "rss_bytes": sum(s.process.memory() for s in self._seats.values() if s.process),
            "running": self.running,
            "engines": len(self._seats),
            "since": round(time.monotonic() - self._began, 1),
            "adapters": [
                {"name": a.name, "digest": a.digest, "weight": a.weight, "path": a.path} for a in self._set.adapters
            ],
        }

    async def load(self, adapter: AdapterSpec) -> None:
        """Serve an adapter, too, once an engine with it has answered. Raises HybError; then all is as it was."""
        async with self._swap:
            await self._change(self._set.with_(adapter))

    async def drop(self, name: str) -> None:
        """Serve an adapter no more; requests that it is answering end. Raises HybError."""
        async with self._swap:
            await self._change(self._set.without(name))

    async def swap(self, job: GatewayJob) -> None:
        """Serve another model with its adapters, once an engine with it has answered. Raises HybError; then all is as
        it was. Both models are in memory meanwhile."""
        async with self._swap:
            await self._change(AdapterSet(job, checked(job.adapters), self._set.number + 1))

    def weigh(self, name: str, percent: float) -> None:
        """Set an adapter's share of the requests for the service's own name. Raises HybError."""
        if self._swap.locked():
            raise HybError("the service's model or adapters are changing just now", hint="try again in a moment")
        self._set = self._set.weighed(name, percent)

    # -- seats

    async def _change(self, wanted: AdapterSet) -> None:
        if self._draining or not self._seat:
            raise HybError(f"`{self.job.name}` is ending", code=Exit.BELOW)
        old, new = self._seat, self._new_seat(wanted)
        try:
            await new.start()
        except (child.UnableError, OSError) as error:
            await new.close()
            raise HybError(f"{error}; `{self.job.name}` goes on as it was", code=Exit.BELOW) from error
        except BaseException:
            await new.close()
            raise
        self._keep(new.watch())
        self._set, self._seat = wanted, new
        self._keep(old.retire())

    def _new_seat(self, wanted: AdapterSet) -> _Seat:
        seat = self._seats[wanted.number] = _Seat(self, wanted)
        return seat

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Seat:
    """A set of adapters, and the process that has them loaded: now this one, after a crash the next."""

    def __init__(self, engines: Engines, wanted: AdapterSet) -> None:
        self._engines, self._set = engines, wanted
        self.process: EngineProcess | None = None
        self.ready, self.closed = asyncio.Event(), asyncio.Event()
        self.running = 0

    async def start(self) -> None:
        """Start a process and wait for its first token. Raises UnableError, OSError."""
        job = self._set.job
        began = time.monotonic()
        how = self._engines._launch(job, self._set.adapters, Path(job.run, f"e{self._set.number}"))
        self.process = EngineProcess(job, how)
        try:
            await self.process.until_ready()
        except BaseException:
            await self.process.end(0)
            raise
        child.say(f"engine {job.engine} ready after {time.monotonic() - began:.1f} s (process {self.process.pid})")
        self.ready.set()

    async def watch(self) -> None:
        """Start the process again whenever it ends, until the seat is closed."""
        pause = PAUSE[0]
        while self.process:
            status = await asyncio.shield(self.process.ended)
            self.ready.clear()
            if self.closed.is_set():
                return
            if time.monotonic() - self.process.since > STEADY:
                pause = PAUSE[0]
            child.say(f"the engine ended{process.how(status)}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE[1])
            self._engines.restarts += 1
            with contextlib.suppress(child.UnableError, OSError):  # its log says why; try again
                await self.start()

    async def retire(self) -> None:
        """Close when the last request has ended."""
        await asyncio.sleep(SETTLE)
        end = time.monotonic() + DRAIN
        while self.running and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await self.close()

    async def close(self) -> None:
        """End the process for good."""
        self.closed.set()
        self.ready.clear()
        if self.process:
            await self.process.end()
        self._engines._seats.pop(self._set.number, None)
