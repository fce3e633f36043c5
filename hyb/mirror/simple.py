"""A package index for pip and uv: PEP 503 (HTML), PEP 691 (JSON), PEP 658 (metadata beside the wheel). Pure but for
reading a wheel's metadata, which `told` gives.

    GET /simple/                      the projects
    GET /simple/PROJECT/              its files, with sha256
    GET /packages/SHA256/FILE         a file; FILE.metadata: its METADATA
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from hyb.mirror import answers
from hyb.mirror.answers import Answer, Request
from hyb.mirror.catalog import Catalog
from hyb.mirror.wheels import Wheel, normal, requires_python

V1_JSON = "application/vnd.pypi.simple.v1+json"
V1_HTML = "application/vnd.pypi.simple.v1+html"
API = {"api-version": "1.1"}
Told = Callable[[Wheel], bytes]


@dataclass(frozen=True)
class _File:
    """One line of a project's page."""

    wheel: Wheel
    metadata: bytes

    @property
    def url(self) -> str:
        """Relative, so that any name and port of this server will do."""
        return f"../../packages/{self.wheel.blob.digest.removeprefix('sha256:')}/{quote(self.wheel.name)}"


def answer(request: Request, catalog: Catalog, told: Told) -> Answer | None:
    """The index's answer; None when the path is none of its."""
    parts = request.segments
    if parts[0] == "packages":
        return _package(request, catalog, told)
    if parts[0] != "simple":
        return None
    if len(parts) == 1:
        return Answer(301, b"", {"Location": "simple/"})
    if parts[1:] == ("",):
        return _projects(request, catalog)
    bare = len(parts) == 2 or (len(parts) == 3 and not parts[2] and parts[1] != normal(parts[1]))
    if bare and normal(parts[1]) in catalog.projects:
        return Answer(301, b"", {"Location": f"/simple/{quote(normal(parts[1]))}/"})
    files = catalog.projects.get(parts[1]) if len(parts) == 3 and not parts[2] else None
    if files is None:
        return answers.text(404, "no such project here")
    lines = [_File(w, told(w)) for w in sorted(files.values(), key=lambda w: w.name)]
    return _project(request, parts[1], lines)


def wants_json(accept: str) -> bool:
    """True when the client would rather have JSON than HTML."""
    return _weight(accept, V1_JSON) > max(_weight(accept, V1_HTML), _weight(accept, "text/html"))


def _weight(accept: str, kind: str) -> float:
    for part in accept.split(","):
        name, *fields = (p.strip() for p in part.split(";"))
        if name == kind:
            given = next((f[2:] for f in fields if f.startswith("q=")), "1")
            try:
                return float(given)
            except ValueError:
                return 0.0
    return 0.0


def _projects(request: Request, catalog: Catalog) -> Answer:
    names = sorted(catalog.projects)
    if wants_json(request.headers.get("accept", "")):
        return answers.json_({"meta": API, "projects": [{"name": n} for n in names]}, kind=V1_JSON)
    return answers.page("Simple index", [f'<a href="{quote(n)}/">{html.escape(n)}</a><br>' for n in names])


def _project(request: Request, name: str, files: list[_File]) -> Answer:
    if wants_json(request.headers.get("accept", "")):
        listed = [_as_json(f) for f in files]
        versions = sorted({f.wheel.version for f in files})
        return answers.json_({"meta": API, "name": name, "versions": versions, "files": listed}, kind=V1_JSON)
    return answers.page(f"Links for {name}", [_as_html(f) for f in files])


def _as_json(file: _File) -> dict[str, object]:
    found: dict[str, object] = {
        "filename": file.wheel.name,
        "url": file.url,
        "hashes": {"sha256": file.wheel.blob.digest.removeprefix("sha256:")},
        "size": file.wheel.blob.size,
    }
    if file.metadata:
        found["core-metadata"] = {"sha256": hashlib.sha256(file.metadata).hexdigest()}
        if wanted := requires_python(file.metadata):
            found["requires-python"] = wanted
    return found


def _as_html(file: _File) -> str:
    more = ""
    if file.metadata:
        digest = f"sha256={hashlib.sha256(file.metadata).hexdigest()}"
        more = f' data-core-metadata="{digest}" data-dist-info-metadata="{digest}"'
        if wanted := requires_python(file.metadata):
            more += f' data-requires-python="{html.escape(wanted)}"'
    target = f"{file.url}#sha256={file.wheel.blob.digest.removeprefix('sha256:')}"
    return f'<a href="{html.escape(target)}"{more}>{html.escape(file.wheel.name)}</a><br>'


def _package(request: Request, catalog: Catalog, told: Told) -> Answer:
    if len(request.segments) != 3:
        return answers.text(404, "no such file here")
    _, sha256, name = request.segments
    plain = name.removesuffix(".metadata")
    for files in catalog.projects.values():
        found = files.get(plain)
        if found and found.blob.digest == f"sha256:{sha256}":
            if name == plain:
                return answers.file(request, found.blob, {})
            data = told(found)
            return Answer(200, data, {"Content-Type": answers.BYTES}) if data else answers.text(404, "no metadata")
    return answers.text(404, "no such file here")
