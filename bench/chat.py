"""What the chat app adds to a model's answer, and what it and its page cost: `python bench/chat.py [--runs 200]`.

The model is a stand-in that answers at once, in a process of its own, asked directly and through the app over loopback,
in turn, so that a noisy moment hits both. All figures are of one run:

first     from a request to the first word, one connection, one request after the other
chunk     how much later a word arrives than the model sent it (a word each 5 ms), by this machine's clock
requests  answers of 20 words a second, 16 connections at once; and the CPU that the app's process spends for one
idle      500 and 1000 streams that wait in the queue at once: memory each, and what the page takes meanwhile
away      from a question to the refusal when the model refuses, or says nothing; and until its return is noticed
page      bytes, and Chromium's milliseconds until the page can be used, the browser's own start not counted

Kept in bench/results/chat.json with the load of the machine before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import RESULTS
from hyb.chat import page
from tests.chat_app import App, until
from tests.chat_model import free_port
from tests.parrot import Parrot

WORDS, CONNECTIONS, SECONDS, ROUNDS = 20, 16, 3.0, 4
ASKED = {"messages": [{"role": "user", "content": "stamps"}]}
PATHS = {"direct": "/v1/chat/completions", "app": "/api/chat"}


# -- the model: `python bench/chat.py --model PORT` -------------------------------------------------------------------


async def model(port: int) -> None:
    """Answers any POST with WORDS events: each the time that it was sent, 5 ms apart; at once when asked for `fast`."""

    def event(delta: dict[str, str], finish: str | None = None) -> bytes:
        data = b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"
        return b"%x\r\n%s\r\n" % (len(data), data)

    end = event({}, "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    models = b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"data":[{"id":"parrot"}]}'.replace(b"25", b"26")
    trial = b'{"choices":[{"message":{"content":"ok"}}]}'

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"(?i)content-length: (\d+)", asked)
                body = await reader.readexactly(int(size[1])) if size else b""
                if asked.startswith(b"GET"):
                    writer.write(models)
                elif b'"stream"' not in body:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(trial) + trial)
                elif b"fast" in body:
                    writer.write(head + event({"content": "word "}) * WORDS + end)
                else:
                    writer.write(head)
                    for _ in range(WORDS):
                        writer.write(event({"content": f"{time.monotonic():.6f} "}))
                        await asyncio.sleep(0.005)
                    writer.write(end)
        writer.close()

    async with await asyncio.start_server(one, "127.0.0.1", port) as server:
        await server.serve_forever()


@contextlib.contextmanager
def standing_in() -> Iterator[int]:
    """A model in a process of its own; its port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, __file__, "--model", str(port)])
    try:
        until(lambda: _open(port))
        yield port
    finally:
        process.terminate()
        process.wait()


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- asking -----------------------------------------------------------------------------------------------------------


def request(way: str, question: str) -> bytes:
    """The bytes of a request."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": question}]}
    if way == "direct":
        asked |= {"model": "parrot", "stream": True}
    body = json.dumps(asked).encode()
    head = f"POST {PATHS[way]} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def one(connection: socket.socket, data: bytes) -> tuple[float, list[float]]:
    """(ms to the first word, ms that each word was late)."""
    began, first, late, answer = time.monotonic(), 0.0, list[float](), b""
    connection.sendall(data)
    while not answer.endswith(b"\r\n0\r\n\r\n"):
        part = connection.recv(65536)
        now = time.monotonic()
        assert part, answer
        answer = answer[-20:] + part
        for stamp in re.findall(rb"(\d+\.\d{6}) ", part):
            first = first or (now - began) * 1000
            late.append((now - float(stamp)) * 1000)
    assert len(late) == WORDS, late
    return first, late


def pairwise(ports: dict[str, int], runs: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(first, late) of each way, asked in turn."""
    first: dict[str, list[float]] = {way: [] for way in ports}
    late: dict[str, list[float]] = {way: [] for way in ports}
    with contextlib.ExitStack() as stack:
        open_ones = {
            way: stack.enter_context(socket.create_connection(("127.0.0.1", port))) for way, port in ports.items()
        }
        for turn in range(runs + 5):
            for way, connection in open_ones.items():
                took, each = one(connection, request(way, "stamps"))
                if turn >= 5:
                    first[way].append(took)
                    late[way] += each
    return first, late


async def flood(port: int, data: bytes, seconds: float) -> float:
    """Answers a second over CONNECTIONS connections."""
    done, end = 0, time.monotonic() + seconds

    async def client() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head[:15], head
            await reader.readuntil(b"\r\n0\r\n\r\n")
            done += 1
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return done / (time.monotonic() - began)


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rates(ports: dict[str, int], app: App) -> dict[str, float]:
    """Answers a second, direct and through the app, in turn; and the app's CPU for one, in ms."""
    found: dict[str, list[float]] = {way: [] for way in ports}
    spent = answered = 0.0
    for _ in range(ROUNDS):
        for way, port in ports.items():
            before = cpu(app.process.pid)
            rate = asyncio.run(flood(port, request(way, "fast"), SECONDS))
            found[way].append(rate)
            if way == "app":
                spent += cpu(app.process.pid) - before
                answered += rate * SECONDS
    return {**{way: statistics.median(r) for way, r in found.items()}, "cpu_ms": spent / answered * 1000}


# -- waiting, failing, opening ----------------------------------------------------------------------------------------


