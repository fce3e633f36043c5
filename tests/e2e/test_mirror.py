"""`hyb mirror serve` with the real clients: huggingface_hub, transformers, hyb itself, skopeo, podman and pip."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyb import digest as dg
from hyb.artifact import MANIFEST, File
from hyb.store import Store
from tests import hubserver
from tests.hyb import Hyb
from tests.need import need
from tests.podman_env import podman_home  # noqa: F401

WEIGHTS = 3_000_000
COMMITS = ("a" * 40, "b" * 40)


@dataclass
class Served:
    """A mirror that runs."""

    hyb: Hyb
    url: str
    process: subprocess.Popen[str]
    files: dict[str, bytes]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers with small names, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, body

    def raw(self, data: bytes) -> bytes:
        """All that comes back for these bytes, until the mirror closes or says nothing for a second."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(data)
            found = b""
            try:
                while part := connection.recv(1 << 16):
                    found += part
            except (TimeoutError, ConnectionResetError):
                pass
        return found

    def env(self, cache: Path) -> dict[str, str]:
        """The environment that leads the hub's clients here."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        return {**kept, "HF_ENDPOINT": self.url, "HF_HUB_CACHE": str(cache / "hub"), "HF_HOME": str(cache),
                "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip

    def python(self, code: str, cache: Path, **more: str) -> Any:
        """What a Python program of the lab prints, as JSON."""
        done = subprocess.run(
            [sys.executable, "-c", code], env={**self.env(cache), **more}, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def serving(hyb: Hyb, *options: str, files: dict[str, bytes] | None = None) -> Iterator[Served]:
    process = hyb.start("mirror", "serve", "--port", "0", "--json", *options)
    try:
        assert process.stdout and process.stderr
        lines = ""
        while not lines.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            lines += line
        yield Served(hyb, json.loads(lines)["url"], process, files or {})
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        for stream in (process.stdout, process.stderr):
            assert stream
            stream.close()


def model_files(seed: int) -> dict[str, bytes]:
    found = {k: v for k, v in hubserver.model(WEIGHTS // 1024, seed=seed).items() if isinstance(v, bytes)}
    return {**found, "onnx/über config.json": b'{"deep": true}'}


def add(store: Store, kind: str, files: dict[str, bytes], tag: str, **meta: Any) -> str:
    blobs = [File(path, store.add_bytes(data)) for path, data in files.items()]
    digest = store.add_artifact(kind, blobs, meta=meta).digest
    store.tag(tag, digest)
    return digest


def image(store: Store, tag: str) -> str:
    """A small image, as `hyb pack` or a bundle puts one there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("hello.txt")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))
    layer = store.add_bytes(buffer.getvalue())
    config = store.add_bytes(json.dumps({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    }).encode())  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.digest,
            "size": config.size,
        },
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size}],
    }
    digest = store.add_manifest(manifest).digest
    store.tag(tag, digest)
    return digest


