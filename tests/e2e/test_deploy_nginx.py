"""The NGINX configuration of `hyb deploy`: Debian's NGINX before the real chat app. TLS, streams, limits, headers."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hyb.render.deploy import nginx
from hyb.render.deploy.facts import DOOR_PORT, DeployFacts
from tests.chat_app import App, until
from tests.chat_model import free_port
from tests.deployments import PLAIN
from tests.need import need
from tests.parrot import Parrot

HOST = PLAIN.host
NOBODY = 65534


def certificate(folder: Path) -> None:
    """A certificate of its own for HOST, as `HOST.crt` and `HOST.key`, and as `tls.crt` and `tls.key`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    for stem in (HOST, "tls"):
        (folder / f"{stem}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (folder / f"{stem}.key").write_bytes(pem)
        (folder / f"{stem}.key").chmod(0o644)  # the container's user reads it, as it would a Secret


class Nginx:
    """A running NGINX; `port` speaks TLS."""

    def __init__(self, folder: Path, config: str, port: int, user: int | None = None) -> None:
        self.port, self.folder = port, folder
        self.config = folder / "nginx.conf"
        self.config.write_text(config)
        as_user: dict[str, Any] = {} if user is None or os.getuid() else {"user": user, "group": user}
        options = ["-e", str(folder / "error.log"), "-c", str(self.config)]
        tested = subprocess.run(
            [str(shutil.which("nginx")), *options, "-t"], capture_output=True, text=True, check=False, **as_user
        )
        assert tested.returncode == 0, tested.stderr
        assert "[warn]" not in tested.stderr, tested.stderr
        self.process = subprocess.Popen([str(shutil.which("nginx")), *options, "-g", "daemon off;"], **as_user)
        until(self._listens, what="NGINX does not listen")

    def _listens(self) -> bool:
        assert self.process.poll() is None, (self.folder / "error.log").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def tls(self, *, oldest: ssl.TLSVersion | None = None, newest: ssl.TLSVersion | None = None) -> ssl.SSLSocket:
        """A connection by name, checked with the certificate that we made."""
        context = ssl.create_default_context(cafile=str(self.folder / "tls" / f"{HOST}.crt"))
        if newest:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = oldest or ssl.TLSVersion.TLSv1
            context.maximum_version = newest
        plain = socket.create_connection(("127.0.0.1", self.port), 10)
        return context.wrap_socket(plain, server_hostname=HOST)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """(status, headers, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection(HOST)
        connection.sock = self.tls()
        connection.request(method, path, body, {"Host": HOST, **(headers or {})})
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@contextmanager
def running(facts: DeployFacts, chat_port: int) -> Iterator[Nginx]:
    """The site, in an NGINX that has nothing else."""
    folder = Path(tempfile.mkdtemp(prefix="hyb-nginx-"))
    try:
        folder.chmod(0o755)
        (folder / "tls").mkdir()
        certificate(folder / "tls")
        port, plain = free_port(), free_port()
        site = nginx.site(facts, port=port, plain_port=plain, chat_port=chat_port, folder=str(folder / "tls"))
        (folder / "chat.conf").write_text(site)
        paths = "".join(f"{k}_temp_path {folder}/{k};\n" for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        head = f"pid {folder}/nginx.pid;\nevents {{}}\n"
        inside = f"access_log {folder}/access.log;\n{paths}include {folder}/chat.conf;\n"
        found = Nginx(folder, f"{head}http {{\n{inside}}}\n", port)
        found.plain = plain  # type: ignore[attr-defined]
        try:
            yield found
        finally:
            found.close()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def bird() -> Iterator[Parrot]:
    with Parrot() as found:
        yield found


@pytest.fixture(scope="module")
def page(bird: Parrot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    settings = {"hosts": HOST, "trusted_proxies": "127.0.0.1/32", "metrics_port": free_port(), "openai": "on"}
    settings |= {"sign_in": "code", "client_parallel": 20}
    place = tmp_path_factory.mktemp("page")
    (place / "code").write_text("correct horse")
    with App(place, bird.url, access_code_file=place / "code", ready=False, **settings) as found:
        yield found


@pytest.fixture(scope="module")
def front(page: App) -> Iterator[Nginx]:
    need("nginx")
    with running(PLAIN, page.port) as found:
        until(lambda: found.ask("GET", "/ready")[0] == 200, 30)
        yield found


CODE = {"Authorization": "Bearer correct horse", "Content-Type": "application/json"}


def completion(text: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], "stream": True}).encode()


def test_the_page_is_there_with_each_security_header_once(front: Nginx) -> None:
    status, headers, body = front.ask("GET", "/")
    assert status == 200 and b"<html" in body
    for name in (*nginx.HEADERS, "Content-Security-Policy", "Cross-Origin-Opener-Policy", "Permissions-Policy"):
        assert len(headers.get_all(name, [])) == 1, name
    assert headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert headers["Server"] == "nginx"


def test_nginxs_own_answers_have_the_headers_too(front: Nginx) -> None:
    for path, expected in (("/metrics", 404), ("/%", 400)):
        status, headers, _ = front.ask("GET", path)
        assert status == expected
        if status == 404:
            for name in (*nginx.HEADERS, "Content-Security-Policy"):
                assert len(headers.get_all(name, [])) == 1, name
            assert headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("path", ["/metrics", "//metrics", "/./metrics", "/x/../metrics", "/%6detrics"])
def test_metrics_are_closed_however_they_are_written(front: Nginx, path: str) -> None:
    status, _, body = front.ask("GET", path)
    assert status == 404 and b"hyb_chat" not in body


def test_words_arrive_one_by_one(front: Nginx, bird: Parrot) -> None:
    bird.pause = 0.3
    try:
        connection = http.client.HTTPConnection(HOST)
        connection.sock = front.tls()
        connection.request("POST", "/v1/chat/completions", completion("say:one two three four"), {"Host": HOST, **CODE})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/event-stream")
        times = [time.monotonic() for line in answer if b'"content"' in line]
        connection.close()
    finally:
        bird.pause = 0.0
    assert len(times) == 4
    assert all(b - a > 0.1 for a, b in itertools.pairwise(times)), "they came in a heap"


def test_a_key_is_passed_on_and_a_wrong_one_is_refused(front: Nginx, bird: Parrot) -> None:
    status, _, body = front.ask("POST", "/v1/chat/completions", completion("say:yes"), CODE)
    assert status == 200 and b"yes" in body
    wrong = {**CODE, "Authorization": "Bearer wrong code"}
    assert front.ask("POST", "/v1/chat/completions", completion("say:no"), wrong)[0] == 401
    assert bird.headers[-1]["Authorization"] != CODE["Authorization"], "the model has a key of its own"


def test_a_question_that_is_too_long_is_refused_before_the_chat_sees_it(front: Nginx, page: App) -> None:
    before = len(page.events())
    status, _, body = front.ask("POST", "/api/chat", b"x" * (400 << 10), CODE)
    assert status == 413 and b"nginx" in body
    assert not [e for e in page.events()[before:] if e.get("path") == "/api/chat"]


def test_tls_1_1_is_refused_and_1_2_and_1_3_are_taken(front: Nginx) -> None:
    with pytest.warns(DeprecationWarning), pytest.raises((ssl.SSLError, ConnectionError)):
        front.tls(newest=ssl.TLSVersion.TLSv1_1)
    with front.tls(oldest=ssl.TLSVersion.TLSv1_2, newest=ssl.TLSVersion.TLSv1_2) as old, front.tls() as new:
        assert (old.version(), new.version()) == ("TLSv1.2", "TLSv1.3")


def test_plain_http_is_sent_to_https(front: Nginx) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", front.plain)  # type: ignore[attr-defined]
    connection.request("GET", "/a?b=c", headers={"Host": HOST})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (308, f"https://{HOST}:{front.port}/a?b=c")
    connection.close()


def test_another_hosts_name_is_not_served(front: Nginx) -> None:
    assert front.ask("GET", "/", headers={"Host": "evil.example.com"})[0] == 421


def test_a_client_cant_say_who_it_is_and_the_cookie_is_a_secure_one(front: Nginx, page: App) -> None:
    code = json.dumps({"code": "correct horse"}).encode()
    lies = {"Content-Type": "application/json", "X-Forwarded-For": "8.8.8.8", "X-Forwarded-Proto": "http"}
    status, headers, _ = front.ask("POST", "/api/sign-in", code, lies)
    assert status == 200
    cookie = headers["Set-Cookie"]
    assert cookie.startswith("__Host-hyb=") and "Secure" in cookie and "HttpOnly" in cookie
    wrong = json.dumps({"code": "wrong"}).encode()
    found = [front.ask("POST", "/api/sign-in", wrong, {**lies, "X-Forwarded-For": f"8.8.8.{i}"})[0] for i in range(8)]
    assert 429 in found, "each lie about its address was a client of its own"


def test_a_client_that_asks_too_fast_is_told_so_and_may_come_again(front: Nginx) -> None:
    with front.tls() as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() * 149)
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        told = b""
        while part := connection.recv(1 << 16):
            told += part
    statuses = re.findall(rb"HTTP/1\.1 (\d+) ", told)
    assert len(statuses) == 150 and set(statuses) == {b"200", b"429"}
    assert statuses.count(b"200") >= 20, "the first ones are let through"
    until(lambda: front.ask("GET", "/health")[0] == 200)


def test_no_question_and_no_key_is_in_nginxs_logs(front: Nginx) -> None:
    until(lambda: front.ask("POST", "/v1/chat/completions", completion("say:canary-7f3a"), CODE)[0] == 200)
    for log in ("access.log", "error.log"):
        text = (front.folder / log).read_text()
        assert "canary-7f3a" not in text and "correct horse" not in text


def test_when_the_chat_is_away_nginx_says_so_with_its_headers() -> None:
    need("nginx")
    with running(PLAIN, free_port()) as front:
        status, headers, _ = front.ask("GET", "/")
        assert status == 502
        assert headers["X-Frame-Options"] == "DENY" and headers["Content-Security-Policy"]


def test_the_pods_container_runs_without_root_and_takes_the_clients_address_from_the_router(
    bird: Parrot, tmp_path: Path
) -> None:
    """As in the cluster: no root, nothing to write to but /tmp, and a router before it."""
    need("nginx")
    folder = Path(tempfile.mkdtemp(prefix="hyb-nginx-"))
    settings = {"hosts": HOST, "trusted_proxies": "127.0.0.1/32", "metrics_port": free_port(), "client_minute": 1}
    with App(tmp_path, bird.url, ready=False, **settings) as page:
        try:
            folder.chmod(0o755)
            for name in ("tls", "tmp"):
                (folder / name).mkdir()
            (folder / "tmp").chmod(0o777)
            certificate(folder / "tls")
            port = free_port()
            text = nginx.whole(PLAIN, behind=["127.0.0.0/8"]).replace("/tmp/", f"{folder}/tmp/")
            text = text.replace("/run/secrets/hyb/tls", str(folder / "tls")).replace(str(DOOR_PORT), str(port))
            text = text.replace("127.0.0.1:8080", f"127.0.0.1:{page.port}").replace("/dev/stderr", f"{folder}/tmp/log")
            (folder / "error.log").touch()
            (folder / "error.log").chmod(0o666)
            front = Nginx(folder, text, port, user=NOBODY)
            try:
                until(lambda: front.ask("GET", "/ready")[0] == 200, 30)
                assert front.ask("GET", "/door")[0] == 204
                question = json.dumps({"messages": [{"role": "user", "content": "say:hello"}]}).encode()
                by = {}
                for client in ("203.0.113.1", "203.0.113.2"):
                    headers = {"Content-Type": "application/json", "X-Forwarded-For": client}
                    by[client] = [front.ask("POST", "/api/chat", question, headers)[0] for _ in range(2)]
                assert by == {"203.0.113.1": [200, 429], "203.0.113.2": [200, 429]}, "limits count by client"
            finally:
                front.close()
        finally:
            shutil.rmtree(folder)
