"""Start a model's service, wait for it, list what runs, stop one.

A service is the gateway's process, which has its engines on a leash. It is ready when the model has answered with one
real token, not when its port is open. It has a session of its own: ^C of the terminal reaches hyb alone, which ends
it. In the foreground it also ends when hyb is killed, for its stdin is a pipe whose other end only hyb has.

The engine maps or reads the model once and keeps it: when the model's files are removed under it, it goes on
answering from the bytes that it holds open; only the next start misses them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hyb import engine as programs
from hyb import fs
from hyb.artifact import Artifact, short
from hyb.encryption import memory
from hyb.errors import Exit, HybError
from hyb.progress import Progress, Say, silent
from hyb.render.names import is_loopback, label_problem
from hyb.serving import client, keys, port, service
from hyb.serving.choice import EXTRA, GATEWAY, LLAMA, NEEDS, VLLM, Choice, choose, gguf_path, misfit
from hyb.serving.gateway.adapters import checked
from hyb.serving.gateway.types import AdapterSpec, GatewayJob
from hyb.serving.service import Service
from hyb.signing import gate
from hyb.store import Store

if TYPE_CHECKING:
    from hyb.serving.contained import Options

READY = 3600.0  # seconds; the gateway itself gives up earlier, by the model's size
DRAIN = 10.0  # seconds that requests under way have after SIGTERM
GRACE = DRAIN + 10.0  # seconds from SIGTERM to SIGKILL
TAIL = 8  # lines of a service's log that an error shows
MODULE = "hyb.serving.gateway"


@dataclass(frozen=True)
class Wanted:
    """How an artifact is to be served. The defaults are the safe ones."""

    name: str
    port: int = 8000
    """0: one that is free."""
    host: str = "127.0.0.1"
    """Another than loopback needs `tls_cert` and `tls_key`."""
    engine: str = "auto"
    context: int = 0
    """Tokens a request; 0: the default."""
    parallel: int = 0
    """Requests at once; 0: the engine's default."""
    adapters: Sequence[tuple[str, Artifact]] = ()
    """(name, adapter) of those to serve beside the model."""
    canary: Mapping[str, float] = field(default_factory=dict)
    """Adapter → percent of the requests for the service's own name."""
    tls_cert: str = ""
    tls_key: str = ""
    unix_socket: str = ""
    """Listen here, too."""
    where: str = "process"
    container: Options | None = None
    """When `where` is `podman`; None for the defaults."""
    unsealed: str = ""
    """The private folder that a sealed image was taken out into; the service removes it at its end."""


def start(
    store: Store, artifact: Artifact, wanted: Wanted, *, environ: Mapping[str, str], detach: bool = False,
    timeout: float = READY, say: Say = silent,
) -> Service:  # fmt: skip
    """Serve `artifact` (a model, an adapter, an image) as it is wanted and return when it has answered once.

    When the same artifact is being served under that name already, that service is returned.
    A service that is not detached ends with this process; give it to `wait`.

    Raises HybError: exit 3 for a bad name, host or port, a port that is taken, an artifact or adapter that can't be
    served, a missing package, a name in use; exit 4 for a damaged model, or what the
    trust policy refuses; exit 5 when the engine ends or does not answer in time.
    """
    check(wanted)
    if not wanted.unsealed:  # a sealed image was checked in its own store: what was taken out has no signatures
        trusted(store, artifact, wanted, environ, say)
    choice = choice_for(store, artifact, wanted, environ)
    modules = (*GATEWAY, *(NEEDS[choice.engine] if wanted.where == "process" else ()))
    programs.require(modules, EXTRA[choice.engine], "serve")
    run = service.folder(environ)
    with _locked(run, wanted.name, say):
        if running := _already(run, artifact, wanted):
            say(f"`{wanted.name}` is being served already at {running.url}")
            return running
        port.check_free(wanted.host, wanted.port, ps(environ))
        say(f"engine {choice.engine}: {choice.why}")
        service.forget(run, wanted.name)
        job = _job(store, choice, run, wanted, environ, detach)
        try:
            if wanted.where == "podman":
                from hyb.serving import contained

                job = contained.prepare(job, artifact, run, wanted.container or contained.Options(), say=say)
            found = _launch(run, choice, job, artifact, detach)
        except BaseException:
            service.remove_sockets(Path(job.run))
            raise
        try:
            return _until_ready(run, found, timeout, say)
        except BaseException:  # ^C, too: nothing is left behind, and the cause goes on up
            _end(found, GRACE)
            service.forget(run, wanted.name)
            if found.leash is not None:
                os.close(found.leash)
            raise


