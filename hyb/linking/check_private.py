"""`hyb link check` from the private host: its documents, its router, the way to the other side, its model.

One connection an endpoint, closed politely; the endpoint that this site uses must work, the other one warns.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hyb.linking import local, parts, reach, router, sides, tls
from hyb.linking import site as sites
from hyb.linking.findings import FaultError, Report, UntriedError, Walk
from hyb.linking.parts import Wanted
from hyb.linking.sides import Endpoint, Side, Target
from hyb.render.names import is_loopback
from hyb.serving import client, manager
from hyb.serving.service import Service


@dataclass(frozen=True)
class Dialled:
    """An endpoint being walked to."""

    endpoint: Endpoint
    identity: tls.Identity
    wanted: Wanted


def run(folder: Path, found: Sequence[Side], wanted: Wanted) -> Report:
    """Check everything that can be seen from here. Raises HybError for a folder that is none, and for `--offline`."""
    side = sides.private(found, folder)
    for host in (*(e.host for e in side.endpoints()), *(t.host for t in side.targets("Connector"))):
        wanted.allow(host)
    walk = Walk()
    walk.step("documents", lambda: _documents(side, found))
    identity = walk.step("certificates", lambda: _certificates(side))
    site = sites.of(side, {**wanted.environ, "SKUPPER_PLATFORM": "podman"}, os.geteuid())
    local.check_router(walk, site.namespace, site.home)
    for number, endpoint in enumerate(side.endpoints()):
        _endpoint(walk, Dialled(endpoint, identity or tls.Identity(b"", b"", b""), wanted), optional=number > 0)
    several = len(side.targets("Connector")) > 1
    for target in side.targets("Connector"):
        _model(walk, target, wanted, f" {target.name}" if several else "")
    return Report("private", str(side.path), tuple(walk.findings))


def planned(folder: Path, found: Sequence[Side]) -> list[str]:
    """What `run` would look at, a line each."""
    side = sides.private(found, folder)
    dialled = [f"{e.role} `{e.host}:{e.port}`: name, TCP, TLS, AMQP" for e in side.endpoints()]
    asked = [f"model `{t.host}:{t.port}`: one short completion" for t in side.targets("Connector")]
    return [f"documents and certificates of `{side.path}`", "the router of this host", *dialled, *asked]


def _documents(side: Side, found: Sequence[Side]) -> tuple[None, str]:
    if mistakes := sides.mistakes(side, found):
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        raise FaultError("documents", f"{mistakes[0]}{more}")
    targets = ", ".join(f"`{t.routing_key}` → {t.host}:{t.port}" for t in side.targets("Connector"))
    return None, f"`{side.path}`: {targets or 'no Connector with a host'}"


def _certificates(side: Side) -> tuple[tls.Identity, str]:
    if side.by_token:
        raise UntriedError("Skupper gets them when it redeems the AccessToken; `skupper link status` tells of the link")
    return parts.check_certificates(side.identity(), datetime.now(UTC))


# -- the way to the other side ---------------------------------------------------------------------------------------


def _endpoint(walk: Walk, dialled: Dialled, *, optional: bool) -> None:
    """The parts `name`, `tcp`, `tls` and `peer` of one endpoint."""
    endpoint, wanted, role = dialled.endpoint, dialled.wanted, dialled.endpoint.role

    def name() -> tuple[list[str], str]:
        found = reach.resolve(endpoint.host, endpoint.port, wanted.seconds)
        return found, f"`{endpoint.host}` is {', '.join(found[:3])}"

    def tcp() -> tuple[socket.socket, str]:
        connection = held.enter_context(reach.connect(addresses or [], endpoint.port, wanted.seconds))
        return connection, f"port {endpoint.port} takes the connection"

    def secured() -> tuple[ssl.SSLSocket, str]:
        assert connection
        return _secured(dialled, addresses or [], connection)

    def peer() -> tuple[None, str]:
        assert session
        now = datetime.now(UTC)
        return None, _peer(router.greet(session, endpoint.host, dialled.identity, reach.Clock(wanted.seconds), now))

    at = [f"{part} {role}" for part in ("name", "tcp", "tls", "peer")]
    with contextlib.ExitStack() as held:  # one connection for all parts: a router logs each that says nothing
        addresses = walk.step(at[0], name, timed=True, optional=optional)
        connection = walk.step(at[1], tcp, needs=at[:1], timed=True, optional=optional)
        session = walk.step(at[2], secured, needs=("certificates", *at[:2]), timed=True, optional=optional)
        walk.step(at[3], peer, needs=at[:3], timed=True, optional=optional)


def _secured(dialled: Dialled, addresses: list[str], connection: socket.socket) -> tuple[ssl.SSLSocket, str]:
    endpoint, seconds = dialled.endpoint, dialled.wanted.seconds
    try:
        session = tls.open_session(connection, endpoint.host, dialled.identity, reach.Clock(seconds))
    except tls.UnverifiedError as fault:
        stranger = tls.inspect(addresses, endpoint.port, endpoint.host, seconds)
        raise tls.judge(fault, stranger, dialled.identity, datetime.now(UTC)) from fault
    try:
        leaf = tls.check_name(session, endpoint.host)
    except FaultError:
        session.close()
        raise
    until = f"{leaf.not_valid_after_utc:%Y-%m-%d}"
    if leaf.not_valid_after_utc - datetime.now(UTC) < parts.SOON:
        do = "`hyb link renew`, then `oc apply -f openshift/`"
        seen = f"the server certificate expires on {until}"
        raise FaultError("wrong-certificate", seen, do=do, warning=True, value=session)
    return session, f"{session.version()}, its certificate is good until {until}"


def _peer(found: router.Router) -> str:
    shown = f"{found.product or 'a router without a name'} {found.version}".strip()
    if found.skupper == 1:
        raise FaultError("skupper-1", f"{shown}, which is Skupper 1")
    if not found.skupper:
        raise FaultError("not-a-router", f"{shown} speaks AMQP, and is no router of Skupper", warning=True)
    return f"{shown} takes our certificate"


# -- the model ---------------------------------------------------------------------------------------------------------


def _model(walk: Walk, target: Target, wanted: Wanted, label: str) -> None:
    service = next((s for s in manager.ps(wanted.environ) if _is_at(s, target)), None)
    parts.check_model(walk, label or parts.MODEL, _address(target, service, wanted), wanted, parts.AT_HOME)


def _is_at(service: Service, target: Target) -> bool:
    """True when the Connector leads to this very service: its key is shown to nobody else."""
    return service.port == target.port and (target.host == service.host or is_loopback(target.host))


def _address(target: Target, service: Service | None, wanted: Wanted) -> client.Address:
    """Where the Connector leads. The key: the one given, else the service's own, which hyb keeps in a file, else of
    `HYB_API_KEY`."""
    own = ""
    if service and not wanted.key:
        with contextlib.suppress(OSError):
            own = service.key
    key = wanted.key or own or wanted.usual_key
    host = f"[{target.host}]" if ":" in target.host else target.host
    scheme = "https" if service and service.tls_cert else "http"
    ca = wanted.ca or (service.tls_cert if service else "")
    return client.Address(f"{scheme}://{host}:{target.port}/v1", key, ca)
