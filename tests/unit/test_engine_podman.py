"""Podman's edge without a Podman: names, sockets, and its failures in words."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest

from hyb import engine_podman, podman_errors
from hyb.errors import Exit, HybError


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("bot", "localhost/bot:latest"),
        ("lab/bot:2", "localhost/lab/bot:2"),
        ("localhost/bot", "localhost/bot:latest"),
        ("registry.example:5000/lab/bot", "registry.example:5000/lab/bot:latest"),
        ("registry.example/bot:1", "registry.example/bot:1"),
    ],
)
def test_a_short_name_never_leads_to_a_registry(name: str, full: str) -> None:
    assert engine_podman.full_name(name) == full


def test_container_host_is_the_socket_and_empty_means_none() -> None:
    assert engine_podman.socket_url({"CONTAINER_HOST": "ssh://x@y/z"}) == "ssh://x@y/z"
    assert engine_podman.socket_url({"CONTAINER_HOST": "", "XDG_RUNTIME_DIR": "/nowhere"}) == ""


def test_a_user_s_own_socket_is_found_and_a_plain_file_is_none() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        path = Path(runtime, "podman", "podman.sock")
        path.parent.mkdir()
        path.touch()
        assert engine_podman.socket_url({"XDG_RUNTIME_DIR": runtime}) != f"unix://{path}"
        path.unlink()
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
            assert engine_podman.socket_url({"XDG_RUNTIME_DIR": runtime}) == f"unix://{path}"


# Lines that Podman, skopeo and crun say, without their first words where these differ by version.
SAID = {
    'writing blob: storing blob to file "/var/tmp/storage1/2": write: no space left on device': "storage is full",
    "Error: potentially insufficient UIDs or GIDs available in user namespace (requested 0:42)": "no range of user ids",
    'Error: cannot find UID/GID for user a: no subuid ranges found for user "a" in /etc/subuid': "no range of user ids",
    "Error: crun: setrlimit `RLIMIT_NOFILE`: Operation not permitted: OCI permission denied": "open files or processes",
    "Error: crun: cgroups in hybrid mode not supported, drop all controllers from cgroupv2": "crun refuses",
    'Error: unable to connect to Podman socket: Get "http://d/v4.3.1/libpod/_ping": dial unix /x': "does not answer",
    "FATA[0000] Error loading trust policy: open /etc/containers/policy.json: no such file": "no signature policy",
    "Error: localhost/none:latest: image not known": "does not have the image",
    'Error: command required for rootless mode with multiple IDs: exec: "newuidmap": executable file not found': (
        "can't use newuidmap"
    ),
    'Error: cannot set up namespace using "/usr/bin/newuidmap": should have setuid or have filecaps setuid': (
        "can't use newuidmap"
    ),
    "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all": "no CDI file describes it",
    'Error: default OCI runtime "kata" not found: invalid argument': "does not have this OCI runtime",
    "Error: no valid executable found for OCI runtime /x/y: invalid argument": "does not have this OCI runtime",
    "Error: creating container storage: could not find enough available IDs": "no user ids left",
    "Error: creating container storage: not enough unused IDs in user namespace": "no user ids left",
    "error setting cgroup config for procHooks process: unable to set memory limit to 1048576 (current usage": (
        "memory limit is less"
    ),
    'Error: no secret with name or id "key": no such secret': "does not have the secret",
}


@pytest.mark.parametrize("said", SAID)
def test_a_known_failure_is_said_in_words_with_what_to_do(said: str) -> None:
    error = podman_errors.explained(said, "podman load")
    assert SAID[said] in error.message
    assert error.code == Exit.INPUT
    assert error.details == (said,)


def test_an_unknown_failure_keeps_the_end_of_what_was_said() -> None:
    error = podman_errors.explained("\n".join(map(str, range(9))), "podman build")
    assert (error.message, error.code) == ("`podman build` failed", Exit.BELOW)
    assert error.details == ("4", "5", "6", "7", "8")


def test_no_podman_at_all_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CONTAINER_HOST", "")
    with pytest.raises(HybError, match="`podman` is not installed") as caught:
        engine_podman.available()
    assert "apt-get install podman" in caught.value.hint


def test_an_old_podman_and_a_lonely_socket_are_refused_with_what_to_do() -> None:
    here = engine_podman.PodmanInfo("4.3.1", "", False, True, "/g")
    engine_podman.require(here, (4, 3), "serving")
    with pytest.raises(HybError, match=r"needs Podman 4\.4 or newer; here is 4\.3\.1"):
        engine_podman.require(here, (4, 4), "serving")
    remote = engine_podman.PodmanInfo("5.4.2", "ssh://a@b/s", False, False, "/g")
    with pytest.raises(HybError, match="only a socket") as caught:
        engine_podman.require(remote, (4, 3), "serving")
    assert "CONTAINER_HOST" in caught.value.hint
