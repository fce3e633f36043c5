"""hyb's fetch against `hf download`, from the same hub on loopback: seconds, and the ratio of the two.

    python bench/pull.py [--runs 5] [--megabytes 512] [--shards 4 1]

Each run is a whole process with an empty cache, the contenders in turn. `hyb fetch` does what `hf download` does, and
hashes; `hyb fetch into the store` also links into a store and syncs the disk. `ratio` above 1 is faster than
`hf download`. Results: bench/results/pull.json.
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
from pathlib import Path

from common import median, report

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.hubserver import Content, Hub, environment, model  # noqa: E402

FETCH = """
import sys
from pathlib import Path
from hyb import hub
from hyb.store import Store
place = hub.Place(Store(Path(sys.argv[1])), Path(sys.argv[1]))
files = hub.fetch(hub.pin("hf://o/n@main", offline=False), place)
if len(sys.argv) > 2:
    for f in files:
        place.store.add_file(f.file, how="link", trusted=f.digest)
"""


def contenders(work: Path) -> dict[str, list[str]]:
    """Name → command; the first is what the others are held against."""
    hf = Path(sys.executable).with_name("hf")
    hyb = [sys.executable, "-c", FETCH, str(work / "store")]
    return {"hf download": [str(hf), "download", "o/n"], "hyb fetch": hyb, "hyb fetch into the store": [*hyb, "store"]}


def shards(folder: Path, megabytes: int, count: int) -> dict[str, Content]:
    """A model of `count` files of random bytes, each a safetensors file."""
    files = model()
    del files["model.safetensors"]
    side = megabytes * 1_000_000 // count // 2
    for i in range(1, count + 1):
        name = f"model-{i:05d}-of-{count:05d}.safetensors"
        head = json.dumps({f"w{i}": {"dtype": "BF16", "shape": [side], "data_offsets": [0, 2 * side]}}).encode()
        with (folder / name).open("wb") as out:
            out.write(len(head).to_bytes(8, "little") + head)
            left = 2 * side
            while left:
                out.write(os.urandom(min(left, 1 << 24)))
                left -= min(left, 1 << 24)
        files[name] = folder / name
    files["model.safetensors.index.json"] = b'{"weight_map": {}}'
    return files


def timed(argv: list[str], work: Path, env: dict[str, str]) -> float:
    """Seconds of one run with nothing there before."""
    for name in ("cache", "store"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "store").mkdir()
    start = time.perf_counter()
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{argv[0]} failed:\n{done.stderr}")
    return seconds


def main() -> None:
    """Run, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--shards", type=int, nargs="+", default=[4, 1])
    options = parser.parse_args()
    rows = []
    for count in options.shards:
        times = measured(options.megabytes, count, options.runs)
        base = median(next(iter(times.values())))
        for name, t in times.items():
            rate = options.megabytes / median(t)
            rows.append({"": name, "files": count, "median s": median(t), "MB/s": rate, "ratio": base / median(t)})
    report("pull", f"pull of {options.megabytes} MB, {options.runs} runs in turn", rows)


def measured(megabytes: int, count: int, runs: int) -> dict[str, list[float]]:
    """Seconds of each run by contender, for a model in `count` files."""
    with tempfile.TemporaryDirectory() as folder, Hub() as server:
        work = Path(folder)
        server.add("o/n", shards(work, megabytes, count))
        env = {**environment(server, work / "cache"), "PYTHONPATH": str(ROOT)}
        times: dict[str, list[float]] = {name: [] for name in contenders(work)}
        for _ in range(runs):
            for name, argv in contenders(work).items():
                times[name].append(timed(argv, work, env))
    return times


if __name__ == "__main__":
    main()
