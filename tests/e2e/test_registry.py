"""Push to and pull from a real registry, through a proxy that misbehaves; and skopeo beside hyb."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path

import pytest

from hyb import certificates, hub
from hyb import digest as dg
from hyb.artifact import INDEX, MANIFEST, MODEL_CONFIG, Artifact
from hyb.artifact import document as manifest_of
from hyb.errors import Exit, HybError
from hyb.formats import modelpack
from hyb.hub import download, names, push
from hyb.progress import Progress
from hyb.stages import pull
from hyb.stages.base import Context
from hyb.store import Store
from tests.hubserver import model, safetensors
from tests.hyb import Hyb
from tests.need import need
from tests.registry_env import Asked, Front, Running, registry, serving  # noqa: F401

WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short rests, small parts, and no credentials but the test's own."""
    monkeypatch.setattr(download, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(push, "CHUNK", 1 << 20)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def a_model(store: Store, seed: int = 0, size: int = 64, **meta: object) -> Artifact:
    """A model whose facts are nowhere in its files: they must travel in the manifest."""
    content = {p: d for p, d in model(size, seed=seed).items() if isinstance(d, bytes) and not p.startswith(".")}
    files = [modelpack.file(path, store.add_bytes(data)) for path, data in content.items()]
    facts = {"format": "safetensors", "name": "Tiny Bot", "license": "apache-2.0", "adapter": "sha256:" + "a" * 64}
    config = modelpack.config(files, name="Tiny Bot", format="safetensors", licenses=["apache-2.0"])
    return store.add_artifact("model", files, meta={**facts, **meta}, config=config)


def pushed(store: Store, artifact: Artifact, target: str, **options: bool) -> push.Pushed:
    place = names.parse(f"oci://{target}")
    assert isinstance(place, names.OCI)
    return push.push(store, artifact, place, say=lambda _: None, **options)


def pulled(store: Store, source: str, *, offline: bool = False, pinned: str = "") -> Artifact:
    pin = pinned or hub.pin(hub.resolve(source), offline=offline)
    context = Context(store, store.work("sha256:" + "5" * 64), Path(), offline, {source: pin})
    return pull.run(pull.Spec(source=source), {}, context)


def skopeo(*argv: str) -> bytes:
    need("skopeo")
    return subprocess.run(["skopeo", *argv], capture_output=True, check=True).stdout


def credentials(tmp_path: Path, host: str, text: str = "ann:secret") -> None:
    auth = base64.b64encode(text.encode()).decode()
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


# -- there and back ----------------------------------------------------------------------------------------------------


def test_a_pushed_model_comes_back_with_its_digest_and_all_it_said_of_itself(
    registry: Running,  # noqa: F811
    store: Store,
    tmp_path: Path,
) -> None:
    first = a_model(store)
    done = pushed(store, first, f"{registry.host}/lab/back:1")
    assert done.source == f"oci://{registry.host}/lab/back@{first.digest}"
    other = Store(tmp_path / "other")
    copy = pulled(other, f"oci://{registry.host}/lab/back:1")
    assert copy.digest == first.digest
    assert dict(copy.meta) == dict(first.meta)
    for file in copy.files:
        other.check(file.blob, thorough=True)


def test_skopeo_reads_what_hyb_pushed_and_hyb_what_skopeo_pushed(
    registry: Running,  # noqa: F811
    store: Store,
    tmp_path: Path,
) -> None:
    first, at = a_model(store), f"docker://{registry.host}/lab/skopeo"
    pushed(store, first, f"{registry.host}/lab/skopeo:1")
    raw = skopeo("inspect", "--tls-verify=false", "--raw", f"{at}:1")
    assert dg.of_bytes(raw) == first.digest
    skopeo("copy", "--src-tls-verify=false", "--preserve-digests", f"{at}:1", f"oci:{tmp_path / 'copy'}:it")
    entry = json.loads((tmp_path / "copy/index.json").read_bytes())["manifests"][0]
    assert entry["digest"] == first.digest
    skopeo("copy", "--dest-tls-verify=false", "--preserve-digests", f"oci:{tmp_path / 'copy'}:it", f"{at}:2")
    assert pulled(Store(tmp_path / "other"), f"oci://{registry.host}/lab/skopeo:2").digest == first.digest


def test_a_model_of_another_packer_keeps_the_name_and_licence_of_its_config(
    registry: Running,  # noqa: F811
    store: Store,
    tmp_path: Path,
) -> None:
    files = {"config.json": model()["config.json"], WEIGHTS: safetensors({"w": (8, 8)}, 3)}
    kept = [modelpack.file(p, store.add_bytes(d)) for p, d in files.items()]  # type: ignore[arg-type]
    kind, document = modelpack.config(kept, name="Their Model", licenses=["MIT"])
    config = store.add_bytes(dg.canonical_json(document))
    layers = [
        {"mediaType": f.media_type, "digest": f.blob.digest, "size": f.blob.size,
         "annotations": {"org.cncf.model.filepath": f.path}}
        for f in kept
    ]  # fmt: skip
    foreign = store.add_manifest(
        {"schemaVersion": 2, "layers": layers,
         "config": {"mediaType": kind, "digest": config.digest, "size": config.size}}
    )  # fmt: skip
    pushed(store, foreign, f"{registry.host}/lab/foreign:1")
    copy = pulled(Store(tmp_path / "other"), f"oci://{registry.host}/lab/foreign:1")
    assert (copy.meta["name"], copy.meta["license"]) == ("Their Model", "mit")
    assert copy.meta["source"] == f"oci://{registry.host}/lab/foreign@{foreign.digest}"


def test_a_second_push_sends_nothing_and_another_repository_mounts(registry: Running, store: Store) -> None:  # noqa: F811
    first = a_model(store, seed=1)
    sent = pushed(store, first, f"{registry.host}/lab/one:1")
    assert sent.sent == sum(b["size"] for b in [first.manifest["config"], *first.manifest["layers"]])
    again = pushed(store, first, f"{registry.host}/lab/one:2")
    assert (again.sent, again.mounted, again.there) == (0, 0, sent.sent)
    other = pushed(store, first, f"{registry.host}/lab/two:1")
    assert (other.sent, other.mounted, other.there) == (0, sent.sent, 0)
    assert pulled(Store(store.root.parent / "other"), f"oci://{registry.host}/lab/two:1").digest == first.digest


def test_reports_travel_as_referrers_with_the_index_that_the_specification_gives(
    registry: Running,  # noqa: F811
    store: Store,
) -> None:
    first = a_model(store, seed=2)
    report = store.add_artifact(
        "report",
        [modelpack.file("report.json", store.add_bytes(b'{"passed": true}'))],
        meta={"passed": True},
        subject=first,
    )
    for _ in range(2):  # a second time notes nothing twice
        assert pushed(store, first, f"{registry.host}/lab/reports:1", reports=True).referrers == 1
    tag = first.digest.replace(":", "-")
    raw = json.loads(skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{registry.host}/lab/reports:{tag}"))
    assert raw["mediaType"] == INDEX
    assert [(e["digest"], e["artifactType"]) for e in raw["manifests"]] == [
        (report.digest, "application/vnd.hyb.report.v1+json")
    ]


def test_the_commands_push_and_pull_over_the_whole_way(registry: Running, tmp_path: Path) -> None:  # noqa: F811
    hyb = Hyb(tmp_path / "home")
    hyb.home.mkdir()
    first = a_model(Store(hyb.store), seed=4)
    Store(hyb.store).tag("bot", first.digest)
    target = f"oci://{registry.host}/lab/cli:v1"
    said = hyb.json("push", "bot", target)
    assert said["digest"] == first.digest and said["target"] == target
    assert "there already" in hyb.ok("push", "bot", target)
    other = Hyb(tmp_path / "another home")
    (tmp_path / "another home").mkdir()
    assert other.json("pull", target, "--name", "bot")["steps"][0]["digest"] == first.digest
    assert "nothing in the store" in hyb.fails(3, "push", "nobody", target)
    assert "is not of the form" in hyb.fails(2, "push", "bot", "docker://x/y")
    assert "neither `true` nor `false`" in hyb.fails(2, "push", "bot", target, "--tls-verify=perhaps")
    assert "hyb is offline" in hyb.fails(6, "push", "bot", target, "--offline")
    assert "hyb is offline" in hyb.fails(6, "pull", f"oci://{registry.host}/lab/cli:other", "--offline")


# -- stumbles ----------------------------------------------------------------------------------------------------------


def test_an_upload_that_was_cut_goes_on_from_where_the_registry_says(registry: Running, store: Store) -> None:  # noqa: F811
    first = a_model(store, seed=5, size=4096)
    weights = first.file(WEIGHTS).blob
    with Front(registry) as front:
        front.fault("PATCH", "uploads", "cut", 700_000)
        front.fault("PATCH", "uploads", "drop", times=2)
        front.fault("PATCH", "uploads", "status", 503)
        done = pushed(store, first, f"{front.host}/lab/cut:1")
        arrived = sum(a.size for a in [*front.asked("PATCH"), *front.asked("PUT", "digest=" + weights.digest[-64:])])
    assert done.sent < weights.size * 2
    assert weights.size <= arrived < weights.size + (1 << 20) + 700_000  # at most one part more than once
    assert pulled(Store(store.root.parent / "o"), f"oci://{registry.host}/lab/cut:1").digest == first.digest


CHILD = """
import os, signal, sys
from pathlib import Path
from hyb.hub import names, push
from hyb.progress import Progress
from hyb.store import Store
push.CHUNK = 1 << 20
def say(said):
    if isinstance(said, Progress) and said.done > 0.6 * said.total:
        os.kill(os.getpid(), signal.SIGKILL)
store = Store(Path(sys.argv[1]))
push.push(store, store.artifact(sys.argv[2]), names.parse(sys.argv[3]), say=say)
"""


def test_a_push_that_was_killed_goes_on_in_the_next_process(registry: Running, store: Store) -> None:  # noqa: F811
    first = a_model(store, seed=6, size=8192)
    size = first.file(WEIGHTS).blob.size
    with Front(registry) as front:
        target = f"{front.host}/lab/killed:1"
        argv = [sys.executable, "-c", CHILD, str(store.root), first.digest, f"oci://{target}"]
        assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
        assert "lab/killed" in registry.catalog()
        deadline = time.monotonic() + 20
        while sum(a.size for a in front.asked("PATCH")) < size * 0.5:  # the proxy passes on what it took
            assert time.monotonic() < deadline
            time.sleep(0.02)
        done = pushed(store, first, target)
        assert 0 < done.sent < size * 0.6
        assert [a for a in front.asked("GET", "uploads/")]  # it asked where it was
    assert pulled(Store(store.root.parent / "o"), f"oci://{registry.host}/lab/killed:1").digest == first.digest
    assert not list((store.root / "work").iterdir())


def test_a_session_that_the_registry_lost_is_begun_anew(registry: Running, store: Store) -> None:  # noqa: F811
    first = a_model(store, seed=7, size=4096)
    with Front(registry) as front:
        front.fault("PATCH", "uploads", "drop")
        front.fault("GET", "uploads/", "status", 404)
        pushed(store, first, f"{front.host}/lab/lost:1")
    assert pulled(Store(store.root.parent / "o"), f"oci://{registry.host}/lab/lost:1").digest == first.digest


def test_a_download_that_was_cut_goes_on_by_range(registry: Running, store: Store, tmp_path: Path) -> None:  # noqa: F811
    first = a_model(store, seed=8, size=4096)
    pushed(store, first, f"{registry.host}/lab/range:1")
    weights = first.file(WEIGHTS).blob
    with Front(registry) as front:
        front.fault("GET", weights.digest, "cut", 3_000_000)
        copy = pulled(Store(tmp_path / "o"), f"oci://{front.host}/lab/range:1")
        ranges = [a.headers.get("Range", "") for a in front.asked("GET", weights.digest)]
    assert copy.digest == first.digest
    assert len(ranges) == 2 and ranges[0] == "" and 0 < int(ranges[1][6:-1]) <= 3_000_000


def test_bytes_of_another_digest_are_refused_and_not_kept(registry: Running, store: Store, tmp_path: Path) -> None:  # noqa: F811
    first = a_model(store, seed=9)
    pushed(store, first, f"{registry.host}/lab/flip:1")
    other = Store(tmp_path / "o")
    for pattern in (first.file(WEIGHTS).blob.digest, "manifests/sha256"):
        with Front(registry) as front, pytest.raises(HybError, match="gave other bytes") as caught:
            front.fault("GET", pattern, "flip", times=9)
            pulled(other, f"oci://{front.host}/lab/flip:1", pinned=f"oci://{front.host}/lab/flip@{first.digest}")
        assert caught.value.code == Exit.CHECK
        assert not other.artifacts()
        assert not list(other.root.rglob(f"{first.file(WEIGHTS).blob.digest[7:]}*"))


def test_a_registry_that_asks_for_a_rest_is_given_it(registry: Running, store: Store, tmp_path: Path) -> None:  # noqa: F811
    first = a_model(store, seed=10)
    with Front(registry) as front:
        front.fault("HEAD", "blobs", "status", 429, headers={"Retry-After": "1"})
        front.fault(
            "PUT", "manifests", "status", 429, headers={"Retry-After": formatdate(time.time() + 1, usegmt=True)}
        )
        front.fault("POST", "uploads", "status", 500, times=2)
        began = time.monotonic()
        pushed(store, first, f"{front.host}/lab/slow:1")
        assert time.monotonic() - began >= 1
        front.fault("GET", "manifests", "status", 429, headers={"Retry-After": "3600"}, times=9)
        with pytest.raises(HybError, match="asks to wait 3600 s") as caught:
            pulled(Store(tmp_path / "o"), f"oci://{front.host}/lab/slow:1")
        assert caught.value.code == Exit.BELOW


def test_a_registry_that_is_down_is_exit_5_and_named(registry: Running, store: Store, tmp_path: Path) -> None:  # noqa: F811
    first = a_model(store)
    with Front(registry) as front:
        front.fault("POST", "uploads", "status", 503, times=99)
        with pytest.raises(HybError, match="failed 5 times") as caught:
            pushed(store, first, f"{front.host}/lab/down:1")
        assert caught.value.code == Exit.BELOW and "goes on" in caught.value.hint
    with pytest.raises(HybError, match=f"`{front.host}` failed 5 times") as caught:
        pulled(Store(tmp_path / "o"), f"oci://{front.host}/lab/down:1")
    assert caught.value.code == Exit.BELOW


def test_what_a_registry_does_not_have_is_said_with_its_own_words(registry: Running, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(HybError, match=r"does not have `lab/none:1` \(404\)") as caught:
        pulled(Store(tmp_path / "o"), f"oci://{registry.host}/lab/none:1")
    assert caught.value.code == Exit.INPUT
    assert "MANIFEST_UNKNOWN" in caught.value.details[0] or "NAME_UNKNOWN" in caught.value.details[0]


def damaged(**changes: object) -> bytes:
    layer = {"mediaType": modelpack.WEIGHT, "digest": "sha256:" + "a" * 64, "size": 5,
             "annotations": {"org.cncf.model.filepath": WEIGHTS}}  # fmt: skip
    config = {"mediaType": MODEL_CONFIG, "digest": "sha256:" + "b" * 64, "size": 2}
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer], **changes}
    return dg.canonical_json(document)


HOSTILE = {
    "no JSON": b"<html>",
    "a deep one": b"[" * 200_000,
    "a list": b"[]",
    "no config": damaged(config=None),
    "layers that are none": damaged(layers={"a": 1}),
    "a size below zero": damaged(config={"mediaType": "x", "digest": "sha256:" + "b" * 64, "size": -1}),
    "a digest with a path": damaged(config={"mediaType": "x", "digest": "sha256:../../x", "size": 1}),
    "a config of a terabyte": damaged(config={"mediaType": "x", "digest": "sha256:" + "b" * 64, "size": 1 << 40}),
    "notes that are none": damaged(annotations=["x"]),
    "an image": damaged(annotations={"io.hyb.kind": "image"}),
    "a path outside": damaged(
        layers=[{"mediaType": modelpack.WEIGHT, "digest": "sha256:" + "a" * 64, "size": 5,
                 "annotations": {"org.cncf.model.filepath": "../../.bashrc"}}]
    ),
    "a tar layer": damaged(
        layers=[{"mediaType": "application/vnd.cncf.model.weight.v1.tar", "digest": "sha256:" + "a" * 64, "size": 5,
                 "annotations": {"org.cncf.model.filepath": "x"}}]
    ),
}  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_manifest_that_makes_no_sense_is_refused_in_words(body: bytes, registry: Running, tmp_path: Path) -> None:  # noqa: F811
    other = Store(tmp_path / "o")
    with Front(registry) as front, pytest.raises(HybError):
        front.fault("GET", "manifests", "status", 200, body=body, times=9)
        pulled(other, f"oci://{front.host}/lab/hostile:1")
    assert not other.artifacts()
    assert not other.blobs.exists() or not list(other.blobs.iterdir())


def test_facts_that_can_not_be_read_are_not_taken_over(registry: Running, store: Store, tmp_path: Path) -> None:  # noqa: F811
    content = {p: d for p, d in model().items() if isinstance(d, bytes) and not p.startswith(".")}
    files = [modelpack.file(path, store.add_bytes(data)) for path, data in content.items()]
    kind, document = modelpack.config(files, name="Odd")
    config = store.add_bytes(dg.canonical_json(document))
    manifest = manifest_of("model", files, (kind, config), meta={})
    for number, meta in enumerate(("[", "[]", '{"name": 5}')):
        manifest["annotations"]["io.hyb.meta"] = meta
        data = dg.canonical_json(manifest)
        (store.blob_path(dg.of_bytes(data))).write_bytes(data)
        for blob in [config, *(f.blob for f in files)]:
            store.check(blob)
        at = f"docker://{registry.host}/lab/odd:{number}"
        index = {"schemaVersion": 2, "manifests": [
            {"mediaType": MANIFEST, "digest": dg.of_bytes(data), "size": len(data),
             "annotations": {"org.opencontainers.image.ref.name": "odd"}}]}  # fmt: skip
        (store.root / "index.json").write_bytes(json.dumps(index).encode())
        skopeo("copy", "--dest-tls-verify=false", "--preserve-digests", f"oci:{store.root}:odd", at)
        copy = pulled(Store(tmp_path / f"o{number}"), f"oci://{registry.host}/lab/odd:{number}")
        assert copy.digest != dg.of_bytes(data)
        assert (copy.meta["name"], copy.meta["format"], copy.meta["license"]) == ("Odd", "safetensors", "apache-2.0")


def test_answers_without_end_or_sense_are_refused(registry: Running, store: Store) -> None:  # noqa: F811
    first = a_model(store, seed=20)
    with Front(registry) as front:
        front.fault("HEAD", "blobs", "status", 307, headers={"Location": f"http://{front.host}/v2/x/blobs/y"}, times=99)
        with pytest.raises(HybError, match="is no registry that hyb understands") as caught:
            pushed(store, first, f"{front.host}/lab/circle:1")
        assert caught.value.code == Exit.BELOW
        front.faults.clear()
        front.fault("POST", "uploads", "status", 202, times=99)
        with pytest.raises(HybError, match="did not say where"):
            pushed(store, first, f"{front.host}/lab/nowhere:1")


# -- who we are --------------------------------------------------------------------------------------------------------


class Tokens:
    """A guard with a token service of its own, as the distribution specification has it."""

    def __init__(self, front: Front, user: str = "ann:secret") -> None:
        self.front, self.user = front, user
        self.scopes: list[list[str]] = []

    def __call__(self, asked: Asked) -> tuple[int, dict[str, str], bytes] | None:
        if asked.path.startswith("/token"):
            basic = "Basic " + base64.b64encode(self.user.encode()).decode()
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(asked.path).query)
            self.scopes.append(query["scope"])
            if asked.authorization != basic:
                return 401, {}, b'{"errors": [{"code": "UNAUTHORIZED", "message": "wrong"}]}'
            return 200, {}, json.dumps({"token": self.token(len(self.scopes))}).encode()
        if asked.authorization == f"Bearer {self.token(len(self.scopes))}":
            return None
        realm = f'Bearer realm="http://{self.front.host}/token",service="test",scope="repository:x:pull"'
        return 401, {"WWW-Authenticate": realm}, b"{}"

    def token(self, number: int) -> str:
        return hashlib.sha256(f"{self.user}{number}".encode()).hexdigest()


