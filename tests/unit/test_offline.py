"""The guard, in processes of its own: an audit hook can't be taken away again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hyb import engine, offline

TRY = """
import asyncio, socket, sys
import hyb
from hyb.errors import HybError
said = []
def tried(what):
    try:
        what()
    except HybError as error:
        said.append(f"{error.code}")
    except OSError:
        said.append("out")
stream, datagram = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
six = socket.socket(socket.AF_INET6)
for one in (stream, datagram, six):
    one.settimeout(0.2)
tried(lambda: stream.connect(("192.0.2.1", 9)))
tried(lambda: datagram.sendto(b"x", ("192.0.2.1", 9)))
tried(lambda: datagram.connect(("192.0.2.1", 9)))
tried(lambda: six.connect(("2001:db8::1", 9)))
tried(lambda: socket.getaddrinfo("hub.example.com", 443))
tried(lambda: socket.gethostbyname("hub.example.com"))
tried(lambda: asyncio.run(asyncio.open_connection("192.0.2.1", 9)))
print(" ".join(said))
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(("localhost", listener.getsockname()[1])).close()
socket.getaddrinfo(socket.gethostname(), 80)
print("loopback")
"""


@pytest.mark.socket
@pytest.mark.parametrize("variable", ["HYB_OFFLINE", "HYB_GUARD"])
def test_a_process_that_is_offline_reaches_loopback_and_nothing_else(variable: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRY], env={**os.environ, variable: "1"}, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [" ".join(["6"] * 7), "loopback"], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("host", "is_here"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("LOCALHOST.", True), (b"::1", True),
     ("::ffff:127.0.0.1", True), ("0.0.0.0", True), ("", True), (None, True), ("a.localhost", True),
     ("::ffff:192.0.2.1", False), ("192.0.2.1", False), ("fe80::1%lo", False), ("localhost.example.com", False),
     ("127.0.0.1.example.com", False), ("169.254.169.254", False)],
)  # fmt: skip
def test_only_this_machine_is_here(host: object, is_here: bool) -> None:
    assert offline.here(host) is is_here


def test_children_learn_that_there_is_no_network() -> None:
    line = [sys.executable, "-c", "import os; print(sorted(k for k in os.environ))"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYB_OFFLINE", "1")
        said = engine.run(line).stdout.decode()
        assert all(
            f"'{name}'" in said for name in ("HF_HUB_OFFLINE", "PIP_NO_INDEX", "HTTPS_PROXY", "GIT_ALLOW_PROTOCOL")
        )
        assert not set(offline.PROXIES) & offline.environment(os.environ, "/usr/bin/podman").keys()
        patch.setenv("HYB_OFFLINE", "0")
        assert "PIP_NO_INDEX" not in offline.environment(os.environ, "pip")
    assert "DO_NOT_TRACK" in said


@pytest.mark.socket
@pytest.mark.parametrize(
    "line", [["git", "ls-remote", "https://git.example.com/x"], [sys.executable, "-m", "pip", "download", "hyb-none"]]
)
def test_programs_that_are_not_hybs_fail_at_once_offline(line: list[str], tmp_path: object) -> None:
    env = {**os.environ, **offline.environment({"HYB_OFFLINE": "1"}, line[0])}
    env.pop("PIP_FIND_LINKS", None)
    done = subprocess.run(line, env=env, capture_output=True, timeout=20, check=False, cwd=str(tmp_path))
    assert done.returncode != 0
