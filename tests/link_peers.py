"""Real peers of a link on loopback: authorities, a private folder whose Link dials where a test says, servers."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hyb import certificates
from hyb.certificates import Pair
from hyb.render.dump import dump

NOW = datetime.now(UTC)
SYSTEM_PYTHON = "/usr/bin/python3"
"""The one whose Proton comes from Debian."""


@dataclass(frozen=True)
class Authority:
    """A CA of a link."""

    pair: Pair

    @classmethod
    def new(cls, name: str = "link-public.chat", now: datetime = NOW) -> Authority:
        return cls(certificates.make_ca(f"hyb link CA {name}" if "." in name else name, 400, now))

    def leaf(self, *hosts: str, days: int = 90, now: datetime = NOW) -> Pair:
        """A server certificate for `hosts`, a client certificate without any."""
        return certificates.make_leaf(self.pair, "server" if hosts else "link-private", days, now, hosts=hosts)


def document(kind: str, name: str, namespace: str, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    """A resource of Skupper 2."""
    made = {"apiVersion": "skupper.io/v2alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace}}
    return {**made, "spec": spec} if spec else made


def secret(name: str, namespace: str, data: dict[str, bytes]) -> dict[str, Any]:
    """A TLS Secret."""
    encoded = {k: base64.b64encode(v).decode() for k, v in data.items()}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "data": encoded}


def write(folder: Path, documents: Sequence[dict[str, Any]]) -> None:
    """A side's folder, closed to others."""
    folder.mkdir(parents=True, mode=0o700)
    for one in documents:
        path = folder / f"{one['kind']}-{one['metadata']['name']}.yaml"
        path.write_text(dump(one))
        path.chmod(0o600)


def link_folder(
    root: Path, ca: Authority, client: Pair, endpoints: Sequence[tuple[str, str, int]], model_port: int,
    namespace: str = "default",
) -> Path:  # fmt: skip
    """A link's folder that has the private side only, as on the private host. Spelt out here, and not rendered: a
    folder is what a person has, whatever wrote it."""
    ends = [{"name": r, "host": h, "port": str(p)} for r, h, p in endpoints]
    data = {"ca.crt": ca.pair.certificate, "tls.crt": client.certificate, "tls.key": client.key}
    connector = {"routingKey": "llm", "host": "127.0.0.1", "port": model_port, "type": "tcp"}
    link = {"cost": 1, "tlsCredentials": "link-public", "endpoints": ends}
    write(
        root / "link" / "private",
        [
            document("Site", "private", namespace), document("Link", "link-public", namespace, link),
            document("Connector", "llm", namespace, connector), secret("link-public", namespace, data),
        ],
    )  # fmt: skip
    return root / "link"


def public_side(folder: Path, namespace: str = "chat") -> None:
    """The cluster's side, without its Secret."""
    roles = [{"name": "inter-router", "port": 55671}, {"name": "edge", "port": 45671}]
    access = {
        "accessType": "route",
        "generateTlsCredentials": False,
        "tlsCredentials": "hyb-link-server",
        "roles": roles,
    }
    listener = {"routingKey": "llm", "host": "llm", "port": 8000, "type": "tcp"}
    write(
        folder,
        [
            document("Site", "public", namespace), document("RouterAccess", "hyb", namespace, access),
            document("Listener", "llm", namespace, listener),
        ],
    )  # fmt: skip


def free_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def served(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server; `handle` gets each connection in a thread of its own. Yields the port."""
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        connection.settimeout(10)
        with connection, contextlib.suppress(OSError):
            handle(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=one, args=(server.accept()[0],), daemon=True))
                threads[-1].start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(server.getsockname()[1])
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def server_context(pair: Pair, ca: Pair | None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """TLS of a server that shows `pair`, and wants a certificate of `ca` where that is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if version:
        context.maximum_version = version
    with tempfile.NamedTemporaryFile() as file:
        file.write(pair.key + pair.certificate)
        file.flush()
        context.load_cert_chain(file.name)
    if ca:
        context.load_verify_locations(cadata=ca.certificate.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def tls(context: ssl.SSLContext, then: Callable[[ssl.SSLSocket], None]) -> Callable[[socket.socket], None]:
    """A handler that speaks TLS first."""

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as session:
            then(session)

    return handle


def nothing(session: socket.socket) -> None:
    """Read until the peer goes."""
    while session.recv(4096):
        pass


def page(status: str, body: bytes) -> Callable[[socket.socket], None]:
    """A web server with one page."""

    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)

    return handle


@contextlib.contextmanager
def router(ca: Authority, server: Pair, product: str = "skupper-router", version: str = "3.5.1") -> Iterator[Any]:
    """A router made of Proton, in a process of its own. Yields (port, lines that it has printed so far)."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        parts = {"ca.crt": ca.pair.certificate, "tls.crt": server.certificate, "tls.key": server.key}
        for name, data in parts.items():
            (Path(folder) / name).write_bytes(data)
        child, port = _proton(folder, product, version)
        reader = threading.Thread(target=lambda: lines.extend(child.stdout or ()), daemon=True)
        reader.start()
        try:
            yield port, lines
        finally:
            child.terminate()
            child.wait()
            reader.join()
            assert child.stdout
            child.stdout.close()


def _proton(folder: str, product: str, version: str) -> tuple[subprocess.Popen[str], int]:
    """Started and listening; Proton takes no port 0, so a port that somebody else was faster to take is given up."""
    script = str(Path(__file__).with_name("amqp_router.py"))
    for _ in range(5):
        port = free_port()
        argv = [SYSTEM_PYTHON, script, folder, str(port), product, version]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={"PATH": "/usr/bin"})
        assert child.stdout
        if child.stdout.readline() == "ready\n":
            return child, port
        child.wait()
        child.stdout.close()
    raise AssertionError("Proton does not listen")


Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]


def completion(text: str | None) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    return {"model": "bot", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def blue(path: str, _body: dict[str, Any]) -> tuple[int, Any]:
    """A model that works."""
    return 200, {"data": [{"id": "bot"}]} if path.endswith("/models") else completion("Blue.")


@contextlib.contextmanager
def model(answer: Answer = blue, key: str = "", ahead: timedelta = timedelta()) -> Iterator[int]:
    """An OpenAI-compatible server whose clock is `ahead`. Yields the port."""

    def handle(connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        line = reader.readline().decode().split()
        if len(line) != 3:
            return
        path = line[1]
        headers = {}
        while line := reader.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = json.loads(reader.read(int(headers.get("content-length", "0"))) or b"{}")
        reader.close()
        if key and headers.get("authorization") != f"Bearer {key}":
            status, value = 401, {"error": {"message": "no valid key"}}
        else:
            status, value = answer(path, body)
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        date = (datetime.now(UTC) + ahead).strftime("%a, %d %b %Y %H:%M:%S GMT")
        head = f"HTTP/1.1 {status} X\r\nDate: {date}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + data)

    with served(handle) as port:
        yield port
