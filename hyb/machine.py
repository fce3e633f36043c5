"""What this machine has for tuning, and how fast its earlier runs really were.

Measurements are kept in hyb's own folder of data, `tune.json`; no lock, receipt or artifact ever holds one, and without
them a plan is a guess that says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from hyb import engine, fs, places
from hyb.errors import HybError
from hyb.formats.tune_cost import Machine, Measured

FILE = "tune.json"
KEPT = 200  # measurements, the newest


def here(device: str = "auto") -> Machine:
    """This machine as a run on `device` (auto, cuda, cpu) would find it."""
    cores = len(os.sched_getaffinity(0))
    if device != "cpu" and (gpu := _gpu()):
        name, free, taken = gpu
        return Machine("cuda", name, free, cores, measured(), taken)
    return Machine("cpu", "the CPU", _free(), cores, measured())


def measured() -> dict[str, Measured]:
    """What earlier runs gave; nothing when there is none, or when the file is damaged."""
    try:
        found = json.loads(_file().read_bytes())
        return {str(k): Measured(float(v["rate"]), float(v["memory"])) for k, v in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, HybError):
        return {}


def remember(key: str, value: Measured) -> None:
    """Keep a measurement. A folder that can't be written loses it, and nothing else."""
    try:
        kept = {**{k: v for k, v in measured().items() if k != key}, key: value}
        latest = dict(list(kept.items())[-KEPT:])
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        fs.write_atomic(path, (json.dumps({k: asdict(v) for k, v in latest.items()}, indent=1) + "\n").encode())
    except (OSError, HybError):
        return


def _file(environ: Mapping[str, str] = os.environ) -> Path:
    return places.data_home(environ) / FILE


def _gpu() -> tuple[str, int, int] | None:
    """Name, free bytes, and bytes that others have, of the first GPU, as `nvidia-smi` says."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not engine.which("nvidia-smi"):
        return None
    ask = ["nvidia-smi", "--query-gpu=name,memory.free,memory.used", "--format=csv,noheader,nounits"]
    done = engine.run(ask, check=False, timeout=20)
    fields = done.stdout.decode(errors="replace").partition("\n")[0].rsplit(",", 2)
    if done.returncode or len(fields) != 3 or not all(f.strip().isdigit() for f in fields[1:]):
        return None
    return fields[0].strip(), int(fields[1]) << 20, int(fields[2]) << 20


def _free() -> int:
    """Bytes of memory that may be taken, here or in the control group that we are in."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError, KeyError):
        pass
    return free
