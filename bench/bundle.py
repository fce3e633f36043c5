"""bundle create and verify against tar and sha256sum of the same bytes; memory; a delta after an adapter change.

    python bench/bundle.py [--mib 1024] [--runs 3]

Aims: at most 1.2 times the floor, 300 MB, 1.1 times the adapter. The floor of create is `tar -cf` of the same files, an
fsync, and sha256sum of the tar; that of verify is sha256sum of the parts. All in the same run, in turn, from a warm
page cache. create also hashes each blob against its digest, and verify
each piece. Memory is the peak of the whole process, Python and all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import median, report

from hyb import lock as lockfile
from hyb.formats import modelpack
from hyb.lock import Lock, Locked
from hyb.store import Store

ADAPTER = 20 << 20  # bytes
HYB = [sys.executable, "-m", "hyb", "-q"]


def made(folder: Path, mebibytes: int) -> Store:
    """A store with a model of random bytes and an adapter, and a recipe that names them."""
    store = Store(folder / "store")
    with (folder / "weights").open("wb") as out:
        for _ in range(mebibytes):
            out.write(os.urandom(1 << 20))
    small = [modelpack.file(n, store.add_bytes(b"{}" * 5000)) for n in ("config.json", "tokenizer.json")]
    file = modelpack.file("model.safetensors", store.add_file(folder / "weights", how="move"))
    store.add_artifact("model", [file, *small], meta={"name": "bench"})
    (folder / "recipe").mkdir()
    text = "hyb: 1\nname: bench\nstages:\n  base: {stage: pull, source: smollm2-135m}\n"
    text += "  bot: {stage: pull, source: deepseek-r1-1.5b}\n"
    (folder / "recipe" / "hyb.yaml").write_text(text)
    lock(folder, store)
    return store


def lock(folder: Path, store: Store) -> None:
    """A lock that names the model and a new adapter."""
    base = next(a for a in store.artifacts() if a.kind == "model")
    file = modelpack.file("adapter.safetensors", store.add_bytes(os.urandom(ADAPTER)))
    bot = store.add_artifact("adapter", [file], needs=[base.digest])
    stages = {n: Locked("pull", a.digest, {}, a.digest) for n, a in (("base", base), ("bot", bot))}
    lockfile.write(folder / "recipe" / lockfile.FILE, Lock({}, stages))


def hyb(folder: Path, *arguments: str) -> dict[str, object]:
    """A command's JSON."""
    argv = [*HYB[:3], *arguments, "-q", "--json", "--store", str(folder / "store")]
    return dict(json.loads(subprocess.run(argv, check=True, capture_output=True, cwd=folder).stdout))


def create(folder: Path, out: str, *more: str) -> dict[str, object]:
    """`hyb bundle create` into a new folder."""
    shutil.rmtree(folder / out, ignore_errors=True)
    return hyb(folder, "bundle", "create", "recipe", "-o", out, "--no-wheels", "--no-images", *more)


def tarred(folder: Path) -> None:
    """The floor of create."""
    blobs = folder / "store" / "blobs"
    subprocess.run(["tar", "-cf", "floor.tar", "-C", str(blobs), "sha256"], check=True, cwd=folder)
    with (folder / "floor.tar").open("rb") as stream:
        os.fsync(stream.fileno())
    subprocess.run(["sha256sum", "floor.tar"], check=True, capture_output=True, cwd=folder)
    (folder / "floor.tar").unlink()


def summed(folder: Path) -> None:
    """The floor of verify."""
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], check=True, capture_output=True, cwd=folder / "b")


def timed(work: Callable[[], object]) -> float:
    """Wall seconds."""
    clock = time.perf_counter()
    work()
    return time.perf_counter() - clock


def peak(folder: Path, *arguments: str) -> int:
    """The peak memory of a command, in MB."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    argv = [sys.executable, "-c", code, *HYB[:3], *arguments, "-q", "--store", str(folder / "store")]
    return int(subprocess.run(argv, check=True, capture_output=True, cwd=folder).stdout) // 1000


def row(what: str, wall: float, ratio: float, memory: int | str = "") -> dict[str, object]:
    """One line of the table."""
    return {"what": what, "wall_s": wall, "ratio": ratio, "peak_MB": memory}


def main() -> None:
    """See the module's docstring."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--mib", type=int, default=1024)
    options.add_argument("--runs", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="hyb-bench-", dir=os.environ.get("HYB_BENCH_DIR")) as text:
        folder = Path(text)
        store = made(folder, given.mib)
        walls: dict[str, list[float]] = {n: [] for n in ("tar", "create", "sums", "verify")}
        for _ in range(given.runs):
            walls["tar"].append(timed(lambda: tarred(folder)))
            walls["create"].append(timed(lambda: create(folder, "b")))
            walls["sums"].append(timed(lambda: summed(folder)))
            walls["verify"].append(timed(lambda: hyb(folder, "bundle", "verify", "b")))
        mid = {n: median(w) for n, w in walls.items()}
        shutil.rmtree(folder / "b")
        memory = [
            peak(folder, "bundle", "create", "recipe", "-o", "b", "--no-wheels", "--no-images"),
            peak(folder, "bundle", "verify", "b"),
        ]
        lock(folder, store)
        delta = create(folder, "d", "--since", "b")
        shares = {"create": mid["create"] / mid["tar"], "verify": mid["verify"] / mid["sums"]}
        rows: list[dict[str, object]] = [
            row("tar + fsync + sha256sum", mid["tar"], 1.0),
            row("hyb bundle create", mid["create"], shares["create"], memory[0]),
            row("sha256sum -c", mid["sums"], 1.0),
            row("hyb bundle verify", mid["verify"], shares["verify"], memory[1]),
            row("delta, bytes to the adapter's", 0.0, int(str(delta["size"])) / ADAPTER),
        ]
        report("bundle", f"a bundle of {given.mib} MiB, median of {given.runs}", rows)


if __name__ == "__main__":
    main()
