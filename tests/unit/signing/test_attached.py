"""Signatures in the store, and attempts to pass one thing's signature off as another's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hyb import digest as dg
from hyb import receipt, upkeep
from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.formats import modelpack
from hyb.formats.oci import SIGSTORE_BUNDLE
from hyb.progress import silent
from hyb.signing import attached, dsse, keys, model
from hyb.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def key(tmp_path: Path) -> keys.PrivateKey:
    return keys.load_private(keys.generate(tmp_path / "keys", "a").private)


@pytest.fixture
def other(tmp_path: Path) -> keys.PrivateKey:
    return keys.load_private(keys.generate(tmp_path / "keys", "b").private)


def add(store: Store, kind: str = "model", text: str = "weights", **meta: object) -> Artifact:
    files = [modelpack.file("model.safetensors", store.add_bytes(text.encode()))]
    files += [modelpack.file("config.json", store.add_bytes(b"{}"))]
    return store.add_artifact(kind, files, meta=meta)


def reasons(store: Store, artifact: Artifact, *trusted: keys.PublicKey) -> str:
    found = attached.find(store, artifact, trusted)
    assert not found.good
    return "; ".join(found.bad)


@pytest.mark.parametrize("kind", ["model", "adapter", "dataset", "report", "image", "service", "link"])
def test_any_artifact_can_be_signed_and_its_signature_is_a_referrer(
    store: Store, key: keys.PrivateKey, other: keys.PrivateKey, kind: str
) -> None:
    artifact = add(store, kind)
    made = attached.sign(store, artifact, "it", key, silent)
    assert made.subject == artifact.digest
    assert made.manifest["artifactType"] == SIGSTORE_BUNDLE
    assert attached.find(store, artifact, [other.public, key.public]).good == (key.public.key_id,)
    assert "signed by none" in reasons(store, artifact, other.public)
    assert attached.sign(store, artifact, "it", key, silent).digest == made.digest  # not a second one
    with pytest.raises(HybError, match="is a signature"):
        attached.sign(store, made, "it", key, silent)


def test_a_receipts_signature_covers_its_own_statement(store: Store, key: keys.PrivateKey) -> None:
    output = add(store)
    now = receipt.now()
    statements = [
        receipt.statement(
            name=n, stage="pull", key=output.digest, spec={}, pins={}, inputs={}, output=output, started=now, ended=now,
            facts={},
        )
        for n in ("a", "b")
    ]  # fmt: skip
    made = [receipt.add(store, s, output) for s in statements]
    signature = attached.sign(store, made[0], "a", key, silent)
    statement = store.read(made[0].file("statement.json").blob.digest)
    bundle = store.read(signature.files[0].blob.digest)
    assert dsse.verify(bundle, dsse.IN_TOTO, [key.public]).payload == statement
    assert attached.find(store, made[0], [key.public]).good
    attached.add(store, made[1], bundle)
    assert "another statement" in reasons(store, made[1], key.public)
    attached.add(store, output, bundle)  # its subject is the output, but it vouches for how, not for what
    assert "no in-toto statement about one thing" in reasons(store, output, key.public)


def test_a_statement_of_the_version_that_cosign_writes_counts(store: Store, key: keys.PrivateKey) -> None:
    image, other = add(store, "image"), add(store, "image", "other")
    payload = json.loads(attached.payload(store, image, "it"))
    for version, good in (("v0.1", True), ("v0.2", False)):
        text = json.dumps({**payload, "_type": f"https://in-toto.io/Statement/{version}"}).encode()
        bundle = dsse.sign(text, dsse.IN_TOTO, key)
        if good:
            assert attached.check(store, image, bundle, [key.public]) == key.public.key_id
        with pytest.raises(HybError, match="another artifact" if good else "no in-toto statement"):
            attached.check(store, other, bundle, [key.public])


def test_a_signature_of_one_thing_is_none_of_another(store: Store, key: keys.PrivateKey) -> None:
    for kind in ("model", "dataset"):
        one, two = add(store, kind, "one"), add(store, kind, "two")
        bundle = store.read(attached.sign(store, one, "one", key, silent).files[0].blob.digest)
        attached.add(store, two, bundle)
        assert "another artifact" in reasons(store, two, key.public)


def test_what_hyb_noted_beside_the_files_is_signed_too(store: Store, key: keys.PrivateKey) -> None:
    honest, lying = add(store, license="gpl-3.0"), add(store, license="mit")
    bundle = store.read(attached.sign(store, honest, "x", key, silent).files[0].blob.digest)
    attached.add(store, lying, bundle)
    assert honest.files == lying.files
    assert "another artifact" in reasons(store, lying, key.public)


def test_a_models_statement_is_no_signature_of_a_data_set(store: Store, key: keys.PrivateKey) -> None:
    rows = add(store, "dataset")
    payload = model.statement("x", {f.path: f.blob.digest for f in rows.files}, rows.digest)
    attached.add(store, rows, dsse.sign(payload, dsse.IN_TOTO, key))
    assert "something else" in reasons(store, rows, key.public)


def test_a_publishers_signature_covers_a_whole_repository(store: Store, key: keys.PrivateKey) -> None:
    artifact = add(store)
    here = {f.path: f.blob.digest for f in artifact.files}
    more = {**here, "pytorch_model.bin": dg.of_bytes(b"p"), ".gitattributes": dg.of_bytes(b"g")}
    attached.add(store, artifact, dsse.sign(model.statement("x", more), dsse.IN_TOTO, key))
    assert attached.find(store, artifact, [key.public]).good


@pytest.mark.parametrize("change", ["missing", "other", "unsigned"])
def test_a_publishers_signature_of_other_files_does_not_count(store: Store, key: keys.PrivateKey, change: str) -> None:
    artifact = add(store)
    files = {f.path: f.blob.digest for f in artifact.files}
    if change == "missing":
        files["tokenizer.json"] = dg.of_bytes(b"t")  # a pull would have taken it
    elif change == "other":
        files["config.json"] = dg.of_bytes(b"[]")
    else:
        del files["config.json"]
    attached.add(store, artifact, dsse.sign(model.statement("x", files), dsse.IN_TOTO, key))
    assert "it signs" in reasons(store, artifact, key.public)


def test_a_good_signature_counts_beside_a_bad_one(store: Store, key: keys.PrivateKey, other: keys.PrivateKey) -> None:
    artifact = add(store)
    attached.add(store, artifact, b'{"mediaType": "nonsense"}')
    attached.sign(store, artifact, "x", other, silent)
    attached.sign(store, artifact, "x", key, silent)
    found = attached.find(store, artifact, [key.public])
    assert found.good == (key.public.key_id,)
    assert len(found.bad) == 2


def test_damaged_content_is_not_signed(store: Store, key: keys.PrivateKey) -> None:
    artifact = add(store)
    path = store.blob_path(artifact.file("model.safetensors").blob.digest)
    stat = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"WEIGHTS")
    os.utime(path, (stat.st_mtime, stat.st_mtime))  # so that only reading it tells
    with pytest.raises(HybError, match="is damaged"):
        attached.sign(store, artifact, "x", key, silent)


def test_a_damaged_signature_is_a_reason_and_no_end(store: Store, key: keys.PrivateKey) -> None:
    artifact = add(store)
    made = attached.sign(store, artifact, "x", key, silent)
    path = store.blob_path(made.files[0].blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"{}")
    assert "is damaged" in reasons(store, artifact, key.public)


def test_collecting_garbage_keeps_the_signatures_of_what_has_a_name(store: Store, key: keys.PrivateKey) -> None:
    artifact = add(store)
    store.tag("bot", artifact.digest)
    made = attached.sign(store, artifact, "bot", key, silent)
    upkeep.gc(store)
    assert made.digest in store.digests()
    assert attached.find(store, artifact, [key.public]).good


def test_a_model_signature_names_its_files_for_other_verifiers(store: Store, key: keys.PrivateKey) -> None:
    artifact = add(store)
    statement = json.loads(attached.payload(store, artifact, "bot"))
    assert statement["predicateType"] == model.PREDICATE
    assert [r["name"] for r in statement["predicate"]["resources"]] == ["config.json", "model.safetensors"]
    assert statement["subject"][0]["name"] == "bot"
