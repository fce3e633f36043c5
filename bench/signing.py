"""Signing and verifying a model against sha256 alone of the same bytes, and against model-signing.

    python bench/signing.py [--mib 2048] [--files 2] [--runs 5] [--peer …/model_signing]      aim: at most 1.1 times

The floor is hashlib's sha256 of every file, one after the other, in this process; all from a warm page cache, in turn.
`one thread` tells the format's own cost: hyb hashes several files at once otherwise, which is faster than the floor
where there are processors for it. A key pair on P-256. `--peer` is the command line of model-signing 1.1.1, whose time
holds its start, too.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import median, report

from hyb import digest as dg
from hyb.artifact import Artifact
from hyb.formats import modelpack
from hyb.progress import silent
from hyb.signing import attached, folder, keys
from hyb.store import Store


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall seconds, CPU seconds of this process and its children)."""
    before, clock = os.times(), time.perf_counter()
    work()
    after = os.times()
    return time.perf_counter() - clock, sum(after[:4]) - sum(before[:4])


def a_model(root: Path, mib: int, files: int) -> None:
    """Shards of random bytes."""
    root.mkdir()
    for index in range(files):
        with (root / f"model-{index + 1:05d}-of-{files:05d}.safetensors").open("wb") as out:
            for _ in range(mib // files):
                out.write(os.urandom(1 << 20))


def an_artifact(store: Store, root: Path) -> Artifact:
    """The same files in a store."""
    files = [modelpack.file(p.name, store.add_file(p, how="link")) for p in sorted(root.iterdir())]
    return store.add_artifact("model", files)


def ways(home: Path, peer: str) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    root, made = home / "m", keys.generate(home / "keys")
    key = keys.load_private(made.private)
    signature = home / "m.sig"
    signature.write_bytes(folder.sign(root, key, silent))
    store = Store(home / "store")
    artifact = an_artifact(store, root)
    attached.sign(store, artifact, "m", key, silent)

    def one_thread() -> None:
        folder.WORKERS, before = 1, folder.WORKERS
        folder.verify(root, signature, [key.public], silent)
        folder.WORKERS = before

    def of_the_store() -> None:
        for file in artifact.files:
            store.check(file.blob, thorough=True)
        assert attached.find(store, artifact, [key.public]).good

    found: dict[str, Callable[[], object]] = {
        "sha256 alone": lambda: [dg.of_file(p) for p in sorted(root.iterdir())],
        "verify a folder, one thread": one_thread,
        "sign a folder": lambda: folder.sign(root, key, silent),
        "verify a folder": lambda: folder.verify(root, signature, [key.public], silent),
        "verify an artifact": of_the_store,
    }
    if peer:
        options = ["--signature", str(home / "peer.sig")]
        sign = [peer, "sign", "key", *options, "--private_key", str(made.private), str(root)]
        verify = [peer, "verify", "key", *options, "--public_key", str(made.public), str(root)]
        found["model-signing: sign"] = lambda: subprocess.run(sign, check=True, capture_output=True)
        found["model-signing: verify"] = lambda: subprocess.run(verify, check=True, capture_output=True)
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer", default="", help="the program model_signing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        a_model(home / "m", given.mib, given.files)
        doing = ways(home, given.peer)
        times: dict[str, list[tuple[float, float]]] = {what: [] for what in doing}
        for turn in range(given.runs + 1):
            for what, work in doing.items():
                spent = timed(work)
                if turn:
                    times[what].append(spent)
    floor = median([cpu for _, cpu in times["sha256 alone"]]), median([wall for wall, _ in times["sha256 alone"]])
    gib = given.mib / 1024
    rows = [
        {
            "what": what, "CPU s/GiB": median([c for _, c in spent]) / gib,
            "wall s/GiB": median([w for w, _ in spent]) / gib,
            "CPU times sha256": median([c for _, c in spent]) / floor[0],
            "wall times sha256": median([w for w, _ in spent]) / floor[1],
        }
        for what, spent in times.items()
    ]  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    report("signing", f"signing {given.mib} MiB in {given.files} files, medians of {given.runs}; peak {peak} MiB", rows)


if __name__ == "__main__":
    sys.exit(main())
