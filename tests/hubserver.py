"""A model hub on loopback that speaks the Hugging Face hub's HTTP protocol, and misbehaves when told to.

It serves what `Hub.add` was given: the API (`/api/models/…/revision/…`, `/tree/…`) and the files (`/resolve/…`, with
ranges). Every request is in `Hub.log`. `Hub.fault` queues mischief for the next requests of a path.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import threading
import time
import urllib.parse
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

LFS = (".safetensors", ".gguf", ".bin")
HTML = b"<!DOCTYPE html><html><body>Welcome to the hotel. Please log in.</body></html>"
Content = bytes | Path


@dataclass(frozen=True)
class Fault:
    """What to do instead of answering: `kind` is status, cut, short, html, flip, redirect, gone, drip or no_range."""

    kind: str
    value: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    to: str = ""


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    method: str
    path: str
    range: str = ""
    authorization: str = ""
    at: float = field(default_factory=time.monotonic, compare=False)


@dataclass
class Repo:
    """A model: branches and tags, and the files of each commit."""

    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    token: str = ""  # gated: who does not send this one is refused


class Hub:
    """`with Hub() as hub:` runs it; `hub.url` is what `HF_ENDPOINT` should be."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.log: list[Asked] = []
        self.rate = 0  # bytes a second of a body; 0: as fast as it goes
        hub = self

        class Bound(_Handler):
            pass

        Bound.hub = hub
        self.server = _Server(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, repo: str, files: dict[str, Content], *, branch: str = "main", token: str = "") -> str:
        """A commit with these files, to which `branch` leads now. Returns the commit's 40 hex digits."""
        listing = json.dumps({p: _digests(c)[0] for p, c in sorted(files.items())})
        commit = hashlib.sha1(listing.encode()).hexdigest()
        entry = self.repos.setdefault(repo, Repo())
        entry.commits[commit], entry.refs[branch], entry.token = files, commit, token
        return commit

    def fault(self, path: str, *faults: Fault) -> None:
        """Queue mischief for the next requests whose path ends in `path`: one fault a request."""
        self.faults[path] += faults

    def fetched(self, name: str = "") -> list[Asked]:
        """The GETs of files whose path ends in `name`."""
        return [a for a in self.log if a.method == "GET" and "/resolve/" in a.path and a.path.endswith(name)]


def _digests(content: Content) -> tuple[str, str, int]:
    """(git blob sha1, sha256, size)."""
    return _of_file(content, content.stat().st_mtime_ns) if isinstance(content, Path) else _of_bytes(content)


@cache
def _of_bytes(data: bytes) -> tuple[str, str, int]:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return git, hashlib.sha256(data).hexdigest(), len(data)


