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
    assert told == list(range(1, len(ASKED) + 1))
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
    server.answer = lambda *_: completion(None)
    assert ask(server)[1][0]["text"] == ""


def test_a_full_endpoint_is_asked_again(server: Server) -> None:
    server.answer = lambda body, n: (503, b"busy") if n % 2 == 0 else completion(body["messages"][0]["content"])
    assert {s["text"] for s in ask(server)[1]} == {a[0]["content"] for a in ASKED}


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
