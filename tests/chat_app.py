"""The chat app as a process of its own, for tests: `python -m hyb.chat`, on a free port of 127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.chat_model import KEY

ROOT = Path(__file__).parents[1]


def until(condition: Callable[[], object], seconds: float = 20, what: str = "it never came true") -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class App:
    """A running chat app. Settings by their names: `App(folder, url, sign_in="code")`."""

    def __init__(self, folder: Path, model_url: str, *, ready: bool = True, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / "chat.log"
        (folder / "key").write_text(KEY)
        values = {"model_url": model_url, "key_file": folder / "key", "port": 0, "client_minute": 0} | settings
        environ = {f"HYB_CHAT_{k.upper()}": str(v) for k, v in values.items()}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hyb.chat"],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={k: v for k, v in os.environ.items() if not k.startswith("HYB_CHAT_")} | environ,
            )
        until(self._listening, what="it does not listen")
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        if ready:
            until(self.is_ready, 30, "the model is not there")

    def _listening(self) -> bool:
        assert self.process.poll() is None, self.log()
        found = [e for e in self.events() if e["event"] == "listening"]
        self.port = int(found[0]["port"]) if found else 0
        return bool(found)

    def log(self) -> str:
        return self.log_path.read_text()

    def events(self) -> list[dict[str, Any]]:
        """The log's lines, whole ones."""
        return [json.loads(line) for line in self.log().splitlines(keepends=True) if line.endswith("}\n")]

    def is_ready(self) -> bool:
        return self.http.get("/ready").status_code == 200

    def metric(self, name: str) -> float:
        """Sum of a metric's values."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].split(" ")[0] == name)

    def ask(self, text: str | list[dict[str, str]], **options: Any) -> Iterator[dict[str, Any]]:
        """The events of an answer, or one `{"status": …, "code": …}` where it is refused."""
        messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
        with self.http.stream("POST", "/api/chat", json={"messages": messages}, **options) as answer:
            if answer.status_code != 200:
                answer.read()
                yield {"type": "refused", "status": answer.status_code, "code": answer.json()["error"]["code"]}
                return
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    def close(self) -> int:
        """End it as a cluster does, and return its exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def text_of(events: list[dict[str, Any]], kind: str = "text") -> str:
    """What was said."""
    return "".join(e["text"] for e in events if e["type"] == kind)