@cache
def _of_file(path: Path, _mtime: int) -> tuple[str, str, int]:
    size = path.stat().st_size
    git, sha256 = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
    with path.open("rb") as stream:
        while data := stream.read(1 << 20):
            git.update(data)
            sha256.update(data)
    return git.hexdigest(), sha256.hexdigest(), size


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is part of many tests; anything else is a fault of this server, and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        asked = Asked(self.command, path, self.headers.get("Range", ""), self.headers.get("Authorization", ""))
        self.hub.log.append(asked)
        fault = self._fault(path)
        if fault is None or fault.kind not in ("status", "html", "redirect", "gone"):
            self._answer(path, fault)
        elif fault.kind == "status":
            self._json({"error": "told to"}, fault.value, **dict(fault.headers))
        elif fault.kind == "html":
            self._send(HTML, "text/html; charset=utf-8")
        elif fault.kind == "redirect":
            self._json({}, 302, Location=fault.to)
        else:
            self.close_connection = True
            self.connection.close()

    def _fault(self, path: str) -> Fault | None:
        if self.command == "GET":
            for tail, queue in self.hub.faults.items():
                if path.endswith(tail) and queue:
                    return queue.pop(0)
        return None

    def _answer(self, path: str, fault: Fault | None) -> None:
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if commit := self._commit(m[1], m[2] or "main"):
                names = [{"rfilename": n} for n in self.hub.repos[m[1]].commits[commit]]
                self._json({"_id": "0", "id": m[1], "modelId": m[1], "sha": commit, "private": False, "tags": [],
                            "downloads": 0, "siblings": names})  # fmt: skip
        elif m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", path):
            if commit := self._commit(m[1], m[2]):
                self._tree(self.hub.repos[m[1]].commits[commit], m[3])
        elif m := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (commit := self._commit(m[1], m[2])) and self._allowed(self.hub.repos[m[1]]):
                self._file(self.hub.repos[m[1]].commits[commit], commit, m[3], fault)
        else:
            self._error(404, "RepoNotFound")

    def _commit(self, name: str, revision: str) -> str:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._error(404, "RepoNotFound")
            return ""
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self._error(404, "RevisionNotFound")
            return ""
        return commit

    def _allowed(self, repo: Repo) -> bool:
        sent = self.headers.get("Authorization", "")
        if not repo.token or sent == f"Bearer {repo.token}":
            return True
        self._error(403 if sent else 401, "GatedRepo")
        return False

    def _tree(self, files: dict[str, Content], under: str) -> None:
        if under and not any(p.startswith(under + "/") for p in files):
            self._error(404, "EntryNotFound")
            return
        self._json([self._entry(p, c) for p, c in sorted(files.items()) if p.startswith(under)])

    def _entry(self, path: str, content: Content) -> dict[str, object]:
        git, sha256, size = _digests(content)
        lfs = {"lfs": {"oid": sha256, "size": size, "pointerSize": 135}} if path.endswith(LFS) else {}
        return {"type": "file", "path": path, "size": size, "oid": git, **lfs}

    def _file(self, files: dict[str, Content], commit: str, path: str, fault: Fault | None) -> None:
        if path not in files:
            self._error(404, "EntryNotFound")
            return
        content, kind = files[path], fault.kind if fault else ""
        git, sha256, size = _digests(content)
        etag = f'"{sha256 if path.endswith(LFS) else git}"'
        start = 0
        if (m := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and kind != "no_range":
            start = int(m[1])
        if start and start >= size:
            self._json({}, 416)
            return
        end = fault.value if fault and kind == "short" else size
        self.send_response(206 if start else 200)
        told = {
            "X-Repo-Commit": commit,
            "ETag": etag,
            "X-Linked-Etag": etag,
            "X-Linked-Size": size,
            "Accept-Ranges": "bytes",
            "Content-Length": end - start,
            "Content-Type": "application/octet-stream",
        }
        for key, value in (told | ({"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {})).items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self._body(content, start, end, fault)

    def _body(self, content: Content, start: int, end: int, fault: Fault | None) -> None:
        if isinstance(content, Path) and fault is None and not self.hub.rate:
            self.wfile.flush()
            with content.open("rb") as stream:
                self.connection.sendfile(stream, start)
            return
        data = content.read_bytes() if isinstance(content, Path) else content
        if fault and fault.kind == "flip":
            data = data[: fault.value] + bytes([data[fault.value] ^ 1]) + data[fault.value + 1 :]
        if fault and fault.kind == "drip":
            self._drip(data[start:end])
            return
        stop = min(end, start + fault.value) if fault and fault.kind == "cut" else end
        try:
            for at in range(start, stop, 1 << 16):
                self.wfile.write(data[at : min(stop, at + (1 << 16))])
                if self.hub.rate:
                    time.sleep((1 << 16) / self.hub.rate)
        except OSError:  # the client is gone, as it should be in some tests
            self.close_connection = True
        if fault and fault.kind == "cut":
            self.close_connection = True

    def _drip(self, data: bytes) -> None:
        """Ten bytes a second, until the client is gone."""
        for byte in data:
            try:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
            except OSError:
                break
            time.sleep(0.1)
        self.close_connection = True

    def _error(self, status: int, code: str) -> None:
        self._json({"error": code}, status, **{"X-Error-Code": code, "X-Error-Message": code})

    def _json(self, value: object, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), "application/json", status, **headers)

    def _send(self, body: bytes, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def safetensors(tensors: dict[str, tuple[int, ...]], seed: int = 0) -> bytes:
    """A safetensors file with bf16 tensors of these shapes and random content, made without any library."""
    import random

    header, at, sizes = {}, 0, []
    for name, shape in tensors.items():
        count = 1
        for side in shape:
            count *= side
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + 2 * count]}
        at += 2 * count
        sizes.append(2 * count)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + random.Random(seed).randbytes(at)


def model(size: int = 64, *, template: bool = True, seed: int = 0) -> dict[str, Content]:
    """The files of a model as a hub has them; `size`: about this many kB of weights."""
    tokenizer = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|end|>"}
    if template:
        tokenizer["chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}"
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "max_position_embeddings": 2048,
        "dtype": "bfloat16",
    }
    return {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "LICENSE": b"Apache License\nVersion 2.0, January 2004\n",
        "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
        "config.json": json.dumps(config).encode(),
        "generation_config.json": b'{"do_sample": true}',
        "tokenizer.json": b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}',
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "model.safetensors": safetensors({"model.embed_tokens.weight": (size, 512)}, seed),
    }


def environment(hub: Hub, cache: Path) -> dict[str, str]:
    """The environment that leads a client to this hub and to a cache of its own, and to nothing else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    quiet = {f"HF_HUB_DISABLE_{x}": "1" for x in ("TELEMETRY", "UPDATE_CHECK", "PROGRESS_BARS")}
    home = str(cache.parent / "hf-home")
    return {
        **kept,
        **quiet,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(cache),
        "HF_HOME": home,
        "NO_PROXY": "127.0.0.1",
    }
