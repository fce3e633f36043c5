"""`hyb link accept`: where a token ends, by platform; and a token redeemed at a real TLS server on loopback."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb import certificates
from hyb.errors import Exit, HybError
from hyb.linking import folder as linking
from hyb.linking import redeem as rd
from hyb.linking import sides
from hyb.linking import token as tk
from hyb.linking.accept import accept
from tests.unit.linking.test_folder import Place
from tests.unit.linking.test_token import CA, CODE, NOW, SPEC, given_link


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def a_token(**more: Any) -> tk.Token:
    return tk.Token("link-public", SPEC["url"], CODE, SPEC["ca"], **more)


def a_link(**more: Any) -> tk.LinkGiven:
    return tk.read_link(given_link(**more), "x")


def test_on_a_host_a_token_lies_beside_the_resources_and_not_among_them(place: Place) -> None:
    place.write(place.link(way="token"))
    done = accept(place.out, a_token())
    assert done.ends_in == "token" and [p.name for p in done.written] == ["AccessToken-link-public.yaml"]
    path = place.out / "AccessToken-link-public.yaml"
    assert path.stat().st_mode & 0o777 == 0o600 and yaml.safe_load(path.read_text())["spec"]["code"] == CODE
    assert linking.check_folder(place.out) == []
    found = sides.read(place.out)
    assert not any(side.of("AccessToken") for side in found), "a router would be started with the token alone"
    with pytest.raises(HybError, match="no Link in it") as caught:
        sides.private(found, place.out)
    assert f"hyb link accept {path} --redeem" in caught.value.hint


def test_in_a_cluster_a_token_is_one_of_the_documents_with_the_sites_cost(place: Place) -> None:
    place.write(place.link(way="token", platform="kubernetes", private_namespace="models", cost=7))
    done = accept(place.out, a_token())
    document = yaml.safe_load((place.out / "private/AccessToken-link-public.yaml").read_text())
    assert document["metadata"]["namespace"] == "models" and document["spec"]["linkCost"] == 7
    assert done.platform == "kubernetes" and linking.check_folder(place.out) == []
    (place.out / "private/AccessToken-link-public.yaml").chmod(0o644)
    assert any("other users can read this key" in t for t in linking.check_folder(place.out))


def test_a_link_takes_the_place_of_the_token_that_it_came_of(place: Place) -> None:
    place.write(place.link(way="token", cost=7))
    accept(place.out, a_token())
    done = accept(place.out, a_link())
    assert done.ends_in == "link" and not (place.out / "AccessToken-link-public.yaml").exists()
    link = yaml.safe_load((place.out / "private/Link-link-public.yaml").read_text())
    assert link["spec"]["cost"] == 7 and link["metadata"]["namespace"] == "default"
    assert (place.out / "private/Secret-link-public.yaml").stat().st_mode & 0o777 == 0o600
    assert linking.check_folder(place.out) == []


def test_of_several_hosts_the_one_that_is_named_gets_it(place: Place) -> None:
    place.write(place.link(way="token", private_sites=["alpha", "beta"]))
    with pytest.raises(HybError, match="several private sites: `alpha`, `beta`") as caught:
        accept(place.out, a_link())
    assert caught.value.code == Exit.USAGE
    with pytest.raises(HybError, match="has no private site `gamma`"):
        accept(place.out, a_link(), site="gamma")
    accept(place.out, a_link(), site="beta")
    accept(place.out, a_token(), site="alpha")
    there = place.there()
    assert "private-beta/Link-link-public.yaml" in there and "private-alpha/Link-link-public.yaml" not in there
    assert "AccessToken-link-public-alpha.yaml" in there
    accept(place.out, a_link(), site="alpha")
    assert "AccessToken-link-public-alpha.yaml" not in place.there() and linking.check_folder(place.out) == []


def test_tokens_of_several_namespaces_come_one_after_the_other(place: Place) -> None:
    place.write(place.link(way="token", namespace=["chat", "shop"]))
    for namespace in ("chat", "shop"):
        text = yaml.safe_dump_all(given_link()).replace("link-public", f"link-public-{namespace}")
        accept(place.out, tk.read(text.replace("-chat.apps", f"-{namespace}.apps").encode(), "x"))
    assert {p for p in place.there() if "/Link-" in p} == {
        "private/Link-link-public-chat.yaml", "private/Link-link-public-shop.yaml",
    }  # fmt: skip
    assert linking.check_folder(place.out) == []


def test_a_link_to_another_namespace_is_refused_and_changes_nothing(place: Place) -> None:
    place.write(place.link(way="token", namespace="shop"))
    before = place.there()
    with pytest.raises(HybError) as caught:
        accept(place.out, a_link())
    assert any("but the Route will be `hyb-inter-router-shop" in t for t in caught.value.details)
    assert caught.value.code == Exit.CHECK and place.there() == before


@pytest.mark.parametrize(
    ("way", "expected"),
    [("given", "certificates of its own"), ("issuer", "certificates of its own"), ("cli", "no private side")],
)
def test_a_link_that_would_not_trust_a_token_is_left_alone(place: Place, way: str, expected: str) -> None:
    place.write(place.link(way=way))
    before = place.there()
    with pytest.raises(HybError, match=expected):
        accept(place.out, a_token())
    assert place.there() == before


def test_an_edited_folder_and_none_at_all_are_refused(place: Place) -> None:
    with pytest.raises(HybError, match="is not there"):
        accept(place.out, a_token())
    place.write(place.link(way="token"))
    (place.out / "APPLY.md").write_text("mine")
    with pytest.raises(HybError, match="was edited since hyb wrote it"):
        accept(place.out, a_token())


# -- redeeming -------------------------------------------------------------------------------------------------------


Seen = list[tuple[str, dict[str, str], bytes]]


class GrantServer(http.server.ThreadingHTTPServer):
    """Skupper's grant server as its source has it: POST to /<uid> with the code; the Link for it."""

    def __init__(self, context: ssl.SSLContext, status: int, text: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.context, self.status, self.text = context, status, text
        self.seen: Seen = []

    def get_request(self) -> tuple[Any, Any]:
        raw, address = super().get_request()
        return self.context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_: Any) -> None:
        """A client that trusts us not ends the handshake: nothing to say."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}/uid"


class Handler(http.server.BaseHTTPRequestHandler):
    server: GrantServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.text)))
        self.end_headers()
        self.wfile.write(self.server.text)

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def grant_server(
    folder: Path, pair: certificates.Pair, status: int = 200, text: bytes | None = None
) -> Iterator[GrantServer]:
    """A server on loopback that shows `pair`."""
    body = yaml.safe_dump_all(given_link(), explicit_start=True).encode() if text is None else text
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (folder / "grants.pem").write_bytes(pair.key + pair.certificate)
    context.load_cert_chain(folder / "grants.pem")
    with GrantServer(context, status, body) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


SERVER = certificates.make_leaf(CA, "grants", 30, NOW, hosts=("127.0.0.1",))


@pytest.mark.socket
@pytest.mark.parametrize("platform", ["podman", "kubernetes"])
def test_a_token_redeemed_ends_in_a_link(place: Place, platform: str) -> None:
    place.write(place.link(way="token", platform=platform))
    with grant_server(place.root, SERVER) as server:
        done = accept(place.out, tk.Token("link-public", server.url, CODE, SPEC["ca"]), redeem_now=True)
    ((path, headers, body),) = server.seen
    assert (path, body, headers["name"], headers["subject"]) == ("/uid", CODE.encode(), "link-public", "private")
    assert done.ends_in == "link" and linking.check_folder(place.out) == []
    assert CODE.encode() not in b"".join(place.there().values())


@pytest.mark.socket
@pytest.mark.parametrize(
    ("status", "text", "code", "expected"),
    [
        (404, b"No such claim\n", Exit.CHECK, "too old, has been used"),
        (403, b"refused", Exit.CHECK, "its code is not that of the grant"),
        (500, b"\x1b[31mboom", Exit.CHECK, "status 500"),
        (302, b"", Exit.CHECK, "status 302"),
        (200, b"hello", Exit.CHECK, "no Link"),
        (200, b"a: [", Exit.CHECK, "is no YAML"),
        (200, b"x" * (tk.SIZE_MAX + 10), Exit.CHECK, "more than"),
    ],
)
def test_a_cluster_that_refuses_or_answers_nonsense_changes_nothing(
    place: Place, status: int, text: bytes, code: Exit, expected: str
) -> None:
    place.write(place.link(way="token"))
    before = place.there()
    with grant_server(place.root, SERVER, status, text) as server, pytest.raises(HybError) as caught:
        accept(place.out, tk.Token("link-public", server.url, CODE, SPEC["ca"]), redeem_now=True)
    said = " ".join((caught.value.message, *caught.value.details, caught.value.hint))
    assert expected in said and caught.value.code == code and place.there() == before
    assert "\x1b" not in said and CODE not in said


@pytest.mark.socket
def test_a_server_that_the_token_does_not_trust_is_told_nothing(place: Place) -> None:
    other = certificates.make_leaf(certificates.make_ca("proxy", 30, NOW), "grants", 30, NOW, hosts=("127.0.0.1",))
    wrong_name = certificates.make_leaf(CA, "grants", 30, NOW, hosts=("192.0.2.1",))
    for pair in (other, wrong_name):
        with grant_server(place.root, pair) as server, pytest.raises(HybError, match="does not trust") as caught:
            rd.redeem(tk.Token("link-public", server.url, CODE, SPEC["ca"]), "private")
        assert caught.value.code == Exit.CHECK and server.seen == []


@pytest.mark.socket
def test_a_server_that_is_named_itself_is_trusted_as_go_does(place: Place) -> None:
    with grant_server(place.root, SERVER) as server:
        given = rd.redeem(tk.Token("link-public", server.url, CODE, SERVER.certificate.decode()), "private")
    assert given.secret == "link-public"


@pytest.mark.socket
def test_a_cluster_that_is_not_there_is_an_error_of_its_own() -> None:
    with pytest.raises(HybError, match="can't be reached") as caught:
        rd.redeem(tk.Token("link-public", "https://127.0.0.1:1/uid", CODE, SPEC["ca"]), "private", timeout=2)
    assert caught.value.code == Exit.BELOW
