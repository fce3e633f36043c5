"""link: Skupper documents that let an OpenShift namespace call the served model, the private host dialling out.

The artifact holds documents and the guide APPLY.md, and only names the Secrets. `hyb.linking.folder.materialise` mints
the credentials and writes the two folders that a person applies. Nothing here opens a socket, now or later.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from hyb.artifact import Artifact, File
from hyb.errors import Exit, HybError
from hyb.render import names
from hyb.render.dump import dump
from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.render.skupper import guide as skupper_guide
from hyb.stages.base import Context, Inputs, MaybeInputs, Ref, StagePlan, StageSpec

SUMMARY = "let an OpenShift namespace call the served model through Skupper, without a token"
REVISION = 1
MEDIA_TYPES = {".yaml": "application/yaml", ".md": "text/markdown"}

_ROUTING_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_CREDENTIALS = re.compile(r"[a-z0-9][a-z0-9.-]{0,199}")

Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Days = Annotated[int, Field(strict=True, ge=1, le=3650)]


class Spec(StageSpec):
    """What a person wrote. Names are RFC 1123 labels. `namespace` comes after what its Route hosts are made of, so
    that one pass over the fields can judge their length and still report every other mistake."""

    stage: Literal["link"] = "link"
    service: Annotated[str, Ref("service")]
    router_access: str = "hyb"
    """RouterAccess on OpenShift; the Routes are called `<router_access>-inter-router` and `…-edge`."""
    route_domain: str = ""
    """Instead of `apps_domain`: another domain that the controller is to ask for (`settings.domain`)."""
    apps_domain: str = ""
    """The cluster's domain for Routes: `oc get ingresses.config cluster -o jsonpath='{.spec.domain}'`."""
    namespace: str
    """The OpenShift namespace."""
    routing_key: str = "llm"
    host: str = "llm"
    """The Service that pods call."""
    port: Port | None = None
    """Its port; the served model's own when absent."""
    name: str = "link-public"
    site: str = "public"
    private_site: str = "private"
    private_namespace: str = "default"
    """Skupper's namespace on the private host (a folder there, nothing of Kubernetes)."""
    cost: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] = 1
    platform: Literal["podman", "docker", "linux"] = "podman"
    access: Literal["route"] = "route"
    days: Days = 365
    """How long server and client certificate last."""
    ca_days: Annotated[int, Field(strict=True, ge=1, le=36500)] = 1826
    credentials: str = ""
    """The folder of the credentials; default `<name>.<namespace>`. Links that share it share a CA."""

    @field_validator("router_access", "name", "site", "private_site", "private_namespace")
    @classmethod
    def _is_label(cls, text: str) -> str:
        return _good(text, names.label_problem(text))

    @field_validator("router_access")
    @classmethod
    def _is_not_skuppers(cls, text: str) -> str:
        return _good(text, f"`{text}` is a name of Skupper's own" if text.startswith(skupper_check.OWN) else "")

    @field_validator("route_domain")
    @classmethod
    def _is_domain(cls, text: str) -> str:
        return _good(text, names.domain_problem(text) if text else "")

    @field_validator("apps_domain")
    @classmethod
    def _is_the_only_domain(cls, text: str, info: ValidationInfo) -> str:
        other = info.data.get("route_domain")  # None: it is wrong itself
        if other == "" and not text:
            raise ValueError(
                "no domain for the Routes: ask the cluster"
                " with `oc get ingresses.config cluster -o jsonpath='{.spec.domain}'`"
            )
        if other and text:
            raise ValueError("`apps_domain` and `route_domain` are both given; keep one")
        return _good(text, names.domain_problem(text) if text else "")

    @field_validator("namespace")
    @classmethod
    def _is_short_enough(cls, text: str, info: ValidationInfo) -> str:
        facts = sk.LinkFacts(  # what is missing here is wrong itself, and reported there
            namespace=text, apps_domain=info.data.get("apps_domain") or "x", port=1, target_port=1,
            route_domain=info.data.get("route_domain") or "", router_access=info.data.get("router_access") or "hyb",
        )  # fmt: skip
        return _good(text, "; ".join(p for p in (names.label_problem(text), sk.route_problem(facts)) if p))

    @field_validator("host")
    @classmethod
    def _is_service(cls, text: str, info: ValidationInfo) -> str:
        if text == info.data.get("router_access") or text in sk.RESERVED_HOSTS:
            raise ValueError(f"`{text}` is the name of a Service that Skupper makes itself; choose another")
        return _good(text, names.service_problem(text))

    @field_validator("routing_key")
    @classmethod
    def _is_routing_key(cls, text: str) -> str:
        return _good(
            text, "" if _ROUTING_KEY.fullmatch(text) else f"`{text}` is no routing key: letters, digits, . _ / -"
        )

    @field_validator("credentials")
    @classmethod
    def _is_folder_name(cls, text: str) -> str:
        bad = text and (not _CREDENTIALS.fullmatch(text) or ".." in text)
        return _good(text, f"`{text}` is no folder name: a-z, 0-9, `.` and `-`" if bad else "")


