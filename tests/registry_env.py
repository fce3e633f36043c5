"""A real registry (Debian's docker-registry) on loopback, and a proxy before it that misbehaves when told to.

from tests.registry_env import registry  # noqa: F401     the registry itself
with Front(registry) as front: …                          the proxy; `front.host` is what a source names
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

import pytest

from tests.need import need

CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {0}}}}}
http:
  addr: 127.0.0.1:0
  secret: tests
"""


@dataclass(frozen=True)
class Running:
    """A registry: `host` (127.0.0.1:PORT) and the folder of its storage."""

    host: str
    storage: Path

    def catalog(self) -> list[str]:
        """The repositories that it has."""
        with urllib.request.urlopen(f"http://{self.host}/v2/_catalog", timeout=10) as answer:
            return list(json.load(answer)["repositories"])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registry of the module's own."""
    need("docker-registry")
    with serving(tmp_path_factory.mktemp("registry")) as running:
        yield running


@contextlib.contextmanager
def serving(home: Path, tls: tuple[Path, Path] | None = None) -> Iterator[Running]:
    """A registry with its storage in `home`; `tls`: its certificate and key."""
    more = f"  tls: {{certificate: {tls[0]}, key: {tls[1]}}}\n" if tls else ""
    (home / "config.yml").write_text(CONFIG.format(home / "data") + more)
    with (home / "log").open("wb") as log:
        argv = ["docker-registry", "serve", str(home / "config.yml")]
        # REGISTRY_AUTH_FILE, which names Podman's credentials, is the setting auth.file to this program
        kept = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
        child = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, env=kept)
        try:
            yield Running(_address(child, home / "log"), home / "data")
        finally:
            child.terminate()
            child.wait(timeout=20)


def _address(child: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens: port 0 of its configuration is any free one, which the kernel knows."""
    deadline = time.monotonic() + 20
    while True:
        assert child.poll() is None, log.read_text()
        if port := _listening(child.pid):
            return f"127.0.0.1:{port}"
        assert time.monotonic() < deadline, f"the registry did not answer within 20 s\n{log.read_text()}"
        time.sleep(0.02)


def _listening(pid: int) -> int:
    """The port of a process's one listening socket, or 0."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in sockets:
            return int(fields[1].rpartition(":")[2], 16)
    return 0


@dataclass(frozen=True)
class Asked:
    """A request as it came in. `size`: the bytes of its body that arrived."""

    method: str
    path: str
    authorization: str = ""
    size: int = 0
    headers: dict[str, str] = field(default_factory=dict, compare=False)
    at: float = field(default_factory=time.monotonic, compare=False)


@dataclass
class Fault:
    """What to do to the next request of `method` whose path matches `pattern`.

    `kind`: "status" answers it here; "drop" closes the connection before the registry sees the request; "cut" takes
    `value` bytes of the body (of the answer, for a GET) and closes; "flip" changes a byte of the answer.
    """

    method: str
    pattern: str
    kind: str
    value: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int = 1


class Front:
    """A proxy with faults. A body that was cut is passed on as far as it came, as many registries keep it."""

    def __init__(self, behind: Running) -> None:
        self.behind = behind
        self.faults: list[Fault] = []
        self.log: list[Asked] = []
        self.lock = threading.Lock()
        self.moved: dict[str, str] = {}  # an upload's id → its newest address
        self.guard: Callable[[Asked], tuple[int, dict[str, str], bytes] | None] | None = None
        handler = type("Bound", (_Handler,), {"front": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]
        self.host = f"127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Front:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def fault(self, method: str, pattern: str, kind: str, value: int = 0, **more: object) -> None:
        """Queue a fault."""
        self.faults.append(Fault(method, pattern, kind, value, **more))  # type: ignore[arg-type]

    def asked(self, method: str, pattern: str = "") -> list[Asked]:
        """The requests so far of this method whose path matches."""
        with self.lock:
            return [a for a in self.log if a.method == method and re.search(pattern, a.path)]

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, used up."""
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.times and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    front: Front
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _any(self) -> None:
        fault = self.front.take(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        limit = fault.value if fault and fault.kind == "cut" and length else length
        body = b"" if fault and fault.kind == "drop" else self._read(limit)
        entry = Asked(
            self.command, self.path, self.headers.get("Authorization", ""), len(body), dict(self.headers.items())
        )
        with self.front.lock:
            self.front.log.append(entry)
        if fault and fault.kind == "drop":
            self.close_connection = True
        elif refusal := (self.front.guard and self.front.guard(entry)):
            self._answer(*refusal)
        elif fault and fault.kind == "status":
            self._answer(fault.value, fault.headers, fault.body)
        else:
            self._pass_on(body, length, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _any

    def _read(self, size: int) -> bytes:
        """As much of the body as comes: a client that is killed sends less."""
        parts = []
        with contextlib.suppress(OSError):
            while size and (data := self.rfile.read1(min(size, 1 << 16))):  # type: ignore[attr-defined]
                parts.append(data)
                size -= len(data)
        return b"".join(parts)

    def _pass_on(self, body: bytes, length: int, fault: Fault | None) -> None:
        short = len(body) < length
        identity = re.search(r"/uploads/([0-9a-f-]{36})", self.path)
        path = self.front.moved.get(identity[1], self.path) if identity else self.path
        if identity and "digest=" in self.path:
            path += "&digest=" + urllib.parse.quote(re.search(r"digest=([^&]+)", self.path)[1], safe="%")  # type: ignore[index]
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("content-length", "authorization")}
        if "Content-Range" in headers and short:
            start = int(headers["Content-Range"].partition("-")[0])
            headers["Content-Range"] = f"{start}-{start + len(body) - 1}"
        if short and self.command == "PUT":  # an upload that is not whole is not closed
            self.close_connection = True
            return
        link = http.client.HTTPConnection(self.front.behind.host, timeout=30)
        with contextlib.closing(link):
            link.request(
                self.command, path, body=body if length else None, headers={**headers, "Host": self.headers["Host"]}
            )
            answer = link.getresponse()
            data = answer.read()
        given = {
            k: v for k, v in answer.getheaders() if k.lower() not in ("content-length", "date", "server", "connection")
        }
        if identity and (place := given.get("Location")):
            parts = urllib.parse.urlsplit(place)
            self.front.moved[identity[1]] = f"{parts.path}?{parts.query}"
        if fault and fault.kind == "flip" and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        if short or (fault and fault.kind == "cut" and self.command in ("PATCH", "PUT", "POST")):
            self.close_connection = True
            return
        self._answer(answer.status, given, data, fault.value if fault and fault.kind == "cut" else None,
                     answer.getheader("Content-Length"))  # fmt: skip

    def _answer(
        self, status: int, headers: dict[str, str], data: bytes, cut: int | None = None, length: str | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        size = length if self.command == "HEAD" and length else str(len(data))
        if status != 204:
            self.send_header("Content-Length", size)
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.close_connection = True
