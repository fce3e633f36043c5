"""llama.cpp built for this machine's instructions against the portable wheel. Aim: at least 1.3 times.

    python bench/native.py MODEL.gguf --native WHEEL [--portable WHEEL] [--runs 3] [--threads 2]

WHEEL is what `containers/serve-cpu/native-wheel.sh` left; the portable one defaults to what is installed here. Each is
a server process of its own that runs alone; they take turns, `--runs` times. The figures: a prompt of about
600 tokens, then 128 tokens of answer, in tokens a second by llama.cpp's own clock and in tokens a second of CPU. The
latter hold on a machine where others work, too, with `--threads 1`: more threads burn CPU while they wait.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from common import median, report

from hyb import engine

CHILD = """
import http.client, json, sys, time
import xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.port, p.n_parallel, p.n_ctx, p.ui, p.warmup = sys.argv[1], 0, 1, 2048, False, True
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(sys.argv[2])
p.hostnames = ["127.0.0.1"]
server = xllamacpp.Server(p)
address = server.listening_address.split("//")[-1]
prompt = " ".join(f"Item {i} of the list is number {i * 7 % 13}." for i in range(45))
def ask(text, n):
    body = {"prompt": text, "n_predict": n, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    connection = http.client.HTTPConnection(address, timeout=300)
    connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
    before = time.process_time()
    timings = json.loads(connection.getresponse().read())["timings"]
    return timings, time.process_time() - before
ask("Hello", 4)
t, cpu = ask(prompt, 1)
found = {"prefill": t["prompt_per_second"], "prefill_cpu": t["prompt_n"] / cpu, "tokens": t["prompt_n"]}
t, cpu = ask("Hello", 128)
print(json.dumps({**found, "decode": t["predicted_per_second"], "decode_cpu": t["predicted_n"] / cpu}))
"""


def measured(package: str, model: Path, threads: int) -> dict[str, float]:
    """Tokens a second of one process with the wheel unpacked at `package` ("" for the installed one)."""
    env = {**os.environ, "PYTHONPATH": package, **engine.openmp(os.environ)}
    argv = [sys.executable, "-c", CHILD, str(model), str(threads)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--native", type=Path, required=True)
    parser.add_argument("--portable", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        packages = {"portable": "", "native": ""}
        for name, wheel in (("portable", given.portable), ("native", given.native)):
            if wheel:
                packages[name] = str(Path(folder, name))
                zipfile.ZipFile(wheel).extractall(packages[name])
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in packages}
        for _ in range(given.runs):
            for name, package in packages.items():
                runs[name].append(measured(package, given.model, given.threads))
    rows = []
    for what in ("decode", "prefill", "decode_cpu", "prefill_cpu"):
        portable, native = (median([r[what] for r in runs[name]]) for name in ("portable", "native"))
        unit = "tokens/CPU s" if what.endswith("_cpu") else "tokens/s"
        rows.append(
            {
                "what": f"{what.removesuffix('_cpu')}, {unit}",
                "portable": portable,
                "native": native,
                "ratio": native / portable,
            }
        )
    report(f"native-{given.model.stem}", f"{given.model.name}, {given.threads} threads, median of {given.runs}", rows)


if __name__ == "__main__":
    main()
