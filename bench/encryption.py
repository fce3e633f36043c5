"""Sealing and opening an image, per GB, against openssl's AES-256-CTR over the same bytes.

    python bench/encryption.py [--mib 512] [--runs 3]

In turn, in the same run, from a warm page cache: `openssl enc -aes-256-ctr` of a file into a file, which is ocicrypt's
cipher and nothing else; the same with `openssl dgst -sha256 -hmac`, which ocicrypt does over the result, too; what hyb
does, `seal` and `take_out`: skopeo's copy, the digests of both sides, fsync, and the files out of their layers. The
last row is `openssl speed`, the rate of the cipher alone on one core.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import median, report

sys.path.insert(0, str(Path(__file__).parents[1]))

from hyb.artifact import Artifact
from hyb.encryption import opened
from hyb.store import Store
from tests.sealing import Keys, a_model, pair, sealed_image

KEY = ["-K", "00" * 32, "-iv", "00" * 16]


def used() -> float:
    """CPU seconds of this process and of its children."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in both)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall seconds, CPU seconds)."""
    before, clock = used(), time.perf_counter()
    work()
    return time.perf_counter() - clock, used() - before


def openssl(source: Path, target: Path, *, digest: bool) -> None:
    """The cipher, and with `digest` the code over the result."""
    subprocess.run(["openssl", "enc", "-aes-256-ctr", *KEY, "-in", source, "-out", target], check=True)
    if digest:
        subprocess.run(["openssl", "dgst", "-sha256", "-hmac", "k", target], check=True, capture_output=True)


def speed() -> float:
    """GB/s of the cipher alone, by `openssl speed`."""
    command = ["openssl", "speed", "-seconds", "1", "-bytes", "16384", "-evp", "aes-256-ctr"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(re.findall(r"([\d.]+)k\s*$", said.strip())[0]) / 1e6


def packed(store: Store, model: Artifact, keys: Keys) -> tuple[Artifact, tuple[float, float]]:
    """A sealed image whose clear layers are written already, and what the sealing took."""
    sealed_image(store, model, [])
    found: list[Artifact] = []
    took = timed(lambda: found.append(sealed_image(store, model, [keys])))
    return found[0], took


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--mib", type=int, default=512)
    arguments.add_argument("--runs", type=int, default=3)
    chosen = arguments.parse_args()
    size = chosen.mib << 20
    taken: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="hyb-bench-") as text:
        folder = Path(text)
        keys, source = pair(folder, "key"), folder / "weights"
        with source.open("wb") as out:
            for _ in range(chosen.mib):
                out.write(os.urandom(1 << 20))
        for _ in range(chosen.runs):
            store = Store(folder / "store")
            model = a_model(store, source.read_bytes())
            image, seal = packed(store, model, keys)
            (folder / "out").mkdir()
            turn = {
                "openssl enc -aes-256-ctr": timed(lambda: openssl(source, folder / "enc", digest=False)),
                "openssl enc, then dgst -hmac": timed(lambda: openssl(source, folder / "enc", digest=True)),
                "seal (hyb pack --encrypt-to)": seal,
                "take_out (hyb serve --decryption-key)": timed(
                    lambda s=store, i=image: opened.take_out(s, i, keys.private, folder / "out")  # type: ignore[misc]
                ),
            }
            for name, took in turn.items():
                taken.setdefault(name, []).append(took)
            shutil.rmtree(folder / "store")
            shutil.rmtree(folder / "out")
    floor = median([wall for wall, _ in taken["openssl enc -aes-256-ctr"]])
    rows = [
        {
            "way": name,
            "wall s/GB": median([w for w, _ in each]) * 1e9 / size,
            "cpu s/GB": median([c for _, c in each]) * 1e9 / size,
            "ratio": median([w for w, _ in each]) / floor,
        }
        for name, each in taken.items()
    ]
    rate = 1 / speed()
    rows.append(
        {"way": "openssl speed, one core", "wall s/GB": rate, "cpu s/GB": rate, "ratio": rate * size / 1e9 / floor}
    )
    report("encryption", f"{chosen.mib} MiB, median of {chosen.runs}", rows)


if __name__ == "__main__":
    main()