def choice_for(store: Store, artifact: Artifact, wanted: Wanted, environ: Mapping[str, str]) -> Choice:
    """The engine, and why, on this machine. Raises HybError."""
    from hyb.serving import vllm

    if wanted.where == "podman":  # vLLM is in its own image there
        with_vllm = bool(wanted.container and wanted.container.gpu)
    else:
        with_vllm = vllm.has_gpu() and bool(vllm.program(environ))
        if wanted.engine == VLLM:
            vllm.require(environ)
    return choose(
        artifact, store.artifact, engine=wanted.engine, context=wanted.context, parallel=wanted.parallel,
        vllm=with_vllm, adapters=wanted.adapters,
    )  # fmt: skip


def trusted(store: Store, artifact: Artifact, wanted: Wanted, environ: Mapping[str, str], say: Say) -> None:
    """Raise HybError (exit 4) when the trust policy in force refuses what is to be served, or one of its adapters."""
    for each in (artifact, *(a for _, a in wanted.adapters)):
        gate.check(store, each, "serve", environ, say=say)


def running(artifact: Artifact, wanted: Wanted, environ: Mapping[str, str]) -> Service | None:
    """The service that is there already, when `start` would return it. Raises HybError for another of that name."""
    found = service.read(service.folder(environ), wanted.name)
    if found is None or not found.ready:
        return None  # `start` deals with one that is only starting
    return _already(service.folder(environ), artifact, wanted)


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
    """What is being served on this machine by this user. What processes that are gone have left is removed."""
    run = service.folder(environ)
    memory.sweep(environ)
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


def load(
    store: Store, found: Service, name: str, adapter: Artifact, percent: float, *, say: Say = silent
) -> dict[str, Any]:
    """Have a running service serve an adapter, too; its state afterwards. Raises HybError for one that does not fit."""
    job = GatewayJob.read(Path(found.log).with_name(f"{found.name}.job.json"))
    model = store.artifact(job.digest)
    if wrong := misfit(model, name, adapter, store.artifact):
        raise HybError(wrong)
    gate.check(store, adapter, "serve", os.environ, say=say)
    (spec,) = specs(store, [(name, adapter)], {name: percent})
    return owner(found, "POST", "/adapters", asdict(spec))


def exchange(
    store: Store, found: Service, artifact: Artifact, adapters: Sequence[tuple[str, Artifact, float]], *,
    environ: Mapping[str, str], say: Say = silent,
) -> Service:  # fmt: skip
    """Have a running service answer with another artifact, under the same name, port and keys; the service then.

    A second engine is loaded beside the first, and takes every new request once it has answered with a real token;
    answers under way end in the first. So there is no moment without an answer, and for a while both models are in
    memory. `adapters`: (name, adapter, percent of the requests) of those to serve beside it.

    Raises HybError, and then the service goes on as it was: exit 3 for what can't be exchanged so (`exchangeable`),
    exit 4 for what the trust policy refuses, exit 5 when the other model does not answer.
    """
    for each in (artifact, *(a for _, a, _ in adapters)):
        gate.check(store, each, "serve", environ, say=say)
    run = service.folder(environ)
    with _locked(run, found.name, say):
        job, choice = exchangeable(store, found, artifact, adapters)
        folder = store.view(choice.model).resolve()
        told = replace(
            job,
            model=str(folder / gguf_path(choice.model) if choice.engine == LLAMA else folder),
            adapter=str(store.view(choice.adapter).resolve()) if choice.adapter else "",
            adapters=specs(store, choice.adapters, {name: percent for name, _, percent in adapters}),
            context=choice.context,
            digest=choice.model.digest,
            model_meta=dict(choice.model.meta),
        )
        fields = ("model", "adapter", "adapters", "context", "digest", "model_meta", "container")
        owner(found, "PUT", "/model", {k: v for k, v in asdict(told).items() if k in fields})
        changed = replace(found, artifact=artifact.digest, why=choice.why)
        with fs.explained(f"can't write in `{run}`"):
            told.write(run / f"{found.name}.job.json")
        service.write(run, changed)
    return changed


