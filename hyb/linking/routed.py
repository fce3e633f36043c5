"""What `hyb link route` did to a link's folder, kept in the folder itself: `.hyb-route.json`. Never a secret.

    {"hyb-route": 1, "base": {path: text}, "now": ROUTE, "before": ROUTE or null}
    ROUTE = {"files": {path: text}, "idle": {path: text}, "members": {path: Listener}}

`files` lie over what the link's artifact says, null where one is taken away; `base` is what the artifact has there. So
a folder that is written anew (new certificates, say) keeps its route as long as the artifact says the same beneath it,
and loses it, with a word, when it does not. `idle` are Connectors that are put aside, `members` all that ever had a
part of a Listener's traffic. `before` is the route before the last change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hyb.errors import Exit, HybError
from hyb.progress import Say

FILE = ".hyb-route.json"
_FORMAT = 1

Texts = Mapping[str, str | None]


@dataclass(frozen=True)
class Route:
    """What lies over the link, what is put aside, and which Connectors belong to which Listener."""

    files: Texts = field(default_factory=dict)
    idle: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """The route now, and the one before."""

    base: Texts = field(default_factory=dict)
    now: Route = field(default_factory=Route)
    before: Route | None = None


def read(folder: Path) -> State:
    """The state of a link's folder; an empty one when nothing was routed. Raises HybError (exit 4) when damaged."""
    path = folder / FILE
    try:
        raw = json.loads(path.read_bytes())
        if raw["hyb-route"] != _FORMAT:
            raise ValueError(f"format {raw['hyb-route']} is not known to this hyb")
        return State(dict(raw["base"]), _route(raw["now"]), _route(raw["before"]) if raw["before"] else None)
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HybError(
            f"`{path}` is damaged: {error}", hint="write a new folder with `hyb link … --out`", code=Exit.CHECK
        ) from error


def _route(raw: Mapping[str, Any]) -> Route:
    return Route(dict(raw["files"]), dict(raw["idle"]), dict(raw["members"]))


def dump(state: State) -> bytes:
    """The state file."""
    before = asdict(state.before) if state.before else None
    data = {"hyb-route": _FORMAT, "base": dict(state.base), "now": asdict(state.now), "before": before}
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False).encode()


def over(files: Mapping[str, bytes], texts: Texts) -> dict[str, bytes]:
    """Files with some others over them; None takes one away."""
    found = {p: data for p, data in files.items() if texts.get(p, "") is not None}
    return found | {p: text.encode() for p, text in texts.items() if text is not None}


def rerouted(files: Mapping[str, bytes], state: State, route: Route) -> tuple[dict[str, bytes], State]:
    """The files of a folder (without its state file) under another route, and its state then; the one now is `before`.

    `route.files` may say what the artifact says; that is left out of the state.
    """
    base = dict(state.base)
    for path in route.files:
        if path not in base:
            base[path] = files[path].decode() if path in files else None
    plain = over(files, base)
    lying = {p: text for p, text in route.files.items() if text != base[p]}
    kept = {p: text for p, text in base.items() if p in lying or p in state.now.files}
    return over(plain, lying), State(kept, Route(lying, route.idle, route.members), state.now)


def keep(folder: Path, files: Mapping[str, bytes], say: Say) -> dict[str, bytes]:
    """`files`, as a link's artifact has them, with the route that the folder has; the state file is among them."""
    state = read(folder)
    if not state.base:
        return dict(files)
    moved = sorted(p for p, text in state.base.items() if files.get(p) != (None if text is None else text.encode()))
    if moved:
        say(f"the link says something else now where traffic was moved ({', '.join(moved)}): it goes as the link says")
        return dict(files)
    return {**over(files, state.now.files), FILE: dump(state)}
