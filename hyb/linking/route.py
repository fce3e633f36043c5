"""Moves the traffic of a link: reads its folder, asks the target, writes the folder, has this host's router take it.

In this order, and nothing later when something says no: what would be written passes every check that a link's folder
must pass; each service that is to get traffic answers with a real completion; the folder is replaced in one rename,
with the state before in it; this host's router reloads. When that fails, the folder and Skupper's input are put back
(Skupper itself goes back to the router that ran).

Which documents: `hyb.linking.routes`. What stays a person's: the namespace's side, and other private hosts.
"""

from __future__ import annotations

import difflib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import engine, fs
from hyb.errors import Exit, HybError
from hyb.linking import folder as folders
from hyb.linking import routed, routes, sides
from hyb.linking import site as sites
from hyb.linking.routed import Route, State
from hyb.linking.routes import Board, Service
from hyb.places import data_home
from hyb.progress import Say
from hyb.render.names import is_loopback
from hyb.serving import client, endpoint, live, manager
from hyb.serving.service import Service as Served
from hyb.store import Store

QUESTION = "Answer with one word: are you there?"
TOKENS = 16
PATIENCE = 120.0  # seconds for an answer


@dataclass(frozen=True)
class Request:
    """What a person asked for: one of `service`, `weights` and `back`."""

    folder: Path
    service: str = ""
    weights: Mapping[str, int] = field(default_factory=dict)
    back: bool = False
    at: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Name → host and port of a service that the link does not know yet."""
    key: str = ""
    """The routing key, where the link has several Listeners."""
    unchecked: bool = False
    """Move although nobody has asked the target."""
    reload: bool = True
    """Have this host's router take the change."""
    key_file: Path | None = None
    model: str = ""


@dataclass(frozen=True)
class Done:
    """What was moved, or would be."""

    folder: Path
    changed: Mapping[str, tuple[str | None, str | None]]
    """Path → text before and after."""
    services: tuple[Service, ...]
    asked: Mapping[str, float]
    """Service → seconds of its answer."""
    reloaded: bool
    todo: tuple[str, ...]
    """What a person has to run, in order."""
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "folder": str(self.folder), "changed": {p: {"before": b, "after": a} for p, (b, a) in self.changed.items()},
            "services": [service_dict(s) for s in self.services], "asked": dict(self.asked), "reloaded": self.reloaded,
            "todo": list(self.todo), "notes": list(self.notes),
        }  # fmt: skip

    def diff(self) -> str:
        """The change as a unified diff."""
        parts: list[str] = []
        for path, (before, after) in sorted(self.changed.items()):
            names = (
                f"a/{path}" if before is not None else "/dev/null",
                f"b/{path}" if after is not None else "/dev/null",
            )
            parts += difflib.unified_diff(
                (before or "").splitlines(True), (after or "").splitlines(True), *names
            )  # fmt: skip
        return "".join(parts)


def service_dict(s: Service) -> dict[str, Any]:
    """A service as JSON."""
    host, number = s.address
    return {
        "name": s.name, "site": s.connector.folder, "host": host, "port": number, "routing_key": s.key,
        "active": s.active, "percent": round(s.share, 2),
    }  # fmt: skip


def board(folder: Path, key: str = "") -> Board:
    """Where the traffic of a link goes now. Raises HybError for a folder that is none, or was edited."""
    files, state = _read(folder)
    return routes.board(files, state.now, key)


def route(
    request: Request,
    store: Store,
    environ: Mapping[str, str],
    say: Say,
    *,
    dry_run: bool = False,
    offline: bool = False,
) -> Done:
    """Move a link's traffic. Raises HybError, and then all is as it was: exit 3 for input that is wrong, exit 4 when
    a target does not answer or the documents would not work, exit 5 when the router's reload fails."""
    lock = data_home(environ) / "run" / f"route-{dg.of_bytes(os.fsencode(request.folder.resolve()))[7:23]}.lock"
    if not dry_run:
        folders.recover(request.folder)
        with fs.explained(f"can't write `{lock}`"), fs.locked(lock):
            return _route(request, store, environ, say, dry_run=False, offline=offline)
    return _route(request, store, environ, say, dry_run=True, offline=offline)


