"""`hyb link check` from the public side: what the cluster says, and whether the model answers through the Listener."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hyb.errors import Exit, HybError
from hyb.linking import cluster, parts, reach, sides
from hyb.linking.findings import FaultError, Report, UntriedError, Walk
from hyb.linking.parts import Wanted
from hyb.linking.sides import Side
from hyb.serving import client


def run(folder: Path, found: Sequence[Side], wanted: Wanted) -> Report:
    """Check what can be seen from the cluster's side (`openshift`), or from any client of the Listener (`client`).

    Raises HybError: exit 2 when there is nothing to ask, exit 6 for another machine with `--offline`.
    """
    side = sides.public(found, wanted.namespace)
    urls = _urls(side, wanted)
    for _, url in urls:
        wanted.allow(client.checked(url).hostname or "")
    walk, answer = Walk(), None
    if wanted.side == "openshift":
        wanted.allow("the cluster")
        dialled = [e for s in found if s.is_private for e in s.endpoints()]
        namespace = wanted.namespace or (side.namespace if side else "")
        cluster.check(walk, namespace, dialled, side.targets("Listener") if side else [])
        urls = [(name, url) for name, url in urls if wanted.url or _reachable(walk, name, url, wanted)]
    for name, url in urls:
        label = f" {name}" if len(urls) > 1 else ""
        address = client.Address(url, wanted.key or wanted.usual_key, wanted.ca)
        answer = parts.check_model(walk, label, address, wanted, parts.BY_LISTENER) or answer
    if urls:
        parts.check_clock(walk, answer, datetime.now(UTC))
    return Report(wanted.side, wanted.url or str(side.path if side else folder), tuple(walk.findings))


def planned(found: Sequence[Side], wanted: Wanted) -> list[str]:
    """What `run` would look at, a line each."""
    asked = [
        f"`{url}`: name, TCP, one short completion" for _, url in _urls(sides.public(found, wanted.namespace), wanted)
    ]
    kinds = ["Site, RouterAccess, SecuredAccess and Listener of the namespace, by `oc` or `kubectl`"]
    return [*(kinds if wanted.side == "openshift" else []), *asked]


def _urls(side: Side | None, wanted: Wanted) -> list[tuple[str, str]]:
    """(name, base URL) of each model to ask."""
    if wanted.url:
        parts_of = client.checked(wanted.url)
        whole = wanted.url.rstrip("/")
        return [("model", whole if parts_of.path.strip("/") else f"{whole}/v1")]
    listeners = [*side.targets("Listener"), *side.targets("MultiKeyListener")] if side else []
    if not listeners and wanted.side == "client":
        hint = "`--url http://llm:8000/v1` names the model as the chatbot does"
        raise HybError("there is no Listener in the folder to ask", hint=hint, code=Exit.USAGE)
    return [(t.name, f"http://{t.host}:{t.port}/v1") for t in listeners]


def _reachable(walk: Walk, name: str, url: str, wanted: Wanted) -> bool:
    """False, with a finding, when this machine is no pod of the namespace: the Service's name means nothing here."""
    where = client.checked(url)
    try:
        reach.resolve(where.hostname or "", where.port or 80, wanted.seconds)
    except FaultError:
        pod = f"ask from a pod of the namespace: `hyb link check --side client --url {url}`"

        def untried() -> tuple[None, str]:
            raise UntriedError(f"`{where.hostname}` is known inside the namespace only; {pod}")

        walk.step(f"model {name}", untried)
        return False
    return True
