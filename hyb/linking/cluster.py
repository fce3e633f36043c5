"""What the cluster says of a link: its resources' own status, read by `oc` or `kubectl`.

Reads only, one `get` a kind. Fields of `status`: the CRDs of Skupper 2.2.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyb import engine
from hyb.errors import HybError
from hyb.linking.findings import FaultError, UntriedError, Walk
from hyb.linking.sides import Endpoint, Target
from hyb.render.skupper.check import name_of, spec_of

PROGRAMS = ("oc", "kubectl")
PATIENCE = 30.0  # seconds for one question
OLDEST = (2, 1)
"""The first Skupper whose controller takes given credentials."""
SKUPPER_1 = "skupper-site"
"""The ConfigMap that makes a site of Skupper 1."""
_NO_KIND = re.compile(r"doesn't have a resource type|no matches for kind", re.IGNORECASE)
_NO_CLUSTER = re.compile(
    r"unauthorized|forbidden|must be logged in|connection refused|unable to connect|was refused|no such host"
    r"|no configuration has been provided|i/o timeout|certificate",
    re.IGNORECASE,
)

_LOG = re.compile(r"^[EWI]\d{4} .*\n", re.MULTILINE)
"""Lines of the program's own log, before what it says to people."""


class KindMissingError(Exception):
    """The cluster has no such kind."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that a program here can ask. `namespace` "": the program's own."""

    program: str
    namespace: str = ""

    def get(self, kind: str, name: str = "") -> list[Mapping[str, Any]]:
        """The resources of a kind, or the one of a name. Raises KindMissingError, FaultError."""
        where = ["--namespace", self.namespace] if self.namespace else []
        argv = [self.program, "get", kind, *([name] if name else []), *where, "--output", "json"]
        argv += ["--ignore-not-found", "--request-timeout=10s"]
        try:
            done = engine.run(argv, check=False, timeout=PATIENCE)
        except HybError as error:
            raise FaultError("cluster", error.message) from error
        if done.returncode:
            said = _LOG.sub("", done.stderr.decode(errors="replace")).strip()
            if _NO_KIND.search(said):
                raise KindMissingError(kind)
            line = next((x for x in said.splitlines() if _NO_CLUSTER.search(x)), said[:200])
            raise FaultError("cluster", f"`{self.program} get {kind}`: {line.strip()[:200] or 'failed without a word'}")
        return _items(done.stdout)


def _items(data: bytes) -> list[Mapping[str, Any]]:
    if not data.strip():
        return []
    try:
        found = json.loads(data)
    except ValueError as error:
        raise FaultError("cluster", "its answer is no JSON") from error
    items = found.get("items", [found]) if isinstance(found, dict) else []
    return [x for x in items if isinstance(x, dict)] if isinstance(items, list) else []


def here(namespace: str) -> Cluster | None:
    """The cluster that `oc` or `kubectl` of this machine is set to; None without such a program."""
    program = next((p for p in PROGRAMS if engine.which(p)), "")
    return Cluster(program, namespace) if program else None


def check(walk: Walk, namespace: str, dialled: Sequence[Endpoint], listeners: Sequence[Target]) -> None:
    """The parts `site`, `access`, `secured access`, `link` and `listener` of a namespace.

    `dialled`: where the private side's Link goes, when its folder is known. `listeners`: those of the folder.
    """
    cluster = here(namespace)
    site = walk.step("site", lambda: _site(cluster))
    walk.step("access", lambda: _access(_needed(cluster), dialled), needs=("site",))
    walk.step("secured access", lambda: _secured(_needed(cluster)), needs=("site",))
    walk.step("link", lambda: _linked(site or {}), needs=("site", "access"))
    walk.step("listener", lambda: _listener(_needed(cluster), listeners), needs=("site",))


def _needed(cluster: Cluster | None) -> Cluster:
    if cluster is None:
        raise UntriedError("neither `oc` nor `kubectl` here")
    return cluster


# -- Site ------------------------------------------------------------------------------------------------------------


def _site(cluster: Cluster | None) -> tuple[Mapping[str, Any], str]:
    asked = _needed(cluster)
    try:
        found = asked.get("sites.skupper.io")
    except KindMissingError:
        _not_skupper_1(asked)
        raise FaultError("no-skupper", "the cluster does not know the kind Site") from None
    if not found:
        _not_skupper_1(asked)
        raise FaultError("not-applied", f"no Site in the namespace{f' `{asked.namespace}`' if asked.namespace else ''}")
    if len(found) > 1:
        raise FaultError("not-ready", f"{len(found)} Sites in one namespace: Skupper uses one of them")
    site = found[0]
    version = _version(site)
    if version and version < OLDEST:
        shown = ".".join(map(str, version))
        raise FaultError("no-skupper", f"the controller is of Skupper {shown}: it ignores given credentials")
    return site, _ready(site)


