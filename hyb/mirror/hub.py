"""The Hugging Face hub's HTTP API, as far as its clients need it to read. Pure.

    GET  /api/models                               the list; /api/datasets, too
    GET  /api/models/ID[/revision/REV]             what a commit is and has
    GET  /api/models/ID/tree/REV[/FOLDER]          its files, with sizes and sha256
    GET  /api/models/ID/refs                       branches and tags
    POST /api/models/ID/paths-info/REV             some of its files
    GET  /ID/resolve/REV/FILE                      a file; /datasets/ID/resolve/…, too

Every file is shown as an LFS file: its entity tag is its sha256, so a client can check what it has. What is not here
is told with the hub's own `X-Error-Code`, so that a client raises what it would raise for the hub.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from urllib.parse import parse_qs, quote

from hyb.artifact import Blob
from hyb.mirror import answers
from hyb.mirror.answers import Answer, Request
from hyb.mirror.catalog import Catalog, Repo

SHELVES = ("models", "datasets")
NOT_FOUND = {
    "RepoNotFound": "Repository not found",
    "RevisionNotFound": "Invalid rev id",
    "EntryNotFound": "Entry not found",
}


def answer(request: Request, catalog: Catalog) -> Answer | None:
    """The hub's answer; None when the path is none of the hub's."""
    parts = request.segments
    if parts[0] == "api" and len(parts) > 1 and parts[1] in SHELVES:
        return _api(request, parts[1], getattr(catalog, parts[1]), parts[2:])
    shelf = "datasets" if parts[0] == "datasets" else "models"
    rest = parts[1:] if shelf == "datasets" else parts
    for at in (1, 2):
        if len(rest) > at + 1 and rest[at] == "resolve":
            repos: dict[str, Repo] = getattr(catalog, shelf)
            return _file(request, repos.get("/".join(rest[:at])), rest[at + 1], "/".join(rest[at + 2 :]))
    return None


def _api(request: Request, shelf: str, repos: Mapping[str, Repo], rest: tuple[str, ...]) -> Answer:
    if not rest or rest == ("",):
        wanted = request.query.get("search", "").lower()
        return answers.json_([_info(r, r.refs["main"], shelf) for n, r in repos.items() if wanted in n.lower()])
    verbs = ("revision", "tree", "refs", "paths-info")
    at = next((i for i in (1, 2) if len(rest) > i and rest[i] in verbs), len(rest))
    repo = repos.get("/".join(rest[:at]))
    if repo is None:
        return missing("RepoNotFound")
    verb, more = (rest[at], rest[at + 1 :]) if at < len(rest) else ("revision", ("main",))
    if verb == "refs":
        return answers.json_(_refs(repo))
    commit = commit_of(repo, more[0] if more else "main")
    if not commit:
        return missing("RevisionNotFound")
    if verb == "revision":
        return answers.json_(_info(repo, commit, shelf, whole=True), headers={"X-Repo-Commit": commit})
    if verb == "tree":
        under = "/".join(more[1:]).strip("/")
        return _tree(repo.commits[commit], under, recursive=request.query.get("recursive", "").lower() in ("true", "1"))
    files = repo.commits[commit]
    return answers.json_([_entry(p, files[p]) for p in _paths(request) if p in files])


def commit_of(repo: Repo, revision: str) -> str:
    """The commit that a branch, a tag or a commit is; "" when there is none."""
    commit = repo.refs.get(revision, revision)
    return commit if commit in repo.commits else ""


def missing(code: str, commit: str = "") -> Answer:
    """404, said as the hub says it."""
    said = {"X-Error-Code": code, "X-Error-Message": NOT_FOUND[code], **({"X-Repo-Commit": commit} if commit else {})}
    return answers.json_({"error": NOT_FOUND[code]}, 404, said)


def _file(request: Request, repo: Repo | None, revision: str, path: str) -> Answer:
    if repo is None:
        return missing("RepoNotFound")
    commit = commit_of(repo, revision)
    if not commit:
        return missing("RevisionNotFound")
    blob = repo.commits[commit].get(path)
    if blob is None:
        return missing("EntryNotFound", commit)
    name = quote(path.rpartition("/")[2])
    told = {
        "X-Repo-Commit": commit,
        "X-Linked-Etag": f'"{blob.digest.removeprefix("sha256:")}"',
        "X-Linked-Size": str(blob.size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
    }
    return answers.file(request, blob, told)


def _info(repo: Repo, commit: str, shelf: str, *, whole: bool = False) -> dict[str, object]:
    said: dict[str, object] = {
        "_id": commit[:24],
        "id": repo.id,
        "author": repo.id.partition("/")[0] if "/" in repo.id else "",
        "sha": commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [f"license:{repo.license}"] if repo.license else [],
    }
    if shelf == "models":
        said["modelId"] = repo.id
    if whole:
        entries = [_entry(p, b) for p, b in sorted(repo.commits[commit].items())]
        said["siblings"] = [{"rfilename": e["path"], "size": e["size"], "blobId": e["oid"], "lfs": {
            "sha256": e["lfs"]["oid"], "size": e["size"], "pointerSize": e["lfs"]["pointerSize"]}} for e in entries]  # type: ignore[index]  # fmt: skip
    return said


def _refs(repo: Repo) -> dict[str, object]:
    tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repo.refs.items() if n != "main"]
    main = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repo.refs["main"]}]
    return {"branches": main, "tags": tags, "converts": []}


def _tree(files: Mapping[str, Blob], under: str, *, recursive: bool) -> Answer:
    prefix = f"{under}/" if under else ""
    inside = {p: b for p, b in sorted(files.items()) if p.startswith(prefix)}
    if under and not inside:
        return missing("EntryNotFound")
    deep = [p.removeprefix(prefix).split("/")[:-1] for p in inside]
    folders = {"/".join(d[: n + 1]) for d in deep for n in range(len(d) if recursive else min(1, len(d)))}
    found: list[dict[str, object]] = [
        {"type": "directory", "path": prefix + f, "size": 0, "oid": hashlib.sha1(f.encode()).hexdigest()}
        for f in sorted(folders)
    ]
    found += [_entry(p, b) for p, b in inside.items() if recursive or "/" not in p.removeprefix(prefix)]
    return answers.json_(found)


def _entry(path: str, blob: Blob) -> dict[str, object]:
    """A file of a tree. `oid` is what git would call the LFS pointer, computed as git does."""
    sha256 = blob.digest.removeprefix("sha256:")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {blob.size}\n".encode()
    oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()
    lfs = {"oid": sha256, "size": blob.size, "pointerSize": len(pointer)}
    return {"type": "file", "path": path, "size": blob.size, "oid": oid, "lfs": lfs}


def _paths(request: Request) -> list[str]:
    """The paths that a `paths-info` asks for: a form, or JSON."""
    try:
        if "json" in request.headers.get("content-type", ""):
            found = json.loads(request.body)["paths"]
        else:
            found = parse_qs(request.body.decode(), max_num_fields=10_000).get("paths", [])
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [p for p in found if isinstance(p, str)] if isinstance(found, list) else [str(found)]
