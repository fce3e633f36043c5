"""What a person writes for a link stage.

The smallest link is one service, one namespace, one private host; then none of the fields for several is needed. Fields
stand in an order in which each can be judged by those before it, so that one pass reports every mistake at its field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from hyb.render import names
from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.render.skupper.facts import CLI_ACCESS, Access, host_problem
from hyb.render.skupper.kinds import duration_problem, selector_problem
from hyb.stages.base import Ref, StageSpec

_ROUTING_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_CREDENTIALS = re.compile(r"[a-z0-9][a-z0-9.-]{0,199}")

Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Days = Annotated[int, Field(strict=True, ge=1, le=3650)]
Cost = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Weight = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]
"""One name, or a list."""
Role = Literal["inter-router", "edge"]
Platform = Literal["podman", "docker", "linux", "kubernetes"]
Observer = Literal["", "auto", "none", "http1", "http2"]


def _good(text: str, problem: str) -> str:
    if problem:
        raise ValueError(problem)
    return text


def _label(text: str) -> str:
    return _good(text, names.label_problem(text))


def _service(text: str) -> str:
    if text in sk.RESERVED_HOSTS:
        raise ValueError(f"`{text}` is the name of a Service that Skupper makes itself; choose another")
    return _good(text, names.service_problem(text) if text else "")


def _routing_key(text: str) -> str:
    bad = text and not _ROUTING_KEY.fullmatch(text)
    return _good(text, f"`{text}` is no routing key: letters, digits, . _ / -" if bad else "")


def _host(text: str) -> str:
    return _good(text, names.host_problem(text) if text else "")


def _selector(text: str) -> str:
    return _good(text, selector_problem(text) if text else "")


class _Part(BaseModel):
    """A part of the spec that is itself a mapping."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPart(_Part):
    """One of several services: what differs from the fields of the same name above it."""

    host: Annotated[str, BeforeValidator(_service)] = ""
    routing_key: Annotated[str, BeforeValidator(_routing_key)] = ""
    port: Port | None = None
    observer: Observer = ""


class PrivatePart(_Part):
    """One of several private sites: what differs from the fields of the same name above it."""

    cost: Cost | None = None
    platform: Platform | None = None
    namespace: str = ""
    target_host: Annotated[str, BeforeValidator(_host)] = ""
    target_port: Port | None = None
    selector: Annotated[str, BeforeValidator(_selector)] = ""
    services: Names = ()
    """Those of the link's services that answer here; default: all."""

    @field_validator("namespace")
    @classmethod
    def _is_label(cls, text: str) -> str:
        return _label(text) if text else text


def _by_name(value: Any) -> Any:
    return {name: {} for name in value} if isinstance(value, (list, tuple)) else value


