"""A bill of materials: CycloneDX 1.6 with model cards (ML-BOM) of an artifact and all behind it.

Artifacts are components: models and adapters with their model card, data sets, images with their layers; the steps
that lead from one to the other are the dependencies, what a model was tuned from is its pedigree. The packages that
made them are components of scope `excluded`: they ran, and are in none. No time and nothing random is in the document:
the serial number is made from the content, so the same artifacts give the same bytes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyb import __version__, engine
from hyb import digest as dg
from hyb.artifact import Artifact
from hyb.attest.trace import read, referrers
from hyb.errors import HybError
from hyb.formats import model_card
from hyb.formats.lineage import Lineage, Node, clean
from hyb.store import Store

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

_TYPES = {
    "model": "machine-learning-model", "adapter": "machine-learning-model", "dataset": "data", "report": "data",
    "image": "container", "imatrix": "data",
}  # fmt: skip
_SERIAL = uuid.UUID("6b1f2f0e-5d0a-5d53-9a55-5b6f3c1f8d21")
"""The name space of serial numbers; a constant, once drawn."""


def bom(store: Store, lineage: Lineage, name: str) -> dict[str, Any]:
    """The document about `name`: the artifact itself where there is one root, else a recipe of these outputs.

    Raises HybError (exit 3) where the extra `sbom` is not installed.
    """
    engine.require(["cyclonedx"], "sbom", "sbom")
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    found = Bom(serial_number=uuid.UUID(int=0))
    parts = {d: _component(store, node, lineage) for d, node in lineage.nodes.items()}
    single = parts[lineage.roots[0]] if len(lineage.roots) == 1 else None
    about = single or Component(name=clean(name), type=ComponentType.APPLICATION, bom_ref=f"recipe:{clean(name)}")
    found.metadata.component = about
    found.metadata.timestamp = None  # type: ignore[assignment]
    found.metadata.tools.components.add(
        Component(name="hyb", type=ComponentType.APPLICATION, version=__version__, bom_ref="tool:hyb")
    )
    sources = {ref: part for node in lineage.nodes.values() for ref, part in _sources(node)}
    packages = list(_packages(lineage.nodes.values()))
    for part in [*(p for p in parts.values() if p is not single), *sources.values(), *packages]:
        found.components.add(part)
    if single is None:
        found.register_dependency(about, [parts[d] for d in lineage.roots])
    for digest, node in lineage.nodes.items():
        made_of = [parts[d] for _, d in node.inputs if d in parts] + [sources[ref] for ref, _ in _sources(node)]
        found.register_dependency(parts[digest], made_of)
    document = json.loads(JsonV1Dot6(found).output_as_string())
    document["metadata"].pop("timestamp", None)
    _with_cards(document, store, lineage)
    return _numbered(document)


def dump(document: Mapping[str, Any]) -> str:
    """The one text form of a document."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _numbered(document: dict[str, Any]) -> dict[str, Any]:
    """The document, its serial number made from the rest of it."""
    document.pop("serialNumber", None)
    return {**document, "serialNumber": f"urn:uuid:{uuid.uuid5(_SERIAL, dg.of_json(document))}"}


def _component(store: Store, node: Node, lineage: Lineage) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    artifact = read(store, node.digest)
    meta = artifact.meta if artifact else {}
    said = {"kind": node.kind, "stage": node.stage, "receipt": node.receipt, "source": meta.get("source")}
    if problems := "; ".join(node.problems):
        said["problems"] = problems
    base = lineage.nodes.get(str(meta.get("base", "")))
    return Component(
        name=clean(node.title),
        type=ComponentType(_TYPES.get(node.kind, "application")),
        bom_ref=node.digest,
        version=node.digest,
        description=clean("; ".join(node.about)) or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=node.digest.removeprefix("sha256:"))],
        licenses=_licences(meta),
        properties=[Property(name=f"hyb:{k}", value=clean(v)) for k, v in said.items() if v],
        components=list(_files(artifact)) if artifact else [],
        pedigree=Pedigree(ancestors=[_ancestor(base)]) if base else None,
    )


def _ancestor(base: Node) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=base.digest.removeprefix("sha256:"))]
    return Component(name=clean(base.title), type=ComponentType.MACHINE_LEARNING_MODEL, version=base.digest,
                     bom_ref=f"ancestor:{base.digest}", hashes=hashes)  # fmt: skip


def _licences(meta: Mapping[str, Any]) -> list[Any]:
    """What the artifact says of its licence: an SPDX expression or name where it is one, else as it is written."""
    from cyclonedx.contrib.license.factories import LicenseFactory

    said = clean(meta.get("license") or "").strip()
    return [LicenseFactory().make_from_string(said)] if said else []


