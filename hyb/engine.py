"""Every other program: the only place that starts one.

`run` is the door for programs that end, `spawn` for those that go on. `worker` runs `python -m hyb.workers.NAME` in a
child process, so that the launcher never imports torch. podman, skopeo, skupper and oc go through `run` or podman-py.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hyb
from hyb import offline
from hyb.errors import Exit, HybError
from hyb.formats import intoto

OPENMP = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
"""Threads that spin for long starve the others on a busy machine: training became ten times slower. Threads that do not
spin at all sleep and wake between any two layers: a small model was decoded at 0.4 times the speed. GNU's OpenMP spins
for this many turns, some microseconds, and sleeps then; other OpenMPs know the policy alone."""
QUIET = offline.QUIET
OFFLINE = {**offline.SWITCHES, offline.GUARD: "1"}
"""Environment of every child that has no business on the network: all workers. The guard holds in it."""

TORCHRUN = "torch.distributed.run"
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
"""Environment of several processes on one machine: they look for each other nowhere else."""

INSTALL = {
    "podman": "`apt-get install podman` or `dnf install podman`",
    "skopeo": "`apt-get install skopeo` or `dnf install skopeo`",
    "skupper": "see https://skupper.io/install",
    "oc": "from your cluster's console, or the openshift-clients package",
}

_TIED = """import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])"""
"""PR_SET_PDEATHSIG (prctl(2)), which outlives the exec; the question is for a parent that died before it."""


_RAN: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar("ran", default=None)


@contextlib.contextmanager
def noting() -> Iterator[dict[str, str]]:
    """Inside the block it is noted which programs ran: package URL without a version (`pkg:pypi/torch`) → version."""
    found: dict[str, str] = {}
    token = _RAN.set(found)
    try:
        yield found
    finally:
        _RAN.reset(token)


def note(programs: Mapping[str, str]) -> None:
    """Note what ran, where somebody listens (`noting`)."""
    if (found := _RAN.get()) is not None:
        found.update(programs)


def which(program: str) -> str | None:
    """The path of a program, or None."""
    return shutil.which(program)


def openmp(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which OpenMP's threads wait well; {} when the user has chosen how they wait."""
    return {} if OPENMP.keys() & environ.keys() else dict(OPENMP)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end. `env` is added to ours.

    Raises HybError: exit 3 when the program is not installed, exit 5 when it fails (with the end of what it said)
    or runs past `timeout` seconds. With `check` False a failure is returned instead.
    """
    try:
        done = subprocess.run(
            list(argv),
            env={**os.environ, **offline.environment(os.environ, argv[0]), **(env or {})},
            cwd=cwd,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise missing(argv[0]) from error
    except subprocess.TimeoutExpired as error:
        raise HybError(f"`{argv[0]}` did not end within {timeout:g} s", code=Exit.BELOW) from error
    if check and done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise HybError(
            f"`{' '.join(argv[:3])}` failed with status {done.returncode}", details=said[-5:], code=Exit.BELOW
        )
    return done


def tied(argv: Sequence[str]) -> list[str]:
    """The command line of a program that is killed when this process dies, however it dies: for one that writes what
    must not stay. Raises HybError when it is not installed."""
    if not which(argv[0]):
        raise missing(argv[0])
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *argv]


def missing(program: str) -> HybError:
    """The error for a program that is not installed."""
    name = Path(program).name
    return HybError(f"`{name}` is not installed", hint=f"install it: {INSTALL.get(name, name)}")


def require(modules: Sequence[str], extra: str, command: str) -> None:
    """Raise HybError (exit 3) naming the extra when a module is not installed. Imports nothing."""
    import importlib.util

    absent = [m for m in modules if importlib.util.find_spec(m) is None]
    if absent:
        raise HybError(
            f"`hyb {command}` needs {', '.join(f'`{m}`' for m in absent)}, not installed here",
            hint=f"pip install 'hyb[{extra}]'",
        )


def python(module: str, *arguments: str) -> list[str]:
    """The command line of one of hyb's own modules; nothing is imported from the working directory (-P)."""
    return [sys.executable, "-P", "-m", module, *arguments]


