"""pack of a random model against this machine's own read + sha256 + write of the same bytes. Aim: at most 1.3 times.

    python bench/pack.py [--mib 1024] [--runs 5]

The floor is what nobody who copies and hashes can go below without doing both at once: `cp` of the weights and an
fsync, then hashlib's sha256 of the source, one after the other. pack reads, hashes, writes and fsyncs, too, and
writes the image's documents. All in the same run, in turn; every row is from a warm page cache.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import median, report

from hyb import digest as dg
from hyb.artifact import Artifact
from hyb.formats import modelpack
from hyb.stages import pack
from hyb.stages.base import Context
from hyb.store import Store


def cpu() -> float:
    """CPU seconds of this process and of its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall seconds, CPU seconds)."""
    before, clock = cpu(), time.perf_counter()
    work()
    return time.perf_counter() - clock, cpu() - before


def copied(source: Path, target: Path) -> None:
    """`cp`, and the bytes on the disk."""
    subprocess.run(["cp", str(source), str(target)], check=True)
    with target.open("rb") as stream:
        os.fsync(stream.fileno())


def packed(store: Store, model: Artifact, run: int) -> None:
    """One pack from nothing: the layers of the last one are taken away first (not timed)."""
    pack.run(pack.Spec(model="m"), {"m": model}, Context(store, store.work(f"sha256:{run}")))


def a_model(store: Store, path: Path, mebibytes: int) -> Artifact:
    """Random bytes as one weight file, beside two small files."""
    with path.open("wb") as out:
        for _ in range(mebibytes):
            out.write(os.urandom(1 << 20))
    small = [modelpack.file(name, store.add_bytes(b"{}" * 5000)) for name in ("config.json", "tokenizer.json")]
    return store.add_artifact("model", [modelpack.file("model.safetensors", store.add_file(path)), *small])


def main() -> None:
    """See the module's docstring."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--mib", type=int, default=1024)
    options.add_argument("--runs", type=int, default=5)
    given = options.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"cp + fsync": [], "sha256": [], "hyb pack": []}
    with tempfile.TemporaryDirectory(prefix="hyb-bench-", dir=os.environ.get("HYB_BENCH_DIR")) as folder:
        source, target, store = Path(folder, "weights"), Path(folder, "copy"), Store(Path(folder, "store"))
        model = a_model(store, source, given.mib)
        kept = {p.name for p in store.blobs.iterdir()}
        for run in range(given.runs):
            found["cp + fsync"].append(timed(lambda: copied(source, target)))
            target.unlink()
            found["sha256"].append(timed(lambda: dg.of_file(source)))
            found["hyb pack"].append(timed(lambda run=run: packed(store, model, run)))  # type: ignore[misc]
            for blob in store.blobs.iterdir():
                if blob.name not in kept:
                    blob.unlink()
    floors = [a[0] + b[0] for a, b in zip(found["cp + fsync"], found["sha256"], strict=True)]
    rows = [row(name, [w for w, _ in values], [c for _, c in values], given.mib) for name, values in found.items()]
    rows.insert(
        2, row("floor: the two above", floors, [0.0], given.mib) | {"cpu_s": rows[0]["cpu_s"] + rows[1]["cpu_s"]}
    )
    for each in rows:
        each["ratio"] = each["wall_s"] / median(floors)
    report("pack", f"pack of {given.mib} MiB, median of {given.runs} (ratio to the floor; aim: at most 1.3)", rows)


def row(name: str, wall: list[float], used: list[float], mebibytes: int) -> dict[str, object]:
    """One line of the table."""
    return {"what": name, "wall_s": median(wall), "cpu_s": median(used), "MiB_per_s": mebibytes / median(wall)}


if __name__ == "__main__":
    main()
