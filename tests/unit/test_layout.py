"""Image layouts in front of the store."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from hyb import layout
from hyb.artifact import RAW, REF, Artifact, Blob, File, blobs_of
from hyb.formats import tar
from hyb.store import Store


def an_artifact(store: Store) -> Artifact:
    return store.add_artifact(
        "model", [File("a", store.add_bytes(b"aaa"), RAW), File("b", store.add_bytes(b"aaa"), RAW)]
    )


def test_one_artifact_is_shown_as_a_layout_of_its_own_without_a_copy(tmp_path: Path) -> None:
    store = Store(tmp_path / "a store")
    artifact = an_artifact(store)
    with layout.shown(store, artifact, "localhost/x:1", tmp_path) as folder:
        entries = json.loads((folder / "index.json").read_bytes())["manifests"]
        assert [(e["digest"], e["annotations"][REF]) for e in entries] == [(artifact.digest, "localhost/x:1")]
        for blob in (Blob(artifact.digest, entries[0]["size"]), *blobs_of(artifact)):
            path = layout.blob_path(folder, blob.digest)
            assert path.samefile(store.blob_path(blob.digest))
            assert path.stat().st_size == blob.size
    assert not folder.exists()
    assert store.has(artifact.digest)


def test_an_archive_holds_each_blob_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = an_artifact(store)
    data = b"".join(tar.chunks(layout.archive(store, artifact, "localhost/x:1")))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = [m.name for m in archive.getmembers() if m.isfile()]
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
    assert len(names) == len(set(names)) == 2 + 3  # the layout's two files; manifest, config, one blob of two files
    assert index["manifests"][0]["digest"] == artifact.digest