class Spec(StageSpec):
    """What a person wrote. Names are RFC 1123 labels."""

    stage: Literal["link"] = "link"
    service: Annotated[Names, Ref("service")] = Field(min_length=1)
    """The served model, or several: several models over one link."""
    way: Literal["given", "issuer", "token", "cli"] = "given"
    """Where trust comes from: see hyb.render.skupper.documents."""
    access: Literal["route", "loadbalancer", "ingress-nginx", "nodeport", "local"] = "route"
    """How the namespace's router is reached."""
    router_access: str = "hyb"
    """RouterAccess on OpenShift; the Routes are called `<router_access>-inter-router` and `…-edge`."""
    route_domain: str = ""
    """Instead of `apps_domain`: another domain that the controller is to ask for (`settings.domain`)."""
    apps_domain: str = ""
    """The cluster's domain for Routes: `oc get ingresses.config cluster -o jsonpath='{.spec.domain}'`."""
    ingress_class: str = ""
    """With `ingress-nginx`: the IngressClass."""
    namespace: Names = Field(min_length=1)
    """The OpenShift namespace, or several."""
    link_host: Annotated[
        dict[str, str], BeforeValidator(lambda v: {"": v} if isinstance(v, str) and v else v or {})
    ] = Field(default_factory=dict)
    """The address of the router where no domain gives it; several namespaces: namespace → address."""
    link_ports: dict[Role, Port] = Field(default_factory=dict)
    """With `nodeport` (and `local` through a forwarded port): role → port."""
    routing_key: str = "llm"
    host: str = "llm"
    """The Service that pods call."""
    port: Port | None = None
    """Its port; the served model's own when absent."""
    observer: Observer = ""
    """How the router looks into the traffic for its metrics; `none` is the fastest."""
    models: dict[str, ModelPart] = Field(default_factory=dict)
    """With several services: service → its own `host`, `routing_key`, `port`, `observer`."""
    name: str = "link-public"
    site: str = "public"
    private_site: str = "private"
    private_namespace: str = "default"
    """Skupper's namespace on the private host (a folder there, nothing of Kubernetes)."""
    platform: Platform = "podman"
    target_host: str = ""
    """The model as the private router reaches it; default: where the service listens; on Kubernetes its Service."""
    selector: str = ""
    """On Kubernetes instead: the labels of the model's pods, `app.kubernetes.io/name=bot`."""
    cost: Cost = 1
    private_sites: Annotated[dict[str, PrivatePart], BeforeValidator(_by_name)] = Field(default_factory=dict)
    """Several private hosts: a list of names, or name → cost, platform, …"""
    strategy: Literal["", "priority", "weighted"] = ""
    """How pods' connections are shared among several private sites, or several services of one `host`, instead of by
    cost: in the order given, or by `weights`."""
    weights: dict[str, Weight] = Field(default_factory=dict)
    grant_window: str = "15m"
    """With `token`: how long a token is good."""
    days: Days = 365
    """How long server and client certificate last."""
    ca_days: Annotated[int, Field(strict=True, ge=1, le=36500)] = 1826
    credentials: str = ""
    """The folder of the credentials; default `<name>.<namespace>`, with `way: issuer` `.issuer` behind it. Links that
    share it share a CA."""

    @field_validator("router_access", "name", "site", "private_site", "private_namespace")
    @classmethod
    def _is_label(cls, text: str) -> str:
        return _label(text)

    @field_validator("router_access")
    @classmethod
    def _is_not_skuppers(cls, text: str) -> str:
        return _good(text, f"`{text}` is a name of Skupper's own" if text.startswith(skupper_check.OWN) else "")

    @field_validator("route_domain")
    @classmethod
    def _is_domain(cls, text: str, info: ValidationInfo) -> str:
        if text and info.data.get("access", "route") != "route":
            raise ValueError(f"has no use with `access: {info.data['access']}`")
        return _good(text, names.domain_problem(text) if text else "")

    @field_validator("apps_domain")
    @classmethod
    def _is_the_only_domain(cls, text: str, info: ValidationInfo) -> str:
        access, way = info.data.get("access", "route"), info.data.get("way", "given")
        other = info.data.get("route_domain")  # None: it is wrong itself
        if text and access not in ("route", "ingress-nginx"):
            raise ValueError(f"has no use with `access: {access}`: give `link_host`")
        if not text and other == "" and way in ("given", "issuer") and access in _DOMAINS:
            raise ValueError(_DOMAINS[access])
        if other and text:
            raise ValueError("`apps_domain` and `route_domain` are both given; keep one")
        return _good(text, names.domain_problem(text) if text else "")

    @field_validator("ingress_class")
    @classmethod
    def _is_class(cls, text: str, info: ValidationInfo) -> str:
        if text and info.data.get("access", "ingress-nginx") != "ingress-nginx":
            raise ValueError(f"has no use with `access: {info.data['access']}`")
        return _good(text, names.domain_problem(text) if text else "")

    @field_validator("namespace")
    @classmethod
    def _is_short_enough(cls, given: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        access = Access(  # what is missing here is wrong itself, and reported there
            kind=info.data.get("access", "route"), name=info.data.get("router_access") or "hyb",
            apps_domain=info.data.get("apps_domain") or "x", route_domain=info.data.get("route_domain") or "",
        )  # fmt: skip
        problems = [p for n in given for p in (names.label_problem(n), host_problem(access, n)) if p]
        if len(set(given)) < len(given):
            problems.append("a namespace is there twice")
        _good("", "; ".join(problems))
        return given

    @field_validator("link_host")
    @classmethod
    def _is_address(cls, given: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        access, way = info.data.get("access", "route"), info.data.get("way", "given")
        namespaces = info.data.get("namespace")
        if given and access in ("route", "ingress-nginx"):
            raise ValueError(f"has no use with `access: {access}`: the domain says where the router is reached")
        if given and way in ("token", "cli"):
            raise ValueError(f"has no use with `way: {way}`: the cluster says where its router is reached")
        if not given and way == "given" and access in ("loadbalancer", "nodeport"):
            raise ValueError(
                f"is missing: with `access: {access}` no domain gives the router's address, and the server certificate"
                " must be for it; give the address that the cluster will use, or take `way: issuer` or `way: token`"
            )
        for where, host in given.items():
            _good(host, names.host_problem(host))
            if where and namespaces and where not in namespaces:
                raise ValueError(f"`{where}` is no namespace of this link")
        if namespaces and len(namespaces) > 1 and given and set(given) != set(namespaces):
            raise ValueError(f"give one an address each: {', '.join(f'`{n}`' for n in namespaces)}")
        return given

    @field_validator("link_ports")
    @classmethod
    def _are_both(cls, given: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        if not given:
            return given
        if info.data.get("access", "nodeport") not in ("nodeport", "local"):
            raise ValueError(f"has no use with `access: {info.data['access']}`")
        if missing := [role for role in get_args(Role) if role not in given]:
            raise ValueError(f"the port of `{missing[0]}` is missing")
        if len(set(given.values())) < len(given):
            raise ValueError("both roles have one port")
        return given

    @field_validator("host")
    @classmethod
    def _is_service(cls, text: str, info: ValidationInfo) -> str:
        if text == info.data.get("router_access"):
            raise ValueError(f"`{text}` is the name of a Service that Skupper makes itself; choose another")
        return _good(_service(text), names.service_problem(text))

    @field_validator("routing_key")
    @classmethod
    def _is_routing_key(cls, text: str) -> str:
        return _good(_routing_key(text), "" if text else "is empty")

    @field_validator("models")
    @classmethod
    def _are_services(cls, given: dict[str, ModelPart], info: ValidationInfo) -> dict[str, ModelPart]:
        services = info.data.get("service")
        if services and (strange := [name for name in given if name not in services]):
            raise ValueError(f"`{strange[0]}` is no service of this link")
        for name, part in given.items():
            if part.host and part.host == info.data.get("router_access"):
                raise ValueError(f"{name}: `{part.host}` is the name of a Service that Skupper makes itself")
        return given

    @field_validator("platform")
    @classmethod
    def _is_fit_for_the_access(cls, text: str, info: ValidationInfo) -> str:
        near = info.data.get("access") == "local" and info.data.get("link_host") == {}
        if near and text != "kubernetes" and info.data.get("way") in ("given", "issuer"):
            raise ValueError(
                f"`{text}` is outside the cluster, and `access: local` is reached from inside only; give `link_host`"
                " (and `link_ports`) of a forwarded port, or another access"
            )
        return text

    @field_validator("target_host")
    @classmethod
    def _is_host(cls, text: str) -> str:
        return _host(text)

    @field_validator("selector")
    @classmethod
    def _selects(cls, text: str) -> str:
        return _selector(text)

    @field_validator("private_sites")
    @classmethod
    def _are_sites(cls, given: dict[str, PrivatePart], info: ValidationInfo) -> dict[str, PrivatePart]:
        services = info.data.get("service") or ()
        problems = [problem for name in given if (problem := names.label_problem(name))]
        for name, part in given.items():
            strange = [s for s in part.services if services and s not in services]
            problems += [f"{name}: `{s}` is no service of this link" for s in strange]
            if part.target_port and len(services) > 1:
                problems.append(f"{name}: `target_port` is for a link of one service")
        if given and info.data.get("private_site", "private") != "private":
            problems.append("`private_site` is for one; take it out")
        _good("", "; ".join(problems))
        return given

    @field_validator("grant_window")
    @classmethod
    def _is_duration(cls, text: str) -> str:
        return _good(text, duration_problem(text))

    @field_validator("credentials")
    @classmethod
    def _is_folder_name(cls, text: str) -> str:
        bad = text and (not _CREDENTIALS.fullmatch(text) or ".." in text)
        return _good(text, f"`{text}` is no folder name: a-z, 0-9, `.` and `-`" if bad else "")

    @model_validator(mode="after")
    def _fits_together(self) -> Spec:
        _good("", "; ".join([*_sides(self), *_selectors(self), *_strategy(self), *_models(self), *_cli(self)]))
        return self


_DOMAINS: Mapping[str, str] = {
    "route": (
        "no domain for the Routes: ask the cluster with `oc get ingresses.config cluster -o jsonpath='{.spec.domain}'`"
    ),
    "ingress-nginx": "no domain for the Ingress: it is SKUPPER_INGRESS_DOMAIN of the Skupper controller",
}


def _sides(spec: Spec) -> list[str]:
    theirs = {part.namespace or spec.private_namespace for part in spec.private_sites.values()}
    both = sorted(set(spec.namespace) & (theirs or {spec.private_namespace}))
    found = [
        f"namespace `{name}` is the private side's own (`private_namespace`): the two sides need different ones"
        for name in both
    ]
    if len(spec.namespace) > 1 and spec.access == "nodeport":
        found.append("several namespaces have several ports of the nodes: make a link for each")
    several = [f"{spec.name}-{n}" for n in spec.namespace] + [f"{spec.site}-{n}" for n in spec.namespace]
    if len(spec.namespace) > 1:
        found += [problem for name in several if (problem := names.label_problem(name))]
    return found


def _selectors(spec: Spec) -> list[str]:
    found = []
    parts = spec.private_sites or {spec.private_site: PrivatePart()}
    for name, part in parts.items():
        platform, selector = part.platform or spec.platform, part.selector or spec.selector
        where = f"{name}: " if spec.private_sites else ""
        if selector and platform != "kubernetes":
            found.append(f"{where}`selector` means pods, there are none on platform `{platform}`")
        if selector and (part.target_host or spec.target_host):
            found.append(f"{where}`selector` and `target_host` are both given; keep one")
    return found


def members(spec: Spec) -> tuple[str, ...]:
    """What a strategy chooses among: the private sites, or with one site the services; empty when there is one."""
    if len(spec.private_sites) > 1:
        return tuple(spec.private_sites)
    return spec.service if len(spec.service) > 1 else ()


def _strategy(spec: Spec) -> list[str]:
    found = []
    if spec.strategy and not members(spec):
        found.append("`strategy` chooses among several private sites or services, and there is one")
    if spec.weights and spec.strategy != "weighted":
        found.append("`weights` are for `strategy: weighted`")
    if spec.strategy == "weighted":
        found += [f"`weights` names `{w}`, which is none of {', '.join(members(spec))}"
                  for w in spec.weights if w not in members(spec)]  # fmt: skip
        if members(spec) and not any(spec.weights.get(m, 1) for m in members(spec)):
            found.append("every weight is 0: nothing would be chosen")
    return found


def part_of(spec: Spec, service: str) -> ModelPart:
    """What of one of the services can be said without it: the fields of its own, and the defaults of the others."""
    part, one = spec.models.get(service) or ModelPart(), len(spec.service) == 1
    shared = one or (spec.strategy and len(spec.private_sites) < 2)  # one Service for all
    key = part.routing_key or (spec.routing_key if one else service)
    return ModelPart.model_construct(  # a service's own name may be no host: `_models` says so
        host=part.host or (spec.host if shared else key), routing_key=key, port=part.port or spec.port,
        observer=part.observer or spec.observer,
    )  # fmt: skip


def _models(spec: Spec) -> list[str]:
    """Services that pods can't call by their name, or that are of one routing key and of different protocols."""
    found: dict[str, tuple[str, str]] = {}
    clashes = []
    for service in spec.service:
        part = part_of(spec, service)
        if problem := names.service_problem(part.host):
            clashes.append(f"service `{service}`: {problem}; give it a `host` in `models`")
        first, observer = found.setdefault(part.routing_key, (service, part.observer))
        if observer != part.observer:
            clashes.append(f"services `{first}` and `{service}` have one routing key `{part.routing_key}` and different"
                           " observers: one key, one protocol")  # fmt: skip
    return clashes


def _cli(spec: Spec) -> list[str]:
    if spec.way != "cli":
        return []
    found = []
    if spec.access not in CLI_ACCESS:
        found.append(f"`skupper site create` can't do `access: {spec.access}`, only {' and '.join(CLI_ACCESS)}")
    observed = spec.observer or any(part.observer for part in spec.models.values())
    given = {"strategy": spec.strategy, "observer": observed, "route_domain": spec.route_domain}
    return [*found, *(f"the program `skupper` has no option for `{name}`" for name, value in given.items() if value)]
