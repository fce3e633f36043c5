"""What shuts an engine in, read off the real container: of its processes, from outside, as the kernel sees them.

And `hyb serve --in podman` as a person uses it: the same answers as without, and no container that outlives its end.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyb import engine_podman
from hyb.artifact import Artifact
from hyb.containers import Container, Mount, Secret, argv
from hyb.errors import Exit, HybError
from hyb.formats import modelpack
from hyb.serving import box, child, contained
from hyb.serving.gateway.types import GatewayJob
from hyb.store import Store
from tests import asking, python_base
from tests.e2e.test_serve_gateway import add_lora
from tests.hyb import Hyb
from tests.need import need
from tests.podman_env import BASE, podman_home, service  # noqa: F401
from tests.unix_http import asked

pytestmark = [pytest.mark.podman]
QUESTION = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def model(podman_home: Path, smollm2_gguf: Path) -> tuple[Store, Artifact]:  # noqa: F811
    """A real model in a store, and the runtime image in Podman."""
    need("xllamacpp", "torch")  # with torch come numpy and gguf, for the adapters
    python_base.build(podman_home / "python")
    python_base.serve(podman_home / "serve", box.IMAGES["llama.cpp"])
    store = Store(Hyb(podman_home / "u").store)
    files = [modelpack.file("model.gguf", store.add_file(smollm2_gguf))]
    added = store.add_artifact("model", files, meta={"format": "gguf", "name": "small", "context": 256})
    store.tag("small", added.digest)
    return store, added


@dataclass
class Engine:
    """An engine in its container, and the way to it."""

    name: str
    client: subprocess.Popen[bytes]
    leash: int
    socket: Path
    pid: int
    """Of the container's process 1, on the host."""
    memory: int
    """Its limit."""
    pids: int

    def processes(self) -> list[Path]:
        """All processes of the container, as /proc has them."""
        space = _space(Path("/proc", str(self.pid)))
        return [p for p in Path("/proc").iterdir() if p.name.isdigit() and _space(p) == space]

    def inside(self, code: str) -> str:
        """What a line of Python says, run in the container."""
        line = [*engine_podman.PODMAN, "exec", self.name, "python3", "-c", code]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


def _space(process: Path) -> str:
    try:
        return str((process / "ns" / "pid").readlink())
    except OSError:
        return ""


def started(home: Path, model: tuple[Store, Artifact], name: str, **options: Any) -> Engine:
    """An engine that answers, started as the gateway starts it."""
    store, artifact = model
    run = home / "r"
    run.mkdir(mode=0o700, exist_ok=True)
    gguf = store.view(artifact) / "model.gguf"
    job = GatewayJob(name=name, engine="llama.cpp", model=str(gguf), run=str(run), context=256, digest=artifact.digest)
    job = contained.prepare(job, artifact, run, contained.Options(**options))
    folder = run / name
    folder.mkdir(mode=0o700)
    told = child.Job(job.model, name, str(folder / "engine.sock"), context=256, leash=True)
    how = contained.launch(job, told)
    ours, theirs = os.pipe()
    with (home / "log").open("wb") as log:
        client = subprocess.Popen(how["argv"], stdin=ours, stderr=log)
    os.close(ours)
    container = next(a.removeprefix("--name=") for a in how["argv"] if a.startswith("--name="))
    until(lambda: answers(told.socket), client, home / "log")
    pid = int((run / f"{container}.pid").read_text())
    limits = job.container
    assert how["memory"](client.pid) > 30 << 20
    return Engine(container, client, theirs, Path(told.socket), pid, limits["memory"], limits["pids"])


def until(true: Any, client: subprocess.Popen[bytes] | None = None, log: Path | None = None) -> None:
    deadline = time.monotonic() + 120
    while not true():
        said = log.read_text() if log else ""
        assert client is None or client.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.03)


def answers(socket: str) -> bool:
    try:
        return asked(Path(socket), "/health")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def engine(podman_home: Path, model: tuple[Store, Artifact]) -> Iterator[Engine]:  # noqa: F811
    found = started(podman_home, model, "bot")
    yield found
    os.close(found.leash)
    found.client.wait(timeout=30)


