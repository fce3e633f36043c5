"""Where the traffic of a link goes, and the change of documents that moves it. Pure: files in, files out.

What Skupper 2.2.1 does decides which document is the right one:

    one host     Connectors of one site with one routing key are balanced, so that the active service is the one whose
                 Connector is there; the idle one's is withdrawn. The private side reloads
    several      a Link has the cost, not a Connector: the Links of the active site are cheap, those of the others dear.
    hosts        The others still take over when it is gone, or has `DEAR` more connections open. Private sides reload
    weights      a MultiKeyListener gives each routing key its share, so each Connector gets a key of its own. Only the
                 namespace applies something, no router starts again. The kind of its strategy can't change, its
                 weights can. A key that is to have nothing is left out: no least weight is documented
    priority     a MultiKeyListener of this kind is changed by the order of its keys

A Listener and a MultiKeyListener can't have one host together, since each makes a Service of that name: the old one is
deleted before the new one is applied.

hyb writes one document a file. What is idle, and what was there before, is in the folder's `hyb.linking.routed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from hyb.errors import Exit, HybError
from hyb.linking.reading import platform_of
from hyb.linking.routed import Route
from hyb.render import names
from hyb.render.dump import dump

CHEAP, DEAR = 1, 1000
"""Costs of Links: of the active site, and of the others."""
LISTENERS = ("Listener", "MultiKeyListener")
MULTI = (
    "a MultiKeyListener needs Skupper 2.2 or newer in the namespace; between the two `oc` commands its Service is gone"
)
OPEN = "a connection that is open stays where it is, and clients keep theirs: stopping the old service ends them"


@dataclass(frozen=True)
class Placed:
    """A document and where it lies, `private/Connector-llm.yaml`."""

    path: str
    document: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """`private`: a site."""
        return self.path.rpartition("/")[0]

    @property
    def kind(self) -> str:
        """`Connector`."""
        return str(self.document.get("kind"))

    @property
    def name(self) -> str:
        """Its `metadata.name`."""
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its `metadata.namespace`, or ""."""
        return str(self.document["metadata"].get("namespace") or "")

    @property
    def spec(self) -> Mapping[str, Any]:
        """Its `spec`."""
        return dict(self.document.get("spec") or {})

    def with_spec(self, **changed: Any) -> Placed:
        """The same document with other fields."""
        return replace(self, document={**self.document, "spec": {**self.spec, **changed}})

    @property
    def text(self) -> str:
        """The file."""
        return dump(self.document)


@dataclass(frozen=True)
class Service:
    """A served model that traffic may go to: one Connector."""

    name: str
    """The Connector's name; where several sites have one of that name, the site's."""
    connector: Placed
    active: bool
    """Its Connector is there; an idle one's is kept aside."""
    share: float
    """Percent of the traffic, as far as the documents say it."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as its site sees them."""
        return str(self.connector.spec.get("host", "")), int(self.connector.spec["port"])

    @property
    def selector(self) -> str:
        """On Kubernetes: the labels of its pods, in place of a host; else ""."""
        return str(self.connector.spec.get("selector") or "")

    @property
    def key(self) -> str:
        """Its routing key."""
        return str(self.connector.spec.get("routingKey"))


@dataclass(frozen=True)
class Board:
    """The services behind one Listener."""

    listeners: tuple[Placed, ...]
    """The Listener, or MultiKeyListener: one a namespace."""
    services: tuple[Service, ...]
    links: Mapping[str, tuple[Placed, ...]]
    """Private folder → its Links."""
    route: Route
    """What lies over the folder."""

    @property
    def strategy(self) -> str:
        """`weighted`, `priority`; "" for a Listener."""
        return next(iter(self.listeners[0].spec.get("strategy") or {}), "")

    @property
    def key(self) -> str:
        """The routing key of a Listener; the first one of a MultiKeyListener."""
        return keys_of(self.listeners[0])[0]

    def named(self, name: str) -> Service | None:
        """The service of a name."""
        return next((s for s in self.services if s.name == name), None)

    @property
    def sites(self) -> tuple[str, ...]:
        """Private folders with a service of it."""
        return tuple(dict.fromkeys(s.connector.folder for s in self.services))


