"""Tar streams: bytes that depend on nothing but names and contents, and that every tar reads."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from hyb.errors import Exit, HybError
from hyb.formats import tar


def entry(path: str, data: bytes) -> tar.Entry:
    return tar.Entry(path, len(data), lambda: io.BytesIO(data))


def written(*entries: tar.Entry) -> bytes:
    return b"".join(tar.chunks(tar.with_folders(entries)))


LONG = "models/" + "deep/" * 30 + "weights.gguf"
FILES = {"models/a.json": b"{}", "models/b/empty": b"", "models/ü.txt": b"x" * 513, LONG: b"y" * 1024}


def test_tarfile_reads_every_name_and_content_back() -> None:
    data = written(*(entry(path, content) for path, content in FILES.items()))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        found = {m.name: archive.extractfile(m).read() for m in members if m.isfile()}  # type: ignore[union-attr]
    assert found == FILES
    assert {m.mtime for m in members} == {m.uid for m in members} == {m.gid for m in members} == {0}
    assert {m.mode for m in members if m.isfile()} == {0o444}
    assert {m.mode for m in members if m.isdir()} == {0o555}
    assert {m.uname for m in members} | {m.gname for m in members} == {""}


def test_a_folder_comes_before_what_lies_in_it_and_once() -> None:
    names = [e.name for e in tar.with_folders([entry("m/b/c", b""), entry("m/a", b""), entry("m/b.d", b"")])]
    assert names == ["m/", "m/a", "m/b/", "m/b/c", "m/b.d"]


def test_the_order_in_which_files_are_given_does_not_matter() -> None:
    entries = [entry(path, content) for path, content in FILES.items()]
    assert written(*entries) == written(*reversed(entries))


def test_the_bytes_never_change() -> None:
    data = written(entry("models/config.json", b'{"a":1}\n'), entry("models/ü", b"z"))
    assert hashlib.sha256(data).hexdigest() == "ded2715ba6f90f51b71ae680a3002f547f9de963ce0d98f13b591a6259046912"


def test_a_plain_header_has_the_fields_that_tarfile_writes_too() -> None:
    info = tarfile.TarInfo("models/model.gguf")
    info.size, info.mode = 12345, 0o444
    ours, theirs = tar.header(tar.Entry("models/model.gguf", 12345, io.BytesIO)), info.tobuf(tarfile.USTAR_FORMAT)
    # All but the sum and the device numbers: for a plain file Python's versions disagree about those.
    assert (ours[:148], ours[156:329], ours[345:]) == (theirs[:148], theirs[156:329], theirs[345:])


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 3 * 8**11 + 5])
def test_a_size_of_eight_gibibytes_and_more_is_read_back(size: int) -> None:
    header = tar.header(tar.Entry("big", size, io.BytesIO))
    with tarfile.open(fileobj=io.BytesIO(header)) as archive:
        member = archive.next()
    assert member
    assert (member.name, member.size) == ("big", size)


@pytest.mark.parametrize("name_bytes", range(95, 125))
def test_a_name_near_the_field_s_limit_survives(name_bytes: int) -> None:
    path = "n" * name_bytes
    with tarfile.open(fileobj=io.BytesIO(written(entry(path, b"1")))) as archive:
        assert archive.getnames() == [path]


def test_the_length_is_known_without_reading() -> None:
    entries = tar.with_folders(entry(path, content) for path, content in FILES.items())
    unread = [tar.Entry(e.path, e.size, e.open and (lambda: pytest.fail("a file was opened"))) for e in entries]
    assert tar.length(unread) == len(b"".join(tar.chunks(entries)))


@pytest.mark.parametrize("data", [b"short", b"longer than it said"])
def test_a_file_that_changed_its_length_is_refused(data: bytes) -> None:
    with pytest.raises(HybError, match=r"`m/a` is not 9 bytes long any more") as caught:
        list(tar.chunks([tar.Entry("m/a", 9, lambda: io.BytesIO(data))]))
    assert caught.value.code == Exit.CHECK


def test_a_big_file_is_never_in_memory_as_a_whole() -> None:
    pieces = [len(c) for c in tar.chunks([entry("m", bytes(5 << 20))])]
    assert max(pieces) <= tar.CHUNK