def test_it_answers_through_its_socket(engine: Engine) -> None:
    status, answer = asked(engine.socket, "/v1/chat/completions", QUESTION)
    assert status == 200, answer
    assert answer["usage"]["completion_tokens"] >= 1


def test_no_process_has_a_capability_new_privileges_or_all_system_calls(engine: Engine) -> None:
    found = engine.processes()
    assert len(found) >= 2  # the init and the engine
    for process in found:
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        for caps in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[caps], 16) == 0, (process, caps)
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"  # a filter: Podman's profile


def test_its_user_is_not_root_and_its_ids_are_of_a_namespace_of_its_own(engine: Engine) -> None:
    first = int((Path("/proc", str(engine.pid), "uid_map")).read_text().split()[1])
    assert first > 0
    for process in engine.processes():
        uid = process.stat().st_uid
        assert uid == first + 1001  # on the host: of nobody
        assert (process / "ns/user").readlink() != Path("/proc/self/ns/user").readlink()
    assert engine.inside("import os; print(os.getuid(), os.geteuid())") == "1001 1001"


def test_it_sees_only_loopback_and_has_no_way_out(engine: Engine) -> None:
    devices = (Path("/proc", str(engine.pid), "net/dev")).read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]
    routes = (Path("/proc", str(engine.pid), "net/route")).read_text().splitlines()[1:]
    assert not [r for r in routes if r.strip()]
    code = "import socket; s = socket.socket(); print(s.connect_ex(('192.0.2.1', 9)))"
    assert engine.inside(code) == str(errno.ENETUNREACH)
    listening = [line.split() for line in Path("/proc", str(engine.pid), "net/tcp").read_text().splitlines()[1:]]
    assert not [fields for fields in listening if fields[3] == "0A"]


def test_nothing_can_be_written_but_the_socket_s_folder_and_a_small_tmp_that_runs_nothing(engine: Engine) -> None:
    code = """
import os, json, shutil
def tried(path):
    try:
        open(path, "w").close()
        return 0
    except OSError as error:
        return error.errno
places = ["/x", "/etc/x", "/usr/x", "/models/x", "/models/model.gguf", "/run/x", "/var/tmp/x", "/run/hyb/x", "/tmp/x"]
found = {p: tried(p) for p in places}
shutil.copy("/bin/busybox", "/tmp/b")
os.chmod("/tmp/b", 0o755)
try:
    os.execv("/tmp/b", ["b"])
except OSError as error:
    found["exec"] = error.errno
os.unlink("/run/hyb/x"); os.unlink("/tmp/b")
found["tmp"] = shutil.disk_usage("/tmp").total
print(json.dumps(found))
"""
    found = json.loads(engine.inside(code))
    assert found.pop("tmp") == box.TMP
    assert found.pop("exec") == errno.EACCES
    assert {p for p, error in found.items() if not error} == {"/run/hyb/x", "/tmp/x"}
    denied = (errno.EROFS, errno.EACCES, errno.ENOENT)
    assert all(error in denied for error in found.values() if error), found
    assert found["/x"] == found["/models/x"] == errno.EROFS


def test_the_model_is_the_store_s_own_file_read_only_and_nothing_else_of_the_host_is_seen(
    engine: Engine,
    podman_home: Path,  # noqa: F811
    model: tuple[Store, Artifact],
) -> None:
    mounts = [line.split() for line in Path("/proc", str(engine.pid), "mountinfo").read_text().splitlines()]
    by_target = {m[4]: m for m in mounts}
    assert "ro" in by_target["/"][5].split(",")
    assert "ro" in by_target["/models"][5].split(",")
    ours = {m[4] for m in mounts if str(podman_home) in m[3] and "/userdata" not in m[3] and "/storage" not in m[3]}
    assert ours == {"/models", "/run/hyb"}
    real = Path("/proc", str(engine.pid), "root/models/model.gguf").stat()
    store, artifact = model
    blob = store.blob_path(artifact.files[0].blob.digest).stat()
    assert (real.st_dev, real.st_ino) == (blob.st_dev, blob.st_ino)  # 0 bytes were copied
    assert engine.inside("import os; print(os.listdir('/run/hyb'))") == "['engine.sock']"


