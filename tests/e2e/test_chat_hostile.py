"""What strangers send to the chat app, byte by byte: smuggled, malformed, endless, aimed at another host or a file."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chat_app import App, text_of, until
from tests.parrot import Parrot

HOST = b"Host: 127.0.0.1\r\n"
HEAD = HOST + b"Content-Type: application/json\r\n"
BODY = b'{"messages":[{"role":"user","content":"say:hi"}]}'
SIZED = b"Content-Length: %d\r\n" % len(BODY)
CLOSE = b"Connection: close\r\n"


@pytest.fixture(scope="module")
def bird() -> Iterator[Parrot]:
    with Parrot() as found:
        yield found


@pytest.fixture(scope="module")
def app(bird: Parrot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    settings = {"head_seconds": 1, "body_seconds": 1, "client_parallel": 50, "openai": "on"}
    with App(tmp_path_factory.mktemp("chat"), bird.url, **settings) as found:
        yield found
        assert "Traceback" not in found.log(), "none of this is a surprise"
        assert "evil" not in found.log().lower()


def said(app: App, data: bytes, seconds: float = 5) -> bytes:
    """All that comes back until the connection ends."""
    answer = b""
    with socket.create_connection(("127.0.0.1", app.port), timeout=seconds) as connection:
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            pass
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(s) for s in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def post(*lines: bytes, body: bytes = BODY, head: bytes = HEAD) -> bytes:
    return b"POST /api/chat HTTP/1.1\r\n" + head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def chunks(*parts: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n" + trailer + b"\r\n"


SECOND = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize(
    "data",
    [
        post(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SECOND),
        post(b"Transfer-Encoding: chunked", b"Content-Length: 3", body=chunks(BODY) + SECOND),
        post(b"Transfer-Encoding: xchunked", body=chunks(BODY) + SECOND),
        post(b"Transfer-Encoding: chunked, identity", body=chunks(BODY) + SECOND),
        post(b"Transfer-Encoding: gzip, chunked", body=chunks(BODY)),
        post(b"Transfer-Encoding : chunked", body=chunks(BODY) + SECOND),
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=chunks(BODY) + SECOND),
        post(b"Transfer-Encoding:\x0bchunked", body=chunks(BODY) + SECOND),
        post(b"Content-Length: 5", b"Content-Length: %d" % len(BODY)),
        post(b"Content-Length: +%d" % len(BODY)),
        post(b"Content-Length: -1"),
        post(b"Content-Length: 0x10"),
        post(b"Content-Length: 1_0"),
        post(b"Content-Length: " + b"9" * 30),
        post(b"Transfer-Encoding: chunked", body=b"zz\r\n"),
        post(b"Transfer-Encoding: chunked", body=b"f" * 18 + b"\r\n"),
        post(b"Transfer-Encoding: chunked", body=b"3\nabc\n0\n\n"),
    ],
    ids=lambda data: data[len(HEAD) + 25 :][:40].decode("latin-1").encode("unicode_escape").decode(),
)
def test_a_request_whose_end_two_servers_might_see_in_two_places_is_refused(app: App, data: bytes) -> None:
    found = statuses(said(app, data))
    assert found == [400], "and what lies behind it is no second request"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health HTTP/1.1\n" + HOST.replace(b"\r", b"") + b"\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"X: a\rEvil: 1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n",
        b"GET /health HTTP/2.0\r\n" + HOST + CLOSE + b"\r\n",
        b"GET /health\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"EVIL /health HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://127.0.0.1 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 100_000 + b"\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
        bytes.fromhex("16030100") + b"\xff" * 40,
    ],
    ids=lambda data: data[:60].decode("latin-1").encode("unicode_escape").decode()[:50],
)
def test_what_is_no_request_is_refused(app: App, data: bytes) -> None:
    found = statuses(said(app, data))
    assert found in ([400], []), "[]: closed while it was still being sent"


@pytest.mark.parametrize(
    ("address", "host", "status"),
    [
        (b"http://127.0.0.1:99/health", b"evil.example", 200),  # the address counts, as RFC 9112 says
        (b"http://evil.example/health", b"127.0.0.1", 421),
        (b"http://127.0.0.1@evil.example/health", b"127.0.0.1", 421),
        (b"http:///health", b"127.0.0.1", 400),
        (b"/health", b"evil.example", 421),
        (b"/health", b"127.0.0.1.evil.example", 421),
        (b"/health", b"[::1", 200),  # a bracket that does not close is still no other name
    ],
)
def test_a_host_counts_wherever_it_stands(app: App, address: bytes, host: bytes, status: int) -> None:
    data = b"GET " + address + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + CLOSE + b"\r\n"
    assert statuses(said(app, data)) == [status]


@pytest.mark.parametrize(
    "path",
    [
        "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/../../etc/passwd", "//etc/passwd", "/main.js/",
        "/./main.js/..", "/main.js%00.html", "/%00", "/page/../settings.py", "/..\\..\\settings.py", "/__init__.py",
        "/%5c..%5csettings.py", "/page", "/page/", "/index.html", "/style.css.map", "/.env", "/.git/config", "/%ff%fe",
        "/MAIN.JS", "/main.js;a=b", "/api/chat/", "/v1/models/../../metrics/x", "/openapi.json", "/docs",
    ],
)  # fmt: skip
def test_no_path_leads_anywhere_but_to_the_pages_own_files(app: App, path: str) -> None:
    """The files were read at the start: no request ever touches the disk, so no link in it can be followed."""
    answer = said(app, f"GET {path} HTTP/1.1\r\n".encode() + HOST + CLOSE + b"\r\n")
    assert statuses(answer) in ([404], [400]), answer[:200]
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET /?a=%0d%0aX-Evil:%201 HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
        b"GET /%0d%0aX-Evil:%201 HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n",
        b"GET /x HTTP/1.1\r\n" + HOST + CLOSE + b"X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\n\r\n",
        b"GET /api/config HTTP/1.1\r\n" + HOST + CLOSE + b"Cookie: \xff\xfe=;;;=evil; hyb=\r\nOrigin: evil\r\n\r\n",
    ],
)
def test_nothing_that_was_sent_comes_back_in_a_head(app: App, data: bytes) -> None:
    head = said(app, data).partition(b"\r\n\r\n")[0].lower()
    assert b"evil" not in head and b"strict-transport" not in head and b"access-control" not in head
    assert b"content-security-policy: default-src 'none'" in head


def test_a_field_behind_a_body_speaks_for_nobody(tmp_path: Path, bird: Parrot) -> None:
    """A proxy sees to the fields of the head; those of a trailer may still be the client's own."""
    settings = {"sign_in": "proxy", "trusted_proxies": "127.0.0.1/32", "openai": "on"}
    with App(tmp_path, bird.url, **settings) as app:
        trailer = b"X-Forwarded-User: admin\r\n"
        data = post(b"Transfer-Encoding: chunked", b"Connection: close", body=chunks(BODY, trailer=trailer))
        assert statuses(said(app, data)) == [401]
        data = post(b"X-Forwarded-User: ana", b"Connection: close", SIZED.strip())
        assert statuses(said(app, data)) == [200]
        twice = post(b"X-Forwarded-User: ana", b"X-Forwarded-User: admin", b"Connection: close", SIZED.strip())
        assert statuses(said(app, twice)) == [401], "one of the two is somebody's own word"


