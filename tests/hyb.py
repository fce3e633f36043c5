"""The installed `hyb`, by subprocess, with a home of its own: what a script or a person would see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Hyb:
    """A home with its store, and `hyb` in it."""

    home: Path

    @property
    def store(self) -> Path:
        return self.home / "data" / "hyb" / "store"

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HYB_", "XDG_", "TRANSFORMERS_"))}
        return {**kept, "HOME": str(self.home), "XDG_DATA_HOME": str(self.home / "data")}

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        """Start it and do not wait. It leads a process group of its own."""
        command = [sys.executable, "-m", "hyb", *arguments]
        return subprocess.Popen(
            command, env={**self.env, **more.pop("env", {})}, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **more,
        )  # fmt: skip

    def __call__(self, *arguments: str, timeout: float = 300, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        child = self.start(*arguments, **more)
        try:
            out, err = child.communicate(timeout=timeout)
        except BaseException:
            child.kill()
            child.wait()
            raise
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    def ok(self, *arguments: str, **more: Any) -> str:
        """Run it, insist on exit code 0, return stdout."""
        done = self(*arguments, **more)
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, **more: Any) -> Any:
        """Run it with --json, insist on exit code 0, return the document."""
        return json.loads(self.ok(*arguments, "--json", **more))

    def fails(self, code: int, *arguments: str, **more: Any) -> str:
        """Run it, insist on this exit code and on no traceback, return stderr."""
        done = self(*arguments, **more)
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == code, f"{arguments}: exit {done.returncode}, not {code}\n{said}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr
