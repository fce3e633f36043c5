"""Tar streams are read as `tarfile` reads them, and further."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from hyb.formats import tar_read
from hyb.formats.tar_read import REST, TarError


def archive(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read(data: bytes) -> dict[str, bytes]:
    found = {}
    for member in tar_read.members(io.BytesIO(data)):
        content = b""
        while piece := member.content.read(1000):
            content += piece
        found[member.name] = content
    return found


FILES = {"a": b"1" * 511, "b/c": b"", "d" * 90 + "/" + "e" * 120: b"2" * 513, "é/ñ": b"3" * 5000}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_and_contents_are_those_of_tarfile(form: int) -> None:
    files = {n: d for n, d in FILES.items() if form != tarfile.USTAR_FORMAT or len(n) < 100}
    assert read(archive(files, form)) == files


def test_content_that_nobody_reads_is_passed_over() -> None:
    assert [m.name for m in tar_read.members(io.BytesIO(archive(FILES)))] == list(FILES)


def test_two_archives_in_a_row_and_what_stands_behind_them_are_seen() -> None:
    data = archive({"a": b"1"}) + archive({"b": b"2"}) + b"and more"
    assert read(data) == {"a": b"1", "b": b"2", REST: b"and more"}


def test_a_link_has_no_content_and_says_where_it_points() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        info = tarfile.TarInfo("link")
        info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
        made.addfile(info)
    (member,) = tar_read.members(io.BytesIO(out.getvalue()))
    assert (member.kind, member.link, member.content.read(10)) == ("2", "/etc/passwd", b"")


def test_sizes_of_eight_gibibytes_and_more_are_read() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big")
        info.size = 9 << 30
        head = info.tobuf(form)
        members = tar_read.members(io.BytesIO(head + b"x" * 600))
        assert next(members).size == 9 << 30
        with pytest.raises(TarError, match="ends within `big`"):
            next(members)


@pytest.mark.parametrize("keep", [600, 1100, 1535])
def test_an_archive_that_is_cut_is_told(keep: int) -> None:
    with pytest.raises(TarError):
        read(archive({"a": b"1" * 700, "b": b"2" * 700})[:keep])


def test_a_header_of_a_gigabyte_is_refused() -> None:
    info = tarfile.TarInfo("x")
    info.size, info.type = 1 << 30, tarfile.XHDTYPE
    with pytest.raises(TarError, match="a header of"):
        read(info.tobuf(tarfile.USTAR_FORMAT))


def test_flipped_bytes_give_an_error_or_members_and_never_anything_else() -> None:
    whole, chance = archive(FILES), random.Random(1)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            read(bytes(data))
        except TarError:
            pass