def wheel(name: str, version: str, needs: str = "") -> bytes:
    """A wheel with one module, made by hand."""
    buffer, info = io.BytesIO(), f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.8\n"
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", head + (f"Requires-Dist: {needs}\n" if needs else ""))
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    need("httptools")
    home = tmp_path_factory.mktemp("lab")
    hyb = Hyb(home)
    store = Store(hyb.store)
    for seed, commit in enumerate(COMMITS):
        add(store, "model", model_files(seed), f"demo/base{seed}", source=f"hf://Org/Model@{commit}", license="mit")
    add(store, "adapter", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x" * 99}, "bot")
    add(store, "dataset", {"train.jsonl": b'{"messages": []}\n'}, "facts")
    add(store, "report", {"report.json": b'{"question": "secret"}'}, "exam")
    add(store, "wheels", {"hyb_leaf-1.0-py3-none-any.whl": wheel("hyb_leaf", "1.0")}, "packages/leaf")
    found = image(store, "demo/image:v1")
    store.add_artifact("signature", [], subject=store.artifact(found))
    (home / "wheels").mkdir()
    (home / "wheels" / "Hyb_Root-2.0-py3-none-any.whl").write_bytes(wheel("Hyb_Root", "2.0", "hyb-leaf>=1"))
    (home / "wheels" / "notes.txt").write_text("not for the index")
    with serving(hyb, "--wheels", str(home / "wheels"), files=model_files(1)) as served:
        yield served


SNAPSHOT = """
import json, os, sys
from huggingface_hub import snapshot_download
folder = snapshot_download("Org/Model", revision=os.environ.get("REV") or None)
paths = [os.path.join(d, f) for d, _, names in os.walk(folder) for f in names]
files = {os.path.relpath(p, folder): os.path.getsize(p) for p in paths}
print(json.dumps([folder, files]))
"""


def test_a_snapshot_has_every_file_and_its_revision_may_be_a_branch_a_commit_or_a_tag(
    lab: Served, tmp_path: Path
) -> None:
    for number, (revision, commit) in enumerate(
        [("", COMMITS[1]), ("main", COMMITS[1]), (COMMITS[0], COMMITS[0]), ("demo/base0", COMMITS[0])]
    ):
        cache = tmp_path / str(number)
        folder, files = lab.python(SNAPSHOT, cache, REV=revision)
        assert Path(folder).name == commit
        expected = model_files(COMMITS.index(commit))
        assert files == {name: len(data) for name, data in expected.items()}
        for name, data in expected.items():
            assert Path(folder, name).read_bytes() == data


def test_the_hubs_client_raises_its_own_errors_for_what_is_not_there(lab: Served, tmp_path: Path) -> None:
    code = """
import json
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
found = []
for asked in (dict(repo_id="Org/None", filename="config.json"), dict(repo_id="Org/Model", filename="none.json"),
              dict(repo_id="Org/Model", filename="config.json", revision="none")):
    try:
        hf_hub_download(**asked)
    except Exception as error:
        found.append(type(error).__name__)
api = HfApi()
try:
    api.model_info("Org/None")
except Exception as error:
    found.append(type(error).__name__)
found.append(api.file_exists("Org/Model", "config.json"))
found.append(api.file_exists("Org/Model", "other.json"))
found.append([b.name for b in api.list_repo_refs("Org/Model").branches])
found.append([f.path for f in api.get_paths_info("Org/Model", ["config.json", "onnx/none"])])
found.append(sorted(m.id for m in api.list_models()))
info = api.model_info("Org/Model", files_metadata=True)
found.append({s.rfilename: s.lfs.sha256 for s in info.siblings}["config.json"])
print(json.dumps(found))
"""
    *errors, exists, not_there, branches, paths, models, sha256 = lab.python(code, tmp_path)
    assert errors == [
        "RepositoryNotFoundError",
        "RemoteEntryNotFoundError",
        "RevisionNotFoundError",
        "RepositoryNotFoundError",
    ]
    assert exists and not not_there
    assert branches == ["main"] and paths == ["config.json"]
    assert models == ["Org/Model", "bot", "demo/base0", "demo/base1"]
    assert f"sha256:{sha256}" == dg.of_bytes(lab.files["config.json"])


class Cutting:
    """A network that breaks off in the middle of a file, once."""

    def __init__(self, port: int, after: int) -> None:
        import threading

        self.port, self.after, self.cut = port, after, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        import threading

        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        import threading

        server = socket.create_connection(("127.0.0.1", self.port))

        def up() -> None:
            try:
                while data := client.recv(1 << 16):
                    server.sendall(data)
            except OSError:
                pass

        threading.Thread(target=up, daemon=True).start()
        carried = 0
        try:
            while data := server.recv(1 << 16):
                carried += len(data)
                if carried > self.after and not self.cut:
                    self.cut += 1
                    break
                client.sendall(data)
        except OSError:
            pass
        for end in (client, server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


def test_a_download_that_was_cut_goes_on_where_it_stopped(lab: Served, tmp_path: Path) -> None:
    network = Cutting(lab.port, WEIGHTS // 2)
    code = """
import json
from huggingface_hub import hf_hub_download
print(json.dumps(hf_hub_download("Org/Model", "model.safetensors")))
"""
    path = lab.python(code, tmp_path, HF_ENDPOINT=network.url)
    network.listener.close()
    assert network.cut == 1
    assert Path(path).read_bytes() == lab.files["model.safetensors"]


def test_hyb_pulls_from_a_mirror_and_gets_the_same_bytes(lab: Served, tmp_path: Path) -> None:
    other = Hyb(tmp_path / "other")
    env = {"HF_ENDPOINT": lab.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
    made = other.json("pull", "hf://Org/Model", "--name", "copy", env=env)
    store = Store(other.store)
    got = {f.path: f.blob.digest for f in store.artifact(store.resolve("copy")).files}
    assert made and got["model.safetensors"] == dg.of_bytes(lab.files["model.safetensors"])
    assert store.artifact(store.resolve("copy")).meta["source"] == f"hf://Org/Model@{COMMITS[1]}"


@pytest.mark.slow
def test_transformers_loads_a_model_of_the_store_by_its_name(tmp_path: Path) -> None:
    need("torch", "transformers", "httptools")
    from tests.tiny import tiny_artifact

    hyb = Hyb(tmp_path / "home")
    store = Store(hyb.store)
    store.tag("lab/tiny", tiny_artifact(store, tmp_path / "tiny").digest)
    code = """
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (c.from_pretrained("lab/tiny") for c in (AutoModelForCausalLM, AutoTokenizer))
print(json.dumps([model.config.model_type, len(tokenizer("hello")["input_ids"]) > 0]))
"""
    with serving(hyb) as served:
        assert served.python(code, tmp_path / "cache") == ["qwen2", True]


def test_many_clients_at_once_get_right_bytes(lab: Served) -> None:
    path = f"/Org/Model/resolve/{COMMITS[1]}/model.safetensors"
    data = lab.files["model.safetensors"]

    def one(number: int) -> bool:
        start = number * 1000
        if number % 2:
            return lab.get(path)[2] == data
        status, _, body = lab.get(path, Range=f"bytes={start}-")
        return status in (200, 206) and body == data[start:]

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(one, range(96)))


def test_ranges_are_served_as_http_has_them(lab: Served) -> None:
    path = f"/Org/Model/resolve/{COMMITS[1]}/model.safetensors"
    data, size = lab.files["model.safetensors"], len(lab.files["model.safetensors"])
    tag = f'"{dg.of_bytes(data).removeprefix("sha256:")}"'
    for asked, expected in {
        "bytes=0-0": data[:1], "bytes=-5": data[-5:], f"bytes={size - 1}-": data[-1:], "bytes=5-999999999": data[5:],
        f"bytes=-{size + 9}": data,
    }.items():  # fmt: skip
        status, head, body = lab.get(path, Range=asked)
        assert (status, body) == (206, expected), asked
        assert head["content-range"].endswith(f"/{size}") and head["etag"] == tag
    for nonsense in ("bytes=5-2", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", f"bytes={'9' * 40}-"):
        assert lab.get(path, Range=nonsense)[0] == 200, nonsense
    for beyond in (f"bytes={size}-", "bytes=-0"):
        status, head, _ = lab.get(path, Range=beyond)
        assert (status, head["content-range"]) == (416, f"bytes */{size}")
    assert lab.get(path, Range="bytes=0-1", **{"If-Range": '"other"'})[0] == 200
    assert lab.get(path, **{"If-None-Match": tag})[0::2] == (304, b"")
    status, head, body = lab.get(path, "HEAD")
    assert (status, body, head["content-length"], head["x-repo-commit"]) == (200, b"", str(size), COMMITS[1])


def test_what_is_private_is_not_shown_unless_asked(lab: Served) -> None:
    store = Store(lab.hyb.store)
    assert lab.get("/api/datasets/facts")[0] == 404
    for name in ("facts", "exam"):
        digest = store.resolve(name)
        blob = store.artifact(digest).files[0].blob.digest
        assert lab.get(f"/v2/{name}/manifests/latest")[0] == 404
        assert lab.get(f"/v2/bot/manifests/{digest}")[0] == lab.get(f"/v2/bot/blobs/{blob}")[0] == 404
    with serving(lab.hyb, "--everything") as all_:
        assert all_.get("/datasets/facts/resolve/main/train.jsonl")[2] == b'{"messages": []}\n'
        assert all_.get("/v2/exam/manifests/latest")[0] == 200


def test_what_is_added_while_it_runs_is_served_and_a_flipped_bit_is_not(lab: Served) -> None:
    store = Store(lab.hyb.store)
    assert lab.get("/late/resolve/main/config.json")[0] == 404
    digest = add(store, "model", {"config.json": b'{"late": 1}'}, "late")
    assert lab.get("/late/resolve/main/config.json")[2] == b'{"late": 1}'
    path = store.blob_path(store.artifact(digest).files[0].blob.digest)
    path.chmod(0o644)
    path.write_bytes(b'{"late": 2}')
    assert lab.get("/late/resolve/main/config.json")[0] == 500
    path.unlink()
    assert lab.get("/late/resolve/main/config.json")[0] == 500
    store.untag("late")


def test_hostile_requests_get_an_answer_and_no_file(lab: Served) -> None:
    for path in (
        "/../../etc/passwd", "/Org/Model/resolve/main/../../../etc/passwd", "/Org/Model/resolve/main/%2e%2e/hyb.json",
        "/Org/Model/resolve/main/..%2f..%2fhyb.json", "/v2/../blobs/sha256:00", "/simple/..%2f/", "/%00", "/%ff/x",
        "/Org%2FModel/resolve/main/config.json%00", "//etc/passwd", "/v2/demo/image/blobs/../../../index.json",
        "/packages/" + "0" * 64 + "/..%2f..%2fhyb.json",
    ):  # fmt: skip
        data = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        status = int(lab.raw(data).split()[1])
        assert status in (400, 404), (path, status)
    assert b" 431 " in lab.raw(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 40_000)
    assert b" 431 " in lab.raw(b"GET /" + b"b" * 40_000)
    assert b" 431 " in lab.raw(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 9000 + b"\r\n")
    assert b" 400 " in lab.raw(b"\x16\x03\x01\x02\x00\x01\x00")
    assert b" 400 " in lab.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n")
    assert b" 400 " in lab.raw(b"GET /\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    big = b"POST /api/models/Org/Model/paths-info/main HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"
    assert b" 413 " in lab.raw(big + b"x" * 1_200_000)
    assert lab.get("/", Host="evil.example.com")[0] == 421  # a web page whose name points here
    absolute = b"GET http://%b/v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert b" 421 " in lab.raw(absolute % b"evil.example.com") and b" 200 " in lab.raw(absolute % b"localhost")
    for method in ("PUT", "DELETE", "PATCH", "POST"):
        assert lab.get("/v2/demo/image/manifests/v1", method)[0] == 405
    both = b"GET /simple/ HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3
    assert lab.raw(both).count(b"HTTP/1.1 200 OK") == 3
    assert lab.get("/api/models/Org/Model")[0] == 200


def test_silent_clients_do_not_keep_others_out(lab: Served) -> None:
    silent = [socket.create_connection(("127.0.0.1", lab.port)) for _ in range(1100)]
    try:
        assert lab.get("/v2/")[0] == 200
    finally:
        for one in silent:
            one.close()


def test_skopeo_reads_an_image_and_what_refers_to_it(lab: Served, tmp_path: Path) -> None:
    need("skopeo")
    where = f"docker://127.0.0.1:{lab.port}/demo/image"
    digest = Store(lab.hyb.store).resolve("demo/image:v1")
    subprocess.run(
        ["skopeo", "copy", "--src-tls-verify=false", f"{where}:v1", f"dir:{tmp_path}/copy"], check=True,
        capture_output=True,
    )  # fmt: skip
    assert dg.of_bytes((tmp_path / "copy/manifest.json").read_bytes()) == digest
    done = subprocess.run(["skopeo", "list-tags", "--tls-verify=false", where], check=True, capture_output=True)
    assert json.loads(done.stdout)["Tags"] == ["v1"]
    found = json.loads(lab.get(f"/v2/demo/image/referrers/{digest}")[2])
    assert [m["artifactType"] for m in found["manifests"]] == ["application/vnd.hyb.signature.v1+json"]
    status, head, _ = lab.get("/v2/demo/image/manifests/v1", "HEAD")
    assert (status, head["docker-content-digest"], head["content-type"]) == (200, digest, MANIFEST)
    assert lab.get("/v2/_catalog?n=1")[1]["link"] == '</v2/_catalog?n=1&last=bot>; rel="next"'
    for path, code in (
        ("none/manifests/v1", "NAME_UNKNOWN"), ("demo/image/manifests/v2", "MANIFEST_UNKNOWN"),
        ("demo/image/blobs/sha256:" + "0" * 64, "BLOB_UNKNOWN"), ("demo/image/referrers/x", "DIGEST_INVALID"),
    ):  # fmt: skip
        assert json.loads(lab.get(f"/v2/{path}")[2])["errors"][0]["code"] == code


@pytest.mark.podman
def test_podman_pulls_an_image_by_tag_and_by_digest(lab: Served, podman_home: Path) -> None:  # noqa: F811
    from hyb import engine_podman

    where, digest = f"127.0.0.1:{lab.port}/demo/image", Store(lab.hyb.store).resolve("demo/image:v1")
    for name in (f"{where}:v1", f"{where}@{digest}"):
        done = subprocess.run(
            [*engine_podman.PODMAN, "pull", "-q", "--tls-verify=false", name], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def keyed(lab: Served, tmp_path: Path, *options: str) -> Iterator[tuple[Served, str]]:
    key = "k" * 20 + "0123456789"
    (tmp_path / "key").write_text(key + "\n")
    (tmp_path / "key").chmod(0o600)
    wheels = str(lab.hyb.home / "wheels")
    with serving(lab.hyb, "--read-key-file", str(tmp_path / "key"), "--wheels", wheels, *options) as served:
        yield served, key


def test_pip_installs_with_its_dependencies_and_is_told_metadata(lab: Served, tmp_path: Path) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--isolated",
        "--no-cache-dir",
        "-q",
        "--target",
        str(tmp_path / "got"),
    ]
    subprocess.run([*pip, "--index-url", f"{lab.url}/simple/", "hyb-root"], check=True, capture_output=True)
    assert {p.name for p in (tmp_path / "got").glob("*.py")} == {"Hyb_Root.py", "hyb_leaf.py"}
    accept = {"Accept": "application/vnd.pypi.simple.v1+json, text/html; q=0.1"}
    told = json.loads(lab.get("/simple/hyb-root/", **accept)[2])
    assert told["versions"] == ["2.0"] and told["files"][0]["requires-python"] == ">=3.8"
    url = "/simple/hyb-root/../../" + told["files"][0]["url"].removeprefix("../../")
    assert url.endswith("Hyb_Root-2.0-py3-none-any.whl")
    body = lab.get("/" + told["files"][0]["url"].removeprefix("../../") + ".metadata")[2]
    assert dg.of_bytes(body) == f"sha256:{told['files'][0]['core-metadata']['sha256']}"
    _, head, body = lab.get("/simple/hyb-root/")
    assert head["content-type"].startswith("text/html") and b'data-requires-python="&gt;=3.8"' in body
    assert lab.get("/simple/Hyb_Root/")[1]["location"] == "/simple/hyb-root/"
    assert [p["name"] for p in json.loads(lab.get("/simple/", **accept)[2])["projects"]] == ["hyb-leaf", "hyb-root"]


def test_a_read_key_is_asked_of_each_client_and_shown_to_nobody(lab: Served, tmp_path: Path) -> None:
    with keyed(lab, tmp_path) as (served, key):
        assert served.get("/simple/")[0] == served.get("/v2/")[0] == 401
        assert served.get("/v2/", Authorization="Bearer wrong")[0] == 401
        assert served.get("/v2/", Authorization="Basic ???")[0] == 401
        assert served.get("/v2/", Authorization=f"Bearer {key}")[0] == 200
        folder, _ = served.python(SNAPSHOT, tmp_path / "hub", HF_TOKEN=key)
        assert Path(folder).name == COMMITS[1]
        refused = (
            "import json\nfrom huggingface_hub import model_info\ntry:\n model_info('Org/Model')\n"
            "except Exception as e:\n print(json.dumps([type(e).__name__, str(e)]))"
        )
        name, words = served.python(refused, tmp_path / "no", HF_TOKEN="wrong")
        assert name == "HfHubHTTPError" and "401" in words
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--isolated",
            "--no-cache-dir",
            "-q",
            "--no-deps",
            "-d",
            str(tmp_path),
        ]
        host = served.url.removeprefix("http://")
        subprocess.run(
            [*pip, "--index-url", f"http://any:{key}@{host}/simple/", "hyb-leaf"], check=True, capture_output=True
        )
        if shutil.which("skopeo"):
            line = ["skopeo", "inspect", "--tls-verify=false", f"docker://{host}/demo/image:v1"]
            assert subprocess.run(line, capture_output=True, check=False).returncode != 0
            assert subprocess.run([*line, "--creds", f"lab:{key}"], capture_output=True, check=False).returncode == 0
        assert key not in Path(f"/proc/{served.process.pid}/cmdline").read_text()


def test_tls_is_served_where_it_is_asked_for(lab: Served, tmp_path: Path) -> None:
    need("openssl")
    pair = [str(tmp_path / "cert.pem"), str(tmp_path / "cert.key")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", pair[0], "-keyout", pair[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    with serving(lab.hyb, "--tls-cert", pair[0], "--tls-key", pair[1]) as served:
        assert served.url.startswith("https://")
        context = ssl.create_default_context(cafile=pair[0])
        url = f"{served.url}/Org/Model/resolve/main/model.safetensors"
        with urllib.request.urlopen(url, context=context, timeout=20) as answer:
            assert answer.read() == lab.files["model.safetensors"]
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=20)


def test_what_can_not_be_served_is_said_before_anything_listens(lab: Served, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("short")
    key.chmod(0o600)
    assert "holds no key" in lab.hyb.fails(3, "mirror", "serve", "--read-key-file", str(key))
    key.chmod(0o644)
    assert "chmod 600" in lab.hyb.fails(3, "mirror", "serve", "--read-key-file", str(key))
    assert "--open-to-all" in lab.hyb.fails(2, "mirror", "serve", "--host", "0.0.0.0")
    assert "go together" in lab.hyb.fails(2, "mirror", "serve", "--tls-cert", str(key))
    assert "no pair" in lab.hyb.fails(
        3, "mirror", "serve", "--tls-cert", str(key), "--tls-key", str(key), "--port", "0"
    )
    assert "is no folder" in lab.hyb.fails(3, "mirror", "--wheels", str(tmp_path / "none"))
    assert "can't listen" in lab.hyb.fails(3, "mirror", "serve", "--port", str(lab.port))
    shown = {(r["kind"], r["name"]) for r in lab.hyb.json("mirror")}
    assert ("model", "Org/Model") in shown and ("image", "demo/image") in shown and ("dataset", "facts") not in shown
    assert lab.hyb.json("mirror", "serve", "--dry-run")


def test_a_slow_reader_is_served_while_the_mirror_ends_and_the_end_is_soon(lab: Served) -> None:
    with serving(lab.hyb) as served:
        connection = socket.create_connection(("127.0.0.1", served.port))
        connection.sendall(
            f"GET /Org/Model/resolve/{COMMITS[1]}/model.safetensors HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        served.process.send_signal(signal.SIGTERM)
        found, began = b"", time.monotonic()
        size = len(lab.files["model.safetensors"])
        while len(found) < size:
            part = connection.recv(1 << 18)
            assert part, "the answer was broken off"
            found += part
        connection.close()
        assert served.process.wait(20) == 0 and time.monotonic() - began < 15
    assert re.search(rb"\r\n\r\n", found)
