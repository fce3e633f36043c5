"""CPU time of `hyb --help` and `hyb version` against bare Python and `hf --help`, in turn. Aim: at most 90 ms."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from common import interleaved, median, report

BIN = Path(sys.executable).parent


def main() -> None:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "hyb version": [str(BIN / "hyb"), "version"],
        "hyb --help": [str(BIN / "hyb"), "--help"],
        "hyb tune --help": [str(BIN / "hyb"), "tune", "--help"],
        "hyb ls": [str(BIN / "hyb"), "ls"],
    }
    if hf := shutil.which("hf", path=str(BIN)):
        commands["hf --help"] = [hf, "--help"]
    found = interleaved(commands, runs=11)
    bare = median([cpu for cpu, _ in found["python -c pass"]])
    rows = [
        {
            "command": name,
            "cpu_ms": round(1000 * (cpu := median([c for c, _ in runs])), 1),
            "of_bare_python": round(cpu / bare, 2),
        }
        for name, runs in found.items()
    ]
    report("startup", "Start-up, median CPU ms of 11 runs in turn", rows)


if __name__ == "__main__":
    main()