def test_memory_and_processes_are_limited_by_the_kernel(engine: Engine) -> None:
    assert limit(engine.pid, "memory", "memory.limit_in_bytes", "memory.max") == engine.memory
    assert limit(engine.pid, "pids", "pids.max", "pids.max") == engine.pids


def limit(pid: int, controller: str, first: str, second: str) -> int:
    """A limit as the kernel has it, with cgroups v1 or v2."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return int(Path(f"/sys/fs/cgroup/{controller}{path}/{first}").read_text())
    path = next(x.split(":", 2)[2] for x in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if x.startswith("0::"))
    return int(Path(f"/sys/fs/cgroup{path}/{second}").read_text())


def test_it_bears_hyb_s_labels_and_no_secret(engine: Engine, model: tuple[Store, Artifact]) -> None:
    seen = subprocess.run([*engine_podman.PODMAN, "inspect", engine.name], capture_output=True, check=True).stdout
    labels = json.loads(seen)[0]["Config"]["Labels"]
    assert labels["io.hyb.service"] == "bot"
    assert labels["io.hyb.model"] == model[1].digest
    told = b"".join((p / "environ").read_bytes() for p in engine.processes())
    assert b"HYB_MODELS" in told
    assert b"key" not in told.lower().replace(b"hyb_key_file=", b"")
    assert b"hyb_sk_" not in seen + told


def test_when_podman_s_own_process_is_killed_the_container_ends_and_is_gone(
    podman_home: Path,  # noqa: F811
    model: tuple[Store, Artifact],
) -> None:
    found = started(podman_home, model, "cut")
    found.client.kill()
    found.client.wait()
    until(lambda: not engine_podman.containers({"io.hyb.service": "cut"}))
    assert not Path("/proc", str(found.pid)).exists()
    os.close(found.leash)


def test_only_containers_that_this_hyb_started_are_removed(podman_home: Path) -> None:  # noqa: F811
    run = podman_home / "r"
    mine = {"io.hyb.service": "old", "io.hyb.owner": box.owner(run)}
    other = {"io.hyb.service": "old", "io.hyb.owner": "another"}
    for name, labels in (("mine", mine), ("other", other), ("unit", {"io.hyb.service": "old"})):
        made = Container(BASE, ("sleep", "100"), name=f"hyb-t-{name}", labels=labels, detach=True, stop_timeout=0)
        engine_podman.run_container(made)
    try:
        assert contained.sweep("old", run) == 1
        assert len(engine_podman.containers({"io.hyb.service": "old"})) == 2
    finally:
        for name in ("mine", "other", "unit"):
            engine_podman.remove_container(f"hyb-t-{name}")


def test_podman_s_api_and_its_program_make_the_same_container(podman_home: Path) -> None:  # noqa: F811
    look = "grep -E '^(CapEff|NoNewPrivs|Seccomp)' /proc/self/status; umask; cat /run/key; df /tmp /dev/shm"
    look += "; grep -cE ' (/run|/var/tmp) ' /proc/mounts; touch /x; sleep 30"
    (podman_home / "secret").write_text("sesame\n")
    subprocess.run([*engine_podman.PODMAN, "secret", "create", "t-key", str(podman_home / "secret")], check=True)
    made = Container(
        BASE,
        ("-c", look),
        name="hyb-t-same",
        entrypoint=("sh",),
        user="1001:0",
        memory=64 << 20,
        pids=33,
        umask="0077",
        mounts=(Mount("tmpfs", "", "/tmp", size=1 << 20),),
        shm=2 << 20,
        tmpfs=False,
        secrets=(Secret("t-key", "/run/key"),),
        detach=True,
        stop_timeout=1,
    )
    by_program = facts(made)
    with service(podman_home):
        by_api = facts(made)
    assert by_program == by_api
    said, *limits = by_program
    assert limits == [64 << 20, 33]
    assert "CapEff:\t0000000000000000" in said and "NoNewPrivs:\t1" in said and "Seccomp:\t2" in said
    assert "0077" in said and "sesame" in said and "Read-only file system" in said


def facts(container: Container) -> tuple[str, int, int]:
    """What a container says, and its limits of memory and processes."""
    engine_podman.run_container(container)
    plain = {k: v for k, v in os.environ.items() if k != "CONTAINER_HOST"}

    def podman(*words: str) -> str:
        line = [*engine_podman.PODMAN, *words, container.name]
        return subprocess.run(
            line, env=plain, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        ).stdout

    try:
        until(lambda: "Read-only" in podman("logs"))
        pid = int(podman("inspect", "--format", "{{.State.Pid}}"))
        return (
            podman("logs"),
            limit(pid, "memory", "memory.limit_in_bytes", "memory.max"),
            limit(pid, "pids", "pids.max", "pids.max"),
        )
    finally:
        engine_podman.remove_container(container.name)


# -- another runtime, a GPU ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gvisor(podman_home: Path) -> str:  # noqa: F811
    """gVisor as Debian has it. Its network is the container's: none."""
    need("runsc")
    path = podman_home / "gvisor"
    options = "--platform=ptrace --ignore-cgroups --network=none --host-uds=create"
    path.write_text(f'#!/bin/sh\nexec {shutil.which("runsc")} {options} "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_a_second_oci_runtime_runs_the_engine_on_another_kernel(
    podman_home: Path,  # noqa: F811
    model: tuple[Store, Artifact],
    gvisor: str,
) -> None:
    found = started(podman_home, model, "visor", runtime=gvisor)
    try:
        assert "Starting gVisor" in subprocess.run(
            [*engine_podman.PODMAN, "exec", found.name, "dmesg"], capture_output=True, text=True, check=True
        ).stdout  # fmt: skip
        assert asked(found.socket, "/v1/chat/completions", QUESTION)[0] == 200
    finally:
        os.close(found.leash)
        found.client.wait(timeout=30)


