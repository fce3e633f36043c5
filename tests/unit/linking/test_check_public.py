"""`hyb link check` from where the chatbot is, and what a cluster says of the link."""

from __future__ import annotations

import json
import socket
import struct
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hyb.errors import Exit, HybError
from hyb.linking import check_public, sides
from hyb.linking.findings import Report
from hyb.linking.parts import Wanted
from tests import link_peers as peers

pytestmark = pytest.mark.socket
NOWHERE = Path("link")


def ask(port: int, **more: Any) -> Report:
    wanted = Wanted("client", **{"url": f"http://127.0.0.1:{port}/v1", "seconds": 5, **more})
    return check_public.run(NOWHERE, [], wanted)


class TestThroughTheListener:
    def test_a_model_that_answers_is_all_there_is_to_want(self) -> None:
        with peers.model() as port:
            report = ask(port)
        assert report.ok, report.text()
        assert [f.part for f in report.findings] == ["name", "tcp", "model", "clock"]
        assert all(f.ms for f in report.findings[:3])

    def test_a_url_without_a_path_means_v1(self) -> None:
        asked = []

        def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
            asked.append(path)
            return peers.blue(path, body)

        with peers.model(answer) as port:
            assert ask(port, url=f"http://127.0.0.1:{port}").ok
        assert asked == ["/v1/models", "/v1/chat/completions"]

    def test_a_refused_connection_is_a_link_that_is_down(self) -> None:
        report = ask(peers.free_port())
        assert report.cause == "link-down" and report.findings[1].side == "private"

    @pytest.mark.parametrize("reset", [False, True])
    def test_taken_and_closed_without_an_answer_is_a_model_down_behind_a_live_link(self, reset: bool) -> None:
        def close(connection: socket.socket) -> None:
            connection.recv(65536)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        with peers.served(close) as port:
            report = ask(port)
        assert report.cause == "model-down"
        assert report.findings[1].state == "ok" and "without an answer" in report.findings[2].seen

    def test_a_service_that_is_not_there(self) -> None:
        report = ask(80, url="http://llm.nowhere.invalid:8000/v1", seconds=20)
        assert report.cause in ("no-listener", "resolver-down")

    @pytest.mark.parametrize(
        ("answer", "cause", "seen"),
        [
            (lambda p, b: (200, peers.completion("")), "no-model", "no model"),
            (lambda p, b: (200, b"<html>"), "no-model", "no JSON"),
            (lambda p, b: (404, {"error": "x"}), "no-model", "404"),
            (lambda p, b: (302, {}), "no-model", "302"),
            (lambda p, b: (500, {"error": {"message": "out of memory"}}), "model-error", "out of memory"),
            (lambda p, b: (502, b"bad gateway"), "model-down", "502"),
            (lambda p, b: (503, {"error": {"message": "queue is full"}}), "busy", "queue is full"),
            (lambda p, b: (429, {"error": {"message": "slow down"}}), "busy", "slow down"),
            (lambda p, b: (503, b"<h1>Application is not available</h1>"), "no-route", "OpenShift's router"),
        ],
    )
    def test_an_answer_that_is_none(self, answer: peers.Answer, cause: str, seen: str) -> None:
        with peers.model(answer) as port:
            report = ask(port)
        assert report.cause == cause and seen in report.findings[2].seen, report.text()

    @pytest.mark.parametrize("text", ["", None, "  \n"])
    def test_an_empty_completion_is_no_answer(self, text: str | None) -> None:
        with peers.model(lambda p, b: (200, peers.completion(text))) as port:
            assert ask(port, model="bot").cause == "empty-answer"

    def test_a_model_that_only_thinks_in_so_few_words_has_answered(self) -> None:
        thought = peers.completion(None)
        thought["choices"][0]["message"]["reasoning_content"] = "The sky"
        with peers.model(lambda p, b: (200, thought)) as port:
            assert ask(port, model="bot").ok

    @pytest.mark.parametrize(("key", "ok"), [("hyb_sk_right", True), ("wrong", False), ("", False)])
    def test_the_key_is_sent_and_never_shown(self, key: str, ok: bool) -> None:
        with peers.model(key="hyb_sk_right") as port:
            report = ask(port, key=key)
        assert report.ok is ok and report.cause == ("" if ok else "key-refused")
        assert not key or key not in report.text() + json.dumps(report.as_dict())

    def test_a_slow_model_is_told_from_one_that_is_down(self) -> None:
        def wait(path: str, body: dict[str, Any]) -> tuple[int, Any]:
            time.sleep(3)
            return peers.blue(path, body)

        with peers.model(wait) as port:
            report = ask(port, seconds=0.5)
        assert report.cause == "slow" and report.findings[1].state == "ok"

    def test_an_answer_in_drops_ends_when_the_time_is_over(self) -> None:
        def drip(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(200):
                connection.sendall(b" ")
                time.sleep(0.1)

        with peers.served(drip) as port:
            start = time.monotonic()
            assert ask(port, seconds=1).cause == "slow"
        assert time.monotonic() - start < 10

    def test_an_answer_without_end_is_not_read_to_its_end(self) -> None:
        def flood(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for _ in range(200):
                connection.sendall(b"x" * (1 << 16))

        with peers.served(flood) as port:
            report = ask(port)
        assert report.cause == "no-model" and "MiB" in report.findings[2].seen

    def test_a_clock_that_is_wrong_warns(self) -> None:
        with peers.model(ahead=timedelta(minutes=7)) as port:
            report = ask(port)
        clock = report.findings[-1]
        assert report.ok and (clock.part, clock.state, clock.cause) == ("clock", "warning", "clock-skew")

    def test_https_with_a_stranger_s_certificate(self, tmp_path: Path) -> None:
        ca = peers.Authority.new()
        server = peers.server_context(ca.leaf("localhost"), None)
        (tmp_path / "ca.pem").write_bytes(ca.pair.certificate)
        with peers.served(peers.tls(server, peers.page("401 X", b"{}"))) as port:
            url = f"https://localhost:{port}/v1"
            assert ask(port, url=url).cause == "wrong-certificate"
            assert ask(port, url=url, ca=str(tmp_path / "ca.pem")).cause == "key-refused"


def test_offline_asks_no_other_machine() -> None:
    with pytest.raises(HybError) as caught:
        ask(1, url="http://llm:8000/v1", offline=True)
    assert caught.value.code == Exit.OFFLINE and "`llm` is another machine" in caught.value.message


def test_a_client_without_anything_to_ask_is_told_how() -> None:
    with pytest.raises(HybError) as caught:
        check_public.run(NOWHERE, [], Wanted("client"))
    assert "--url" in caught.value.hint and caught.value.code == Exit.USAGE


# -- the cluster ------------------------------------------------------------------------------------------------------

ENDPOINTS = [{"name": r, "host": f"hyb-{r}-chat.apps.example.com", "port": "443"} for r in ("inter-router", "edge")]


def resource(name: str, status: dict[str, Any], spec: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec or {}, "status": status}


GOOD: dict[str, Any] = {
    "sites.skupper.io": [resource("public", {"status": "Ready", "message": "OK", "sitesInNetwork": 2,
                                             "controller": {"version": "2.2.1"},
                                             "network": [{"name": "public"}, {"name": "private"}]})],
    "routeraccesses.skupper.io": [resource("hyb", {"status": "Ready", "endpoints": ENDPOINTS})],
    "securedaccesses.skupper.io": [resource("hyb", {"status": "Ready"})],
    "listeners.skupper.io": [resource("llm", {"status": "Ready", "hasMatchingConnector": True}, {"routingKey": "llm"})],
}  # fmt: skip
"""What a cluster prints when all is well; fields as in the CRDs of Skupper 2.2.1."""

OC = """#!/bin/sh
# Stands for `oc`: prints the recorded answer of a kind, or what a cluster says that has none.
if [ -f "{0}/stderr" ]; then cat "{0}/stderr" >&2; exit 1; fi
if [ -f "{0}/$2.json" ]; then cat "{0}/$2.json"; exit 0; fi
if [ "$2" = configmaps ]; then exit 0; fi
echo "error: the server doesn't have a resource type \\"$2\\"" >&2; exit 1
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for `oc` that answers with recorded JSON; the real thing needs a cluster."""
    answers = tmp_path / "answers"
    answers.mkdir()
    program = tmp_path / "bin" / "oc"
    program.parent.mkdir()
    program.write_text(OC.format(answers))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    def run(changed: dict[str, Any] | None = None, stderr: str = "") -> dict[str, Any]:
        for kind, items in {**GOOD, **(changed or {})}.items():
            if items is not None:
                (answers / f"{kind}.json").write_text(json.dumps(items if "metadata" in items else {"items": items}))
        if stderr:
            (answers / "stderr").write_text(stderr)
        folder = tmp_path / "link"
        peers.public_side(folder / "openshift")
        ends = [(e["name"], e["host"], 443) for e in ENDPOINTS]
        peers.link_folder(tmp_path, peers.Authority.new(), peers.Authority.new().leaf(), ends, 8000)
        report = check_public.run(folder, sides.read(folder), Wanted("openshift", 5))
        return {"report": report, **{f.part: f for f in report.findings}}

    return run


def test_a_cluster_where_all_is_well(cluster: Any) -> None:
    found = cluster()
    assert found["report"].ok, found["report"].text()
    assert [f.part for f in found["report"].findings][:5] == ["site", "access", "secured access", "link", "listener"]
    assert "2 sites in the network: `public`, `private`" in found["link"].seen
    assert found["model llm"].state == "not tried" and "--side client" in found["model llm"].seen


@pytest.mark.parametrize(
    ("changed", "part", "cause", "seen"),
    [
        ({"sites.skupper.io": []}, "site", "not-applied", "no Site"),
        ({"sites.skupper.io": [*GOOD["sites.skupper.io"]] * 2}, "site", "not-ready", "2 Sites"),
        (
            {"sites.skupper.io": [resource("public", {"status": "Pending", "message": "wait"})]},
            "site", "not-ready", "wait",
        ),
        (
            {"sites.skupper.io": [resource("public", {"status": "Ready", "controller": {"version": "2.0.1"}})]},
            "site", "no-skupper", "2.0",
        ),
        (
            {"sites.skupper.io": [resource("public", {"status": "Ready", "sitesInNetwork": 1})]},
            "link", "link-down", "1 site",
        ),
        (
            {"routeraccesses.skupper.io": [resource("hyb", {"status": "Ready", "endpoints": [
                {"name": "inter-router", "host": "hyb-inter-router-chat.apps.other.com", "port": "443"}]})]},
            "access", "no-route", "apps.other.com",
        ),
        ({"routeraccesses.skupper.io": []}, "access", "not-applied", "no RouterAccess"),
        (
            {"securedaccesses.skupper.io": [resource("hyb", {"status": "Error", "message": "no such Secret"})]},
            "secured access", "not-ready", "no such Secret",
        ),
        (
            {"listeners.skupper.io": [resource("llm", {"status": "Pending"}, {"routingKey": "llm"})]},
            "listener", "no-connector", "`llm`",
        ),
        (
            {"listeners.skupper.io": [resource("llm", {"status": "Error", "message": "service exists"})]},
            "listener", "not-ready", "service exists",
        ),
        (
            {"listeners.skupper.io": [resource("other", {"status": "Ready"})]},
            "listener", "not-applied", "no Listener `llm`",
        ),
        ({"sites.skupper.io": None}, "site", "no-skupper", "does not know the kind Site"),
        ({"sites.skupper.io": None, "configmaps": resource("skupper-site", {})}, "site", "skupper-1", "Skupper 1"),
        ({"sites.skupper.io": [], "configmaps": resource("skupper-site", {})}, "site", "skupper-1", "Skupper 1"),
    ],
)  # fmt: skip
def test_what_a_cluster_says_is_understood(cluster: Any, changed: Any, part: str, cause: str, seen: str) -> None:
    found = cluster(changed)
    assert (found[part].state, found[part].cause) == ("failed", cause), found["report"].text()
    assert seen in found[part].seen


@pytest.mark.parametrize(
    "stderr",
    [
        "error: You must be logged in to the server (Unauthorized)",
        'Error from server (Forbidden): sites.skupper.io is forbidden: User "eve" cannot list resource "sites"',
        'E1128 00:19:20.4 4227 memcache.go:265] "Unhandled Error" err="connect: connection refused"\n'
        "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
    ],
)
def test_a_cluster_that_cant_be_asked(cluster: Any, stderr: str) -> None:
    found = cluster(stderr=stderr)
    assert found["site"].cause == "cluster" and stderr.splitlines()[-1][:40] in found["site"].seen
    assert "memcache" not in found["site"].seen, "that is the program's log, and not for people"
    assert found["listener"].state == "not tried"


def test_without_oc_and_kubectl_nothing_is_claimed(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = cluster()
    assert not found["report"].ok and found["report"].cause == ""
    assert found["report"].text().endswith("nothing could be tried from here")
