"""What the chat app adds to a model's answer: `python bench/chat.py [--runs 200]`.

The model here is the tests' parrot (it answers at once, a word each 5 ms), asked directly and through the app
in turn, in the same run, over loopback. First: from the request to the first word. Chunk: how much later a word arrives
than the model sent it, by this machine's clock. Then 500 streams that wait at once, and their memory.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chat_app import App, until
from tests.parrot import Parrot

WORDS = 20


class Stamping(Parrot):
    """Each word is the time at which it was sent."""

    def speak(self, handler, question: str) -> None:  # type: ignore[no-untyped-def]
        if "stamps" not in question:
            return super().speak(handler, question)
        for _ in range(WORDS):
            part = {"choices": [{"delta": {"content": f"{time.monotonic():.6f} "}, "finish_reason": None}]}
            data = b"data: " + json.dumps(part).encode() + b"\n\n"
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            time.sleep(0.005)
        end = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end))
        return None


def one(http: httpx.Client, url: str, body: bytes) -> tuple[float, list[float]]:
    """(ms to the first word, ms that each word was late)."""
    began, first, late = time.monotonic(), 0.0, []
    with http.stream("POST", url, content=body, headers={"Content-Type": "application/json"}) as answer:
        for part in answer.iter_raw():
            now = time.monotonic()
            for stamp in re.findall(rb"(\d+\.\d{6}) ", part):
                first = first or (now - began) * 1000
                late.append((now - float(stamp)) * 1000)
    assert len(late) == WORDS, late
    return first, late


def quantile(values: list[float], q: float) -> float:
    """Of a list, 0 to 1."""
    return sorted(values)[int(q * (len(values) - 1))]


def streams(app: App, bird: Parrot, count: int) -> float:
    """MB that `count` waiting streams cost."""

    def resident() -> int:
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{app.process.pid}/status").read_text())[0])

    bird.mode, bird.pause, before = "endless", 0.1, resident()
    body = json.dumps({"messages": [{"role": "user", "content": "say:x"}]}).encode()
    head = b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    open_ones = [socket.create_connection(("127.0.0.1", app.port)) for _ in range(count)]
    for connection in open_ones:
        connection.sendall(head % len(body) + body)
    until(lambda: app.metric("hyb_chat_queue_depth") + app.metric("hyb_chat_running") == count)
    used = (resident() - before) / 1024
    for connection in open_ones:
        connection.close()
    bird.mode = "answer"
    return used


def main() -> None:
    """Measure and print one JSON object."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=200)
    runs = options.parse_args().runs
    with tempfile.TemporaryDirectory() as folder, Stamping() as bird:
        settings = {"queue": 1000, "client_parallel": 1000, "parallel": 2, "log": "requests"}
        with App(Path(folder), bird.url, **settings) as app:
            message = {"messages": [{"role": "user", "content": "stamps"}]}
            asked = json.dumps({**message, "model": "parrot", "stream": True}).encode()
            first: dict[str, list[float]] = {"direct": [], "app": []}
            late: dict[str, list[float]] = {"direct": [], "app": []}
            with httpx.Client() as http:
                ways = {
                    "direct": (f"{bird.url}/chat/completions", asked),
                    "app": (f"{app.url}/api/chat", json.dumps(message).encode()),
                }
                for _ in range(runs):
                    for way, (url, body) in ways.items():
                        took, each = one(http, url, body)
                        first[way].append(took)
                        late[way] += each
            found = {
                f"{name}_{way}_p{q}_ms": round(quantile(values[way], q / 100), 3)
                for name, values in (("first", first), ("chunk", late))
                for way in ways
                for q in (50, 95)
            }
            found["added_first_p50_ms"] = round(found["first_app_p50_ms"] - found["first_direct_p50_ms"], 3)
            found["added_chunk_p50_ms"] = round(found["chunk_app_p50_ms"] - found["chunk_direct_p50_ms"], 3)
            found["idle_streams"] = 500
            found["idle_streams_mb"] = round(streams(app, bird, 500), 1)
    folder_of_page = Path(__file__).parents[1] / "hyb" / "chat" / "page"
    found["page_bytes"] = sum(f.stat().st_size for f in folder_of_page.iterdir())
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
