"""link: Skupper documents that let OpenShift namespaces call the served models, the private hosts dialling out.

The artifact holds documents and the guide APPLY.md, and only names the Secrets. `hyb.linking.folder.materialise` mints
the credentials and writes the folders that a person applies. Nothing here opens a socket, now or later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hyb.artifact import Artifact, File
from hyb.errors import Exit, HybError
from hyb.render.dump import dump
from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.render.skupper import guide as skupper_guide
from hyb.render.skupper import scripts
from hyb.render.skupper.facts import LinkFacts, endpoints, server_names
from hyb.stages.base import Context, Inputs, MaybeInputs, StagePlan
from hyb.stages.link_facts import Model, access_of, facts_of, models_of
from hyb.stages.link_spec import Spec, part_of

SUMMARY = "let an OpenShift namespace call the served model through Skupper"
REVISION = 2
MEDIA_TYPES = {".yaml": "application/yaml", ".md": "text/markdown", ".sh": "application/x-sh"}


def plan(spec: Spec, inputs: MaybeInputs) -> StagePlan:
    """See hyb.stages.base. Nothing is opened: the documents are applied by a person."""
    if all(inputs.get(name) for name in spec.service):
        models = models_of(spec, {name: a for name in spec.service if (a := inputs.get(name))})
        called = [f"{m.host}:{m.port}" for m in models]
    else:
        parts = [part_of(spec, name) for name in spec.service]
        called = [f"{part.host}:{part.port or 'the port of its service'}" for part in parts]
    calls = "`, `".join(dict.fromkeys(called))
    access = access_of(spec)
    hosts = "`, `".join(dict.fromkeys(e.host for n in spec.namespace for e in endpoints(access, n)))
    ends = {"route": "Routes"}.get(spec.access, "reached at")
    word = "namespace" if len(spec.namespace) == 1 else "namespaces"
    return StagePlan(
        makes=f"Skupper documents: `{calls}` in {word} `{'`, `'.join(spec.namespace)}`"
        + (f", {ends} `{hosts}`" if hosts else ""),
        reads=tuple(f"service `{name}`" for name in spec.service),
        disk=16 << 10,
        seconds=1,
    )


def run(spec: Spec, inputs: Inputs, context: Context) -> Artifact:
    """Render, check, and keep the documents without Secrets. Raises HybError."""
    services = {name: inputs[name] for name in spec.service}
    models = models_of(spec, services)
    facts = facts_of(spec, services)
    texts = _scripts(facts) if spec.way == "cli" else _documents(facts)
    files = [_file(context, path, text) for path, text in texts.items()]
    needs = tuple(dict.fromkeys(artifact.digest for artifact in services.values()))
    return context.store.add_artifact("link", files, meta=_meta(spec, facts, models), needs=needs)


def _documents(facts: LinkFacts) -> dict[str, str]:
    """Path → text. Raises HybError (exit 4) when the documents would not work."""
    public = {site.folder: sk.public_documents(facts, site) for site in facts.public}
    private = {} if facts.pending else {site.folder: sk.private_documents(facts, site) for site in facts.private}
    named = {secret["name"] for secret in _secrets(facts)}
    platforms = {site.folder: site.platform for site in facts.private}
    sides = [
        skupper_check.Side(folder, documents, folder in public, platforms.get(folder, ""), named)
        for folder, documents in (private | public).items()
    ]
    if mistakes := skupper_check.check_sides(sides):
        raise HybError("the link's documents would not work", details=mistakes, code=Exit.CHECK)
    texts = {f"{side.name}/{sk.file_name(d)}": dump(d) for side in sides for d in side.documents}
    return texts | {"APPLY.md": skupper_guide.guide(facts)}


def _scripts(facts: LinkFacts) -> dict[str, str]:
    texts = {f"{site.folder}/{scripts.SCRIPT}": scripts.private_script(facts, site) for site in facts.private}
    texts |= {f"{site.folder}/{scripts.SCRIPT}": scripts.public_script(facts, site) for site in facts.public}
    return texts | {"APPLY.md": scripts.guide(facts)}


def _file(context: Context, path: str, text: str) -> File:
    return File(path, context.store.add_bytes(text.encode()), MEDIA_TYPES["." + path.rsplit(".", 1)[-1]])


# -- what a reader needs ---------------------------------------------------------------------------------------------


def _meta(spec: Spec, facts: LinkFacts, models: tuple[Model, ...]) -> dict[str, Any]:
    """Where the link goes, and by name which Secrets are to be made. Keys in the singular speak of the first of
    several."""
    secrets, first = list(_secrets(facts)), facts.private[0]
    servers = {site.namespace: list(server_names(facts.access, site.namespace)) for site in facts.public}
    return {
        "name": facts.name,
        "namespace": facts.public[0].namespace,
        "hosts": servers[facts.public[0].namespace],
        "host": facts.services[0].host,
        "port": facts.services[0].port,
        "routing_key": facts.services[0].routing_keys[0],
        "platform": first.platform,
        "secrets": {
            "private": {"name": facts.name, "namespace": first.namespace},
            "openshift": {"name": facts.access.server_secret, "namespace": facts.public[0].namespace},
        },
        "credentials": spec.credentials or _credentials(facts),
        "client": f"link-{first.name}",
        "days": spec.days,
        "ca_days": spec.ca_days,
        "way": facts.way,
        "access": facts.access.kind,
        "router_access": facts.access.name,
        "apps_domain": facts.access.apps_domain or facts.access.route_domain,
        "pending": facts.pending,
        "namespaces": [site.namespace for site in facts.public],
        "servers": servers,
        "sites": [
            {"name": s.name, "namespace": s.namespace, "platform": s.platform, "cost": s.cost, "folder": s.folder}
            for s in facts.private
        ],
        "publics": [
            {"namespace": s.namespace, "name": s.name, "link": s.link, "folder": s.folder} for s in facts.public
        ],
        "models": [
            {"service": m.service, "host": m.host, "port": m.port, "routing_key": m.routing_key} for m in models
        ],
        "strategy": spec.strategy,
        "to_make": secrets,
    }


def _credentials(facts: LinkFacts) -> str:
    """A CA whose key goes into a cluster is no other link's."""
    end = ".issuer" if facts.way == "issuer" else ""
    return f"{facts.name}.{facts.public[0].namespace}{end}"


def _secrets(facts: LinkFacts) -> Iterator[dict[str, str]]:
    """The Secrets that a person's folder will have: whose data (`of`, `for`), and where they lie."""
    if facts.way not in ("given", "issuer"):
        return
    for site in () if facts.pending else facts.private:
        yield {"of": "client", "for": site.name, "folder": site.folder, "name": facts.name, "namespace": site.namespace}
    kind = "server" if facts.way == "given" else "issuer"
    name = facts.access.server_secret if facts.way == "given" else facts.access.issuer_secret
    for public in facts.public:
        yield {
            "of": kind,
            "for": public.namespace,
            "folder": public.folder,
            "name": name,
            "namespace": public.namespace,
        }
