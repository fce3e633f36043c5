"""A model that says what it is asked to: the adversary of the chat page's tests, and the one that fails on demand.

It speaks OpenAI's streamed API over HTTP/1.1. What a question ends with decides what happens: the text behind `say:` is
answered word by word. `mode` makes it fail the ways a model behind a link does.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODES = ("answer", "close", "hang", "no_content", "cut", "error", "overloaded", "wrong_key", "nonsense", "endless")


class Parrot:
    """`with Parrot() as bird:` `bird.url`, `bird.mode`, `bird.pause` seconds between words, `bird.asked` bodies."""

    def __init__(self, port: int = 0) -> None:
        self.mode, self.pause = "answer", 0.0
        self.thought = ""
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.broken = 0
        """Answers that nobody read to their end."""
        self.context = 0
        """Messages that fit; 0: any number."""
        bird = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                if bird.mode in ("close", "hang"):
                    return bird.fail(self)
                return self.json(200, {"data": [{"id": "parrot"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                bird.headers.append(dict(self.headers))
                bird.answer(self, body)

            def json(self, status: int, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients that hang up are the tests' daily bread."""
                if not isinstance(sys.exc_info()[1], ConnectionError):
                    super().handle_error(request, client_address)

        self.server = Server(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self) -> Parrot:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fail(self, handler: Any) -> None:
        """Close without a word, or never answer."""
        handler.close_connection = True
        while self.mode == "hang":
            time.sleep(0.02)

    def answer(self, handler: Any, body: dict[str, Any]) -> None:
        if self.mode in ("close", "hang"):
            return self.fail(handler)
        if self.mode == "wrong_key":
            return handler.json(401, {"error": {"message": "no"}})
        if self.mode == "overloaded":
            return handler.json(500, {"error": {"message": "no"}})
        if not body.get("stream"):
            return handler.json(200, {"choices": [{"message": {"role": "assistant", "content": "ok"}}]})
        self.asked.append(body)
        if self.context and len(body["messages"]) > self.context:
            return handler.json(400, {"error": {"type": "exceed_context_size_error", "message": "too long"}})
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        try:
            self.speak(handler, body["messages"][-1]["content"])
        except OSError:
            self.broken += 1
            handler.close_connection = True
        return None

    def speak(self, handler: Any, question: str) -> None:
        def chunk(data: bytes) -> None:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        def event(value: Any) -> None:
            chunk(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")

        def part(finish: str | None = None, **delta: str) -> None:
            event({"choices": [{"delta": delta, "finish_reason": finish}]})
            time.sleep(self.pause)

        if self.mode == "no_content":
            return chunk_end(handler)
        if self.mode == "nonsense":
            event(b"{broken")
            return chunk_end(handler)
        if self.mode == "error":
            event({"error": {"message": "out of memory"}})
            return chunk_end(handler)
        if self.thought:
            part(reasoning_content=self.thought)
        said = (question.partition("say:")[2] or question).replace("\u2060", "")
        words = said.split(" ")
        for i, word in enumerate(words):
            part(content=word + (" " if i < len(words) - 1 else ""))
            if self.mode == "cut" and i == 2:
                handler.close_connection = True
                return None
        while self.mode == "endless":
            part(content="and on ")
        part("stop")
        usage = {"prompt_tokens": 5, "completion_tokens": len(words)}
        event({"choices": [], "usage": usage})
        event(b"[DONE]")
        return chunk_end(handler)


def main(port: int) -> None:
    """A bird on a given port, until the process ends."""
    with Parrot(port):
        threading.Event().wait()


def chunk_end(handler: Any) -> None:
    handler.wfile.write(b"0\r\n\r\n")
