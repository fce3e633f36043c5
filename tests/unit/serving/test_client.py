from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hyb.errors import Exit, HybError
from hyb.serving import client, endpoint
from hyb.serving.client import Address, Client


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://x:0/v1", "http://x:port", "http://[::1", "x", "http://a b/v1"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(HybError, match="is no http URL"):
        client.checked(url)


@pytest.mark.parametrize("url", ["http://user:secret@x/v1", "https://x/v1?api_key=secret"])
def test_a_key_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(HybError, match="no place in a URL") as caught:
        client.checked(url)
    assert "secret" not in str(caught.value.as_dict())


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(HybError, match="one word of ASCII") as caught:
        Client(Address("http://127.0.0.1:1/v1", key))
    assert key not in str(caught.value.as_dict())
    assert key not in repr(Address("http://x", key))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": {"message": "too long", "code": 400}}, "too long"),
        ({"error": "model not found"}, "model not found"),
        ({"detail": "Not Found"}, "Not Found"),
        ("nope", "nope"),
    ],
)
def test_an_error_of_any_shape_is_told_in_its_own_words(answer: object, said: str) -> None:
    assert client.words(answer) == said


def test_an_answer_that_is_no_json_is_an_error_below() -> None:
    for status, data in ((200, b"<html>"), (404, b""), (200, b"[1]"), (200, b"[" * 200_000), (500, b'{"error": "x"}')):
        with pytest.raises(HybError) as caught:
            client.parsed("http://x/v1", status, data)
        assert caught.value.code is Exit.BELOW


def test_a_url_is_completed_and_its_key_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hyb_sk_file\n")
    found = endpoint.find("https://x:8443", {"HYB_API_KEY": "hyb_sk_env"})
    assert (found.name, found.address.url, found.address.key) == ("x:8443", "https://x:8443/v1", "hyb_sk_env")
    found = endpoint.find("", {"HYB_API_KEY": "e"}, url="http://x/api/", key_file=tmp_path / "key")
    assert (found.address.url, found.address.key) == ("http://x/api", "hyb_sk_file")
    assert "unencrypted" in endpoint.unencrypted(found.address)
    assert not endpoint.unencrypted(Address("http://127.0.0.1/v1", "k"))
    assert not endpoint.unencrypted(Address("https://x/v1", "k"))


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_a_key_file_without_a_key_is_an_error_of_the_user(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HybError, match="key file") as caught:
        endpoint.find("http://x/v1", {}, key_file=path)
    assert caught.value.code is Exit.INPUT


def test_offline_no_other_machine_is_asked_and_nothing_served_says_how(tmp_path: Path) -> None:
    with pytest.raises(HybError, match="another machine") as caught:
        endpoint.find("http://x/v1", {}, offline=True)
    assert caught.value.code is Exit.OFFLINE
    assert endpoint.find("http://127.0.0.1:8000", {}, offline=True).address.key == ""
    for name in ("", "bot"):
        with pytest.raises(HybError, match="nothing is") as caught:
            endpoint.find(name, {"XDG_DATA_HOME": str(tmp_path)})
        assert "hyb serve" in caught.value.hint


Talk = Callable[[socket.socket], object]


@contextlib.contextmanager
def saying(talk: Talk) -> Iterator[Address]:
    """A server that reads a request, says what `talk` says, and hangs up; one caller after the other."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                with caller, contextlib.suppress(OSError):
                    while caller.recv(65536):
                        if talk(caller) == "hang up":
                            break

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Address(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def refused(talk: Talk, said: str, timeout: float = 60) -> None:
    with saying(talk) as address, Client(address, timeout=timeout) as asked:
        with pytest.raises(HybError, match=said) as caught:
            asked.json("GET", "models")
        assert caught.value.code is Exit.BELOW


@pytest.mark.socket
@pytest.mark.parametrize("head", [b"Content-Length: 99999999999\r\n", b""])
def test_an_answer_without_end_is_cut_off(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def talk(caller: socket.socket) -> None:
        caller.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        while True:
            caller.sendall(b" " * 65536)

    monkeypatch.setattr(client, "MOST", 1 << 20)
    refused(talk, "more than 1 MiB")


@pytest.mark.socket
def test_an_answer_that_drips_is_not_waited_for_for_ever() -> None:
    heard = threading.Event()

    def talk(caller: socket.socket) -> None:
        caller.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not heard.wait(0.05):
            caller.sendall(b" ")

    try:
        refused(talk, "no answer in time", timeout=0.5)
    finally:
        heard.set()


@pytest.mark.socket
def test_an_answer_that_breaks_off_is_told_and_a_whole_one_keeps_its_connection() -> None:
    def short(caller: socket.socket) -> str:
        caller.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"data": []}')
        return "hang up"

    refused(short, "broke off")
    callers = set()

    def whole(caller: socket.socket) -> None:
        callers.add(caller.fileno())
        if len(callers) == 1:
            caller.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"data": []}')

    with saying(whole) as address, Client(address) as asked:
        assert [asked.json("GET", "models") for _ in range(3)] == [{"data": []}] * 3
    assert len(callers) == 1
