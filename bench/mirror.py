"""`hyb mirror serve` against nginx with the same files, many clients at once: bytes a second, and the ratio of the two.

    python bench/mirror.py [--runs 5] [--megabytes 256] [--clients 1 16]

nginx sends by sendfile, too, with as many workers as there are processors. A client is a process of its own that reads
into one buffer and keeps nothing; of `small` each client asks for 200 files of 4 kB over one connection. The two are
asked in turn; the median of all runs counts. `ratio` above 1 is faster than nginx. `snapshot` is what the lab does: the
real huggingface_hub fetches a model of one large file and 200 of 4 kB, from the mirror and from an nginx that has the
same answers and headers as files. Results: bench/results/mirror.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from common import median, report

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hyb.artifact import File  # noqa: E402
from hyb.store import Store  # noqa: E402

SMALL = 200
CONF = """daemon off; pid {0}/pid; error_log {0}/error.log; worker_processes auto;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
server {{ listen 127.0.0.1:{1}; root {0}; include {0}/hub.conf; }} }}
"""
HUB_FILE = """location = {0} {{ alias {1}; add_header X-Repo-Commit {2}; add_header X-Linked-Size {3};
add_header X-Linked-Etag '"{4}"'; }}
"""
SNAPSHOT = """import sys, time
from huggingface_hub import snapshot_download
began = time.perf_counter()
snapshot_download("bench", cache_dir=sys.argv[1])
print(time.perf_counter() - began)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def fetch(port: int, path: str, times: int) -> int:
    """Read a path over one connection; the bytes that came."""
    found = 0
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(times):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1 << 16)
            start, _, body = head.partition(b"\r\n\r\n")
            assert start.startswith(b"HTTP/1.1 200"), start
            length = int(start.lower().partition(b"content-length:")[2].split()[0])
            left = length - len(body)
            while left:
                got = connection.recv_into(buffer, min(left, len(buffer)))
                assert got
                left -= got
            found += length
    return found


def together(port: int, path: str, clients: int, times: int) -> float:
    """Bytes a second of several clients."""
    with multiprocessing.Pool(clients) as pool:
        pool.map(abs, range(clients))  # all of them are there
        began = time.perf_counter()
        total = sum(pool.starmap(fetch, [(port, path, times)] * clients, chunksize=1))
        return total / (time.perf_counter() - began)


def measure(ports: dict[str, int], paths: dict[str, str], clients: int, times: int, runs: int) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in ports}
    for turn in range(runs + 1):
        for name, port in ports.items():
            rate = together(port, paths[name], clients, times)
            if turn:
                rates[name].append(rate)
    return {name: median(found) for name, found in rates.items()}


def hub_conf(work: Path, port: int) -> None:
    """Have nginx say what the hub says of the model `bench`, as the mirror on `port` says it."""

    def answered(path: str, name: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            (work / name).write_bytes(told := answer.read())
        return bytes(told)

    model = json.loads(answered("/api/models/bench/revision/main", "revision.json"))
    tree = f"/api/models/bench/tree/{model['sha']}"
    answered(f"{tree}?recursive=true&expand=false", "tree.json")
    conf = "default_type application/json;\n"
    for path, name in (("/api/models/bench/revision/main", "revision.json"), (tree, "tree.json")):
        conf += f"location = {path} {{ alias {work}/{name}; }}\n"
    for file in model["siblings"]:
        name, known = file["rfilename"], file["lfs"]
        path = f"/bench/resolve/{model['sha']}/{name}"
        conf += HUB_FILE.format(path, work / name, model["sha"], known["size"], known["sha256"])
    (work / "hub.conf").write_text(conf)


def snapshots(ports: dict[str, int], work: Path, runs: int) -> dict[str, float]:
    """Bytes a second by which huggingface_hub fetches the whole model, each time into an empty cache."""
    total = sum(p.stat().st_size for p in work.iterdir() if p.suffix in (".bin", ".json"))
    found: dict[str, list[float]] = {name: [] for name in ports}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(work / "hf")}
    for turn in range(runs + 1):
        for name, port in ports.items():
            cache = work / "cache"
            line = [sys.executable, "-c", SNAPSHOT, str(cache)]
            env = {**os.environ, **quiet, "HF_ENDPOINT": f"http://127.0.0.1:{port}"}
            took = float(subprocess.run(line, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)
            shutil.rmtree(cache)
            if turn:
                found[name].append(total / took)
    return {name: median(rates) for name, rates in found.items()}


def row(files: str, clients: int, found: dict[str, float]) -> dict[str, object]:
    """A line of the result, printed as soon as it is there."""
    rates = {f"{name} MB/s": rate / 1e6 for name, rate in found.items()}
    made: dict[str, object] = {"files": files, "clients": clients, **rates, "ratio": found["hyb"] / found["nginx"]}
    print(json.dumps(made), flush=True)
    return made


def until_up(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("a server did not come up")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="hyb-mirror-"))
    work.chmod(0o755)
    store = Store(work / "store")
    for name, size in (("large.bin", asked.megabytes << 20), ("small.bin", 4096)):
        with (work / name).open("wb") as out:
            for _ in range(max(1, size >> 20)):
                out.write(os.urandom(min(size, 1 << 20)))
    for number in range(SMALL):
        (work / f"part{number:03}.json").write_bytes(os.urandom(4096))
    names = ["large.bin", "small.bin", *(f"part{n:03}.json" for n in range(SMALL))]
    files = [File(name, store.add_file(work / name, how="link")) for name in names]
    store.tag("bench", store.add_artifact("model", files).digest)
    ports = {"nginx": free_port(), "hyb": free_port()}
    (work / "nginx.conf").write_text(CONF.format(work, ports["nginx"]))
    line = [
        sys.executable,
        "-m",
        "hyb",
        "mirror",
        "serve",
        "--port",
        str(ports["hyb"]),
        "--store",
        str(store.root),
        "-q",
    ]
    hyb = subprocess.Popen(line, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    until_up(ports["hyb"])
    hub_conf(work, ports["hyb"])
    nginx = subprocess.Popen([str(shutil.which("nginx")), "-c", str(work / "nginx.conf")], stderr=subprocess.DEVNULL)
    rows: list[dict[str, object]] = []
    try:
        until_up(ports["nginx"])
        for what, times in (("large", 1), ("small", SMALL)):
            paths = {"nginx": f"/{what}.bin", "hyb": f"/bench/resolve/main/{what}.bin"}
            for clients in asked.clients:
                found = measure(ports, paths, clients, times, asked.runs)
                rows.append(row(what, clients, found))
        found = snapshots(ports, work, asked.runs)
        rows.append(row("snapshot", 1, found))
    finally:
        for child in (nginx, hyb):
            child.terminate()
            child.wait()
        shutil.rmtree(work)
    report("mirror", "hyb mirror serve against nginx", rows)


if __name__ == "__main__":
    main()
