"""Start a model's server, wait for it, list what runs, stop one.

A service is ready when it has answered with one real token, not when its port is open. Its process has a session of
its own: ^C of the terminal reaches hyb alone, which ends it. In the foreground it also ends when hyb is killed, for
its stdin is a pipe whose other end only hyb has.

The engine maps or reads the model once and keeps it: when the model's files are removed under it, it goes on
answering from the bytes that it holds open; only the next start misses them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType

from hyb import engine as programs
from hyb import fs
from hyb.artifact import Artifact, short
from hyb.errors import Exit, HybError
from hyb.progress import Progress, Say, silent
from hyb.render.unit import label_mistake
from hyb.serving import client, keys, port, service
from hyb.serving.child import Job
from hyb.serving.choice import EXTRA, MODULE, NEEDS, TRANSFORMERS, Choice, choose, gguf_path
from hyb.serving.service import Service
from hyb.store import Store

READY = 600.0  # seconds: a large model from a slow disk
GRACE = 10.0  # seconds from SIGTERM to SIGKILL
TAIL = 8  # lines of an engine's log that an error shows


def start(
    store: Store,
    artifact: Artifact,
    *,
    name: str,
    environ: Mapping[str, str],
    port: int = 8000,
    host: str = "127.0.0.1",
    engine: str = "auto",
    detach: bool = False,
    context_size: int = 0,
    parallel: int = 0,
    timeout: float = READY,
    say: Say = silent,
) -> Service:
    """Serve `artifact` (a model, an adapter, an image) as `name` and return when it has answered once.

    `port` 0 takes a free one. `context_size`: tokens a request, `parallel`: requests at once; 0 for the defaults.
    When the same artifact is being served under that name already, that service is returned.
    A service that is not detached ends with this process; give it to `wait`.

    Raises HybError: exit 3 for a bad name, host or port, a port that is taken, an artifact that can't be served, a
    missing package, a name in use; exit 4 for a damaged model; exit 5 when the engine ends or does not answer in time.
    """
    _check_address(name, host, port)
    choice = choose(artifact, store.artifact, engine=engine, context=context_size, parallel=parallel)
    programs.require(NEEDS[choice.engine], EXTRA[choice.engine], "serve")
    run = service.folder(environ)
    with _locked(run, name, say):
        if running := _already(run, name, artifact, host, port):
            say(f"`{name}` is being served already at {running.url}")
            return running
        _check_port(environ, host, port)
        say(f"engine {choice.engine}: {choice.why}")
        job = _job(store, choice, run, name, host, port, environ, detach)
        found = _launch(run, choice, job, artifact, detach)
        try:
            return _until_ready(run, found, job, timeout, say)
        except BaseException:  # ^C, too: nothing is left behind, and the cause goes on up
            _end(found, GRACE)
            service.forget(run, name)
            if found.leash is not None:
                os.close(found.leash)
            raise


def wait(found: Service) -> int:
    """Stay until a service of this process ends; the exit status for the shell.

    SIGINT ends it: 130. SIGTERM, or `hyb stop` elsewhere: 0. For a service that is detached, or was being served
    already, it returns 0 at once. Raises HybError (exit 5) with the end of its log when the engine ends by itself.
    Must be called in the main thread.
    """
    if found.leash is None:
        return 0
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        _signal(found, signal.SIGTERM)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = _wait_status(found)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        run = Path(found.log).parent
        if (kept := service.read(run, found.name)) is None or not service.alive(kept):
            service.forget(run, found.name)
        os.close(found.leash)
    if caught:
        return int(Exit.INTERRUPTED) if caught[0] == signal.SIGINT else 0
    if status == -signal.SIGTERM:
        return 0
    raise _died(found, status)


def ps(environ: Mapping[str, str]) -> list[Service]:
    """What is being served on this machine by this user. Entries of processes that are gone are removed."""
    run = service.folder(environ)
    found = []
    for name in service.names(run):
        kept = service.read(run, name)
        if kept and service.alive(kept):
            found.append(kept)
            continue
        with contextlib.suppress(BlockingIOError), fs.locked(run / f"{name}.lock", wait=False):
            again = service.read(run, name)  # it may have been started since
            if again is None or not service.alive(again):
                service.forget(run, name)
    return found


def stop(name: str, environ: Mapping[str, str], *, grace: float = GRACE) -> Service:
    """End the service `name`: SIGTERM, and after `grace` seconds SIGKILL. Returns what was ended.

    Raises HybError (exit 3) when nothing of that name is being served. Only the process that was started is touched.
    """
    running = {found.name: found for found in ps(environ)}
    if name not in running:
        others = ", ".join(f"`{n}`" for n in running)
        hint = f"being served: {others}" if others else "nothing is being served"
        raise HybError(f"nothing called `{name}` is being served", hint=hint)
    _end(running[name], grace)
    service.forget(service.folder(environ), name)
    return running[name]


# -- before the start ------------------------------------------------------------------------------------------------


def _check_address(name: str, host: str, number: int) -> None:
    mistakes = port.mistakes(host, number)
    if wrong := label_mistake(name):
        mistakes.append(f"name {wrong}")
    if mistakes:
        hint = "to reach it from elsewhere, link it: `hyb link`" if not port.is_loopback(host) else ""
        raise HybError(mistakes[0], hint=hint, details=mistakes if len(mistakes) > 1 else ())


@contextlib.contextmanager
def _locked(run: Path, name: str, say: Say) -> Iterator[None]:
    lock = run / f"{name}.lock"
    try:
        with fs.locked(lock, wait=False):
            yield
            return
    except BlockingIOError:
        say(f"another hyb is starting `{name}`; waiting")
    with fs.locked(lock):
        yield


def _already(run: Path, name: str, artifact: Artifact, host: str, number: int) -> Service | None:
    running = service.read(run, name)
    if running is None or not service.alive(running):
        return None
    if not running.ready:  # its hyb was killed between start and answer
        _end(running, GRACE)
        return None
    same = running.artifact == artifact.digest and running.host == host and number in (0, running.port)
    if same:
        return running
    raise HybError(
        f"`{name}` is being served already: `{short(running.artifact)}` at {running.url}",
        hint=f"`hyb stop {name}` first, or give another name with `--name`",
    )


def _check_port(environ: Mapping[str, str], host: str, number: int) -> None:
    port.check_free(host, number, ps(environ))


def _job(
    store: Store, choice: Choice, run: Path, name: str, host: str, number: int, environ: Mapping[str, str], detach: bool
) -> Job:
    folder = store.view(choice.model).resolve()
    whole = choice.engine == TRANSFORMERS
    return Job(
        model=str(folder if whole else folder / gguf_path(choice.model)),
        name=name,
        host="127.0.0.1" if host == "localhost" else host,
        port=number,
        key_path=str(keys.mint(environ, name).resolve()),
        ready_path=str((run / f"{name}.ready.json").resolve()),
        context=choice.context,
        parallel=choice.parallel,
        adapter=str(store.view(choice.adapter).resolve()) if choice.adapter else "",
        leash=not detach,
    )


# -- the process -----------------------------------------------------------------------------------------------------


def _launch(run: Path, choice: Choice, job: Job, artifact: Artifact, detach: bool) -> Service:
    service.forget(run, job.name)
    path, log = (run / f"{job.name}.job.json").resolve(), (run / f"{job.name}.log").resolve()
    ours, theirs = (None, None) if detach else _pipe()
    with fs.explained(f"can't start the engine in `{run}`"):
        job.write(path)
        log.unlink(missing_ok=True)
        pid = programs.spawn(programs.python(MODULE[choice.engine], str(path)), log=log, stdin=theirs)
    if theirs is not None:
        os.close(theirs)
    found = Service(
        job.name,
        pid,
        service.start_time(pid) or 0,
        job.host,
        job.port,
        choice.engine,
        choice.why,
        artifact.digest,
        job.key_path,
        str(log),
        detach,
        leash=ours,
    )
    service.write(run, found)
    return found


def _pipe() -> tuple[int, int]:
    """(our end, the engine's end): when ours closes, by our death too, theirs says so."""
    theirs, ours = os.pipe()
    return ours, theirs


def _until_ready(run: Path, found: Service, job: Job, timeout: float, say: Say) -> Service:
    """Wait for the port, then for one real token."""
    began = told = time.monotonic()
    while True:
        if not service.alive(found):
            raise _died(found, None)
        kept = service.read(run, found.name)
        if kept and kept.ready:
            break
        now = time.monotonic()
        if now - began > timeout:
            raise HybError(
                f"`{found.name}` was not ready within {timeout:g} s",
                hint=f"its log: `{found.log}`",
                code=Exit.BELOW,
                details=_tail(found),
            )
        if now - told > 1:
            told = now
            say(Progress("load", round(now - began), unit="s", note=f"engine {found.engine}"))
        time.sleep(0.02)
    ready = replace(kept, leash=found.leash)
    body = {"model": job.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    try:
        client.chat(ready.url, ready.key, body, timeout=max(1.0, timeout - (time.monotonic() - began)))
    except HybError:
        if not service.alive(found):
            raise _died(found, None) from None
        raise
    say(f"ready after {time.monotonic() - began:.1f} s at {ready.url}")
    return ready


def _signal(found: Service, number: int) -> None:
    with service.handle(found) as descriptor:
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)


def _end(found: Service, grace: float) -> None:
    """SIGTERM, wait, SIGKILL, wait."""
    with service.handle(found) as descriptor:
        if descriptor is None:
            return
        gone = select.poll()
        gone.register(descriptor, select.POLLIN)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            if not gone.poll(grace * 1000):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                gone.poll()
    service.alive(found)  # lets the kernel forget it, where it was our child


def _wait_status(found: Service) -> int | None:
    """The exit status of our child (negative: the signal that ended it); None when it was reaped before."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(found.pid, 0)[1])
    except ChildProcessError:
        return None


def _died(found: Service, status: int | None) -> HybError:
    how = "" if status is None else f" with {signal.Signals(-status).name if status < 0 else f'status {status}'}"
    hint = (
        "the system ended it, most likely for want of memory"
        if status == -signal.SIGKILL
        else f"its log: `{found.log}`"
    )
    return HybError(
        f"the engine {found.engine} of `{found.name}` ended{how}", hint=hint, details=_tail(found), code=Exit.BELOW
    )


def _tail(found: Service) -> list[str]:
    """The end of the log, without the frames of a traceback."""
    try:
        lines = Path(found.log).read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip() and not line.startswith(("  ", "Traceback"))][-TAIL:]