def _child_environ() -> dict[str, str]:
    """The environment of hyb's own children: no network, no telemetry, and the hyb that runs now."""
    root = str(Path(hyb.__file__).parents[1])
    paths = os.pathsep.join(dict.fromkeys([root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
    own = {**OFFLINE, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **offline.environment(os.environ, "python"), **own}


def spawn(argv: Sequence[str], *, log: Path | None = None, stdin: int | None = None) -> int:
    """Start a program that goes on when we end, in a session of its own, and return its pid.

    `log`: the file that its output is added to (made with mode 0600); None: our own output. `stdin`: a descriptor;
    None: nothing to read. Raises OSError when it can't be started.
    """
    opening = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    actions = [opening if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0)]
    if log:
        actions.append((os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        actions.append((os.POSIX_SPAWN_DUP2, 1, 2))
    return os.posix_spawn(
        argv[0],
        list(argv),
        _child_environ(),
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
    )


def worker(
    name: str,
    job: Mapping[str, Any],
    work: Path,
    on_event: Callable[[dict[str, Any]], None],
    *,
    env: Mapping[str, str] | None = None,
    processes: int = 1,
    prefix: Sequence[str] = (),
) -> dict[str, Any]:
    """Run `python -m hyb.workers.NAME work/NAME.json` and return the fields of its last event, `{"event": "done", …}`.
    `processes`: several that work on one job, started by torchrun; they meet on loopback, and the first one talks.
    `prefix`: a command that runs another (`podman run … IMAGE`), with a `python3` and a hyb of its own, the same paths.

    The worker prints one JSON object a line on stdout (`hyb.workers.protocol`); `on_event` gets each. What it writes
    to stderr goes to `work/NAME.log`. Its stdin is a pipe that it watches: when we die, it dies.

    Raises HybError: what the worker reported with `fail` (exit 3 or 4), or exit 5 with the end of its log.
    """
    path, log = work / f"{name}.json", work / f"{name}.log"
    path.write_text(json.dumps(job))
    last: dict[str, Any] = {}
    with log.open("wb") as errors:
        child = subprocess.Popen(
            _worker(name, path, processes, prefix),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**openmp(os.environ), **_child_environ(), **(LOOPBACK if processes > 1 else {}), **(env or {})},
            start_new_session=True,  # ^C reaches us alone; we end the child
        )
        with _ended(child):
            assert child.stdout
            for line in child.stdout:
                with contextlib.suppress(ValueError):
                    last = json.loads(line)
                    if last.get("event") == "ran":
                        note({f"pkg:pypi/{intoto.normal(n)}": v for n, v in last["packages"].items()})
                    else:
                        on_event(last)
            status = child.wait()
    if last.get("event") == "fail":
        raise HybError(
            last["message"], hint=last.get("hint", ""), code=Exit(last.get("code", 3)), details=last.get("details", ())
        )
    if status or last.get("event") != "done":
        tail = log.read_text(errors="replace").strip().splitlines()[-5:]
        said = signal.Signals(-status).name if status < 0 else f"status {status}"
        hint = (
            "the system ended it, most likely for want of memory"
            if status == -signal.SIGKILL
            else f"all of it: `{log}`"
        )
        raise HybError(f"the worker `{name}` ended with {said}", hint=hint, details=tail, code=Exit.BELOW)
    return last


def _worker(name: str, job: Path, processes: int, prefix: Sequence[str]) -> list[str]:
    """The command line of a worker."""
    module = [f"hyb.workers.{name}", str(job)]
    if processes > 1:
        module = [TORCHRUN, *_together(processes), "-m", *module]
    return [*prefix, "python3", "-P", "-m", *module] if prefix else python(module[0], *module[1:])


def _together(processes: int) -> list[str]:
    """What torchrun is told for processes of this machine alone."""
    return ["--standalone", f"--nproc-per-node={processes}", "--max-restarts=0"]


@contextlib.contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens, the child is gone afterwards."""
    try:
        yield
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for stream in (child.stdin, child.stdout):
            if stream:
                stream.close()
