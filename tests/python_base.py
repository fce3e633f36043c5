"""A base image with Debian's Python, made of the packages of this machine's apt: no registry, no debootstrap."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
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


def build(folder: Path) -> str:
    """Build the image in `folder` and return its Python's version, `3.11`. Raises CalledProcessError without apt."""
    debs, root = folder / "debs", folder / "root"
    debs.mkdir(parents=True)
    root.mkdir()
    version = re.findall(r"python(3\.\d+)-minimal", _out("apt-cache", "depends", "python3-minimal", cwd=folder))[0]
    _out("apt-get", "download", "-qq", *_closure(version, folder), cwd=debs)
    for deb in sorted(debs.iterdir()):
        _out("dpkg", "-x", str(deb), str(root), cwd=folder)
    (folder / "Containerfile").write_text(CONTAINERFILE.format(version))
    engine_podman.build(folder / "Containerfile", folder, NAME)
    return version


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