def _not_skupper_1(cluster: Cluster) -> None:
    """Raises FaultError when the namespace is a site of Skupper 1."""
    if cluster.get("configmaps", SKUPPER_1):
        raise FaultError("skupper-1", f"the ConfigMap `{SKUPPER_1}`: this namespace is a site of Skupper 1")


def _version(site: Mapping[str, Any]) -> tuple[int, ...]:
    controller = _status(site).get("controller")
    text = str(controller.get("version") or "") if isinstance(controller, dict) else ""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else ()


def _linked(site: Mapping[str, Any]) -> tuple[None, str]:
    status = _status(site)
    count = status.get("sitesInNetwork")
    network = status.get("network")
    names = [str(n.get("name")) for n in network if isinstance(n, dict)] if isinstance(network, list) else []
    total = count if isinstance(count, int) else len(names)
    if total < 2:
        raise FaultError("link-down", f"{total} site in the network: no private host is linked")
    others = f": {', '.join(f'`{n}`' for n in names)}" if names else ""
    return None, f"{total} sites in the network{others}"


# -- RouterAccess, SecuredAccess, Listener ---------------------------------------------------------------------------


def _access(cluster: Cluster, dialled: Sequence[Endpoint]) -> tuple[None, str]:
    found = _all(cluster, "routeraccesses.skupper.io", "RouterAccess")
    seen = [_ready(x) for x in found]
    offered = [(str(e.get("host")), str(e.get("port"))) for x in found for e in _endpoints(x)]
    missing = [e for e in dialled if (e.host, str(e.port)) not in offered]
    if offered and missing:
        said = ", ".join(f"`{h}:{p}`" for h, p in offered)
        raise FaultError(
            "no-route", f"the link dials `{missing[0].host}:{missing[0].port}`, and the cluster offers {said}"
        )
    return None, "; ".join([*seen, *(f"`{h}:{p}`" for h, p in offered)])


def _endpoints(resource: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = _status(resource).get("endpoints")
    return [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []


def _secured(cluster: Cluster) -> tuple[None, str]:
    return None, "; ".join(_ready(x) for x in _all(cluster, "securedaccesses.skupper.io", "SecuredAccess"))


def _listener(cluster: Cluster, listeners: Sequence[Target]) -> tuple[None, str]:
    found = _all(cluster, "listeners.skupper.io", "Listener")
    names = [name_of(x) for x in found]
    if lacking := next((t for t in listeners if t.name not in names), None):
        raise FaultError("not-applied", f"no Listener `{lacking.name}` in the namespace")
    for one in found:
        if _status(one).get("status") != "Error" and not _status(one).get("hasMatchingConnector"):
            key = spec_of(one).get("routingKey")  # the field is left out when it is false
            raise FaultError("no-connector", f"`{name_of(one)}`: nobody offers a Connector for the routing key `{key}`")
    return None, "; ".join(_ready(x) for x in found)


def _all(cluster: Cluster, kind: str, shown: str) -> list[Mapping[str, Any]]:
    try:
        found = cluster.get(kind)
    except KindMissingError:
        raise FaultError("no-skupper", f"the cluster does not know the kind {shown}") from None
    if not found:
        raise FaultError("not-applied", f"no {shown} in the namespace")
    return found


def _status(resource: Mapping[str, Any]) -> Mapping[str, Any]:
    status = resource.get("status")
    return status if isinstance(status, dict) else {}


def _ready(resource: Mapping[str, Any]) -> str:
    """`name` is Ready. Raises FaultError for another status."""
    status = _status(resource)
    word, message = str(status.get("status") or "without a status"), str(status.get("message") or "")
    seen = f"`{name_of(resource)}` is {word}{f' ({message[:120]})' if message and message != 'OK' else ''}"
    if word not in ("Ready", "OK", "Ok"):
        hint = _unmet(status)
        raise FaultError("not-ready", f"{seen}{hint}")
    return seen


def _unmet(status: Mapping[str, Any]) -> str:
    """The condition that is not met, where the message does not say it."""
    conditions = status.get("conditions")
    listed = [c for c in conditions if isinstance(c, dict)] if isinstance(conditions, list) else []
    unmet = [f"{c.get('type')}: {c.get('message') or c.get('reason')}" for c in listed if c.get("status") == "False"]
    return f"; {'; '.join(unmet)[:200]}" if unmet and not status.get("message") else ""