@dataclass(frozen=True)
class Change:
    """A route, and what a person should know of it."""

    route: Route
    notes: tuple[str, ...] = ()


def placed(files: Mapping[str, bytes]) -> list[Placed]:
    """The documents of a link's folder; what is no document is left out. Raises HybError for a file that is no YAML."""
    found = []
    for path, data in sorted(files.items()):
        if "/" not in path or not path.endswith((".yaml", ".yml")):
            continue
        try:
            document = yaml.safe_load(data)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise HybError(f"`{path}` can't be read as one YAML document", hint="`hyb link` writes it anew") from error
        if (
            isinstance(document, dict)
            and isinstance(document.get("metadata"), dict)
            and document["metadata"].get("name")
        ):
            found.append(Placed(path, document))
    return found


def board(files: Mapping[str, bytes], route: Route, key: str = "") -> Board:
    """The services behind the folder's Listener; with several, behind the one with the routing key `key`.

    `route`: what lies over the folder. Raises HybError (exit 3) when there is none, or no telling.
    """
    there = placed(files)
    public = {p.folder for p in there if p.kind == "RouterAccess"}
    listeners = [p for p in there if p.kind in LISTENERS and p.folder in public]
    chosen = [p for p in listeners if not key or key in keys_of(p)]
    if not chosen:
        what = f"no Listener with the routing key `{key}`" if key else "no Listener"
        raise HybError(f"the folder has {what} on the public side", hint=_known_keys(listeners))
    if len({p.name for p in chosen}) > 1:
        raise HybError("the link has several Listeners", hint=f"`--routing-key` says which; {_known_keys(listeners)}")
    keys = {k for p in chosen for k in keys_of(p)}
    ours = {path for path, listener in route.members.items() if listener == chosen[0].name}
    connectors = [p for p in there if p.kind == "Connector" and p.folder not in public]
    active = [p for p in connectors if p.spec.get("routingKey") in keys or p.path in ours]
    kept = {path: text.encode() for path, text in route.idle.items() if path in ours and path not in files}
    links: dict[str, tuple[Placed, ...]] = {}
    for p in there:
        if p.kind == "Link":
            links[p.folder] = (*links.get(p.folder, ()), p)
    sites = {p.folder: p.name for p in there if p.kind == "Site"}
    every = _services(active, placed(kept), sites, chosen[0], links)
    return Board(tuple(chosen), every, links, route)


def _known_keys(listeners: Iterable[Placed]) -> str:
    found = sorted({k for p in listeners for k in keys_of(p)})
    return f"routing keys there: {', '.join(f'`{k}`' for k in found)}" if found else "`hyb link` writes one"


def keys_of(listener: Placed) -> list[str]:
    """The routing keys of a Listener or MultiKeyListener, in its order."""
    if listener.kind == "Listener":
        return [str(listener.spec.get("routingKey"))]
    return [str(k) for way in listener.spec.get("strategy", {}).values() for k in way.get("routingKeys", ())]


def _services(
    active: list[Placed], aside: list[Placed], sites: Mapping[str, str], listener: Placed,
    links: Mapping[str, tuple[Placed, ...]],
) -> tuple[Service, ...]:  # fmt: skip
    every = [*active, *aside]
    twice = len({p.name for p in every}) < len(every)
    shares = _shares(active, listener, links)
    return tuple(
        Service(sites.get(p.folder, p.folder) if twice else p.name, p, p in active, shares.get(p.path, 0.0))
        for p in sorted(every, key=lambda p: p.path)
    )


