"""What the container of an engine is given: pure, without a Podman."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from hyb.containers import Container, argv
from hyb.engine_podman import PodmanInfo
from hyb.errors import Exit, HybError
from hyb.serving import box, child, contained
from hyb.serving.box import Settings, device, user_namespace
from hyb.serving.gateway.types import GatewayJob

ROOT = PodmanInfo("4.3.1", "", False, True, "/g")
ROOTLESS = PodmanInfo("5.4.2", "", True, True, "/g", ids=65537)
SETTINGS = Settings("/usr/bin/podman", "localhost/r:1", "cafe", userns="auto", memory=1 << 30, pids=99)
JOB = GatewayJob(name="bot", engine="llama.cpp", model="/store/view/model.gguf", run="/run/x", digest="sha256:1")
TOLD = child.Job("/store/view/model.gguf", "bot", "/run/x/e1/engine.sock", context=512, parallel=2, leash=True)


def made(settings: Settings = SETTINGS, told: child.Job = TOLD, job: GatewayJob = JOB) -> Container:
    return box.container(settings, job, told, name="c", weights=Path("/store/view"))


def test_the_command_has_no_network_no_right_and_three_mounts() -> None:
    line = argv(made())
    for option in (
        "--network=none", "--cap-drop=all", "--security-opt=no-new-privileges", "--read-only", "--rm",
        "--read-only-tmpfs=false", "--user=1001:0", "--userns=auto", "--memory=1073741824",
        "--memory-swap=1073741824", "--pids-limit=99", "--interactive", "--log-driver=none",
        "--mount=type=bind,source=/store/view,destination=/models,ro=true",
        "--mount=type=bind,source=/run/x/e1,destination=/run/hyb",
        "--tmpfs=/tmp:size=67108864,mode=1777,nosuid,nodev,noexec",
        "--label=io.hyb.service=bot", "--label=io.hyb.owner=cafe",
    ):  # fmt: skip
        assert option in line
    assert sum(x.startswith(("--mount", "--tmpfs", "--volume")) for x in line) == 3
    assert not [x for x in line if x.startswith(("--publish", "--privileged", "--cap-add", "--gpus", "--secret"))]
    assert line[-4:] == ["-P", "-m", "hyb.serving", "--engine-only"]


def test_the_engine_is_told_the_paths_of_its_container_and_no_key() -> None:
    told = made().env
    assert told["HYB_UNIX_SOCKET"] == "/run/hyb/engine.sock"
    assert (told["HYB_CONTEXT"], told["HYB_PARALLEL"], told["HYB_LEASH"]) == ("512", "2", "1")
    assert not [name for name in told if "KEY" in name]


def test_adapters_keep_their_order_whatever_they_are_called() -> None:
    adapters = (child.Adapter("zebra", "/s/z/adapter.gguf"), child.Adapter("ant", "/s/ant"))
    found = made(told=child.Job("/m", "bot", "/r/e.sock", adapters=adapters))
    assert [(m.source, m.target, m.read_only) for m in found.mounts[1:3]] == [
        ("/s/z/adapter.gguf", "/adapters/0000.zebra/adapter.gguf", True),
        ("/s/ant", "/adapters/0001.ant", True),
    ]
    assert found.env["HYB_ADAPTERS"] == "/adapters"


def test_vllm_gets_its_gpu_room_to_compile_kernels_and_shared_memory() -> None:
    settings = Settings(**{**asdict(SETTINGS), "devices": ("nvidia.com/gpu=all",)})
    line = argv(made(settings, job=GatewayJob(name="bot", engine="vllm", model="/store/view", run="/run/x")))
    assert "--device=nvidia.com/gpu=all" in line
    assert "--tmpfs=/home/hyb/.cache:size=4294967296,mode=1777,nosuid,nodev" in line
    assert "--tmpfs=/tmp:size=1073741824,mode=1777,nosuid,nodev,noexec" in line
    assert "--shm-size=2147483648" in line
    assert "--network=none" in line


def test_where_selinux_is_on_the_socket_is_the_container_s_own_and_the_store_may_be_shared() -> None:
    found = made(Settings(**{**asdict(SETTINGS), "selinux": True}))
    assert {m.target: m.label for m in found.mounts} == {"/models": "z", "/run/hyb": "Z", "/tmp": ""}
    image = made(Settings(**{**asdict(SETTINGS), "selinux": True, "model_image": "localhost/m:1"}))
    assert (image.mounts[0].kind, image.mounts[0].source) == ("image", "localhost/m:1")


def test_settings_come_back_from_json_as_they_were() -> None:
    given = Settings("/p", "i", "o", devices=("nvidia.com/gpu=all",))
    assert Settings.of(json.loads(json.dumps(asdict(given)))) == given


@pytest.mark.parametrize(
    ("info", "subuid", "shared", "namespace"),
    [
        (ROOTLESS, "", False, "auto:size=2048"),
        (ROOT, "containers:2147483647:2147483648\n", False, "auto:size=2048"),
        (ROOT, "ann:100000:65536\ncontainers:1:5\n", False, "range:"),
        (ROOT, "", True, ""),
    ],
)
def test_a_container_has_a_user_namespace_of_its_own(
    info: PodmanInfo, subuid: str, shared: bool, namespace: str
) -> None:
    found = user_namespace(info, "bot", subuid, shared)
    assert found == namespace or (namespace == "range:" and found.startswith(namespace))


def test_two_services_of_root_have_ids_apart_and_among_those_that_no_system_uses() -> None:
    first, second = (int(user_namespace(ROOT, n, "").split(":")[1]) for n in ("bot", "cat"))
    assert abs(first - second) >= box.IDS
    assert min(first, second) >= 1879048192 and max(first, second) + box.IDS <= 2147352576


@pytest.mark.parametrize(
    ("gpu", "name"),
    [("all", "nvidia.com/gpu=all"), ("1", "nvidia.com/gpu=1"), ("amd.com/gpu=0", "amd.com/gpu=0")],
)
def test_a_gpu_is_a_cdi_device(gpu: str, name: str) -> None:
    assert device(gpu) == name


def test_what_names_no_gpu_is_refused() -> None:
    with pytest.raises(HybError, match="`first` names no GPU"):
        device("first")


def test_a_missing_runtime_image_is_told_with_the_command_that_builds_it() -> None:
    error = contained.missing_image("localhost/hyb-serve-cpu:latest")
    assert error.code == Exit.INPUT
    assert "podman build" in error.hint and "containers/serve-cpu/Containerfile" in error.hint
    assert "podman images" in contained.missing_image("localhost/mine:1").hint


def test_rootless_without_subuids_and_an_old_podman_are_refused_with_what_to_do() -> None:
    contained.check(ROOTLESS)
    with pytest.raises(HybError, match="no range of user ids") as caught:
        contained.check(PodmanInfo("5.4.2", "", True, True, "/g", ids=1))
    assert "usermod --add-subuids" in caught.value.hint
    with pytest.raises(HybError, match=r"needs Podman 4\.3 or newer; here is 3\.4\.4"):
        contained.check(PodmanInfo("3.4.4", "", False, True, "/g"))


def test_the_memory_limit_grows_with_the_model_and_what_it_may_hold_in_mind() -> None:
    small = box.estimate(JOB, 100 << 20)
    assert small % (256 << 20) == 0
    assert small > (100 << 20) + JOB.context * JOB.parallel * (128 << 10)
    assert box.estimate(JOB, 4 << 30) - small >= 3 << 30


def test_folders_of_hyb_s_own_are_opened_to_the_container_s_user_and_what_is_above_stays_private(
    tmp_path: Path,
) -> None:
    private = tmp_path / "run"
    view, folder = private / "view" / "deep", private / "e1"
    for made_ in (private, private / "view", view, folder):
        made_.mkdir(mode=0o700)
    (view / "model.gguf").write_bytes(b"GGUF")
    job = GatewayJob("bot", "llama.cpp", str(view / "model.gguf"), str(private), container=asdict(SETTINGS))
    how = contained.launch(job, child.Job(job.model, "bot", str(folder / "engine.sock"), leash=True))
    modes = [p.stat().st_mode & 0o777 for p in (private, view, folder)]
    assert modes == [0o700, 0o705, 0o777]
    assert how["socket"] == str(folder / "engine.sock")
    assert how["argv"][:3] == ["/usr/bin/podman", "--remote=false", "run"]
    assert how["memory"](1) == 0  # no container yet


def test_an_adapter_in_the_place_of_its_base_is_refused(tmp_path: Path) -> None:
    job = GatewayJob("bot", "vllm", "/m", str(tmp_path), adapter="/a")
    with pytest.raises(HybError, match="beside its base"):
        contained.prepare(job, None, tmp_path, contained.Options())  # type: ignore[arg-type]


def test_an_engine_without_an_image_of_its_own_needs_one(tmp_path: Path) -> None:
    job = GatewayJob("bot", "transformers", "/m", str(tmp_path))
    with pytest.raises(HybError, match="no image serves with the engine `transformers`"):
        contained.prepare(job, None, tmp_path, contained.Options())  # type: ignore[arg-type]