def test_a_token_is_asked_for_with_the_user_s_credentials_and_renewed_when_it_ends(
    registry: Running,  # noqa: F811
    store: Store,
    tmp_path: Path,
) -> None:
    first = a_model(store, seed=11, size=4096)
    with Front(registry) as front:
        credentials(tmp_path, front.host)
        guard = Tokens(front)
        front.guard = guard
        pushed(store, first, f"{front.host}/lab/token:1")
        assert guard.scopes == [["repository:lab/token:pull,push"]]
        assert not [a for a in front.log if a.path.startswith("/v2/") and a.authorization.startswith("Basic")]
        guard.scopes.append([])  # the token that the client has is over: it must ask for another
        pushed(store, a_model(store, seed=12), f"{front.host}/lab/token:2")
        assert pulled(Store(tmp_path / "o"), f"oci://{front.host}/lab/token:1").digest == first.digest
        assert guard.scopes[-1] == ["repository:lab/token:pull"]


@pytest.mark.parametrize(("text", "said"), [("ann:wrong", "refused the credentials"), ("", "wants to know who asks")])
def test_wrong_and_missing_credentials_are_told_apart(
    text: str,
    said: str,
    registry: Running,  # noqa: F811
    store: Store,
    tmp_path: Path,
) -> None:
    with Front(registry) as front:
        if text:
            credentials(tmp_path, front.host, text)
        front.guard = Tokens(front)
        with pytest.raises(HybError, match=said) as caught:
            pushed(store, a_model(store), f"{front.host}/lab/who:1")
    assert caught.value.code == Exit.INPUT
    assert f"podman login {front.host}" in caught.value.hint
    assert "wrong" not in str(caught.value.__notes__ if hasattr(caught.value, "__notes__") else "")