def _good(text: str, problem: str) -> str:
    if problem:
        raise ValueError(problem)
    return text


def facts_of(spec: Spec, service: Artifact) -> sk.LinkFacts:
    """The facts that the documents say. Raises HybError when the service has no port."""
    port = service.meta.get("port")
    if problem := names.port_problem(port):
        raise HybError(f"service `{spec.service}`: its port {problem}", hint="make the service again with a port")
    return sk.LinkFacts(
        namespace=spec.namespace, apps_domain=spec.apps_domain, route_domain=spec.route_domain,
        target_host=_reached_at(str(service.meta.get("host") or "127.0.0.1")),
        port=spec.port or int(service.meta["port"]), target_port=int(service.meta["port"]),
        routing_key=spec.routing_key, host=spec.host, name=spec.name, site=spec.site, private_site=spec.private_site,
        private_namespace=spec.private_namespace, router_access=spec.router_access, cost=spec.cost,
    )  # fmt: skip


def _reached_at(listens: str) -> str:
    """The address to dial for a server that listens at `listens`: "every address" is none to dial."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listens, listens)


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """See hyb.stages.base. Nothing is opened: the documents are applied by a person."""
    service = inputs.get(spec.service)
    port = spec.port or (service.meta.get("port") if service else None) or "the service's port"
    facts = sk.LinkFacts(spec.namespace, spec.apps_domain, 1, 1, router_access=spec.router_access,
                         route_domain=spec.route_domain)  # fmt: skip
    hosts = ", ".join(f"`{host}`" for host in sk.route_hosts(facts))
    return StagePlan(
        makes=f"Skupper documents: `{spec.host}:{port}` in namespace `{spec.namespace}`, Routes {hosts}",
        reads=(f"service `{spec.service}`",),
        disk=16 << 10,
        seconds=1,
    )


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Render, check, and keep the documents without Secrets. Raises HybError."""
    service = inputs[spec.service]
    facts = facts_of(spec, service)
    sides = {"private": sk.private_documents(facts), "openshift": sk.openshift_documents(facts)}
    if mistakes := skupper_check.check(*sides.values(), named={facts.name, facts.server_secret}):
        raise HybError("the link's documents would not work", details=mistakes, code=Exit.CHECK)
    texts = {f"{side}/{sk.file_name(d)}": dump(d) for side, documents in sides.items() for d in documents}
    texts["APPLY.md"] = skupper_guide.guide(facts, spec.platform)
    files = [_file(context, path, text) for path, text in texts.items()]
    return context.store.add_artifact("link", files, meta=_meta(spec, facts), needs=(service.digest,))


def _file(context: Context, path: str, text: str) -> File:
    return File(path, context.store.add_bytes(text.encode()), MEDIA_TYPES["." + path.rsplit(".", 1)[-1]])


def _meta(spec: Spec, facts: sk.LinkFacts) -> dict[str, Any]:
    """What a reader needs: where the link goes, and by name which Secrets are to be made."""
    return {
        "name": facts.name,
        "namespace": facts.namespace,
        "hosts": list(sk.route_hosts(facts)),
        "host": facts.host,
        "port": facts.port,
        "routing_key": facts.routing_key,
        "platform": spec.platform,
        "secrets": {
            "private": {"name": facts.name, "namespace": facts.private_namespace},
            "openshift": {"name": facts.server_secret, "namespace": facts.namespace},
        },
        "credentials": spec.credentials or f"{facts.name}.{facts.namespace}",
        "client": f"link-{facts.private_site}",
        "days": spec.days,
        "ca_days": spec.ca_days,
    }
