"""A container in both of Podman's forms."""

from __future__ import annotations

import pytest

from hyb.containers import Container, Mount, Port, Secret, api_arguments, argv, needs_program
from hyb.errors import HybError

FULL = Container(
    "localhost/bot:latest",
    ("serve", "--port", "8000"),
    name="bot",
    entrypoint=("python3", "-m"),
    env={"B": "2", "A": "1"},
    mounts=(Mount("image", "localhost/m:1", "/m"), Mount("bind", "/d", "/data"), Mount("tmpfs", "", "/tmp")),
    ports=(Port(18000, 8000),),
    network="front",
    user="12345:0",
    devices=("nvidia.com/gpu=all",),
    labels={"io.hyb.model": "sha256:1"},
    memory=1 << 30,
    detach=True,
    pids=99,
    userns="auto",
    secrets=(Secret("key", "/run/key", 0o400),),
    tmpfs=False,
    init=True,
    stop_timeout=0,
    umask="0077",
    log="none",
    shm=1 << 20,
)


def test_a_bare_container_gets_no_right_no_network_and_no_pull() -> None:
    assert argv(Container("i")) == [
        "run", "--pull=never", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=none",
        "--rm", "--read-only", "i",
    ]  # fmt: skip


def test_every_field_reaches_the_command_line_before_the_image() -> None:
    line = argv(FULL)
    assert line[line.index(FULL.image) :] == [FULL.image, "-m", "serve", "--port", "8000"]
    for option in (
        "--detach", "--rm", "--read-only", "--name=bot", "--user=12345:0", "--memory=1073741824",
        "--entrypoint=python3",
        "--env=A=1", "--env=B=2", "--label=io.hyb.model=sha256:1", "--device=nvidia.com/gpu=all", "--network=front",
        "--publish=127.0.0.1:18000:8000", "--mount=type=image,source=localhost/m:1,destination=/m",
        "--mount=type=bind,source=/d,destination=/data,ro=true", "--tmpfs=/tmp:mode=1777,nosuid,nodev,noexec",
        "--memory-swap=1073741824", "--pids-limit=99", "--userns=auto", "--read-only-tmpfs=false", "--init",
        "--secret=key,type=mount,target=/run/key,mode=0400", "--stop-timeout=0", "--umask=0077", "--log-driver=none",
        "--shm-size=1048576",
    ):  # fmt: skip
        assert option in line[: line.index(FULL.image)]


def test_a_writable_mount_says_so() -> None:
    line = argv(Container("i", mounts=(Mount("image", "m", "/m", False), Mount("bind", "/d", "/d", False))))
    assert "--mount=type=image,source=m,destination=/m,rw=true" in line
    assert "--mount=type=bind,source=/d,destination=/d" in line


def test_an_oci_runtime_is_an_option_of_podman_itself_and_only_the_program_takes_it() -> None:
    kata = Container("i", runtime="/usr/bin/kata-runtime")
    assert argv(kata)[:2] == ["--runtime=/usr/bin/kata-runtime", "run"]
    assert needs_program(kata)
    assert not needs_program(FULL)


def test_a_range_of_the_host_s_ids_is_mapped_for_users_and_groups() -> None:
    own = Container("i", userns="range:1879048192:65536")
    assert {"--uidmap=0:1879048192:65536", "--gidmap=0:1879048192:65536"} <= set(argv(own))
    assert needs_program(own)


def test_a_bind_mount_gets_its_selinux_label_and_a_tmpfs_its_size() -> None:
    shared, private = Mount("bind", "/d", "/d", label="z"), Mount("bind", "/s", "/s", False, label="Z")
    line = argv(Container("i", mounts=(shared, private, Mount("tmpfs", "", "/t", size=4096, executable=True))))
    assert "--mount=type=bind,source=/d,destination=/d,ro=true,relabel=shared" in line
    assert "--mount=type=bind,source=/s,destination=/s,relabel=private" in line
    assert "--tmpfs=/t:size=4096,mode=1777,nosuid,nodev" in line
    given = api_arguments(Container("i", mounts=(shared, Mount("tmpfs", "", "/t", size=4096))))["mounts"]
    assert given[0]["relabel"] == "z"
    assert given[1]["size"] == 4096


def test_a_path_that_podman_would_misread_is_refused() -> None:
    with pytest.raises(HybError, match="comma"):
        argv(Container("i", mounts=(Mount("bind", "/a,rw=true", "/d"),)))


def test_podman_py_gets_the_keywords_that_it_does_not_ignore() -> None:
    given = api_arguments(FULL)
    assert "security_opt" not in given
    assert given["no_new_privileges"] is True
    assert given["image_volumes"] == [{"Source": "localhost/m:1", "Destination": "/m", "ReadWrite": False}]
    assert [m["type"] for m in given["mounts"]] == ["bind", "tmpfs"]
    assert given["ports"] == {"8000/tcp": ("127.0.0.1", 18000)}
    assert given["networks"] == {"front": {}}
    assert "network_mode" not in given
    assert (given["entrypoint"], given["command"]) == (["python3"], ["-m", "serve", "--port", "8000"])


def test_podman_py_s_create_knows_every_keyword() -> None:
    from podman.domain.containers_create import CreateMixin

    for container in (FULL, Container("i")):
        body = CreateMixin._render_payload({k: v for k, v in api_arguments(container).items() if k != "remove"})
        assert body["cap_drop"] == ["all"]
        assert body["resource_limits"]["memory"]["limit"] == container.memory
        assert body["resource_limits"]["pids"]["limit"] == (container.pids or None)
        assert body["read_only_filesystem"] is True