def exchangeable(
    store: Store, found: Service, artifact: Artifact, adapters: Sequence[tuple[str, Artifact, float]]
) -> tuple[GatewayJob, Choice]:
    """What a service was told, and the choice for another artifact in its place.

    Raises HybError (exit 3) when only a new start can serve it: another engine, or a model that is mounted as an image.
    """
    job = GatewayJob.read(Path(found.log).with_name(f"{found.name}.job.json"))
    packed = {name for name, _ in choose(artifact, store.artifact, engine="auto").adapters}
    beside = [(name, adapter) for name, adapter, _ in adapters if name not in packed]
    choice = choose(artifact, store.artifact, vllm=job.engine == VLLM, adapters=beside)
    limit = choice.model.meta.get("context")
    most = limit if isinstance(limit, int) and limit > 0 else job.context
    other = f"another engine, {choice.engine}" if choice.engine != job.engine else ""
    other = other or ("its model's image mounted anew" if job.container.get("model_image") else "")
    if other:
        raise HybError(
            f"`{found.name}` can't change to `{short(artifact.digest)}` while it runs: it needs {other}",
            hint=f"`hyb stop {found.name}` first, and serve it again afterwards",
        )
    return job, replace(choice, context=min(job.context, most), parallel=job.parallel)


def owner(found: Service, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Ask a service through its owner's door. Raises HybError with what it says."""
    data = json.dumps(body).encode() if body is not None else None
    status, answer = client.over_socket(found.admin_socket, method, path, data, timeout=READY)
    said: dict[str, Any] = json.loads(answer)
    if status != http.client.OK:
        error = said["error"]
        raise HybError(error["message"], hint=error["hint"], code=Exit(error["code"]), details=error["details"])
    return said


# -- before the start ------------------------------------------------------------------------------------------------


def check(wanted: Wanted) -> None:
    """Raise HybError with all that is wrong with a call, before anything is asked of the store."""
    mistakes = port.mistakes(wanted.host, wanted.port, tls=bool(wanted.tls_cert))
    if wrong := label_problem(wanted.name):
        mistakes.append(f"name {wrong}")
    if wanted.port < 0 and not wanted.unix_socket:
        mistakes.append("neither a port nor a Unix socket to listen on")
    if bool(wanted.tls_cert) != bool(wanted.tls_key):
        mistakes.append("TLS needs a certificate and its key")
    mistakes += [f"`{p}` can't be read" for p in (wanted.tls_cert, wanted.tls_key) if p and not os.access(p, os.R_OK)]
    if mistakes:
        remedy = "give `--tls-cert` and `--tls-key`, or reach it from elsewhere through `hyb link`"
        hint = remedy if port.is_address(wanted.host) and not is_loopback(wanted.host) else ""
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


def _already(run: Path, artifact: Artifact, wanted: Wanted) -> Service | None:
    running = service.read(run, wanted.name)
    if running is None or not service.alive(running):
        return None
    if not running.ready:  # its hyb was killed between start and answer
        _end(running, GRACE)
        return None
    same = running.artifact == artifact.digest and running.host == wanted.host and running.where == wanted.where
    if same and wanted.port in (0, running.port):
        return running
    raise HybError(
        f"`{wanted.name}` is being served already: `{short(running.artifact)}` at {running.url}",
        hint=f"`hyb stop {wanted.name}` first, or give another name with `--name`",
    )


def _job(
    store: Store, choice: Choice, run: Path, wanted: Wanted, environ: Mapping[str, str], detach: bool
) -> GatewayJob:
    folder = store.view(choice.model).resolve()
    adapters = specs(store, choice.adapters, wanted.canary)
    key = keys.mint(environ, wanted.name).resolve()
    sockets = service.sockets(environ, wanted.name)
    return GatewayJob(
        name=wanted.name,
        engine=choice.engine,
        model=str(folder / gguf_path(choice.model) if choice.engine == LLAMA else folder),
        run=str(sockets),
        host="127.0.0.1" if wanted.host == "localhost" else wanted.host,
        port=wanted.port,
        unix_socket=str(Path(wanted.unix_socket).absolute()) if wanted.unix_socket else "",
        admin_socket=str(sockets / "admin.sock"),
        tls_cert=str(Path(wanted.tls_cert).resolve()) if wanted.tls_cert else "",
        tls_key=str(Path(wanted.tls_key).resolve()) if wanted.tls_key else "",
        key_path=str(key),
        keys_path=str(keys.keys_path(environ, wanted.name).absolute()),
        ready_path=str((run / f"{wanted.name}.ready.json").resolve()),
        log=str((run / f"{wanted.name}.log").resolve()),
        where=wanted.where,
        adapter=str(store.view(choice.adapter).resolve()) if choice.adapter else "",
        adapters=adapters,
        context=choice.context,
        parallel=choice.parallel,
        grace=DRAIN,
        leash=not detach,
        digest=choice.model.digest,
        model_meta=dict(choice.model.meta),
        unsealed=wanted.unsealed,
    )


def specs(
    store: Store, adapters: Sequence[tuple[str, Artifact]], canary: Mapping[str, float]
) -> tuple[AdapterSpec, ...]:
    """What a gateway is told of adapters. Raises HybError for a bad name or share, or a damaged adapter."""
    names = [name for name, _ in adapters]
    mistakes = [f"an adapter's name {wrong}" for name in names if (wrong := label_problem(name))]
    mistakes += [
        f"there is no adapter `{name}` to have a share of the requests" for name in canary if name not in names
    ]
    if mistakes:
        raise HybError(mistakes[0], details=mistakes if len(mistakes) > 1 else ())
    found = []
    for name, adapter in adapters:
        folder = store.view(adapter).resolve()
        path = folder / gguf_path(adapter) if adapter.meta.get("format") == "gguf" else folder
        found.append(AdapterSpec(name, str(path), adapter.digest, canary.get(name, 0)))
    return checked(found)


# -- the process -----------------------------------------------------------------------------------------------------


def _launch(run: Path, choice: Choice, job: GatewayJob, artifact: Artifact, detach: bool) -> Service:
    path, log = (run / f"{job.name}.job.json").resolve(), Path(job.log)
    ours, theirs = (None, None) if detach else _pipe()
    with fs.explained(f"can't start the service in `{run}`"):
        job.write(path)
        log.unlink(missing_ok=True)
        pid = programs.spawn(programs.python(MODULE, str(path)), log=log, stdin=theirs)
    if theirs is not None:
        os.close(theirs)
    found = Service(
        name=job.name,
        pid=pid,
        started=service.start_time(pid) or 0,
        host=job.host,
        port=job.port,
        engine=choice.engine,
        why=choice.why,
        artifact=artifact.digest,
        key_path=job.key_path,
        log=str(log),
        detached=detach,
        where=job.where,
        tls_cert=job.tls_cert,
        unix_socket=job.unix_socket,
        admin_socket=job.admin_socket,
        unsealed=job.unsealed,
        leash=ours,
    )
    service.write(run, found)
    return found


def _pipe() -> tuple[int, int]:
    """(our end, the gateway's end): when ours closes, by our death too, theirs says so."""
    theirs, ours = os.pipe()
    return ours, theirs


def _until_ready(run: Path, found: Service, timeout: float, say: Say) -> Service:
    """Wait until the gateway says that the model has answered with one real token."""
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