def _shares(active: list[Placed], listener: Placed, links: Mapping[str, tuple[Placed, ...]]) -> dict[str, float]:
    """Path → percent of the traffic while every service is up."""
    strategy = listener.spec.get("strategy") or {}
    by_key: dict[str, list[Placed]] = {}
    for p in active:
        by_key.setdefault(str(p.spec.get("routingKey")), []).append(p)
    if "weighted" in strategy:
        weights = {k: float(w) for k, w in strategy["weighted"]["routingKeys"].items() if k in by_key}
        total = sum(weights.values())
        part = {k: 100 * w / total for k, w in weights.items()} if total else {}
    elif "priority" in strategy:
        first = next((k for k in strategy["priority"]["routingKeys"] if k in by_key), "")
        part = {first: 100.0}
    else:
        part = {str(listener.spec.get("routingKey")): 100.0}
    found: dict[str, float] = {}
    for k, percent in part.items():
        cheapest = _cheapest(by_key.get(k, []), links)
        found |= {p.path: percent / len(cheapest) for p in cheapest}
    return found


def _cheapest(several: list[Placed], links: Mapping[str, tuple[Placed, ...]]) -> list[Placed]:
    """Of Connectors with one key, those whose site's Links cost least."""
    cost = {
        p.path: min((int(link.spec.get("cost", 1)) for link in links.get(p.folder, ())), default=1) for p in several
    }
    least = min(cost.values(), default=1)
    return [p for p in several if cost[p.path] == least]


# -- changes ---------------------------------------------------------------------------------------------------------


def added(of: Board, name: str, host: str, port: int) -> Board:
    """The board with one more idle service, on the link's one private host. Raises HybError (exit 3)."""
    if len(of.sites) != 1:
        raise HybError(
            f"`{name}` can't be added: the link has several private hosts",
            hint="`hyb link` writes a link with another service or site",
        )
    wrong = [w for w in (names.label_problem(name), names.host_problem(host), names.port_problem(port)) if w]
    if of.named(name):
        wrong.append(f"there is a service `{name}` already")
    if wrong:
        raise HybError(f"`{name}={host}:{port}` is no service: {wrong[0]}", details=wrong if len(wrong) > 1 else ())
    pattern = of.services[0].connector
    spec = {k: v for k, v in pattern.spec.items() if k != "selector"}
    document = {**pattern.document, "metadata": {**pattern.document["metadata"], "name": name}, "spec": spec}
    new = Placed(f"{pattern.folder}/Connector-{name}.yaml", document).with_spec(host=host, port=port, routingKey=of.key)
    return replace(of, services=(*of.services, Service(name, new, False, 0.0)))


def move(of: Board, target: Service) -> Change:
    """All traffic to one service."""
    if of.strategy == "weighted":
        return weigh(of, {target.name: 100})
    if of.strategy == "priority":
        return _first(of, target)
    if len(of.sites) > 1:
        return _costs(of, target)
    here = target.connector.with_spec(routingKey=of.key)
    others = [s for s in of.services if s.name != target.name]
    files = {here.path: here.text, **{s.connector.path: None for s in others}}
    return Change(_route(of, files, {s.connector.path: s.connector.with_spec(routingKey=of.key).text for s in others}))


def _costs(of: Board, target: Service) -> Change:
    files = {
        link.path: link.with_spec(cost=CHEAP if folder == target.connector.folder else DEAR).text
        for folder in of.sites
        for link in of.links.get(folder, ())
    }
    note = (
        f"the other sites still take over when `{target.name}` is gone, or has {DEAR} more connections open; the cost"
        " is the Link's, so it holds for every model of a site"
    )
    return Change(_route(of, files, _aside(of)), (note,))


def _first(of: Board, target: Service) -> Change:
    files = {}
    for listener in of.listeners:
        keys = [k for k in keys_of(listener) if k != target.key]
        files[listener.path] = listener.with_spec(strategy={"priority": {"routingKeys": [target.key, *keys]}}).text
    return Change(_route(of, files, _aside(of)), ("the others follow, in their order, when it can't be reached", OPEN))


