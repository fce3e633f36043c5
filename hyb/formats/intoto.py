"""in-toto statements with SLSA provenance as data: resources, where they come from, and reading them back. Pure.

Sources: https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.1/provenance, and the resource descriptor of
https://github.com/in-toto/attestation. A resource's `content` is bytes, so a measured value is an annotation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
MEDIA_TYPE = "application/vnd.in-toto+json"
STAGE = "urn:hyb:stage:"
FACT = "urn:hyb:fact:"
TREE = "hybTree"
"""Digest of a folder: sha256 of the canonical JSON of {path: `sha256:<hex>`} of its files."""
MOST_FILES = 1000
"""Files of a folder that are named one by one."""

_LOCAL = re.compile(r"(?P<scheme>file:(?://(?=/))?|oci:(?!//)|)(?P<path>[^#@]*)(?P<rest>.*)", re.DOTALL)
_HF = re.compile(r"hf://(?P<repo>[^@]+)@(?P<commit>[0-9a-f]{40})(?P<file>/.+)?")
_PYPI = re.compile(r"pypi://(?P<name>[^=]+)==(?P<version>[^#]+)#sha256=(?P<hex>[0-9a-f]{64})")
_SHA256 = re.compile(r"(?:@|#)?sha256[:=](?P<hex>[0-9a-f]{64})$")


def resource(
    *,
    name: str = "",
    uri: str = "",
    digest: Mapping[str, str] | None = None,
    media_type: str = "",
    annotations: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A resource descriptor without what is empty. `digest`: algorithm → hex digits."""
    given = {"name": name, "uri": uri, "digest": digest, "mediaType": media_type, "annotations": annotations}
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in given.items() if v}


def sha256(digest: str) -> dict[str, str]:
    """`sha256:<hex>` as a digest set."""
    return {"sha256": digest.removeprefix("sha256:")}


def portable(source: str) -> str:
    """A source as written, without a place of this machine: of an absolute path, or one from a home, the last part."""
    found = _LOCAL.fullmatch(source)
    if found is None or not found["path"].startswith(("/", "~")):
        return source
    last = PurePosixPath(found["path"]).name or "folder"
    return f"{found['scheme'].removesuffix('//')}{last}{found['rest']}"