def resident(app: App) -> float:
    """MB."""
    status = Path(f"/proc/{app.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def idle(folder: Path, count: int) -> dict[str, Any]:
    """`count` streams that wait at once, in an app of their own."""
    with Parrot() as bird:
        settings = {"queue": 2000, "client_parallel": 2000, "parallel": 1, "connections": 2100, "queue_seconds": 600}
        with App(folder, bird.url, **settings, log="requests") as app:
            bird.mode, bird.pause, before = "endless", 0.1, resident(app)
            open_ones = [socket.create_connection(("127.0.0.1", app.port)) for _ in range(count)]
            for connection in open_ones:
                connection.sendall(request("app", "say:x"))
            until(lambda: app.metric("hyb_chat_queue_depth") + app.metric("hyb_chat_running") == count)
            took = []
            for _ in range(20):
                began = time.monotonic()
                assert app.http.get("/").status_code == 200
                took.append((time.monotonic() - began) * 1000)
            used, began, spent = resident(app) - before, time.monotonic(), cpu(app.process.pid)
            time.sleep(11)  # a heartbeat of each is in it
            share = (cpu(app.process.pid) - spent) / (time.monotonic() - began)
            for connection in open_ones:
                connection.close()
            bird.mode = "answer"
    return {
        "streams": count,
        "memory_mb": round(used, 1),
        "kb_each": round(used * 1024 / count, 1),
        "page_ms_p50": round(statistics.median(took), 2),
        "cpu_percent": round(share * 100, 1),
    }


def away(folder: Path) -> dict[str, Any]:
    """Each way of a model to be gone: how soon a person is told, and how soon its return is seen."""
    found: dict[str, Any] = {}
    for shape in ("refused", "empty"):
        port = free_port()
        with App(folder / shape, f"http://127.0.0.1:{port}/v1", ready=False) as app:
            bird = Parrot(port).__enter__()
            until(app.is_ready)
            told, noticed = [], []
            for _ in range(3):
                if shape == "refused":
                    bird.__exit__()
                else:
                    bird.mode = "close"
                began = time.monotonic()
                list(app.ask("say:x"))
                told.append((time.monotonic() - began) * 1000)
                until(lambda: not app.is_ready())
                began = time.monotonic()
                if shape == "refused":
                    bird = Parrot(port).__enter__()
                else:
                    bird.mode = "answer"
                until(app.is_ready, 20)
                noticed.append(time.monotonic() - began)
            found[f"{shape}_told_ms"] = round(max(told), 1)
            found[f"{shape}_noticed_s"] = round(max(noticed), 2)
            bird.__exit__()
    return found


def opening(app: App, times: int = 9) -> dict[str, float]:
    """Chromium's ms from the beginning of the navigation, each in a fresh profile, to what a person can use."""
    if not shutil.which("chromium"):
        return {}
    from playwright.sync_api import sync_playwright

    watch = """new MutationObserver(() => {
        if (document.body?.hasAttribute('data-ready')) window.usable ??= performance.now();
    }).observe(document, {subtree: true, childList: true, attributes: true});"""
    usable, painted = list[float](), list[float]()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(times + 1):
            context = browser.new_context()
            context.add_init_script(watch)
            tab = context.new_page()
            tab.goto(app.url)
            tab.wait_for_selector("body[data-ready]")
            until(lambda tab=tab: tab.evaluate("window.usable && performance.getEntriesByType('paint').length"))  # type: ignore[misc]
            usable.append(tab.evaluate("usable"))
            painted.append(tab.evaluate("performance.getEntriesByType('paint')[0].startTime"))
            context.close()
        browser.close()
    return {
        "usable_ms": round(statistics.median(usable[1:]), 1),
        "painted_ms": round(statistics.median(painted[1:]), 1),
    }


# -- all of it --------------------------------------------------------------------------------------------------------


def quantile(values: list[float], q: float) -> float:
    """Of a list, 0 to 1."""
    return sorted(values)[int(q * (len(values) - 1))]


def latency(values: dict[str, list[float]], aim: float) -> dict[str, Any]:
    """Quantiles of both ways in ms, and what is added at the median."""
    found: dict[str, Any] = {
        f"{way}_p{q}": round(quantile(values[way], q / 100), 3) for way in values for q in (50, 95, 99)
    }
    return {**found, "added_p50": round(found["app_p50"] - found["direct_p50"], 3), "aim": aim}


def main(runs: int) -> None:
    """Measure, print, keep."""
    found: dict[str, Any] = {"load_before": os.getloadavg(), "processors": os.cpu_count(), "runs": runs}
    with tempfile.TemporaryDirectory() as temporary, standing_in() as port:
        folder = Path(temporary)
        with App(folder / "one", f"http://127.0.0.1:{port}/v1", client_parallel=99, parallel=CONNECTIONS) as app:
            ports = {"direct": port, "app": app.port}
            first, late = pairwise(ports, runs)
            found["first_ms"], found["chunk_ms"] = latency(first, 2), latency(late, 1)
            rate = rates(ports, app)
            found["requests_per_s"] = {k: round(v, 1) for k, v in rate.items() if k in PATHS}
            found["requests_per_s"]["ratio"] = round(rate["app"] / rate["direct"], 3)
            found["cpu_ms_per_answer"] = round(rate["cpu_ms"], 2)
            found["page"] = opening(app)
        found["idle"] = [idle(folder / str(count), count) for count in (500, 1000)]
        found["away"] = away(folder)
    files = page.load().values()
    found["page"] |= {"bytes": sum(len(f.data) for f in files), "gzip_bytes": sum(len(f.packed) for f in files)}
    found["load_after"] = os.getloadavg()
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(found, indent=1)
    (RESULTS / "chat.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=200, help="requests each way, one after the other")
    options.add_argument("--model", type=int, default=0, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.model:
        asyncio.run(model(given.model))
    else:
        main(given.runs)
