"""Real peers of a link on loopback: authorities, a private folder whose Link dials where a test says, servers."""

from __future__ import annotations

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
from hyb.render.skupper import documents as sk

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


def link_folder(
    root: Path, ca: Authority, client: Pair, endpoints: Sequence[tuple[str, str, int]], model_port: int,
    namespace: str = "default",
) -> Path:  # fmt: skip
    """A link's folder that has the private side only, as on the private host."""
    private = root / "link" / "private"
    private.mkdir(parents=True, mode=0o700)
    facts = sk.LinkFacts("chat", "apps.example.com", model_port, model_port, private_namespace=namespace)
    documents = sk.private_documents(facts)
    documents[1]["spec"]["endpoints"] = [{"name": r, "host": h, "port": str(p)} for r, h, p in endpoints]
    data = {"ca.crt": ca.pair.certificate, "tls.crt": client.certificate, "tls.key": client.key}
    documents.append(sk.client_secret(facts, data))
    for document in documents:
        path = private / sk.file_name(document)
        path.write_text(dump(document))
        path.chmod(0o600)
    return root / "link"


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
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        parts = {"ca.crt": ca.pair.certificate, "tls.crt": server.certificate, "tls.key": server.key}
        for name, data in parts.items():
            (Path(folder) / name).write_bytes(data)
        argv = [SYSTEM_PYTHON, str(Path(__file__).with_name("amqp_router.py")), folder, str(port), product, version]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={"PATH": "/usr/bin"})
        assert child.stdout
        try:
            assert child.stdout.readline() == "ready\n"
            reader = threading.Thread(target=lambda: lines.extend(child.stdout or ()), daemon=True)
            reader.start()
            yield port, lines
        finally:
            child.terminate()
            child.wait()
            reader.join()
            child.stdout.close()


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