def source(written: str, pinned: str, files: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """What a pinned source is: itself, and each file of a folder, at most MOST_FILES of them.

    `files`: path → digest of a folder's files ({}: not known); None for a file, a hub or a registry. `uri` is a
    package URL where there is one for it; `annotations.pinned` is hyb's own form, from which it can be fetched again.
    """
    name, place = portable(written), portable(pinned)
    notes = {"pinned": place}
    if hub := _HF.fullmatch(pinned):
        uri = f"pkg:huggingface/{hub['repo']}@{hub['commit']}{'#' + hub['file'][1:] if hub['file'] else ''}"
        return [resource(name=name, uri=uri, digest={"gitCommit": hub["commit"]}, annotations=notes)]
    if wheel := _PYPI.fullmatch(pinned):
        uri = f"pkg:pypi/{normal(wheel['name'])}@{wheel['version']}"
        return [resource(name=name, uri=uri, digest={"sha256": wheel["hex"]}, annotations=notes)]
    found = _SHA256.search(pinned)
    of = found["hex"] if found else ""
    if files is not None:
        inside = [
            resource(name=f"{name.rstrip('/')}/{path}", uri=f"file:{name.rstrip('/')}/{path}", digest=sha256(digest))
            for path, digest in sorted(files.items())[:MOST_FILES]
        ]
        count = {"files": len(files)} if files else {}
        return [resource(name=name, uri=_uri(name), digest={TREE: of}, annotations={**notes, **count}), *inside]
    remote = place if pinned.startswith("oci:") else _uri(name)
    return [resource(name=name, uri=remote, digest={"sha256": of} if of else None, annotations=notes)]


def _uri(name: str) -> str:
    return name if re.match(r"[a-z]+:", name) else f"file:{name}"


def normal(package: str) -> str:
    """A Python package's name as package indexes and package URLs write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def program(name: str, version: str) -> dict[str, Any]:
    """A program that ran. `name`: a package URL without its version, `pkg:pypi/torch`."""
    return resource(name=name.rpartition("/")[2], uri=f"{name}@{version}".replace("+", "%2B"),
                    annotations={"version": version})  # fmt: skip


def fact(name: str, value: Any) -> dict[str, Any]:
    """Something that was measured, as a by-product."""
    return resource(name=name, uri=FACT + name, annotations={"value": value})


def mistakes(statement: Any) -> list[str]:
    """Why a document is no statement of a step, a line each; nothing when it is one."""
    if not isinstance(statement, dict):
        return ["it is no JSON object"]
    wrong = [] if statement.get("_type") == STATEMENT else [f"its `_type` is not {STATEMENT}"]
    wrong += [] if statement.get("predicateType") == PREDICATE else [f"its `predicateType` is not {PREDICATE}"]
    subjects = statement.get("subject")
    if not (isinstance(subjects, list) and subjects and all(_resource(s) and _hex(s) for s in subjects)):
        wrong.append("its `subject` names nothing with a sha256")
    predicate = _dict(statement.get("predicate"))
    definition, details = _dict(predicate.get("buildDefinition")), _dict(predicate.get("runDetails"))
    if not (isinstance(definition.get("buildType"), str) and isinstance(definition.get("externalParameters"), dict)):
        wrong.append("its `buildDefinition` lacks `buildType` or `externalParameters`")
    builder = _dict(details.get("builder"))
    if not isinstance(builder.get("id"), str):
        wrong.append("its `runDetails` has no `builder`")
    lists = (("resolvedDependencies", definition), ("byproducts", details), ("builderDependencies", builder))
    for where, items in lists:
        if not (isinstance(items.get(where, []), list) and all(map(_resource, items.get(where, [])))):
            wrong.append(f"its `{where}` is no list of resources")
    return wrong


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _resource(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    texts = (value.get(k, "") for k in ("name", "uri", "mediaType"))
    digests = value.get("digest", {})
    return (
        all(isinstance(t, str) for t in texts)
        and isinstance(digests, dict)
        and all(isinstance(d, str) for d in digests.values())
        and isinstance(value.get("annotations", {}), dict)
        and any(value.get(k) for k in ("name", "uri", "digest"))
    )


def _hex(value: Mapping[str, Any]) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", str(value.get("digest", {}).get("sha256", ""))) is not None


def subjects(statement: Mapping[str, Any]) -> list[str]:
    """The digests that a statement speaks of, `sha256:<hex>`; the artifact's first."""
    return ["sha256:" + s["digest"]["sha256"] for s in statement["subject"]]


def dependencies(statement: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """All that the step was given."""
    found: Sequence[Mapping[str, Any]] = statement["predicate"]["buildDefinition"].get("resolvedDependencies", [])
    return found


def inputs(statement: Mapping[str, Any]) -> dict[str, str]:
    """Name → digest of the artifacts that the step was given; a source has a `uri`, an artifact none."""
    return {
        str(d.get("name") or d["digest"]["sha256"][:12]): "sha256:" + d["digest"]["sha256"]
        for d in dependencies(statement)
        if not d.get("uri") and _hex(d)
    }


def sources(statement: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the step was given that is no artifact: hubs, packages, files."""
    return [d for d in dependencies(statement) if d.get("uri")]


def pins(statement: Mapping[str, Any]) -> dict[str, str]:
    """Source as written → pinned."""
    found = ((d, d.get("annotations", {}).get("pinned")) for d in sources(statement))
    return {str(d.get("name") or d["uri"]): str(pinned) for d, pinned in found if pinned}


def programs(statement: Mapping[str, Any]) -> dict[str, str]:
    """Package URL without a version → version, of all that ran; hyb and Python, too."""
    builder = _dict(statement["predicate"]["runDetails"].get("builder"))
    found = {
        f"pkg:generic/{k}" if k != "hyb" else "pkg:pypi/hyb": str(v) for k, v in _dict(builder.get("version")).items()
    }
    for item in builder.get("builderDependencies", []):
        if version := item.get("annotations", {}).get("version"):
            found[str(item.get("uri", "")).rpartition("@")[0] or str(item.get("name"))] = str(version)
    return dict(sorted(found.items()))


def facts(statement: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured. Receipts of hyb 0.1 had it as `content`."""
    return {
        str(b.get("name")): b.get("annotations", {}).get("value", b.get("content"))
        for b in statement["predicate"]["runDetails"].get("byproducts", [])
    }


def metadata(statement: Mapping[str, Any], name: str) -> str:
    """One of `invocationId`, `startedOn`, `finishedOn`; "" when it is not there."""
    return str(_dict(statement["predicate"]["runDetails"].get("metadata")).get(name, ""))


def stage(statement: Mapping[str, Any]) -> str:
    """The stage that made it: `tune`."""
    return str(statement["predicate"]["buildDefinition"]["buildType"]).removeprefix(STAGE)
