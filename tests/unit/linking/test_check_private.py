"""`hyb link check` on the private host, against real peers on loopback: each way to fail has its name."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hyb.certificates import Pair, make_ca
from hyb.linking import check_private, sides
from hyb.linking.causes import CAUSES
from hyb.linking.findings import Report
from hyb.linking.parts import Wanted
from hyb.serving import service
from tests import link_peers as peers
from tests.link_peers import NOW, Authority
from tests.need import need

pytestmark = pytest.mark.socket
CA = Authority.new()
SERVER, CLIENT = CA.leaf("localhost"), CA.leaf()
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No podman, no skupper, and no service of hyb's."""
    monkeypatch.setenv("PATH", str(tmp_path))


class Checked:
    """A report, by part."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.parts = {f.part: f for f in report.findings}

    def __getitem__(self, part: str) -> Any:
        return self.parts[part]


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Checked]:
    """Write a folder whose Link dials `port`, and check it."""

    def run(
        port: int, *, host: str = "localhost", ca: Authority = CA, client: Pair = CLIENT, model: int = 1,
        seconds: float = 5.0, key: str = "",
    ) -> Checked:  # fmt: skip
        folder = peers.link_folder(tmp_path, ca, client, [("inter-router", host, port)], model)
        wanted = Wanted("private", seconds, key=key, environ={"HOME": str(tmp_path)})
        return Checked(check_private.run(folder, sides.read(folder), wanted))

    return run


def test_a_link_that_works_is_whole_and_the_router_is_left_politely(check: Callable[..., Checked]) -> None:
    need("proton")
    with peers.router(CA, SERVER) as (port, lines), peers.model() as model:
        found = check(port, model=model)
    assert found.report.ok and not found.report.cause, found.report.text()
    order = ["documents", "certificates", "router", "link", "name inter-router", "tcp inter-router"]
    order += ["tls inter-router", "peer inter-router", "name model", "tcp model", "model"]
    assert [f.part for f in found.report.findings] == order
    assert "skupper-router 3.5.1" in found["peer inter-router"].seen
    assert "`bot` answers: “Blue.”" in found["model"].seen
    assert all(found[p].ms > 0 for p in order[4:])
    assert "TLSv1.3" in found["tls inter-router"].seen
    politely = [x.split(" hyb-")[0].strip() for x in lines if x.startswith(("opened", "closed", "a session", "error"))]
    assert politely == ["opened", "closed politely"], "one connection, no session, no lost connection"


@pytest.mark.parametrize(("product", "version"), [("skupper-router", "2.7.3"), ("qpid-dispatch-router", "1.19.0")])
def test_skupper_1_on_the_other_side_is_told_by_its_router(
    check: Callable[..., Checked], product: str, version: str
) -> None:
    need("proton")
    with peers.router(CA, SERVER, product, version) as (port, _):
        found = check(port)
    assert found["peer inter-router"].cause == "skupper-1" == found.report.cause
    assert version in found["peer inter-router"].seen


def test_a_broker_that_is_no_router_is_only_a_warning(check: Callable[..., Checked]) -> None:
    need("proton")
    with peers.router(CA, SERVER, "some-broker", "9.1") as (port, _):
        found = check(port)
    assert (found["peer inter-router"].state, found["peer inter-router"].cause) == ("warning", "not-a-router")


# -- certificates ------------------------------------------------------------------------------------------------------


def test_a_real_router_that_does_not_know_our_ca_closes_without_a_word(check: Callable[..., Checked]) -> None:
    need("proton")
    stranger = Authority.new("other.chat")
    with peers.router(stranger, SERVER) as (port, _):  # its own certificate is of our CA, it trusts another one
        found = check(port)
    assert found["tls inter-router"].state == "ok"
    part = found["peer inter-router"]
    assert part.cause == "wrong-certificate" and "does not accept it" in part.seen and part.side == "openshift"
    assert "clocks" in part.do, "the router does not tell why"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_our_certificate_refused_is_found_with_both_versions_of_tls(
    check: Callable[..., Checked], version: ssl.TLSVersion
) -> None:
    context = peers.server_context(SERVER, Authority.new("other.chat").pair, version)
    with peers.served(peers.tls(context, peers.nothing)) as port:
        found = check(port)
    assert found.report.cause == "wrong-certificate", found.report.text()
    assert "does not know the CA of this folder" in found.report.text()


def test_a_router_of_another_ca_is_a_wrong_certificate_and_no_interception(check: Callable[..., Checked]) -> None:
    need("proton")
    other = Authority.new("renewed.chat")
    with peers.router(other, other.leaf("localhost")) as (port, _):
        found = check(port)
    part = found["tls inter-router"]
    assert part.cause == "wrong-certificate"
    assert "`hyb link CA renewed.chat`" in part.seen and "`hyb link CA link-public.chat`" in part.seen
    assert found["peer inter-router"].state == "not tried"


def test_a_certificate_for_another_host_is_named(check: Callable[..., Checked]) -> None:
    context = peers.server_context(CA.leaf("hyb-inter-router-chat.apps.example.com"), CA.pair)
    with peers.served(peers.tls(context, peers.nothing)) as port:
        found = check(port)
    part = found["tls inter-router"]
    assert part.cause == "wrong-certificate"
    assert "`hyb-inter-router-chat.apps.example.com`" in part.seen and "not for `localhost`" in part.seen


def test_an_ip_that_stands_only_as_ip_name_is_refused_as_the_router_does(check: Callable[..., Checked]) -> None:
    need("proton")
    both = CA.leaf("127.0.0.1")  # as DNS and as IP name: the router takes the former
    with peers.router(CA, both) as (port, _):
        assert check(port, host="127.0.0.1")["tls inter-router"].state == "ok"


@pytest.mark.parametrize(("days_ago", "said"), [(2, "expired on")])
def test_an_expired_server_certificate(check: Callable[..., Checked], days_ago: int, said: str) -> None:
    old = CA.leaf("localhost", days=1, now=NOW - DAY * days_ago)
    with peers.served(peers.tls(peers.server_context(old, CA.pair), peers.nothing)) as port:
        part = check(port)["tls inter-router"]
    assert part.cause == "wrong-certificate" and said in part.seen and "renew" in part.do


def test_a_server_certificate_that_begins_soon_tells_of_a_clock(check: Callable[..., Checked]) -> None:
    early = CA.leaf("localhost", now=NOW + 3 * HOUR)
    with peers.served(peers.tls(peers.server_context(early, CA.pair), peers.nothing)) as port:
        part = check(port)["tls inter-router"]
    assert part.cause == "clock-skew" and "is valid from" in part.seen


@pytest.mark.parametrize(
    ("client", "cause", "said"),
    [
        (CA.leaf(days=1, now=NOW - 2 * DAY), "wrong-certificate", "the client certificate expired on"),
        (CA.leaf(now=NOW + 5 * HOUR), "clock-skew", "the client certificate is valid from"),
        (CA.leaf(now=NOW + 60 * DAY), "wrong-certificate", "the client certificate is valid from"),
        (Pair(CLIENT.certificate, SERVER.key), "wrong-certificate", "tls.key is not the key of tls.crt"),
        (Pair(b"no", b"no"), "wrong-certificate", "can't be read"),
    ],
)
def test_the_folders_own_certificates_are_looked_at_before_anybody_is_dialled(
    check: Callable[..., Checked], client: Pair, cause: str, said: str
) -> None:
    calls: list[bytes] = []

    def count(connection: socket.socket) -> None:
        while data := connection.recv(100):
            calls.append(data)

    with peers.served(count) as port:
        found = check(port, client=client)
    assert (found["certificates"].cause, found["certificates"].state) == (cause, "failed")
    assert said in found["certificates"].seen
    assert found["tcp inter-router"].state == "ok", "what does not need them is tried all the same"
    assert found["tls inter-router"].seen == "needs `certificates`"
    assert calls == []


def test_certificates_that_end_soon_warn_and_do_not_fail(check: Callable[..., Checked]) -> None:
    with peers.served(peers.tls(peers.server_context(CA.leaf("localhost", days=9), CA.pair), peers.nothing)) as port:
        found = check(port, client=CA.leaf(days=8))
    for part in ("certificates", "tls inter-router"):
        assert found[part].state == "warning" and "expires on" in found[part].seen


@pytest.fixture
def fake_clock() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """OpenSSL's own server, whose idea of the time a test sets (`-attime`)."""
    need("openssl")
    running: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, port: int, moment: int) -> subprocess.Popen[bytes]:
        for name, data in (("ca", CA.pair.certificate), ("crt", SERVER.certificate), ("key", SERVER.key)):
            (folder / f"{name}.pem").write_bytes(data)
        argv = ["/usr/bin/openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", "crt.pem", "-key", "key.pem"]
        argv += ["-CAfile", "ca.pem", "-Verify", "3", "-verify_return_error", "-attime", str(moment), "-quiet"]
        child = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 stdin=subprocess.PIPE)  # fmt: skip
        running.append(child)
        for _ in range(200):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    return child
            time.sleep(0.05)
        raise AssertionError("openssl s_server does not listen")

    yield start
    for child in running:
        child.kill()
        child.wait()
        assert child.stdin
        child.stdin.close()


