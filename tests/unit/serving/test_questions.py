"""Asking an endpoint many questions: real HTTP on loopback, with all that an endpoint may answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hyb.errors import HybError
from hyb.serving import endpoint, questions

pytestmark = pytest.mark.socket
ASKED = [[{"role": "user", "content": f"question {n}"}] for n in range(9)]
Answer = Callable[[dict[str, Any], int], tuple[int, bytes]]


class Server:
    """Answers as `answer(body, how many came before)` says."""

    def __init__(self) -> None:
        self.answer: Answer = lambda body, _: completion(f"said {body['messages'][-1]['content']}")
        self.bodies: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.reply(200, json.dumps({"data": [{"id": "one"}, {"id": "two"}]}).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.bodies.append(body)
                self.reply(*server.answer(body, len(server.bodies) - 1))

            def reply(self, status: int, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


def completion(content: str | None, **more: Any) -> tuple[int, bytes]:
    message = {"role": "assistant", "content": content, **more}
    choice = {"message": message, "finish_reason": "stop"}
    return 200, json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}}).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    threading.Thread(target=found.http.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    found.http.shutdown()
    found.http.server_close()


def ask(server: Server, model: str = "") -> tuple[str, list[dict[str, Any]]]:
    told: list[int] = []
    found = questions.ask(endpoint.find(server.url, {}), ASKED, model=model, max_tokens=8, told=told.append, pause=0.01)
    assert told == sorted(set(told))
    assert told[-1] == len(ASKED)
    return found


def test_every_question_gets_its_own_answer_in_order_and_greedily(server: Server) -> None:
    served, said = ask(server)
    assert served == "one"
    assert [s["text"] for s in said] == [f"said question {n}" for n in range(9)]
    assert said[0] == {"text": "said question 0", "thinking": False, "tokens": 3, "ended": True}
    assert all(b["temperature"] == 0 and b["max_tokens"] == 8 and b["model"] == "one" for b in server.bodies)


def test_another_model_may_be_named_and_an_unknown_one_is_refused(server: Server) -> None:
    assert ask(server, "two")[0] == "two"
    with pytest.raises(HybError, match="has no model `three`"):
        ask(server, "three")


def test_reasoning_apart_from_the_answer_is_kept_apart(server: Server) -> None:
    server.answer = lambda *_: completion("Paris", reasoning_content="France, hm")
    assert ask(server)[1][0]["text"] == "<think>France, hm</think>Paris"
    server.answer = lambda *_: completion("Paris", reasoning="France, hm")
    assert ask(server)[1][0]["text"] == "<think>France, hm</think>Paris", "as newer vLLM calls it"
    server.answer = lambda *_: completion(None)
    assert ask(server)[1][0]["text"] == ""
    server.answer = lambda *_: completion("so \U0001f600 \ud83d")
    assert ask(server)[1][0]["text"] == "so 😀 \ufffd", "what was cut off there can be written"


def test_an_answer_in_parts_without_usage_that_ends_in_other_words_is_whole(server: Server) -> None:
    parts = [{"type": "text", "text": "It is "}, {"type": "text", "text": "Paris."}, "?"]

    def answer(finish: str | None) -> tuple[int, bytes]:
        choice = {"message": {"role": "assistant", "content": parts}, "finish_reason": finish}
        return 200, json.dumps({"choices": [choice], "usage": None}).encode()

    for finish, ended in (("eos_token", True), (None, True), ("stop", True), ("length", False)):
        server.answer = lambda *_, finish=finish: answer(finish)
        assert ask(server)[1][0] == {"text": "It is Paris.", "thinking": False, "tokens": 0, "ended": ended}


def test_a_full_endpoint_is_asked_again(server: Server) -> None:
    server.answer = lambda body, n: (503, b"busy") if n % 2 == 0 else completion(body["messages"][0]["content"])
    assert {s["text"] for s in ask(server)[1]} == {a[0]["content"] for a in ASKED}


def test_a_connection_that_is_dropped_is_made_again(server: Server) -> None:
    def answer(body: dict[str, Any], number: int) -> tuple[int, bytes]:
        if number % 3 == 1:
            raise ConnectionAbortedError  # the handler ends, and its connection
        return (502, b"<html>") if number % 3 == 2 else completion(body["messages"][0]["content"])

    server.http.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.answer = answer
    assert [s["text"] for s in ask(server)[1]] == [a[0]["content"] for a in ASKED]
    server.answer = lambda *_: (_ for _ in ()).throw(ConnectionAbortedError())
    with pytest.raises(HybError, match="no answer from") as caught:
        ask(server)
    assert caught.value.code == 5


def test_what_an_endpoint_does_not_take_is_left_out_or_called_as_there(server: Server) -> None:
    def answer(body: dict[str, Any], _: int) -> tuple[int, bytes]:
        if "seed" in body:
            return 422, b'{"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}'
        if "max_tokens" in body:
            return 400, b'{"error": {"message": "no \'max_tokens\' here, use \'max_completion_tokens\'"}}'
        return completion(body["messages"][0]["content"])

    server.answer = answer
    assert [s["text"] for s in ask(server)[1]] == [a[0]["content"] for a in ASKED]
    last = server.bodies[-1]
    assert (last["max_completion_tokens"], last["temperature"]) == (8, 0)
    server.answer = lambda *_: (400, b'{"error": {"message": "max_tokens is too large: 8"}}')
    with pytest.raises(HybError, match="too large"):
        ask(server)
    assert "max_tokens" in server.bodies[-1], "a limit that is wrong stays one"


def test_one_error_ends_it_though_other_answers_have_not_come(server: Server) -> None:
    free = threading.Event()

    def answer(body: dict[str, Any], _: int) -> tuple[int, bytes]:
        if body["messages"][0]["content"] == "question 1":
            return 401, b'{"error": {"message": "no key"}}'
        free.wait(60)
        return completion("late")

    server.answer = answer
    try:
        with pytest.raises(HybError, match="no key"):
            ask(server)
        assert not free.is_set()
    finally:
        free.set()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b"<html>Login</html>"), "something that is no JSON"),
        ((200, b'{"choices": [{"mess'), "something that is no JSON"),
        ((200, b"{}"), "no chat completion"),
        ((200, b'{"choices": [{"message": "hi"}]}'), "no chat completion"),
        ((200, b"[]"), "no JSON object"),
        ((401, b'{"error": {"message": "no key"}}'), "said 401: no key"),
        ((400, b'{"error": {"message": "too long"}}'), "said 400: too long"),
        ((503, b'{"error": {"message": "busy"}}'), "said 503: busy"),
    ],
)
def test_what_is_no_answer_ends_it_in_words(server: Server, answer: tuple[int, bytes], said: str) -> None:
    server.answer = lambda *_: answer
    with pytest.raises(HybError, match=said) as caught:
        ask(server)
    assert caught.value.code == 5


def test_an_endpoint_that_is_not_there_is_told(server: Server) -> None:
    gone = endpoint.find("http://127.0.0.1:1/v1", {})
    with pytest.raises(HybError, match="connection refused"):
        questions.ask(gone, ASKED, model="", max_tokens=8, told=lambda _: None)
