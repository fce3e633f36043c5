"""What the gateway adds: milliseconds a request, CPU a piece of a stream. `python bench/gateway.py [--json]`.

Behind the gateway's real HTTP edge stands a peer that answers at once, over the same Unix socket and in the same shape
as llama.cpp does, so that nothing but the gateway's own work is measured. The peer and the client are processes of
their own. CPU is the gateway's process (`/proc/PID/stat`), latency is the median of requests over one connection, one
after the other, first straight to the peer and then through the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hyb.serving import port
from hyb.serving.gateway import app, listen, wire
from hyb.serving.gateway.settings import Settings
from hyb.serving.gateway.types import EngineAnswer, GatewayJob, Model, Pick, UnknownModelError

KEY = "hyb_sk_0123456789abcdef0123456789abcdef"
REQUESTS, EVENTS, PACE = 500, 3000, 0.001
CHAT = "/v1/chat/completions"
HEAD = {"model": "bot", "object": "chat.completion.chunk", "created": 1, "id": "chatcmpl-0123456789abcdef0123456789"}
WHOLE = {
    **HEAD, "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Paris."}}],
    "usage": {"prompt_tokens": 30, "completion_tokens": 3, "total_tokens": 33},
}  # fmt: skip


class Straight:
    """Engines of one model that is always there."""

    ready, restarts = True, 0

    def __init__(self, path: str) -> None:
        self._path = path

    def models(self) -> tuple[Model, ...]:
        return (Model("bot", "base", "", 4096, 100),)

    def pick(self, model: str = "") -> Pick:
        if model not in ("", "bot"):
            raise UnknownModelError(model, ["bot"])
        return Pick("bot", "", {})

    @contextlib.asynccontextmanager
    async def send(self, method: str, path: str, body: bytes = b"", **_: Any) -> AsyncIterator[EngineAnswer]:
        async with wire.ask(self._path, method, path, body) as answer:
            yield answer


async def _peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """llama.cpp's side: an answer at once, or `EVENTS` events, one a millisecond."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            body = json.loads(await reader.readexactly(size) or b"{}")
            if not body.get("stream"):
                data = json.dumps(WHOLE, separators=(",", ":")).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
                await writer.drain()
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for n in range(EVENTS):
                choice = {"finish_reason": None, "index": 0, "delta": {"content": f" word{n}"}}
                _event(writer, b"data: " + json.dumps({"choices": [choice], **HEAD}, separators=(",", ":")).encode())
                await asyncio.sleep(PACE)
            usage = {"choices": [], **HEAD, "usage": WHOLE["usage"]}
            _event(writer, b"data: " + json.dumps(usage, separators=(",", ":")).encode())
            _event(writer, b"data: [DONE]")
            writer.write(b"0\r\n\r\n")
            await writer.drain()
    writer.close()


def _event(writer: asyncio.StreamWriter, event: bytes) -> None:
    writer.write(b"%x\r\n" % (len(event) + 2) + event + b"\n\n\r\n")


def peer(path: str) -> None:
    """The peer's process."""

    async def serve() -> None:
        async with await asyncio.start_unix_server(_peer, path, limit=1 << 20) as server:
            await server.serve_forever()

    asyncio.run(serve())


def gateway(folder: str, path: str, sock: socket.socket) -> None:
    """The gateway's process: its real edge and listener."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    key = Path(folder, "own.key")
    key.write_text(KEY)
    job = GatewayJob("bot", "llama.cpp", path, folder, key_path=str(key), keys_path=str(Path(folder, "bot.keys.json")))
    edge = app.build(job, Straight(path), Settings())  # type: ignore[arg-type]
    asyncio.run(listen.Listener(edge, [sock], grace=1).listen())


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def ask(connection: http.client.HTTPConnection, stream: bool = False) -> int:
    """One request; the number of reads that the answer took."""
    body = {"model": "bot", "stream": stream, "messages": [{"role": "user", "content": "What is the capital? " * 20}]}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", CHAT, json.dumps(body).encode(), headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    reads = 0
    while answer.read1(1 << 16):
        reads += 1
    answer.close()  # read1 leaves that out when the length was known
    return reads


def latency(connection: http.client.HTTPConnection) -> float:
    """Median milliseconds of a request."""
    for _ in range(50):
        ask(connection)
    found = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        ask(connection)
        found.append((time.perf_counter() - began) * 1e3)
    return statistics.median(found)


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: str) -> dict[str, float]:
    """Everything. `folder`: where the sockets lie."""
    path = str(Path(folder, "peer.sock"))
    sock = port.listener("127.0.0.1")
    sock.bind(("127.0.0.1", 0))
    processes = [
        multiprocessing.Process(target=peer, args=(path,), daemon=True),
        multiprocessing.Process(target=gateway, args=(folder, path, sock), daemon=True),
    ]
    for process in processes:
        process.start()
    try:
        through = http.client.HTTPConnection("127.0.0.1", sock.getsockname()[1], timeout=60)
        end = time.monotonic() + 20
        while True:
            try:
                ask(through)
                break
            except (OSError, http.client.HTTPException, AssertionError):
                through.close()
                assert time.monotonic() < end, "the gateway never answered"
                time.sleep(0.05)
        straight, via = latency(Unix(path)), latency(through)
        pid = processes[1].pid or 0
        before = cpu(pid)
        reads = ask(through, stream=True)
        used = cpu(pid) - before
        before = cpu(pid)
        for _ in range(2000):
            ask(through)
        each = (cpu(pid) - before) / 2000 * 1e3
    finally:
        for process in processes:
            process.terminate()
            process.join()
        sock.close()
    return {
        "straight_ms": round(straight, 3), "through_ms": round(via, 3), "added_ms": round(via - straight, 3),
        "cpu_ms_a_request": round(each, 3), "cpu_ms_a_piece": round(used / EVENTS * 1e3, 4), "pieces": reads,
    }  # fmt: skip


def main() -> None:
    """Print the figures."""
    multiprocessing.set_start_method("fork")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(folder)
    if "--json" in sys.argv:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
