"""Wall time of `hyb link` and `hyb deploy`, as a person waits for them, against `hyb version` and bare Python, in turn.

Aim: at most 0.5 s each. The first time `hyb link` makes a CA and two certificates; again, nothing changes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from common import cost, median, report

from hyb.store import Store

BIN = Path(sys.executable).parent
RUNS = 11
LINK = ("link", "service", "--namespace", "chat", "--apps-domain", "apps.example.com", "--name", "van", "-q")
DEPLOY = ("deploy", "van", "--image", "registry.example.com/hyb-chat@sha256:" + "a" * 64, "--host", "chat.example.com")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        store = Store(root / "store")
        meta = {"name": "bot", "port": 8000, "host": "127.0.0.1", "targets": ["quadlet"]}
        store.tag("service", store.add_artifact("service", [], meta=meta).digest)
        found = measured(root)
    bare, version = (median([wall for _, wall in found[name]]) for name in ("python -c pass", "hyb version"))
    rows = [
        {
            "command": name,
            "wall_ms": round(1000 * (wall := median([w for _, w in runs])), 1),
            "cpu_ms": round(1000 * median([c for c, _ in runs]), 1),
            "of_bare_python": round(wall / bare, 2),
            "of_hyb_version": round(wall / version, 2),
        }
        for name, runs in found.items()
    ]
    load = os.getloadavg()[0]
    report("documents", f"Documents, median ms of {RUNS} runs in turn (load {load:.1f}; aim 500)", rows)


def measured(root: Path) -> dict[str, list[tuple[float, float]]]:
    """Command → (CPU seconds, wall seconds) of each run; the first round is not counted."""
    env = {"HOME": str(root), "HYB_STORE": str(root / "store"), "XDG_DATA_HOME": str(root / "data")}
    env["PYTHONDONTWRITEBYTECODE"] = ""  # as it's installed: compiled once
    hyb = [sys.executable, "-m", "hyb"]
    everything = [*DEPLOY, "--for", "all", "--ingress-class", "nginx", "--gateway", "gateways/public"]
    everything += ["--pod-network", "10.244.0.0/16", "--nginx-image", DEPLOY[3]]
    link, page, pages = (str(root / name) for name in ("link", "deploy", "deploy-all"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "hyb version": [*hyb, "version"],
        "hyb link (first time)": [*hyb, *LINK, "--out", link],
        "hyb link (again)": [*hyb, *LINK, "--out", link],
        "hyb deploy (first time)": [*hyb, *DEPLOY, "--out", page],
        "hyb deploy (again)": [*hyb, *DEPLOY, "--out", page],
        "hyb deploy --for all (first time)": [*hyb, *everything, "--out", pages],
        "hyb deploy --diff": [*hyb, *DEPLOY, "--diff", page],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(RUNS + 1):
        for folder in (link, page, pages, str(root / "data")):
            shutil.rmtree(folder, ignore_errors=True)
        for name, argv in commands.items():
            once = cost(argv, env)
            if turn:
                found[name].append(once)
    return found


if __name__ == "__main__":
    main()