@pytest.mark.parametrize(("days", "said"), [(3650, "which lasts until"), (-2, "which is valid since")])
def test_a_peer_whose_clock_is_wrong_refuses_a_good_certificate(
    check: Callable[..., Checked], fake_clock: Callable[..., Any], tmp_path: Path, days: int, said: str
) -> None:
    port = peers.free_port()
    fake_clock(tmp_path, port, int((NOW + DAY * days).timestamp()))
    found = check(port)
    part = found["peer inter-router"]
    assert part.cause == "clock-skew" and part.side == "openshift", found.report.text()
    assert said in part.seen and "here it is" in part.seen


# -- the network -------------------------------------------------------------------------------------------------------


def test_a_name_that_nobody_knows(check: Callable[..., Checked]) -> None:
    found = check(443, host="hyb-inter-router-chat.apps.nowhere.invalid", seconds=20)
    assert found["name inter-router"].cause in ("no-such-name", "resolver-down")
    assert found["tcp inter-router"].seen == "needs `name inter-router`"


def test_nobody_listens_at_the_endpoint(check: Callable[..., Checked]) -> None:
    part = check(peers.free_port())["tcp inter-router"]
    assert part.cause == "refused" and "connection refused" in part.seen


def test_a_black_hole_is_a_timeout_in_the_time_that_was_given(check: Callable[..., Checked]) -> None:
    """A full backlog: the kernel drops what comes, as a firewall does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        held = []
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
            held.append(waiting)
        start = time.monotonic()
        part = check(port, host="127.0.0.1", seconds=1)["tcp inter-router"]
        took = time.monotonic() - start
        for one in held:
            one.close()
    assert part.cause == "timeout" and took < 10


def test_a_firewall_that_resets(check: Callable[..., Checked]) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with peers.served(reset) as port:
        assert check(port)["tls inter-router"].cause == "reset"


def test_a_route_without_a_pod_closes_in_the_handshake(check: Callable[..., Checked]) -> None:
    with peers.served(lambda connection: connection.recv(4096) and None) as port:
        part = check(port)["tls inter-router"]
    assert (part.cause, part.side) == ("tls", "openshift")


def test_a_peer_that_says_nothing_in_the_handshake(check: Callable[..., Checked]) -> None:
    with peers.served(peers.nothing) as port:
        part = check(port, seconds=1)["tls inter-router"]
    assert part.cause == "timeout" and "TLS does not answer within 1 s" in part.seen


def test_plain_http_at_the_port(check: Callable[..., Checked]) -> None:
    with peers.served(peers.page("400 Bad Request", b"plain HTTP")) as port:
        assert check(port)["tls inter-router"].cause == "no-tls"


def test_a_proxy_that_opens_tls(check: Callable[..., Checked]) -> None:
    proxy = Authority.new("Example Corp TLS Inspection")
    context = peers.server_context(proxy.leaf("localhost"), None)
    with peers.served(peers.tls(context, peers.page("200 OK", b"hello"))) as port:
        part = check(port)["tls inter-router"]
    assert (part.cause, part.side) == ("intercepted", "network")
    assert "`Example Corp TLS Inspection`" in part.seen and "200" in part.seen


@pytest.mark.parametrize(
    ("issuer", "body"),
    [("ingress-operator@1700000000", b"x"), ("Let us Encrypt", b"<h1>Application is not available</h1>")],
)
def test_openshifts_own_router_answers_where_no_route_has_the_host(
    check: Callable[..., Checked], issuer: str, body: bytes
) -> None:
    ingress = Authority(make_ca(issuer, 100, NOW))
    context = peers.server_context(ingress.leaf("localhost"), None)
    with peers.served(peers.tls(context, peers.page("503 Service Unavailable", body))) as port:
        part = check(port)["tls inter-router"]
    assert (part.cause, part.side) == ("no-route", "openshift") and "503" in part.seen


def test_a_web_server_behind_the_right_certificate(check: Callable[..., Checked]) -> None:
    context = peers.server_context(SERVER, CA.pair)
    with peers.served(peers.tls(context, peers.page("200 OK", b"hello"))) as port:
        part = check(port)["peer inter-router"]
    assert part.cause == "not-a-router" and "a web server answers" in part.seen


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (b"", "cuts the connection"),
        (b"AMQP\x03\x01\x00\x00\xff\xff\xff\xff\x02\x01\x00\x00", "no AMQP"),
        (b"AMQP\x03\x01\x00\x00" + b"\x00\x00\x00\x08\x02\x01\x00\x00" * 40, "frames without end"),
        (b"AMQP\x07\x01\x00\x00", "protocol 7"),
    ],
)
def test_nonsense_over_tls_is_bounded(check: Callable[..., Checked], said: bytes, seen: str) -> None:
    def speak(session: ssl.SSLSocket) -> None:
        session.recv(8)
        session.sendall(said)

    with peers.served(peers.tls(peers.server_context(SERVER, CA.pair), speak)) as port:
        part = check(port, seconds=2)["peer inter-router"]
    assert part.cause == "not-a-router" and seen in part.seen


def test_a_peer_that_sends_a_byte_now_and_then_is_cut_off(check: Callable[..., Checked]) -> None:
    def drip(session: ssl.SSLSocket) -> None:
        for _ in range(100):
            session.sendall(b"A")
            time.sleep(0.2)

    with peers.served(peers.tls(peers.server_context(SERVER, CA.pair), drip)) as port:
        start = time.monotonic()
        part = check(port, seconds=1)["peer inter-router"]
    assert part.cause == "not-a-router" and time.monotonic() - start < 12


# -- folder and model -------------------------------------------------------------------------------------------------


def test_the_second_endpoint_only_warns(tmp_path: Path) -> None:
    dead = peers.free_port()
    endpoints = [("edge", "localhost", dead), ("inter-router", "localhost", dead)]
    folder = peers.link_folder(tmp_path, CA, CLIENT, endpoints, 1)
    report = check_private.run(folder, sides.read(folder), Wanted("private", 2, environ={"HOME": str(tmp_path)}))
    states = {f.part: f.state for f in report.findings}
    assert (states["tcp inter-router"], states["tcp edge"]) == ("failed", "warning")


def test_a_world_readable_key_is_a_mistake_of_the_documents(tmp_path: Path) -> None:
    folder = peers.link_folder(tmp_path, CA, CLIENT, [("inter-router", "localhost", 1)], 1)
    (folder / "private" / "Secret-link-public.yaml").chmod(0o644)
    report = check_private.run(folder, sides.read(folder), Wanted("private", 2, environ={"HOME": str(tmp_path)}))
    assert report.findings[0].cause == "documents" and "other users can read" in report.findings[0].seen


def test_a_side_that_waits_for_its_token_claims_nothing_of_certificates(tmp_path: Path) -> None:
    private = tmp_path / "link" / "private"
    token = peers.document("AccessToken", "t", "default", {"url": "https://x.example.com/1", "code": "c", "ca": "-"})
    connector = {"routingKey": "llm", "host": "127.0.0.1", "port": peers.free_port(), "type": "tcp"}
    site = peers.document("Site", "private", "default")
    peers.write(private, [site, token, peers.document("Connector", "llm", "default", connector)])
    report = check_private.run(private, sides.read(private), Wanted("private", 2, environ={"HOME": str(tmp_path)}))
    assert {f.part: f.state for f in report.findings}["certificates"] == "not tried"
    assert report.findings[-2].cause == "model-down"


def test_a_model_that_is_down_is_the_private_sides(check: Callable[..., Checked]) -> None:
    part = check(peers.free_port(), model=peers.free_port())["tcp model"]
    assert (part.cause, part.side) == ("model-down", "private")


def test_the_service_s_own_key_is_used_and_shown_to_no_other_host(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    (tmp_path / "key").write_text("hyb_sk_own\n")
    with peers.model(key="hyb_sk_own") as port:
        mine = service.Service(
            "bot", os.getpid(), service.start_time(os.getpid()) or 0, "127.0.0.1", port, "llama.cpp", "", "sha256:0",
            str(tmp_path / "key"), str(tmp_path / "log"), True,
        )  # fmt: skip
        service.write(service.folder(environ), mine)
        folder = peers.link_folder(tmp_path, CA, CLIENT, [("inter-router", "localhost", 1)], port)
        report = check_private.run(folder, sides.read(folder), Wanted("private", 5, environ=environ))
    assert report.findings[-1].state == "ok", report.text()
    elsewhere = sides.Target("llm", "llm", "192.0.2.7", port)
    assert not check_private._is_at(mine, elsewhere)


def test_every_failure_has_a_side_and_a_thing_to_do(check: Callable[..., Checked]) -> None:
    found = check(peers.free_port())
    for finding in found.report.findings:
        assert finding.state != "failed" or (finding.side and finding.do and finding.cause in CAUSES)
    assert found.report.text().splitlines()[-1].startswith("the link does not work: ")
