"""A server that is slow, flaps, or sends garbage for hours: each has a limit, and what came whole is kept.

More of the hub's mischief is in tests/e2e/test_pull.py; here the limits of time, size and patience."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import hubserver
from tests.hubserver import Fault, Hub
from tests.hyb import Hyb

SOURCE = "hf://org/m"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    return Hyb(tmp_path / "home")


def env(url: str, tmp_path: Path, **more: str) -> dict[str, str]:
    return {"HF_ENDPOINT": url, "HF_HUB_CACHE": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1", **more}


@contextmanager
def serving(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server on loopback that does `answer` with each connection, until the test ends."""
    stop, listener = threading.Event(), socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    threads: list[threading.Thread] = []

    def one(client: socket.socket) -> None:
        with client:
            try:
                answer(client, stop)
            except OSError:
                return

    def accept() -> None:
        while not stop.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            threads.append(threading.Thread(target=one, args=(client,), daemon=True))
            threads[-1].start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        thread.join()
        for each in threads:
            each.join(timeout=5)
        listener.close()


def garbage(client: socket.socket, stop: threading.Event) -> None:
    """Bytes that are no HTTP, without an end."""
    while not stop.is_set():
        client.sendall(b"\x00garbage\xff" * 1000)


def endless_header(client: socket.socket, stop: threading.Event) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    while not stop.is_set():
        client.sendall(b"X-More: " + b"a" * 1000 + b"\r\n")


def endless_json(client: socket.socket, stop: threading.Event) -> None:
    """The API's answer: an array that never ends."""
    client.recv(1 << 16)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
    while not stop.is_set():
        client.sendall(b'{"a": 1},' * 1000)


def silent(client: socket.socket, stop: threading.Event) -> None:
    """Takes the question and says nothing."""
    client.recv(1 << 16)
    stop.wait()


def one_byte_a_second(client: socket.socket, stop: threading.Event) -> None:
    """Slow enough to keep a reader that waits for each byte, for hours."""
    client.recv(1 << 16)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    while not stop.wait(0.2):
        client.sendall(b" ")


@pytest.mark.parametrize("answer", [garbage, endless_header, endless_json, silent, one_byte_a_second])
def test_a_hub_that_never_says_anything_useful_is_given_up_within_its_limits(
    hyb: Hyb, tmp_path: Path, answer: Callable[[socket.socket, threading.Event], None]
) -> None:
    with serving(answer) as url:
        started = time.monotonic()
        said = hyb.fails(5, "pull", SOURCE, "-q", env=env(url, tmp_path, HYB_HUB_TIMEOUT="1"), timeout=120)
        assert time.monotonic() - started < 100
    assert "127.0.0.1" in said
    assert hyb.json("ls", "--all") == []


def test_a_file_that_comes_by_drops_is_given_up_and_what_came_is_kept(hub: Hub, hyb: Hyb, tmp_path: Path) -> None:
    """Ten bytes a second keep every reader that waits for the next byte; a gigabyte would take three years."""
    hub.add("org/m", hubserver.model())
    hub.fault("/model.safetensors", *[Fault("drip")] * 5)
    limits = env(hub.url, tmp_path, HYB_HUB_TIMEOUT="1")
    said = hyb.fails(5, "pull", SOURCE, "-q", env=limits, timeout=120)
    assert "fewer than" in said
    hyb.ok("pull", SOURCE, "-q", env=env(hub.url, tmp_path))
    assert hub.fetched("model.safetensors")[-1].range != ""


def test_a_line_that_drops_again_and_again_brings_the_file_in_the_end(hub: Hub, hyb: Hyb, tmp_path: Path) -> None:
    """Every connection is cut after some bytes: each try goes on where the last one stopped."""
    hub.add("org/m", hubserver.model(1024))
    hub.fault("/model.safetensors", *[Fault("cut", 100_000)] * 8)
    hyb.ok("pull", SOURCE, "-q", env=env(hub.url, tmp_path), timeout=120)
    ranges = [a.range for a in hub.fetched("model.safetensors")]
    assert len(ranges) == 9
    assert ranges[-1] == "bytes=800000-"


def test_a_slow_line_is_no_failure(hub: Hub, hyb: Hyb, tmp_path: Path) -> None:
    hub.add("org/m", hubserver.model(256))
    hub.rate = 200_000
    hyb.ok("pull", SOURCE, "-q", env=env(hub.url, tmp_path, HYB_HUB_TIMEOUT="5"), timeout=120)


def test_a_repair_fetches_the_one_file_that_is_broken(hub: Hub, hyb: Hyb, tmp_path: Path) -> None:
    """Weights in two shards: one was damaged in the store and in the hub's cache, which share its bytes."""
    files = hubserver.model()
    shard = [hubserver.safetensors({f"w{n}": (8, 8)}, n) for n in range(2)]
    names = [f"model-0000{n + 1}-of-00002.safetensors" for n in range(2)]
    del files["model.safetensors"]
    files |= dict(zip(names, shard, strict=True))
    files["model.safetensors.index.json"] = b'{"weight_map": {"w0": "%s", "w1": "%s"}}' % tuple(
        n.encode() for n in names
    )
    hub.add("org/m", files)
    hyb.ok("pull", SOURCE, "-q", env=env(hub.url, tmp_path))
    found = next(f for f in hyb.json("show", "m")["files"] if f["path"] == names[1])
    path = hyb.store / "blobs" / "sha256" / found["digest"][7:]
    path.chmod(0o644)
    path.write_bytes(shard[1][:-1] + bytes([shard[1][-1] ^ 1]))  # in place: the cache has the same bytes
    hyb.fails(4, "verify", "-q")
    hub.log.clear()
    hyb.ok("repair", "-q", env=env(hub.url, tmp_path))
    assert [a.path.rpartition("/")[2] for a in hub.fetched()] == [names[1]]
    hyb.ok("verify", "-q")
    assert {n for a in hyb.json("ls") for n in a["names"]} == {"m"}


def test_a_repair_that_would_need_the_network_says_so_offline(hub: Hub, hyb: Hyb, tmp_path: Path) -> None:
    hub.add("org/m", hubserver.model())
    hyb.ok("pull", SOURCE, "-q", env=env(hub.url, tmp_path))
    found = next(f for f in hyb.json("show", "m")["files"] if f["path"] == "model.safetensors")
    (hyb.store / "blobs" / "sha256" / found["digest"][7:]).unlink()
    hub.log.clear()
    said = hyb.fails(4, "repair", "-q", "--offline", env=env(hub.url, tmp_path / "elsewhere"))
    assert "is offline" in said
    assert not hub.log
