"""hyb.store."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from hyb import digest as dg
from hyb import upkeep
from hyb.artifact import Artifact, File, safe_path
from hyb.blobs import BLOB_MTIME
from hyb.errors import Exit, HybError
from hyb.places import default_root
from hyb.store import Store
from tests.unprivileged import unprivileged


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, text: str = "weights", path: str = "model.safetensors") -> Artifact:
    return store.add_artifact("model", [File(path, store.add_bytes(text.encode()))], meta={"name": text})


def test_opening_a_store_writes_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "s").tags() == {}
    assert not (tmp_path / "s").exists()


def test_the_same_bytes_are_stored_once_and_read_only(store: Store) -> None:
    blob = store.add_bytes(b"x")
    assert store.add_stream(io.BytesIO(b"x")) == blob
    stat = store.blob_path(blob.digest).stat()
    assert (stat.st_mode & 0o777, stat.st_mtime) == (0o444, BLOB_MTIME)
    assert len(list(store.blobs.iterdir())) == 1


def test_the_same_artifact_has_the_same_digest_in_two_stores(tmp_path: Path) -> None:
    assert put(Store(tmp_path / "a")).digest == put(Store(tmp_path / "b with space é")).digest


def test_a_stream_with_another_digest_is_refused_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(HybError) as caught:
        store.add_stream(io.BytesIO(b"x"), expected=dg.of_bytes(b"y"))
    assert caught.value.code is Exit.CHECK
    assert not list(store.blobs.iterdir())
    assert not list((store.root / "tmp").iterdir())


@pytest.mark.parametrize("how", ["copy", "link", "move"])
def test_a_file_comes_in_by_copy_link_or_move(store: Store, tmp_path: Path, how: str) -> None:
    source = tmp_path / "f"
    source.write_bytes(b"data")
    blob = store.add_file(source, how=how)
    assert store.read(blob.digest) == b"data"
    assert source.exists() == (how != "move")
    if how == "link":
        assert source.stat().st_ino == store.blob_path(blob.digest).stat().st_ino


def test_a_view_is_a_folder_of_links(store: Store) -> None:
    artifact = put(store, path="sub/model.safetensors")
    place = store.view(artifact) / "sub" / "model.safetensors"
    assert place.stat().st_ino == store.blob_path(artifact.files[0].blob.digest).stat().st_ino
    assert store.view(artifact) == place.parent.parent


def test_a_view_of_a_blob_that_was_mended_is_made_anew(store: Store) -> None:
    artifact = put(store)
    view = store.view(artifact)
    path = store.blob_path(artifact.files[0].blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"Weights")
    store.add_bytes(b"weights")
    assert (store.view(artifact) / "model.safetensors").read_bytes() == b"weights"
    assert store.view(artifact) == view


def test_many_at_once_get_the_same_whole_view(store: Store) -> None:
    artifact = store.add_artifact("model", [File(f"f{i}", store.add_bytes(bytes([i]))) for i in range(40)])
    inodes: set[int] = set()
    threads = [
        threading.Thread(target=lambda: inodes.add(Store(store.root).view(artifact).stat().st_ino)) for _ in range(8)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(inodes) == 1


def test_a_flipped_bit_is_noticed_when_the_blob_is_used(store: Store) -> None:
    artifact = put(store)
    path = store.blob_path(artifact.files[0].blob.digest)
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.write(b"W")
    with pytest.raises(HybError, match="is damaged") as caught:
        store.view(artifact)
    assert caught.value.code is Exit.CHECK


def test_a_flipped_bit_with_its_old_time_is_noticed_by_a_thorough_check(store: Store) -> None:
    blob = store.add_bytes(b"weights")
    path = store.blob_path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"Weights")
    os.utime(path, (BLOB_MTIME, BLOB_MTIME))
    store.check(blob)
    with pytest.raises(HybError, match="is damaged"):
        store.check(blob, thorough=True)


@pytest.mark.parametrize("how", ["bytes", "link", "move"])
def test_a_damaged_blob_is_mended_by_whoever_brings_it_again(store: Store, tmp_path: Path, how: str) -> None:
    blob = store.add_bytes(b"weights")
    path = store.blob_path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"Weights")
    again = tmp_path / "again"
    again.write_bytes(b"weights")
    assert (store.add_bytes(b"weights") if how == "bytes" else store.add_file(again, how=how)) == blob
    store.check(blob, thorough=True)


def test_a_touched_but_whole_blob_is_believed_again_after_one_hash(store: Store) -> None:
    blob = store.add_bytes(b"weights")
    os.utime(store.blob_path(blob.digest))
    store.check(blob)
    assert store.blob_path(blob.digest).stat().st_mtime == BLOB_MTIME


def test_a_missing_blob_names_the_store_and_what_to_do(store: Store) -> None:
    artifact = put(store)
    store.blob_path(artifact.files[0].blob.digest).unlink()
    with pytest.raises(HybError, match=r"is not in the store") as caught:
        store.view(artifact)
    assert "hyb repair" in caught.value.hint
    assert not store.has(artifact.digest)


def test_half_an_index_is_named_and_can_be_written_anew(store: Store) -> None:
    artifact = put(store)
    store.tag("m", artifact.digest)
    index = store.root / "index.json"
    index.write_bytes(index.read_bytes()[:40])
    with pytest.raises(HybError, match=r"index\.json.*damaged") as caught:
        store.tags()
    assert caught.value.code is Exit.CHECK
    assert upkeep.rebuild_index(store) == 1
    assert [a.digest for a in store.artifacts()] == [artifact.digest]


def test_a_name_moves_and_goes(store: Store) -> None:
    one, two = put(store, "one"), put(store, "two")
    store.tag("m", one.digest)
    store.tag("m", two.digest)
    assert store.tags() == {"m": two.digest}
    assert store.untag("m") == two.digest
    with pytest.raises(HybError, match="called `m`"):
        store.untag("m")


def test_an_artifact_is_found_by_tag_digest_prefix_and_last_part(store: Store) -> None:
    artifact = put(store)
    store.tag("quickstart/bot", artifact.digest)
    prefix = artifact.digest.removeprefix("sha256:")[:12]
    assert {store.resolve(n) for n in ("quickstart/bot", "bot", prefix, artifact.digest)} == {artifact.digest}
    with pytest.raises(HybError) as caught:
        store.resolve("quickstart/bat")
    assert "did you mean `quickstart/bot`" in caught.value.hint


def test_a_name_that_means_two_things_is_refused(store: Store) -> None:
    store.tag("a/bot", put(store, "one").digest)
    store.tag("b/bot", put(store, "two").digest)
    with pytest.raises(HybError, match="a/bot, b/bot"):
        store.resolve("bot")


def test_gc_keeps_what_a_name_reaches_and_what_speaks_of_it(store: Store) -> None:
    base, loose = put(store, "base"), put(store, "loose")
    adapter = store.add_artifact("adapter", [], needs=[base.digest])
    receipt = store.add_artifact("receipt", [], subject=adapter)
    store.tag("bot", adapter.digest)
    dry = upkeep.gc(store, dry_run=True)
    assert store.has(loose.digest)
    assert upkeep.gc(store) == dry
    assert {a.digest for a in store.artifacts()} == {base.digest, adapter.digest, receipt.digest}
    assert not store.has(loose.digest)
    assert upkeep.gc(store) == (0, 0)


def test_a_store_that_cannot_be_written_says_so_in_words_and_a_dry_run_of_gc_reads_it(store: Store) -> None:
    for number in range(2):
        store.add_bytes(bytes([number]))
    folders = [store.root, *(p for p in store.root.rglob("*") if p.is_dir())]

    def step() -> None:
        with store.locked_step("sha256:" + "1" * 64):
            pass

    for folder in folders:
        folder.chmod(0o500)
    try:
        assert "(2, 2)" in unprivileged(lambda: upkeep.gc(store, dry_run=True))
        assert "can't write to the store" in unprivileged(lambda: upkeep.gc(store))
        assert "can't write to the store" in unprivileged(step)
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_a_store_that_was_copied_without_its_empty_folders_is_a_store(store: Store) -> None:
    store.tag("bot", put(store).digest)
    loose = store.add_bytes(b"loose")
    for name in ("steps", "views", "work", "locks", "tmp"):
        shutil.rmtree(store.root / name)
    assert upkeep.gc(store, dry_run=True)[0] == 1
    shutil.rmtree(store.root / "locks")
    assert store.add_bytes(b"more").size == 4
    shutil.rmtree(store.root / "locks")
    assert upkeep.gc(store)[0] == 2
    assert not store.has_blob(loose)
    assert store.resolve("bot")


def test_gc_waits_for_nobody(store: Store) -> None:
    put(store)
    with store.in_use(), pytest.raises(HybError, match="in use"):
        upkeep.gc(store)


def test_a_step_record_that_is_damaged_counts_as_none(store: Store) -> None:
    key, output = dg.of_bytes(b"k"), dg.of_bytes(b"o")
    store.record_step(key, "data", output)
    assert store.outputs(key) == [output]
    (store.root / "steps" / f"{key[7:]}.json").write_text('{"outputs": ["sha')
    assert store.outputs(key) == []


def test_a_step_that_gave_two_outputs_names_the_newest_first(store: Store) -> None:
    key, outputs = dg.of_bytes(b"k"), [dg.of_bytes(b"1"), dg.of_bytes(b"2")]
    for output in outputs:
        store.record_step(key, "tune", output)
    assert store.outputs(key) == outputs[::-1]


def test_a_store_of_a_newer_format_is_refused_unchanged(store: Store) -> None:
    put(store)
    (store.root / "hyb.json").write_text('{"store": 2}')
    before = sorted(p.name for p in store.root.rglob("*"))
    with pytest.raises(HybError, match="format 2; this hyb knows format 1"):
        Store(store.root)
    assert sorted(p.name for p in store.root.rglob("*")) == before


def test_a_file_as_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(HybError, match="is a file"):
        Store(tmp_path / "f").add_bytes(b"")


def test_two_threads_tag_at_once_and_no_name_is_lost(store: Store) -> None:
    digest = put(store).digest
    threads = [threading.Thread(target=Store(store.root).tag, args=(f"n{i}", digest)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(store.tags()) == 16


def test_the_layout_is_an_oci_layout(store: Store) -> None:
    store.tag("m", put(store).digest)
    assert json.loads((store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((store.root / "index.json").read_text())
    assert index["schemaVersion"] == 2
    assert {e["mediaType"] for e in index["manifests"]} == {"application/vnd.oci.image.manifest.v1+json"}


@pytest.mark.parametrize("path", ["", "/a", "a/../b", "./a", "a//b", "a\\b", "a\0", ".."])
def test_paths_that_leave_their_folder_are_refused(path: str) -> None:
    with pytest.raises(HybError, match="unsafe path"):
        safe_path(path)


def test_the_default_store_needs_a_home_or_a_word() -> None:
    assert default_root({"HYB_STORE": "/s"}) == Path("/s")
    assert default_root({"XDG_DATA_HOME": "/d"}) == Path("/d/hyb/store")
    assert default_root({"HOME": "/h"}) == Path("/h/.local/share/hyb/store")
    with pytest.raises(HybError, match="HOME"):
        default_root({})