def test_chunks_trailers_and_a_wish_to_be_asked_first_are_understood(app: App) -> None:
    data = post(b"Transfer-Encoding: chunked", b"Connection: close",
                body=chunks(BODY[:7], BODY[7:8], BODY[8:], trailer=b"X-Sum: 1\r\n"))  # fmt: skip
    assert b'"text":"hi"' in said(app, data)
    asked = said(app, post(SIZED.strip(), b"Expect: 100-continue", b"Connection: close"))
    assert statuses(asked) == [100, 200] and b'"text":"hi"' in asked
    much = said(app, post(b"Content-Length: 9999999", b"Expect: 100-continue", b"Connection: close", body=b""))
    assert statuses(much) == [413], "who asks first is spared the sending"


def test_requests_in_a_row_are_answered_in_order(app: App) -> None:
    ask = b"POST /api/chat HTTP/1.1\r\n" + HEAD + SIZED + b"\r\n" + BODY
    answer = said(app, ask + SECOND + ask + b"GET /nothing HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    assert statuses(answer) == [200, 200, 200, 404]
    assert answer.count(b'"text":"hi"') == 2


def test_many_requests_in_a_row_hold_nobody_up(app: App) -> None:
    answer = said(app, SECOND * 200 + b"GET /ready HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    assert statuses(answer) == [200] * 201


def test_http_1_0_gets_a_whole_answer_with_its_length(app: App) -> None:
    data = b"POST /api/chat HTTP/1.0\r\n" + HEAD + SIZED + b"\r\n" + BODY
    head, _, body = said(app, data).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower() and b"connection: close" in head.lower()
    assert b"content-length: %d" % len(body) in head.lower() and b'"text":"hi"' in body
    assert statuses(said(app, b"GET /health HTTP/1.0\r\n\r\n")) == [421], "without a Host it may be any name"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/", 200), ("HEAD", "/main.js", 200), ("HEAD", "/health", 200), ("HEAD", "/api/chat", 405),
        ("OPTIONS", "/", 405), ("OPTIONS", "/v1/chat/completions", 405), ("TRACE", "/", 405), ("DELETE", "/", 405),
        ("PUT", "/main.js", 405), ("PATCH", "/api/chat", 405), ("GET", "/api/sign-in", 405), ("POST", "/", 405),
    ],
)  # fmt: skip
def test_other_methods_do_nothing(app: App, method: str, path: str, status: int) -> None:
    answer = said(app, f"{method} {path} HTTP/1.1\r\n".encode() + HOST + CLOSE + b"X-Evil: 1\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert statuses(answer) == [status]
    assert (method != "HEAD") == bool(body)
    assert status != 405 or b"\r\nallow: " in head
    assert b"evil" not in body.lower()


def test_a_file_is_sent_whole_packed_or_not_at_all(app: App) -> None:
    whole = app.http.get("/main.js", headers={"Accept-Encoding": "identity"})
    packed = app.http.get("/main.js")
    assert packed.headers["content-encoding"] == "gzip" and packed.text == whole.text
    assert app.http.get("/main.js", headers={"Accept-Encoding": "gzip;q=0, *"}).headers.get("content-encoding") is None
    ranged = app.http.get("/main.js", headers={"Range": "bytes=0-10,20-30,5-", "Accept-Encoding": "identity"})
    assert (ranged.status_code, ranged.text) == (200, whole.text), "a part of it is no use to anybody"
    tag = whole.headers["etag"]
    for known in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
        again = app.http.get("/main.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b""), known
        assert again.headers["etag"] == tag and "content-security-policy" in again.headers
    assert app.http.get("/main.js", headers={"If-None-Match": '"x"'}).status_code == 200


def test_no_upgrade_is_made(app: App) -> None:
    for wish in (b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eHg=\r\n",
                 b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"):  # fmt: skip
        answer = said(app, b"GET /health HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, close\r\n" + wish + b"\r\n")
        assert 101 not in statuses(answer)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"messages": [{"role": "user", "content": "' + b"x" * (1 << 20) + b'"}]}', "too_large"),
        (json.dumps({"messages": [{"role": "user", "content": "x"}] * 10_000}).encode(), "too_large"),
        (json.dumps({"messages": [{"role": "user", "content": ""}] * 1000}).encode(), "too_many_messages"),
        (b"[" * 10_000 + b"]" * 10_000, "bad_request"),
        (b'{"messages":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001, "bad_request"),
        (b'{"messages": [{"role": "user", "content": "\xff\xfe\xc0\x80"}]}', "bad_request"),
        (b'{"messages": [], "messages": [{"role": "user", "content": "say:hi"}]}', "bad_request"),
        (b'{"messages": [{"role": "user", "content": NaN}]}', "bad_request"),
        (b'{"messages": [{"role": "user", "content": ' + b"9" * 5000 + b"}]}", "bad_request"),
        (b'{"messages": [{"role": "user", "content": "a"}]} trailing', "bad_request"),
        ('{"messages": [{"role": "user", "content": "a"}]}'.encode("utf-16"), "bad_request"),
        (b"", "bad_request"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_body_that_makes_no_sense_is_refused_at_both_doors(app: App, content: bytes, code: str) -> None:
    for path in ("/api/chat", "/v1/chat/completions"):
        began = time.monotonic()
        answer = app.http.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.json()["error"]["code"] == code
        assert 400 <= answer.status_code < 500 and time.monotonic() - began < 3


def test_half_characters_of_people_and_of_the_model_break_nothing(app: App, bird: Parrot) -> None:
    content = b'{"messages": [{"role": "user", "content": "say:one \\ud83d two"}]}'
    answer = app.http.post("/api/chat", content=content, headers={"Content-Type": "application/json"})
    assert '"type":"end"' in answer.text
    bird.thought = "half \ud83d"  # the bird writes it as an escape, as any JSON writer may
    events = list(app.ask("say:hi"))
    bird.thought = ""
    assert (text_of(events), text_of(events, "thought")) == ("hi", "half ?")


def test_a_flood_of_connections_and_drips_leaves_the_page_there(app: App) -> None:
    drips = [socket.create_connection(("127.0.0.1", app.port)) for _ in range(200)]
    try:
        for i, connection in enumerate(drips):
            connection.sendall((b"GET / HTTP/1.1\r\nX: ", post(b"Content-Length: 999", body=b"{"), b"")[i % 3])
        assert app.http.get("/").status_code == 200
        assert text_of(list(app.ask("say:still here"))) == "still here"
        for connection in drips:
            connection.settimeout(5)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    finally:
        for connection in drips:
            connection.close()
    until(lambda: app.metric("hyb_chat_running") == 0)


class Loud(Parrot):
    """Says 40 kB at a time, until nobody takes any more."""

    def speak(self, handler: Any, question: str) -> None:
        data = b'data: {"choices":[{"delta":{"content":"' + b"x" * 40_000 + b'"}}]}\n\n'
        while "much" in question:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        super().speak(handler, question)


def test_who_asks_for_much_and_reads_nothing_fills_no_memory_and_loses_the_place(tmp_path: Path) -> None:
    settings = {"slow_seconds": 1, "answer_bytes": 1 << 30, "parallel": 1}
    with Loud() as bird, App(tmp_path, bird.url, **settings) as app:

        def resident() -> int:
            return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{app.process.pid}/status").read_text())[0])

        before, much = resident(), BODY.replace(b"say:hi", b"say:much")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or the kernel takes megabytes for it
            connection.connect(("127.0.0.1", app.port))
            connection.sendall(post(b"Content-Length: %d" % len(much), body=much))
            until(lambda: bird.broken == 1, 30, "the model goes on for nobody")
            assert resident() - before < 20_000, "kB"
        until(lambda: app.metric("hyb_chat_running") == 0)
        assert text_of(list(app.ask("say:next, please"))) == "next, please"


@pytest.mark.parametrize(("limit", "pause"), [({"total_seconds": 0.5}, 0.02), ({"idle_seconds": 0.5}, 3)])
def test_an_answer_has_its_time_in_all_and_between_two_words(
    bird: Parrot, tmp_path: Path, limit: dict[str, float], pause: float
) -> None:
    with App(tmp_path, bird.url, **limit) as app:
        bird.mode, bird.pause = "endless", pause
        began = time.monotonic()
        events = list(app.ask("say:x"))
        bird.mode, bird.pause = "answer", 0.0
        assert events[-1]["code"] == "late" and text_of(events)
        assert time.monotonic() - began < 5