def test_a_credential_helper_is_asked_and_basic_authentication_works(
    registry: Running,  # noqa: F811
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(
        f'#!/bin/sh\ncat > {tmp_path}/asked\nprintf \'{{"Username": "ann", "Secret": "from the helper"}}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    basic = "Basic " + base64.b64encode(b"ann:from the helper").decode()
    with Front(registry) as front:
        (tmp_path / "auth.json").write_text(json.dumps({"credHelpers": {front.host: "test"}}))

        def guard(asked: Asked) -> tuple[int, dict[str, str], bytes] | None:
            return None if asked.authorization == basic else (401, {"WWW-Authenticate": 'Basic realm="x"'}, b"{}")

        front.guard = guard
        pushed(store, a_model(store, seed=13), f"{front.host}/lab/basic:1")
        assert (tmp_path / "asked").read_text() == front.host


def test_an_account_that_may_not_push_is_told_so(registry: Running, store: Store) -> None:  # noqa: F811
    with Front(registry) as front:
        body = b'{"errors": [{"code": "DENIED", "message": "read only\\u001b[31m"}]}'
        front.fault("POST", "uploads", "status", 403, body=body, times=9)
        with pytest.raises(HybError, match=r"does not allow a push to `lab/denied` \(403\)") as caught:
            pushed(store, a_model(store, seed=14), f"{front.host}/lab/denied:1")
    assert caught.value.code == Exit.INPUT
    assert caught.value.details == ("DENIED: read only [31m",)


def test_tls_is_held_to_unless_the_user_chose_otherwise(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("docker-registry")
    ca = certificates.make_ca("tests", 2, datetime.now(UTC))
    leaf = certificates.make_leaf(ca, "localhost", 1, datetime.now(UTC), hosts=["localhost"])
    for name, data in (("ca", ca.certificate), ("cert", leaf.certificate), ("key", leaf.key)):
        (tmp_path / name).write_bytes(data)
    with serving(tmp_path, (tmp_path / "cert", tmp_path / "key")) as running:
        target = f"localhost:{running.host.rpartition(':')[2]}/lab/tls:1"
        with pytest.raises(HybError, match="is not trusted") as caught:
            pushed(store, a_model(store), target)
        assert "SSL_CERT_FILE" in caught.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca"))
        assert pushed(store, a_model(store), target).sent > 0
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setenv("HYB_TLS_VERIFY", "false")
        assert pushed(store, a_model(store), target).sent == 0


# -- our own disk ------------------------------------------------------------------------------------------------------


def test_a_damaged_blob_of_the_store_is_never_pushed(registry: Running, store: Store) -> None:  # noqa: F811
    first = a_model(store, seed=15)
    blob = store.blob_path(first.file(WEIGHTS).blob.digest)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(HybError, match="is damaged") as caught:
        pushed(store, first, f"{registry.host}/lab/damaged:1")
    assert caught.value.code == Exit.CHECK
    assert "lab/damaged" not in registry.catalog()


def test_progress_counts_every_byte_once(registry: Running, store: Store) -> None:  # noqa: F811
    first, said = a_model(store, seed=16, size=4096), []
    with Front(registry) as front:
        front.fault("PATCH", "uploads", "cut", 300_000)
        place = names.parse(f"oci://{front.host}/lab/progress:1")
        assert isinstance(place, names.OCI)
        push.push(store, first, place, say=said.append)
    last = [s for s in said if isinstance(s, Progress)][-1]
    assert last.done == last.total == first.size + first.manifest["config"]["size"]