def _route(
    request: Request, store: Store, environ: Mapping[str, str], say: Say, *, dry_run: bool, offline: bool
) -> Done:
    files, state = _read(request.folder)
    now = routes.board(files, state.now, request.key)
    wanted, notes = _wanted(request, now, state, environ)
    after, then = routed.rerouted(files, state, wanted)
    changed = {
        p: (_text(files.get(p)), _text(after.get(p))) for p in sorted({*files, *after}) if files.get(p) != after.get(p)
    }
    new = routes.board(after, then.now, request.key)
    run = tuple(routes.to_run(files, after, str(request.folder)))
    done = Done(request.folder, changed, new.services, {}, False, run, notes)
    if not changed:
        return done
    _check(request.folder, {**after, routed.FILE: routed.dump(then)})
    here, elsewhere = _hosts(request, changed, after, environ)
    todo = (*elsewhere, *run)
    if dry_run:
        would = [f"hyb link reload {request.folder / side}" for side in here]
        return replace(done, todo=(*would, *todo))
    asked = {} if request.unchecked else _ask(request, new, environ, here, offline=offline, say=say)
    folders.write(request.folder, {**after, routed.FILE: routed.dump(then)})
    try:
        reloaded = [_reload(request.folder / side, store, environ, say, offline=offline) for side in here]
    except BaseException:
        _put_back(request.folder, files, state, here, environ, say)
        raise
    return replace(done, asked=asked, reloaded=bool(reloaded), todo=todo)


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


def _read(folder: Path) -> tuple[dict[str, bytes], State]:
    """The files of a link's folder without its state file, and the state. Raises HybError when it was edited."""
    files = folders.read(folder)
    files.pop(routed.FILE, None)
    return files, routed.read(folder)


# -- what is wanted --------------------------------------------------------------------------------------------------


def _wanted(request: Request, now: Board, state: State, environ: Mapping[str, str]) -> tuple[Route, tuple[str, ...]]:
    """The route that is asked for, and what to know of it. Raises HybError (exit 3)."""
    if request.back:
        if state.before is None:
            raise HybError("nothing was moved here yet", hint="`hyb link route DIR --show` says where the traffic goes")
        return state.before, ()
    served = manager.ps(environ)
    for name, (host, number) in request.at.items():
        now = routes.added(now, name, host, number)
    asked = list(request.weights) or [request.service]
    found: dict[str, Service] = {}
    for name in asked:
        now, found[name] = _find(name, now, served)
    if len({s.name for s in found.values()}) < len(found):
        raise HybError(f"{_names(asked)} are the same service", hint="`hyb link route DIR --show` lists them")
    if request.weights:
        change = routes.weigh(now, {found[n].name: w for n, w in request.weights.items()})
    else:
        change = routes.move(now, found[request.service])
    return change.route, change.notes


def _find(name: str, now: Board, served: list[Served]) -> tuple[Board, Service]:
    """A service by its name in the link, or by the name under which hyb serves it here; a new one is added."""
    if found := now.named(name):
        return now, found
    running = next((s for s in served if s.name == name and s.port > 0), None)
    if running is None:
        known = [s.name for s in now.services] + [s.name for s in served]
        raise HybError(
            f"no service `{name}` in this link, and none is being served by that name",
            hint=f"known: {_names(dict.fromkeys(known))}; another is named with `--at {name}=HOST:PORT`",
        )
    same = [s for s in now.services if s.address == (running.host, running.port)]
    if same and len(now.sites) == 1:
        return now, same[0]
    grown = routes.added(now, name, running.host, running.port)
    return grown, grown.services[-1]


def _names(names: Any) -> str:
    return ", ".join(f"`{n}`" for n in names) or "none"


# -- before it is written --------------------------------------------------------------------------------------------


