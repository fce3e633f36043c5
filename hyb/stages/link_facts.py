"""From what a person wrote and the services of the store to the facts that a link's documents say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.render import names
from hyb.render.skupper.facts import Access, LinkFacts, PrivateSite, PublicSite, Service, Target
from hyb.stages.link_spec import PrivatePart, Spec, part_of


@dataclass(frozen=True)
class Model:
    """One of the link's services, with all defaults filled in."""

    service: str
    name: str
    """The served model's own: on Kubernetes that of its Service."""
    host: str
    routing_key: str
    port: int
    observer: str
    listens: str
    target_port: int


def facts_of(spec: Spec, services: Mapping[str, Artifact]) -> LinkFacts:
    """The facts that the documents say. Raises HybError when a service has no port, or two can't stand side by side."""
    models = models_of(spec, services)
    private = _private(spec, models)
    return LinkFacts(
        private=private, public=_public(spec), services=_listened(spec, models), access=access_of(spec),
        name=spec.name, way=spec.way, grant_window=spec.grant_window,
    )  # fmt: skip


def access_of(spec: Spec) -> Access:
    """How the routers are reached."""
    hosts = {n: host for n in spec.namespace if (host := spec.link_host.get(n) or spec.link_host.get("", ""))}
    return Access(
        kind=spec.access, name=spec.router_access, apps_domain=spec.apps_domain, route_domain=spec.route_domain,
        ingress_class=spec.ingress_class, hosts=hosts, ports={str(k): v for k, v in spec.link_ports.items()},
    )  # fmt: skip


def models_of(spec: Spec, services: Mapping[str, Artifact]) -> tuple[Model, ...]:
    """The link's services in order. Raises HybError, see `facts_of`."""
    found, faults = [], []
    for name in spec.service:
        meta, part = services[name].meta, part_of(spec, name)
        if problem := names.port_problem(meta.get("port")):
            faults.append(f"service `{name}`: its port {problem}")
            continue
        found.append(Model(
            service=name, name=str(meta.get("name") or name), host=part.host, routing_key=part.routing_key,
            port=part.port or int(meta["port"]), observer=part.observer,
            listens=_reached_at(str(meta.get("host") or "127.0.0.1")), target_port=int(meta["port"]),
        ))  # fmt: skip
    faults += _clashes(spec, found)
    if faults:
        raise HybError(faults[0], details=faults[1:], hint="make the service again with a port, or mend the link stage")
    return tuple(found)


def _clashes(spec: Spec, models: list[Model]) -> list[str]:
    """Services that can't stand side by side."""
    found = []
    for index, model in enumerate(models):
        for other in models[:index]:
            pair = f"services `{other.service}` and `{model.service}`"
            same_place = (model.host, model.port) == (other.host, other.port)
            if same_place and model.observer != other.observer:
                found.append(f"{pair} are both `{model.host}:{model.port}`, with different observers")
            elif same_place and model.routing_key != other.routing_key and not spec.strategy:
                found.append(f"{pair} are both `{model.host}:{model.port}`: give them different hosts or ports, one"
                             " routing key, or a `strategy`")  # fmt: skip
            elif model.routing_key == other.routing_key and spec.strategy and len(spec.private_sites) < 2:
                found.append(f"{pair} have one routing key: a `strategy` chooses among several")
    return found


def _reached_at(listens: str) -> str:
    """The address to dial for a server that listens at `listens`: "every address" is none to dial."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listens, listens)


# -- the private side ------------------------------------------------------------------------------------------------


def _private(spec: Spec, models: tuple[Model, ...]) -> tuple[PrivateSite, ...]:
    parts = spec.private_sites or {spec.private_site: PrivatePart()}
    several = len(parts) > 1
    return tuple(
        PrivateSite(
            targets=tuple(
                _target(spec, part, model, models, site if several and spec.strategy else "")
                for model in models
                if not part.services or model.service in part.services
            ),
            name=site, namespace=part.namespace or spec.private_namespace, platform=part.platform or spec.platform,
            cost=part.cost or spec.cost, folder=f"private-{site}" if several else "private",
        )
        for site, part in parts.items()
    )  # fmt: skip


def _target(spec: Spec, part: PrivatePart, model: Model, models: tuple[Model, ...], own_key: str) -> Target:
    selector = part.selector or spec.selector
    cluster = (part.platform or spec.platform) == "kubernetes"
    host = part.target_host or spec.target_host or (model.name if cluster else model.listens)
    key = f"{model.routing_key}-{own_key}" if own_key else model.routing_key
    return Target(
        name=_document_name(model, models), routing_key=key,
        port=part.target_port or model.target_port, host="" if selector else host, selector=selector,
    )  # fmt: skip


def _document_name(model: Model, models: tuple[Model, ...]) -> str:
    """The Service's name, unless two models share it."""
    return model.host if [m.host for m in models].count(model.host) == 1 else model.service


# -- the public side -------------------------------------------------------------------------------------------------


def _public(spec: Spec) -> tuple[PublicSite, ...]:
    if len(spec.namespace) == 1:
        return (PublicSite(spec.namespace[0], spec.site, spec.name),)
    return tuple(PublicSite(n, f"{spec.site}-{n}", f"{spec.name}-{n}", folder=f"openshift-{n}") for n in spec.namespace)


def _listened(spec: Spec, models: tuple[Model, ...]) -> tuple[Service, ...]:
    """One Service a host and port, with all routing keys that it stands for."""
    sites = tuple(spec.private_sites)
    across_sites = spec.strategy and len(sites) > 1
    found: dict[tuple[str, int], Service] = {}
    for model in models:
        where = (model.host, model.port)
        ports = {m.port for m in models if m.host == model.host}
        named = f"{model.host}-{model.port}" if len(ports) > 1 else ""
        if across_sites:
            having = [s for s in sites if not (own := spec.private_sites[s].services) or model.service in own]
            keys, weights = tuple(f"{model.routing_key}-{s}" for s in having), _weights(spec, having)
        else:
            before = found.get(where)
            mine = (model.routing_key,) if not before or model.routing_key not in before.routing_keys else ()
            keys = (*(before.routing_keys if before else ()), *mine)
            weights = _weights(spec, [m.service for m in models if m.routing_key in keys])
        strategy = spec.strategy if len(keys) > 1 or across_sites else ""
        found[where] = Service(
            *where, routing_keys=keys, name="" if strategy else named, strategy=strategy,
            weights=weights if strategy == "weighted" else (), observer=model.observer,
        )  # fmt: skip
    return tuple(found.values())


def _weights(spec: Spec, members: list[str]) -> tuple[int, ...]:
    return tuple(spec.weights.get(member, 1) for member in members)
