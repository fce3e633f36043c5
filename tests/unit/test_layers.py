"""One layer: the kernel copies, this process hashes; what comes out is the tar stream, whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from hyb import layers
from hyb.errors import Exit, HybError
from hyb.formats import tar
from hyb.store import Store

SIZES = [0, 5, tar.ALIGN_FROM - 1, tar.ALIGN_FROM, tar.ALIGN_FROM + 4097, 3 * tar.ALIGN_FROM + 1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def entries(folder: Path, sizes: list[int]) -> list[tar.Entry]:
    made = []
    for number, size in enumerate(sizes):
        path = folder / f"file{number}"
        path.write_bytes(os.urandom(size))
        made.append(tar.Entry(f"models/file{number}", size, lambda p=path: p.open("rb")))  # type: ignore[misc]
    return tar.with_folders(made)


@pytest.fixture(params=["in the kernel", "by hand", "in pieces"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that copies in the kernel, one that can't, and a kernel that copies a little at a time."""
    real = os.copy_file_range

    def refused(*_arguments: int) -> int:
        raise OSError(errno.EXDEV, "another file system")

    def little(source: int, target: int, count: int, start: int, to: int) -> int:
        return real(source, target, min(count, 77_777), start, to)

    monkeypatch.setattr(layers, "STEP", 1 << 20)
    if request.param != "in the kernel":
        monkeypatch.setattr(os, "copy_file_range", refused if request.param == "by hand" else little)


def test_a_layer_is_the_tar_stream_and_its_digest_that_of_its_bytes(way: None, store: Store, tmp_path: Path) -> None:
    given, told = entries(tmp_path, SIZES), []
    work = store.work("sha256:1")
    blob = layers.write(store, work, given, told.append)
    wanted = b"".join(tar.chunks(given))
    assert store.blob_path(blob.digest).read_bytes() == wanted
    assert blob.digest == "sha256:" + hashlib.sha256(wanted).hexdigest()
    assert told == sorted(told) and told[-1] == blob.size == tar.length(given)
    assert not list(work.iterdir())


def test_big_contents_begin_at_a_block_of_the_file_system(tmp_path: Path) -> None:
    at, starts = 0, []
    for piece in tar.pieces(entries(tmp_path, SIZES)):
        if isinstance(piece, tar.Entry) and piece.size >= tar.ALIGN_FROM:
            starts.append(at % tar.ALIGN)
        at += len(piece) if isinstance(piece, bytes) else piece.size
    assert starts == [0, 0, 0]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_big_file_that_changed_its_length_is_refused(change: int, store: Store, tmp_path: Path) -> None:
    given = entries(tmp_path, [2 * tar.ALIGN_FROM])
    path = tmp_path / "file0"
    os.truncate(path, path.stat().st_size + change)
    with pytest.raises(HybError, match="bytes long any more") as caught:
        layers.write(store, store.work("sha256:1"), given, lambda _: None)
    assert caught.value.code == Exit.CHECK
    assert not store.blobs.exists() or not list(store.blobs.iterdir())


def test_a_disk_that_is_full_in_the_middle_of_a_file_leaves_nothing_under_a_final_name(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.copy_file_range, []

    def full(source: int, target: int, count: int, start: int, to: int) -> int:
        calls.append(count)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "no space")
        return real(source, target, count, start, to)

    monkeypatch.setattr(layers, "STEP", 1 << 20)
    monkeypatch.setattr(os, "copy_file_range", full)
    given, work = entries(tmp_path, [8 * tar.ALIGN_FROM]), store.work("sha256:1")
    with pytest.raises(HybError, match="no space left on device") as caught:
        layers.write(store, work, given, lambda _: None)
    assert caught.value.code == Exit.INPUT
    assert not list(store.blobs.iterdir())
    monkeypatch.setattr(os, "copy_file_range", real)
    blob = layers.write(store, work, given, lambda _: None)
    store.check(blob, thorough=True)


def test_a_real_disk_that_is_full_is_said_in_words(store: Store, tmp_path: Path) -> None:
    """/dev/full refuses every write as a full disk does."""
    work = store.work("sha256:1")
    (work / "layer.partial").symlink_to("/dev/full")
    with pytest.raises(HybError, match="no space left on device"):
        layers.write(store, work, entries(tmp_path, [10]), lambda _: None)


def test_a_stop_in_the_middle_waits_for_the_copy_before_it_closes_the_files(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "STEP", 1 << 20)
    real, open_at = os.fdatasync, []

    def watched(target: int) -> None:
        real(target)  # EBADF, were it closed
        open_at.append(target)

    monkeypatch.setattr(os, "fdatasync", watched)

    def stop(done: int) -> None:
        if done > 1 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layers.write(store, store.work("sha256:1"), entries(tmp_path, [8 << 20]), stop)
    assert open_at