def _check(folder: Path, files: Mapping[str, bytes]) -> None:
    """Raise HybError (exit 4) with all that is wrong with a folder of these files: it is made, looked at, removed."""
    place = folder.resolve()
    trial = place.with_name(f".{place.name}.hyb-try")  # one at a time: the folder's moves are locked
    shutil.rmtree(trial, ignore_errors=True)
    try:
        with fs.explained(f"can't write beside `{folder}`"):
            for path, data in files.items():
                (trial / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                trial.chmod(0o700)
                fs.write_atomic(trial / path, data, mode=0o600)
        mistakes = folders.check_folder(trial)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    if mistakes:
        raise HybError("the link would not work so; nothing was moved", details=mistakes, code=Exit.CHECK)


def _hosts(
    request: Request, changed: Mapping[str, object], after: Mapping[str, bytes], environ: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Private folders that changed: those whose router runs on this host, and what to run for the others. A site in
    Kubernetes is no host's: `routes.to_run` has its commands."""
    there = routes.placed(after)
    private = {p.folder for p in there if p.kind in ("Link", "AccessToken")}
    touched = sorted({path.rpartition("/")[0] for path in changed} & private - routes.in_cluster(there))
    here = [side for side in touched if request.reload and _runs_here(request.folder / side, there, side, environ)]
    many = len(private) > 1
    todo = [
        f"hyb link reload {request.folder / side}" + (f"   # on the host of `{_site(there, side)}`" if many else "")
        for side in touched
        if side not in here
    ]
    return here, todo


def _runs_here(folder: Path, there: list[routes.Placed], side: str, environ: Mapping[str, str]) -> bool:
    """True when this host's Skupper has a router of this very site, and the program is here to reload it."""
    side_ = next((s for s in sides.read(folder) if s.path == folder), None)
    if side_ is None or not engine.which("skupper"):
        return False
    try:
        site = sites.of(side_, environ, os.geteuid())
    except HybError:  # a site in Kubernetes
        return False
    return site.exists and (site.resources / f"Site-{_site(there, side)}.yaml").is_file()


def _site(there: list[routes.Placed], side: str) -> str:
    return next((p.name for p in there if p.kind == "Site" and p.folder == side), side)


def _ask(
    request: Request, new: Board, environ: Mapping[str, str], here: list[str], *, offline: bool, say: Say
) -> dict[str, float]:
    """Have each service that is to get traffic answer, for real; seconds each. Raises HybError (exit 4)."""
    served, seconds = manager.ps(environ), {}
    for s in new.services:
        if not s.active or not s.share:
            continue
        if len(new.sites) > 1 and s.connector.folder not in here:
            raise HybError(
                f"`{s.name}` is on another host, that of `{s.connector.folder}`: it can't be asked from here",
                hint="ask it there (`hyb ask`, `hyb link check`), then add `--unchecked`",
            )
        if not s.address[0]:
            raise HybError(f"`{s.name}` is chosen by pods and can't be asked from here", hint="add `--unchecked`")
        seconds[s.name] = _answer(s.name, s.address, request, served, offline=offline)
        say(f"`{s.name}` at {s.address[0]}:{s.address[1]} answers ({seconds[s.name]:.1f} s)")
    return seconds


def _answer(name: str, address: tuple[str, int], request: Request, served: list[Served], *, offline: bool) -> float:
    host, number = address
    if offline and not is_loopback(host):
        raise HybError(f"offline, and `{name}` is at {host}", hint="add `--unchecked`", code=Exit.OFFLINE)
    running = next((s for s in served if (s.host, s.port) == (host, number)), None)
    try:
        if running and request.key_file is None:
            found = endpoint.Endpoint(running.name, live.address(running, running.key), running)
        else:
            url = f"http://{f'[{host}]' if ':' in host else host}:{number}/v1"
            found = endpoint.find("", os.environ, url=url, key_file=request.key_file)
        began = time.monotonic()
        with client.Client(found.address, timeout=PATIENCE) as one:
            body = {"model": found.model(one, request.model), "max_tokens": TOKENS, "temperature": 0,
                    "messages": [{"role": "user", "content": QUESTION}]}  # fmt: skip
            _said(one.json("POST", "chat/completions", body))
        return time.monotonic() - began
    except (HybError, OSError) as error:
        why = error.message if isinstance(error, HybError) else str(error)
        hint = error.hint if isinstance(error, HybError) else ""
        raise HybError(f"`{name}` does not answer, so nothing was moved: {why}", hint=hint, code=Exit.CHECK) from error


def _said(answer: Mapping[str, Any]) -> None:
    """Raise HybError when a chat completion says nothing at all."""
    try:
        message = answer["choices"][0]["message"]
        texts = [message.get(k) for k in ("content", "reasoning_content", "reasoning")]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise HybError("its answer is no chat completion", code=Exit.BELOW) from error
    if not any(isinstance(t, str) and t.strip() for t in texts):
        raise HybError("its completion is empty", code=Exit.BELOW)


# -- afterwards ------------------------------------------------------------------------------------------------------


def _reload(folder: Path, store: Store, environ: Mapping[str, str], say: Say, *, offline: bool) -> sites.Done:
    from hyb.linking import bundle, router_image

    side = next(s for s in sides.read(folder) if s.path == folder)
    site = sites.of(side, environ, os.geteuid())
    image = environ.get(router_image.VARIABLE, "")
    if site.platform == "podman":
        image = router_image.pinned(image or router_image.DEFAULT, store, offline=offline)
    if offline and site.platform != "linux":
        return bundle.apply(side, site, image, environ, say)
    return sites.apply(side, site, "reload", image, environ, say)


def _put_back(
    folder: Path, files: Mapping[str, bytes], state: State, here: list[str], environ: Mapping[str, str], say: Say
) -> None:
    """The folder and Skupper's input as they were; Skupper has gone back by itself."""
    try:
        folders.write(folder, {**files, **({routed.FILE: routed.dump(state)} if state != State() else {})})
        for side in here:
            found = next(s for s in sides.read(folder / side) if s.path == folder / side)
            sites.copy(found, sites.of(found, environ, os.geteuid()), environ)
    except HybError as error:
        say(f"can't put back: {error.message}")
