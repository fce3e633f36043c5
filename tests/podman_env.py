"""A Podman of the test's own: storage, network and configuration in a folder with a short name, gone afterwards.

Import the fixture into a test module: `from tests.podman_env import podman_home  # noqa: F401`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyb import engine_podman
from hyb.containers import Container, Ended
from tests.need import need

BASE = "localhost/hyb-test-base:latest"
STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{0}/storage"\nrunroot = "{0}/run"\n'
# Small limits, runc and cgroupfs: containers start where no systemd runs and where limits can't be raised.
CONTAINERS = """[containers]
default_ulimits = ["nofile=16384:16384", "nproc=32768:32768"]
log_driver = "json-file"
[engine]
{1}
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{0}/net"
"""
BUSYBOX = """FROM scratch
COPY busybox /bin/busybox
COPY busybox /bin/sh
ENV PATH=/bin
RUN ["/bin/busybox", "--install", "-s", "/bin"]
CMD ["sh"]
"""


@pytest.fixture(scope="module")
def podman_home() -> Iterator[Path]:
    """The folder of a private Podman that the environment points to, with `BASE` (busybox) in its storage."""
    need("podman", "skopeo")
    home = Path(tempfile.mkdtemp(prefix="hyb-", dir="/tmp"))  # Podman refuses a runroot over 50 characters
    for name in ("storage", "run", "tmp", "net"):
        (home / name).mkdir()
    (home / "storage.conf").write_text(STORAGE.format(home))
    runtime = 'runtime = "runc"' if shutil.which("runc") else ""
    (home / "containers.conf").write_text(CONTAINERS.format(home, runtime))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_STORAGE_CONF", str(home / "storage.conf"))
        patch.setenv("CONTAINERS_CONF", str(home / "containers.conf"))
        patch.setenv("TMPDIR", str(home / "tmp"))
        patch.setenv("CONTAINER_HOST", "")
        try:
            _build_base(home / "busybox")
            yield home
        finally:
            _remove(home)


@contextmanager
def service(home: Path) -> Iterator[str]:
    """Podman's API on a socket, CONTAINER_HOST set to it."""
    socket = home / "podman.sock"
    argv = [*engine_podman.PODMAN, "system", "service", "--time=0", f"unix://{socket}"]
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINER_HOST", f"unix://{socket}")
        try:
            _until_it_answers(child)
            yield f"unix://{socket}"
        finally:
            child.terminate()
            child.wait(timeout=20)
            socket.unlink(missing_ok=True)


def run(container: Container) -> Ended:
    """Run a container that must end well."""
    ended = engine_podman.run_container(container)
    assert ended.status == 0, ended
    return ended


def _until_it_answers(child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            assert engine_podman.available().socket
            return
        except engine_podman.HybError:
            assert child.poll() is None, "the service ended by itself"
            assert time.monotonic() < deadline, "the service did not answer within 20 s"
            time.sleep(0.02)


def _build_base(folder: Path) -> None:
    folder.mkdir()
    found = shutil.which("busybox")
    if found is None or b"statically linked" not in _file_kind(found):
        if "podman" in os.environ.get("HYB_REQUIRE", "").split(","):
            pytest.fail("HYB_REQUIRE names `podman`, but there is no static busybox (busybox-static) for a base image")
        pytest.skip("no static busybox (Debian: busybox-static) to make a base image of")
    shutil.copy(found, folder / "busybox")
    (folder / "Containerfile").write_text(BUSYBOX)
    engine_podman.build(folder / "Containerfile", folder, BASE)


def _file_kind(path: str) -> bytes:
    """`statically linked` when an ELF file names no interpreter."""
    data = Path(path).read_bytes()
    return b"" if b"ld-linux" in data[:4096] or b"ld-musl" in data[:4096] else b"statically linked"


def _remove(home: Path) -> None:
    for argv in (["rm", "--all", "--force", "--time=0"], ["rmi", "--all", "--force"]):
        subprocess.run([*engine_podman.PODMAN, *argv], capture_output=True, check=False)
    subprocess.run(["umount", str(home / "storage/overlay")], capture_output=True, check=False)
    if os.getuid():
        subprocess.run([*engine_podman.PODMAN, "unshare", "rm", "-rf", str(home)], capture_output=True, check=False)
    shutil.rmtree(home, ignore_errors=True)