def test_a_runtime_and_a_gpu_that_are_not_there_are_said_before_anything_starts(
    podman_home: Path,  # noqa: F811
    model: tuple[Store, Artifact],
) -> None:
    with pytest.raises(HybError, match="does not have this OCI runtime") as caught:
        started(podman_home, model, "kata", runtime="kata")
    assert caught.value.code == Exit.INPUT
    with pytest.raises(HybError, match="no CDI file describes it") as caught:
        started(podman_home, model, "gpu", gpu="all")
    assert "nvidia-ctk" in caught.value.hint


def test_a_runtime_that_hangs_is_ended_with_all_that_it_started(
    podman_home: Path,  # noqa: F811
    model: tuple[Store, Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = podman_home / "hangs"
    runtime.write_text('#!/bin/sh\ncase "$*" in *create*) exec sleep 271;; esac\nexec runc "$@"\n')
    runtime.chmod(0o755)
    monkeypatch.setattr(contained, "PATIENCE", 3.0)
    with pytest.raises(HybError, match="did not end within 3 s"):
        started(podman_home, model, "slow", runtime=str(runtime))
    assert engine_podman.containers({"io.hyb.service": "slow"}) == []
    until(lambda: not [p for p in Path("/proc").iterdir() if p.name.isdigit() and _command_line(p) == "sleep 271"])


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def test_a_cdi_device_reaches_the_container(podman_home: Path) -> None:  # noqa: F811
    if os.getuid() or not shutil.which("unshare"):
        pytest.skip("a CDI file of the test's own needs root and `unshare`")
    edits = {"env": ["HYB_SEES=gpu0"], "deviceNodes": [{"path": "/dev/hyb-gpu", "hostPath": "/dev/null"}]}
    spec = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": "all", "containerEdits": edits}]}
    (podman_home / "cdi.json").write_text(json.dumps(spec))
    look = ("-c", "echo $HYB_SEES; test -c /dev/hyb-gpu && echo node")
    made = Container(BASE, look, entrypoint=("sh",), devices=(box.device("all"),))
    script = 'mkdir -p /run/cdi && mount -t tmpfs cdi /run/cdi && cp "$1" /run/cdi/ && shift && exec "$@"'
    line = ["sh", "-c", script, "sh", str(podman_home / "cdi.json"), *engine_podman.PODMAN, *argv(made)]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation=private", *line], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["gpu0", "node"], done.stderr


# -- hyb serve -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hyb(podman_home: Path, model: tuple[Store, Artifact]) -> Iterator[Hyb]:  # noqa: F811
    found = Hyb(podman_home / "u")
    yield found
    for running in found.json("ps"):
        found.ok("stop", running["name"])


def ask(service: dict[str, Any], question: str, model: str = "") -> str:
    key = Path(service["key_path"]).read_text().strip()
    return asking.ask(service["url"], key, question, model=model or service["name"], max_tokens=8, temperature=0.0)


def engines(name: str) -> list[int]:
    """Ids, on the host, of the engine processes in the service's containers: the children of their process 1."""
    found = []
    for identity in engine_podman.containers({"io.hyb.service": name}):
        line = [*engine_podman.PODMAN, "inspect", "--format", "{{.State.Pid}}", identity]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if (pid := done.stdout.strip()).isdigit() and pid != "0":
            children = Path("/proc", pid, "task", pid, "children")
            found += [int(child) for child in children.read_text().split()] if children.exists() else []
    return found


def test_it_answers_as_without_a_container_and_its_engine_and_gateway_may_be_killed(
    hyb: Hyb, model: tuple[Store, Artifact], tmp_path: Path
) -> None:
    store, base = model
    for seed, name in enumerate(("lora-one", "lora-two")):
        add_lora(store, tmp_path, name, base.digest, seed)
    options = ["--port", "0", "--context", "256", "--parallel", "1", "--detach"]
    options += ["--adapter", "zebra=lora-one", "--adapter", "ant=lora-two"]
    boxed = hyb.json("serve", "small", "--in", "podman", "--name", "boxed", *options)
    plain = hyb.json("serve", "small", "--name", "plain", *options)
    question = "What is the capital of France? Answer in one word."
    answers = {who: ask(boxed, question, who) for who in ("boxed", "zebra", "ant")}
    assert len(set(answers.values())) == 3, answers
    assert answers == {who: ask(plain, question, who.replace("boxed", "plain")) for who in answers}
    hyb.ok("stop", "plain")

    said = hyb.fails(Exit.INPUT, "serve", "small", "--in", "podman", "--name", "late", "--port", str(boxed["port"]))
    assert "is taken by `boxed`" in said
    assert engine_podman.containers({"io.hyb.service": "late"}) == []

    assert Path(boxed["admin_socket"]).parent.stat().st_mode & 0o077 == 0  # the folder of the sockets' folders
    (engine_process,) = engines("boxed")
    os.kill(engine_process, signal.SIGKILL)
    until(lambda: engine_process not in engines("boxed"))
    assert ask(boxed, question) != ""  # it waits for the engine that is started again
    assert engines("boxed") != [engine_process]

    os.kill(boxed["pid"], signal.SIGKILL)
    until(lambda: not engine_podman.containers({"io.hyb.service": "boxed"}))
    assert hyb.json("ps") == []


def test_what_is_missing_is_said_with_what_to_do_and_nothing_is_left(hyb: Hyb, tmp_path: Path) -> None:
    serve = ("serve", "small", "--in", "podman", "--port", "0", "--name", "lost")
    assert "podman images" in hyb.fails(Exit.INPUT, *serve, "--runtime-image", "localhost/none:1")
    assert "no CDI file describes it" in hyb.fails(Exit.INPUT, *serve, "--gpu", "all", "--engine", "llama.cpp")
    (tmp_path / "empty").mkdir()
    assert "`podman` is not installed" in hyb.fails(Exit.INPUT, *serve, env={"PATH": str(tmp_path / "empty")})
    dead = {"CONTAINER_HOST": f"unix://{tmp_path}/no.sock"}
    assert "does not answer" in hyb.fails(Exit.INPUT, *serve, env=dead)
    assert engine_podman.containers({"io.hyb.service": "lost"}) == []
    assert hyb.json("ps") == []


def test_the_doctor_says_what_podman_can_do(hyb: Hyb, tmp_path: Path) -> None:
    found = {f["name"]: f for f in hyb.json("doctor")}
    assert found["podman"]["ok"] and found["podman limits"]["ok"]
    assert found["runtime image"]["found"] == box.IMAGES["llama.cpp"]
    without = {f["name"]: f for f in hyb.json("doctor", env={"PATH": str(tmp_path)})}
    assert not without["podman"]["ok"]
    assert "install podman" in without["podman"]["get"]
