"""A real model behind llama.cpp's real server, for the chat app's tests: `python -m tests.chat_model GGUF PORT KEY`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from hyb import engine

KEY = "hyb_sk_only-for-this-test"
ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Model:
    """Starts, stops and freezes the model's server, always on the same port."""

    def __init__(self, gguf: Path, folder: Path, *, context: int = 2048) -> None:
        self.gguf, self.port, self.context = gguf, free_port(), context
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.log = folder / "model.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it has loaded the model."""
        command = [sys.executable, "-m", "tests.chat_model", str(self.gguf), str(self.port), KEY, str(self.context)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                    return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-2000:]
                time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut does."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def serve(gguf: str, port: int, key: str, context: int) -> None:
    """llama.cpp's server, two slots."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = gguf
    p.model_alias = {"bot"}
    p.hostnames, p.port, p.reuse_port = ["127.0.0.1"], port, True
    p.api_keys = [key]
    p.n_parallel, p.n_ctx = 2, context * 2
    p.sampling.seed = 1
    p.ui = False
    server = xllamacpp.Server(p)
    threading.Event().wait()
    del server


if __name__ == "__main__":
    os.environ.update(engine.openmp(os.environ))
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
