"""The page's files, read once: their type, a tag by content, and a compressed copy."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:;\s*q=(?!0(?:\.0*)?\s*(?:,|$))[\d.]+\s*)?(?:,|$)", re.IGNORECASE)


@dataclass(frozen=True)
class File:
    """One file of the page."""

    data: bytes
    packed: bytes
    tag: str
    media_type: str


def load() -> dict[str, File]:
    """Path in the address → file; `/` is the page."""
    found = {}
    for entry in sorted(resources.files("hyb.chat").joinpath("page").iterdir(), key=lambda e: e.name):
        kind = TYPES.get(entry.name.rpartition(".")[2])
        if kind:
            data = entry.read_bytes()
            tag = f'W/"{hashlib.sha256(data).hexdigest()[:24]}"'
            path = "/" if entry.name == "index.html" else f"/{entry.name}"
            found[path] = File(data, gzip.compress(data, 9, mtime=0), tag, kind)
    return found


def answer(file: File, request: Request) -> Response:
    """The file, or 304 when the browser has it. It asks each time, so that a new release is seen at once."""
    headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    known = request.headers.get("if-none-match", "")
    if file.tag.removeprefix("W/") in known or known.strip() == "*":
        return Response(status_code=304, headers=headers)
    packed = bool(GZIP.search(request.headers.get("accept-encoding", "")))
    if packed:
        headers["Content-Encoding"] = "gzip"
    return Response(file.packed if packed else file.data, headers=headers, media_type=file.media_type)
