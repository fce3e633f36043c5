"""The demo, run once for all tests: minutes of training, shared by the workers of one session.

`HYB_DEMO` names a folder in which an earlier run is kept: the first session fills it, later ones reuse it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hyb import fs
from tests.hyb import Hyb

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Demo:
    """What `examples/demo.sh` left. Do not write to it: `copy` first."""

    folder: Path
    returncode: int
    stdout: str
    stderr: str

    @property
    def project(self) -> Path:
        """A copy of `examples/` and `recipes/`; the script was run in it."""
        return self.folder / "project"

    def copy(self, home: Path) -> Hyb:
        """A home with the store that it filled, as links."""
        shutil.copytree(self.folder / "home", home, copy_function=os.link)
        return Hyb(home)


def once(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo of this session; whoever comes first runs it, the others wait."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root  # each worker's folder is in the session's
    folder = Path(os.environ.get("HYB_DEMO") or shared / "demo")
    with fs.locked(folder / "lock"):
        if not (folder / "done.json").exists():
            (folder / "done.json").write_text(json.dumps(_run(folder)))
        return Demo(folder, **json.loads((folder / "done.json").read_text()))


def _run(folder: Path) -> dict[str, object]:
    """On a machine without Podman: PATH has only what the script calls."""
    shutil.rmtree(folder / "project", ignore_errors=True)
    for part in ("examples", "recipes"):
        shutil.copytree(ROOT / part, folder / "project" / part)
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for tool in ("sh", "dirname", "sed", "head", "env"):
        (tools / tool).unlink(missing_ok=True)
        (tools / tool).symlink_to(str(shutil.which(tool)))
    (folder / "home").mkdir(exist_ok=True)
    env = {**Hyb(folder / "home").env, "PATH": f"{BIN}{os.pathsep}{tools}"}
    done = subprocess.run(
        ["sh", "examples/demo.sh"], cwd=folder / "project", env=env, capture_output=True, text=True, check=False,
        timeout=1500,
    )  # fmt: skip
    return {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
