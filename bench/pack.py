"""pack of a random model against this machine's copy + fsync + sha256 of the same bytes, and against `podman build`.

    python bench/pack.py [--mib 1024] [--runs 5] [--no-podman]         aims: at most 1.3 times, 3 times faster than COPY
    python bench/pack.py --mib 2861 --runs 3                           the 3 GB model

The floor is `cp` of the weights and an fsync, then hashlib's sha256 of the source, one after the other. pack reads,
hashes, writes and fsyncs, too, and writes the image's documents. All in the same run, in turn, from a warm page cache.
Peak disk is what the store's files take at the worst moment of a pack, over the model itself. The second table is an
adapter that changes: `hyb pack --update` as a command, without and with Podman having the image.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common import median, report

from hyb import digest as dg
from hyb.artifact import Artifact
from hyb.formats import modelpack
from hyb.stages import pack
from hyb.stages.base import Context
from hyb.store import Store

ADAPTER = 20 << 20  # bytes: LoRA of rank 16 on a model of 1.5B


def cpu() -> float:
    """CPU seconds of this process and of its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall seconds, CPU seconds)."""
    before, clock = cpu(), time.perf_counter()
    work()
    return time.perf_counter() - clock, cpu() - before


def taken(folder: Path) -> int:
    """Bytes on the disk of all files in a folder, a file with several names once."""
    found = {}
    for path in folder.rglob("*"):
        try:
            stat = path.lstat()
        except FileNotFoundError:
            continue
        found[stat.st_ino] = stat.st_blocks * 512
    return sum(found.values())


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """The bytes that a folder takes, looked at 50 times a second."""
    seen, over = [taken(folder)], threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            seen.append(taken(folder))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def copied(source: Path, target: Path) -> None:
    """`cp`, and the bytes on the disk."""
    subprocess.run(["cp", "--reflink=never", str(source), str(target)], check=True)
    with target.open("rb") as stream:
        os.fsync(stream.fileno())


def packed(store: Store, model: Artifact, run: int) -> Artifact:
    """One pack from nothing: the image and the layers of the last one are taken away first (not timed)."""
    return pack.run(pack.Spec(model="m"), {"m": model}, Context(store, store.work(f"sha256:{run}")))


def built(folder: Path) -> None:
    """What Podman's own way costs: a Containerfile with a COPY."""
    subprocess.run(
        ["podman", "--remote=false", "build", "--quiet", "--no-cache", "--network=none", "--tag=peer", str(folder)],
        check=True, capture_output=True,
    )  # fmt: skip


@contextmanager
def podman(folder: Path) -> Iterator[Path]:
    """A Podman storage of the bench's own, gone afterwards."""
    storage = folder / "storage.conf"
    run = Path(tempfile.mkdtemp(prefix="hyb-", dir="/tmp"))  # Podman refuses a long path here
    storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{run}"\n')
    os.environ |= {"CONTAINERS_STORAGE_CONF": str(storage), "TMPDIR": str(folder), "CONTAINER_HOST": ""}
    try:
        yield folder / "graph"
    finally:
        subprocess.run(["podman", "--remote=false", "rmi", "--all", "--force"], capture_output=True, check=False)
        subprocess.run(["umount", str(folder / "graph/overlay")], capture_output=True, check=False)
        shutil.rmtree(run, ignore_errors=True)


def a_model(store: Store, path: Path, mebibytes: int) -> Artifact:
    """Random bytes as one weight file, beside two small files."""
    with path.open("wb") as out:
        for _ in range(mebibytes):
            out.write(os.urandom(1 << 20))
    small = [modelpack.file(name, store.add_bytes(b"{}" * 5000)) for name in ("config.json", "tokenizer.json")]
    files = [modelpack.file("model.gguf", store.add_file(path)), *small]
    return store.add_artifact("model", files, meta={"format": "gguf", "name": "bench"})


def an_adapter(store: Store, model: Artifact) -> Artifact:
    """Random bytes as an adapter of the model."""
    file = modelpack.file("adapter.gguf", store.add_bytes(os.urandom(ADAPTER)))
    return store.add_artifact("adapter", [file], meta={"format": "gguf", "base": model.digest})


def main() -> None:
    """See the module's docstring."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--mib", type=int, default=1024)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--no-podman", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="hyb-bench-", dir=os.environ.get("HYB_BENCH_DIR")) as text:
        folder, store = Path(text), Store(Path(text, "store"))
        source = folder / "weights"
        model = a_model(store, source, given.mib)
        peer = not given.no_podman and shutil.which("podman") is not None
        suffix = "" if given.mib == 1024 else f"-{given.mib}"
        if not peer:
            rows = measure(folder, store, model, given.mib, given.runs, peer=False)
            report(f"pack{suffix}", title(given.mib, given.runs), rows)
            return
        with podman(folder) as graph:
            rows = measure(folder, store, model, given.mib, given.runs, peer=True)
            report(f"pack{suffix}", title(given.mib, given.runs), rows)
            report(f"pack-update{suffix}", "an adapter of 20 MiB changes (medians; ratio to the adapter's bytes)",
                   updates(store, model, graph, given.runs))  # fmt: skip


def title(mebibytes: int, runs: int) -> str:
    """Of the first table."""
    return f"pack of {mebibytes} MiB, median of {runs} (ratio to the floor; aim: at most 1.3)"


def measure(
    folder: Path, store: Store, model: Artifact, mebibytes: int, runs: int, *, peer: bool
) -> list[dict[str, object]]:
    """The first table."""
    source, target = folder / "weights", folder / "copy"
    found: dict[str, list[tuple[float, float]]] = {"cp + fsync": [], "sha256": [], "hyb pack": []}
    kept, index = {p.name for p in store.blobs.iterdir()}, (store.root / "index.json").read_bytes()
    peaks, size = [], model.size
    for run in range(runs):
        found["cp + fsync"].append(timed(lambda: copied(source, target)))
        target.unlink()
        found["sha256"].append(timed(lambda: dg.of_file(source)))
        found["hyb pack"].append(timed(lambda run=run: packed(store, model, run)))  # type: ignore[misc]
        forget(store, kept, index)
    with watched(store.root) as seen:
        packed(store, model, runs)
    peaks.append(max(seen) - seen[0])
    forget(store, kept, index)
    if peer:
        (folder / "context").mkdir()
        os.link(source, folder / "context/weights")
        (folder / "context/Containerfile").write_text("FROM scratch\nCOPY weights /models/\n")
        found["podman build, COPY (once)"] = [timed(lambda: built(folder / "context"))]
        subprocess.run(["podman", "--remote=false", "rmi", "--force", "peer"], check=True, capture_output=True)
    floors = [a[0] + b[0] for a, b in zip(found["cp + fsync"], found["sha256"], strict=True)]
    rows = [row(name, [w for w, _ in values], [c for _, c in values], mebibytes) for name, values in found.items()]
    both = [a[1] + b[1] for a, b in zip(found["cp + fsync"], found["sha256"], strict=True)]
    rows.insert(2, row("floor: the two above", floors, both, mebibytes))
    for each in rows:
        each["ratio"] = float(str(each["wall_s"])) / median(floors)
        each["peak_disk"] = peaks[0] / size if each["what"] == "hyb pack" else ""
    return rows


def updates(store: Store, model: Artifact, graph: Path, runs: int) -> list[dict[str, object]]:
    """The second table: `hyb pack --update`, in the store alone, and into Podman, too."""
    store.tag("bench", model.digest)
    rows = []
    hyb = [sys.executable, "-m", "hyb"]
    common = ["--store", str(store.root), "-q"]
    for what, more in (("in the store", []), ("in the store and in Podman", ["--to-podman"])):
        name = "image" if more else "plain"
        subprocess.run([*hyb, "pack", "bench", "--name", name, *more, *common], check=True, capture_output=True)
        walls, stored, delivered = [], [], []
        for _ in range(runs):
            adapter = an_adapter(store, model)
            before = taken(store.root), taken(graph)
            argv = [*hyb, "pack", "--update", name, "--adapter", f"lora={adapter.digest}", *common]
            walls.append(timed(lambda argv=argv: subprocess.run(argv, check=True, capture_output=True))[0])  # type: ignore[misc]
            stored.append(taken(store.root) - before[0])
            delivered.append(taken(graph) - before[1])
        rows.append({"what": what, "wall_s": median(walls), "store_bytes": median(stored),
                     "ratio": median(stored) / ADAPTER, "podman_bytes": median(delivered) if more else 0,
                     "podman_ratio": median(delivered) / ADAPTER if more else 0.0})  # fmt: skip
    return rows


def forget(store: Store, kept: set[str], index: bytes) -> None:
    """Back to the model alone, so that the next pack has no layer to take."""
    (store.root / "index.json").write_bytes(index)
    for blob in store.blobs.iterdir():
        if blob.name not in kept:
            blob.unlink()


def row(name: str, wall: list[float], used: list[float], mebibytes: int) -> dict[str, object]:
    """One line of the table."""
    return {"what": name, "wall_s": median(wall), "cpu_s": median(used), "MiB_per_s": mebibytes / median(wall)}


if __name__ == "__main__":
    main()