def weigh(of: Board, weights: Mapping[str, int]) -> Change:
    """Traffic by weights (service → whole number; those that are not named get none), by a MultiKeyListener.

    Raises HybError (exit 2) for weights that give nobody anything.
    """
    if not any(weights.values()) or any(w < 0 for w in weights.values()):
        raise HybError("the weights give nobody anything", hint="write `blue=90,green=10`", code=Exit.USAGE)
    keys = _own_keys(of)
    files: dict[str, str | None] = {}
    for s in of.services:
        if s.active or s.name in weights:
            files[s.connector.path] = s.connector.with_spec(routingKey=keys[s.name]).text
    strategy = {"weighted": {"routingKeys": {keys[n]: w for n, w in weights.items() if w}}}
    for listener in of.listeners:
        files |= _multi(listener, strategy)
    idle = {p: t for p, t in _aside(of).items() if p not in files}
    new = [MULTI] if any(p.kind == "Listener" for p in of.listeners) else []
    return Change(_route(of, files, idle), (*new, OPEN))


def _own_keys(of: Board) -> dict[str, str]:
    """Service → a routing key that is its alone: the one it has, or one made of the link's and its name."""
    found: dict[str, str] = {}
    shortest = min((s.key for s in of.services), key=len)
    for s in sorted(of.services, key=lambda s: (not s.active, s.connector.path)):
        found[s.name] = s.key if s.key not in found.values() else f"{shortest}-{s.name}"
    return found


def _route(of: Board, files: Mapping[str, str | None], idle: Mapping[str, str]) -> Route:
    """The route with other files over the folder; it knows all that had a part of this Listener's traffic."""
    members = {s.connector.path: of.listeners[0].name for s in of.services}
    ours = set(members)
    others = {p: text for p, text in of.route.idle.items() if p not in ours}
    return Route({**of.route.files, **files}, {**others, **idle}, {**of.route.members, **members})


def _multi(listener: Placed, strategy: Mapping[str, Any]) -> dict[str, str | None]:
    """The files that make a Listener a MultiKeyListener, or give one its strategy."""
    if listener.kind == "MultiKeyListener":
        return {listener.path: listener.with_spec(strategy=strategy).text}
    kept = {k: v for k, v in listener.spec.items() if k in ("host", "port", "tlsCredentials", "observer", "settings")}
    document = {**listener.document, "kind": "MultiKeyListener", "spec": {**kept, "strategy": strategy}}
    path = f"{listener.folder}/MultiKeyListener-{listener.name}.yaml"
    return {listener.path: None, path: dump(document)}


def _aside(of: Board) -> dict[str, str]:
    return {s.connector.path: s.connector.text for s in of.services if not s.active}


# -- what to run -----------------------------------------------------------------------------------------------------


def to_run(before: Mapping[str, bytes], after: Mapping[str, bytes], folder: str) -> list[str]:
    """What a person runs in each cluster after a change, a line each. `folder`: the link's, as it is written.

    In a namespace the old Listener goes first: both make a Service of one name. A private site in Kubernetes gets the
    new Connector first, so that there is always one.
    """
    old, new = {p.path: p for p in placed(before)}, {p.path: p for p in placed(after)}
    public, lines = {p.folder for p in new.values() if p.kind == "RouterAccess"}, []
    for side in sorted(public | in_cluster(new.values())):
        gone = [p for path, p in old.items() if p.folder == side and path not in new]
        changed = [p for p in new.values() if p.folder == side and before.get(p.path) != after[p.path]]
        where = next((f" -n {p.namespace}" for p in new.values() if p.folder == side and p.namespace), "")
        program = "oc" if side in public else "kubectl"
        deleted = [f"{program} delete {p.kind.lower()} {p.name}{where}" for p in gone]
        applied = [f"{program} apply -f {folder}/{side}/{where}"] if changed else []
        lines += [*deleted, *applied] if side in public else [*applied, *deleted]
    return lines


def in_cluster(there: Iterable[Placed]) -> set[str]:
    """Private folders whose site runs in Kubernetes."""
    sides: dict[str, list[Placed]] = {}
    for p in there:
        sides.setdefault(p.folder, []).append(p)
    return {
        side
        for side, placed_ in sides.items()
        if not any(p.kind == "RouterAccess" for p in placed_)
        and platform_of([p.document for p in placed_]) == "kubernetes"
    }
