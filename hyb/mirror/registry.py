"""A registry to pull from: the OCI distribution spec 1.1, end-1 to end-3, end-8 and end-12. Pure.

GET /v2/                              it is one
GET /v2/_catalog                      the repositories
GET /v2/NAME/tags/list
GET /v2/NAME/manifests/TAG|DIGEST
GET /v2/NAME/blobs/DIGEST             with ranges
GET /v2/NAME/referrers/DIGEST         signatures, receipts; ?artifactType=
"""

from __future__ import annotations

from typing import Any

from hyb import digest as dg
from hyb.artifact import INDEX, Blob
from hyb.mirror import answers
from hyb.mirror.answers import Answer, Request
from hyb.mirror.catalog import Catalog

VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
MOST = 10_000  # names in one answer


def answer(request: Request, catalog: Catalog) -> Answer | None:
    """The registry's answer; None when the path is not below `/v2`."""
    parts = request.segments
    if parts[0] != "v2":
        return None
    rest = parts[1:]
    if rest in ((), ("",)):
        return answers.json_({}, headers=VERSION)
    if rest == ("_catalog",):
        return _listed(request, "repositories", sorted(catalog.images), {})
    if len(rest) < 3 or rest[-2] not in ("manifests", "blobs", "tags", "referrers"):
        return error(404, "NAME_UNKNOWN", "no such path in a registry")
    name, verb, last = "/".join(rest[:-2]), rest[-2], rest[-1]
    tags = catalog.images.get(name)
    if tags is None:
        return error(404, "NAME_UNKNOWN", f"no repository {name!r}")
    if verb == "tags":
        return _listed(request, "tags", sorted(tags), {"name": name})
    if verb == "referrers":
        return _referrers(request, catalog, last)
    if verb == "manifests":
        return _manifest(request, catalog, tags.get(last, last))
    size = catalog.blobs.get(last)
    if size is None:
        return error(404, "BLOB_UNKNOWN", "no such blob")
    return answers.file(request, Blob(last, size), {"Docker-Content-Digest": last, **VERSION})


def error(status: int, code: str, message: str) -> Answer:
    """An error as the spec has it."""
    return answers.json_({"errors": [{"code": code, "message": message, "detail": None}]}, status, VERSION)


def _manifest(request: Request, catalog: Catalog, digest: str) -> Answer:
    kind, size = catalog.documents.get(digest, ("", 0))
    if not kind:
        return error(404, "MANIFEST_UNKNOWN", "no such manifest")
    return answers.file(request, Blob(digest, size), {"Docker-Content-Digest": digest, **VERSION}, kind)


def _referrers(request: Request, catalog: Catalog, digest: str) -> Answer:
    if not dg.is_digest(digest):
        return error(400, "DIGEST_INVALID", "a digest is sha256: and 64 digits")
    found: list[dict[str, Any]] = catalog.referrers.get(digest, [])
    headers = dict(VERSION)
    if wanted := request.query.get("artifactType"):
        found = [f for f in found if f["artifactType"] == wanted]
        headers["OCI-Filters-Applied"] = "artifactType"
    return answers.json_({"schemaVersion": 2, "mediaType": INDEX, "manifests": found}, headers=headers, kind=INDEX)


def _listed(request: Request, what: str, names: list[str], also: dict[str, str]) -> Answer:
    """Names after `last`, at most `n` of them, with a link to those that follow."""
    number = request.query.get("n", "")
    most = min(int(number), MOST) if number.isdecimal() and number.isascii() and len(number) < 8 else MOST
    after = [n for n in names if n > request.query.get("last", "")]
    some = after[:most]
    told = dict(VERSION)
    if some and len(after) > most:
        path = "/" + "/".join(request.segments)
        told["Link"] = f'<{path}?n={most}&last={some[-1]}>; rel="next"'
    return answers.json_({**also, what: some}, headers=told)