def _files(artifact: Artifact) -> Iterable[Component]:
    """Each file of an artifact, each layer of an image."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    for number, f in enumerate(artifact.files, 1):
        name = f"layer {number}" if f.path == f.blob.digest else f.path
        yield Component(
            name=clean(name), type=ComponentType.FILE, bom_ref=f"{artifact.digest}/{number}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=f.blob.digest.removeprefix("sha256:"))],
            properties=[Property(name="hyb:media-type", value=clean(f.media_type)),
                        Property(name="hyb:bytes", value=str(f.blob.size))],
        )  # fmt: skip


def _sources(node: Node) -> Iterable[tuple[str, Component]]:
    """What came from outside: a model on a hub, a package, a file."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    for s in node.sources:
        kind, _, digits = s.digest.partition(":")
        purl = _purl(s.uri)
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digits)] if kind == "sha256" else []
        ref = f"source:{s.uri}#{s.digest}"
        what = {"pkg:huggingface/": ComponentType.MACHINE_LEARNING_MODEL, "pkg:pypi/": ComponentType.LIBRARY}
        yield ref, Component(
            name=clean(s.name), type=next((t for p, t in what.items() if s.uri.startswith(p)), ComponentType.FILE),
            bom_ref=ref, version=(purl.version if purl else None) or s.digest or None, purl=purl, hashes=hashes,
            properties=[Property(name="hyb:digest", value=s.digest)] if s.digest else [],
        )  # fmt: skip


def _packages(nodes: Iterable[Node]) -> Iterable[Component]:
    """The programs that ran in any step, each version once, with the stages that they ran in."""
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentScope, ComponentType

    ran: dict[tuple[str, str], set[str]] = {}
    for node in nodes:
        for name, version in node.programs.items():
            ran.setdefault((name, version), set()).add(node.stage)
    for (name, version), stages in sorted(ran.items()):
        kind, _, package = name.removeprefix("pkg:").partition("/")
        yield Component(
            name=package, version=version, purl=_purl(f"{name}@{version}"),
            type=ComponentType.LIBRARY if kind == "pypi" else ComponentType.APPLICATION,
            bom_ref=f"ran:{kind}/{package}@{version}", scope=ComponentScope.EXCLUDED,
            properties=[Property(name="hyb:ran-in", value=", ".join(sorted(stages)))],
        )  # fmt: skip


def _purl(uri: str) -> PackageURL | None:
    """A package URL as one; None for what is none."""
    from packageurl import PackageURL

    try:
        return PackageURL.from_string(uri)
    except ValueError:
        return None


def _with_cards(document: dict[str, Any], store: Store, lineage: Lineage) -> None:
    """Add to each component what the library has no classes for."""
    speak = referrers(store)
    for component in [document["metadata"]["component"], *document.get("components", [])]:
        node = lineage.nodes.get(component.get("bom-ref", ""))
        artifact = read(store, node.digest) if node else None
        if node is None or artifact is None:
            continue
        if node.kind in ("model", "adapter"):
            component["modelCard"] = model_card.card(
                artifact.meta, _trained_on(node, lineage), exams(store, lineage, speak.get(node.digest, ()))
            )
        elif node.kind == "dataset":
            sources = [
                {"name": s.name, "digest": s.digest, "rows": ", ".join(f"{n} {p}" for p, n in s.rows.items())}
                for s in node.sources
            ]
            component["data"] = model_card.data(node.title, artifact.meta, sources)


def _trained_on(node: Node, lineage: Lineage) -> list[str]:
    """The data sets behind a model, in the steps that train: an exam's questions are none."""
    found: list[str] = []
    todo = [node]
    while todo:
        here = todo.pop(0)
        below = [lineage.nodes[d] for _, d in here.inputs if d in lineage.nodes]
        if here.stage == "tune":
            found += [n.digest for n in below if n.kind == "dataset"]
        todo += [n for n in below if n.kind in ("model", "adapter")]
    return list(dict.fromkeys(found))


def exams(store: Store, lineage: Lineage, speak: Iterable[Artifact]) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """(name, report) of the exams among what speaks of an artifact: of the lineage, and of the store beside it."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    names = {d: n for n, d in sorted(store.tags().items(), reverse=True)}
    for artifact in speak:
        if artifact.kind == "report" and "scores" in artifact.meta:
            node = lineage.nodes.get(artifact.digest)
            title = node.title if node else names.get(artifact.digest, f"report {artifact.digest[7:19]}")
            found[artifact.digest] = (title, report_of(store, artifact))
    return [found[d] for d in sorted(found, key=lambda d: (found[d][0], d))]


def report_of(store: Store, artifact: Artifact) -> Mapping[str, Any]:
    """An exam's report; its facts alone where the document is not here."""
    try:
        found = json.loads(store.read(artifact.file("report.json").blob.digest))
    except (HybError, ValueError, RecursionError):
        found = artifact.meta
    return model_card.sound(found)
