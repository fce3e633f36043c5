"""A base image with Debian's Python, made of the packages of this machine's apt: no registry, no debootstrap."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hyb import engine_podman

NAME = "localhost/hyb-test-python:latest"
CONTAINERFILE = """FROM scratch
COPY root /
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN ln -s python{0} /usr/bin/python3
ENV PATH=/usr/bin:/bin
CMD ["python3"]
"""
SERVE = """FROM {0}
COPY opt /opt/hyb
ENV PYTHONPATH=/opt/hyb PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1001:0
ENTRYPOINT ["python3", "-P", "-m", "hyb.serving"]
"""


def build(folder: Path) -> str:
    """Build the image, with `folder` to work in, and return its Python's version, `3.11`.

    The packages are fetched once a run of the tests. Raises AssertionError without apt.
    """
    version, context = _packages()
    folder.mkdir(parents=True)
    (folder / "Containerfile").write_text(CONTAINERFILE.format(version))
    engine_podman.build(folder / "Containerfile", context, NAME)
    return version


@functools.cache
def _packages() -> tuple[str, Path]:
    """(Python's version, a folder with `root`, the packages unpacked)."""
    folder = Path(tempfile.mkdtemp(prefix="hyb-python-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    debs, root = folder / "debs", folder / "root"
    debs.mkdir()
    root.mkdir()
    version = re.findall(r"python(3\.\d+)-minimal", _out("apt-cache", "depends", "python3-minimal", cwd=folder))[0]
    _out("apt-get", "download", "-qq", *_closure(version, folder), cwd=debs)
    for deb in sorted(debs.iterdir()):
        _out("dpkg", "-x", str(deb), str(root), cwd=folder)
    shutil.rmtree(debs)
    return version, folder


def serve(folder: Path, name: str) -> None:
    """An image that serves GGUF, on the image of `build`: this hyb and this environment's xllamacpp (an abi3 module).

    What containers/serve-cpu makes of wheels, in a tenth of the time.
    """
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for module in ("hyb", "xllamacpp"):
        found = importlib.util.find_spec(module)
        assert found and found.origin
        shutil.copytree(Path(found.origin).parent, folder / "opt" / module, ignore=ignored)
    (folder / "Containerfile").write_text(SERVE.format(NAME))
    engine_podman.build(folder / "Containerfile", folder, name)


def wheels(project: Path, folder: Path, version: str) -> None:
    """hyb's wheel with its extra `serve` and all they need, for Python `version` on Linux, into `folder`."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    _out(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(project), cwd=folder)
    hyb = next(folder.glob("hyb-*.whl"))
    tags = [f"--platform={p}_{platform.machine()}" for p in ("manylinux2014", "manylinux_2_28", "manylinux_2_34")]
    target = ["--only-binary=:all:", f"--python-version={version}", "--implementation=cp", *tags]
    _out(*pip, "download", "-d", str(folder), *target, f"hyb[serve] @ file://{hyb}", "pip", cwd=folder)


def _closure(version: str, folder: Path) -> list[str]:
    """What apt would install on an empty machine to run a Python and a shell."""
    status = folder / "status"
    status.touch()
    wanted = [f"python{version}-minimal", f"libpython{version}-stdlib", "libstdc++6", "libgomp1", "busybox-static"]
    options = ["-s", "-q", "-o", f"Dir::State::status={status}", "--no-install-recommends"]
    said = _out("apt-get", *options, "install", *wanted, cwd=folder)
    return re.findall(r"^Inst (\S+)", said, re.MULTILINE)


def _out(*argv: str, cwd: Path) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv[:3]}: {done.stderr[-2000:]}"
    return done.stdout
