"""A request as the three protocols see it, and an answer: plain data, and HTTP's rules for a file and its ranges."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from hyb.artifact import Blob

JSON = "application/json"
BYTES = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Request:
    """`segments`: the path at its slashes, each part decoded. Names of `headers` are small."""

    method: str
    segments: tuple[str, ...]
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Part:
    """`count` bytes of a blob from `start` on."""

    blob: Blob
    start: int
    count: int


@dataclass(frozen=True)
class Answer:
    """What is sent. The length is that of the body; a HEAD gets the same head."""

    status: int
    body: bytes | Part = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self.body.count if isinstance(self.body, Part) else len(self.body)


class RefusedError(Exception):
    """A request that is no one's: `status` and a sentence."""

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.answer = text(status, why, headers)


def parse(method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Request:
    """A request line's target, taken apart. Raises RefusedError (400) for what is no path or does not decode."""
    if "://" in target.partition("?")[0]:
        host, _, path = target.partition("://")[2].partition("/")
        target, headers = f"/{path}", {**headers, "host": host}  # it outranks the header (RFC 9112, 3.2.2)
    raw, _, query = target.partition("?")
    if not raw.startswith("/"):
        raise RefusedError(400, "the request names no path")
    try:
        segments = tuple(unquote(part, errors="strict") for part in raw[1:].split("/"))
        fields = parse_qs(query, keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise RefusedError(400, "the path can't be decoded") from error
    if any(_CONTROL.search(part) or part in (".", "..") for part in segments):
        raise RefusedError(400, "the path has a part that no name here has")
    return Request(method, segments, {k: v[-1] for k, v in fields.items()}, headers, body)


def json_(value: Any, status: int = 200, headers: Mapping[str, str] | None = None, kind: str = JSON) -> Answer:
    """A JSON document."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": kind, **(headers or {})})


def text(status: int, words: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A sentence."""
    return Answer(status, f"{words}\n".encode(), {"Content-Type": "text/plain; charset=utf-8", **(headers or {})})


def page(title: str, lines: list[str]) -> Answer:
    """A small HTML page; `lines` are markup already."""
    head = f"<!DOCTYPE html><html><head><meta charset=utf-8><title>{html.escape(title)}</title></head><body>"
    body = "\n".join([head, *lines, "</body></html>\n"])
    return Answer(200, body.encode(), {"Content-Type": "text/html; charset=utf-8"})


def file(request: Request, blob: Blob, headers: Mapping[str, str], kind: str = BYTES) -> Answer:
    """A blob, whole or the one range that was asked for. Its entity tag is its sha256.

    A range that is none, or several at once, are answered with the whole, as RFC 9110 allows; one that starts behind
    the end is 416. `If-Range` of other bytes gets the whole, so that nobody glues two files together.
    """
    tag = f'"{blob.digest.removeprefix("sha256:")}"'
    told = {"Content-Type": kind, "ETag": tag, "Accept-Ranges": "bytes", **headers}
    if tag in request.headers.get("if-none-match", ""):
        return Answer(304, b"", told)
    given = _RANGE.fullmatch(request.headers.get("range", "").strip().replace(" ", ""))
    if not given or request.headers.get("if-range", tag) != tag or given[0] == "bytes=-":
        return Answer(200, Part(blob, 0, blob.size), told)
    first = int(given[1]) if given[1] else max(0, blob.size - int(given[2]))
    last = min(int(given[2]), blob.size - 1) if given[1] and given[2] else blob.size - 1
    if given[1] and given[2] and int(given[2]) < first:
        return Answer(200, Part(blob, 0, blob.size), told)  # no range at all
    if first >= blob.size:
        return text(416, "the file ends before that", {**told, "Content-Range": f"bytes */{blob.size}"})
    told["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
    return Answer(206, Part(blob, first, last - first + 1), told)
