"""The plan of a bundle's parts, and its document from outside."""

from __future__ import annotations

import io
import json
import random
import tarfile
from typing import Any

import pytest

from hyb import digest as dg
from hyb.errors import Exit, HybError
from hyb.formats import bundle as form
from hyb.formats import tar
from hyb.formats.bundle import Bundle, Content, Item, Part, Piece


def items(sizes: list[int]) -> list[tuple[Item, bytes]]:
    found = []
    for number, size in enumerate(sizes):
        data = random.Random(number).randbytes(size)
        found.append((Item(f"blobs/sha256/{number:064x}", dg.of_bytes(data), size), data))
    return found


def stream(planned: form.Planned, contents: dict[str, bytes]) -> bytes:
    entries = [
        tar.Entry(path, size, lambda d=contents[i.digest][at : at + size]: io.BytesIO(d))  # type: ignore[misc]
        for i, at, size, path in planned.entries
    ]
    return b"".join(tar.chunks(entries))


@pytest.mark.parametrize("seed", range(25))
def test_parts_are_plain_tars_of_at_most_the_size_and_the_document_knows_each_byte(seed: int) -> None:
    chance = random.Random(seed)
    most = chance.choice([65536, 100_000, 1_500_000, 3_000_001])
    given = items([chance.choice([0, 1, 511, 512, 700, 70_000, 1 << 20, 2_500_000]) for _ in range(12)])
    contents = {i.digest: d for i, d in given}
    plan = form.plan([i for i, _ in given], most)
    joined: dict[str, bytes] = {}
    for planned in plan:
        data = stream(planned, contents)
        assert len(data) == planned.length <= most
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = archive.getmembers()
            for member, (item, at, size, path), offset in zip(members, planned.entries, planned.offsets, strict=True):
                assert (member.name, member.size, member.offset_data) == (path, size, offset)
                assert data[offset : offset + size] == contents[item.digest][at : at + size]
                joined[item.path] = joined.get(item.path, b"") + data[offset : offset + size]
    assert joined == {i.path: d for i, d in given}


def test_an_item_that_fits_into_a_part_is_never_split() -> None:
    plan = form.plan([i for i, _ in items([60_000, 60_000, 60_000])], 100_000)
    assert [len(p.entries) for p in plan] == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 4_000_000_000), ("3900MiB", 3900 << 20), ("650M", 650_000_000), ("0.5Gi", 1 << 29)]
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert form.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4", "1k", "-4G", "4 parsecs", "G", "nan", "0"])
def test_what_is_no_size_is_a_mistake_of_use(text: str) -> None:
    with pytest.raises(HybError) as caught:
        form.parse_size(text)
    assert caught.value.code is Exit.USAGE


def small() -> Bundle:
    blob, identity = dg.of_bytes(b"x"), "ab" * 32
    return Bundle(
        "small", identity, (Content(blob, "model", ("small/base",)),), {blob: 1}, (Piece(blob, 1, 512, 0, 1, blob),),
        (Part("small-abababab.0001.tar", 2048, 2048, dg.of_bytes(b"p")),), {"recipe/hyb.yaml": blob},
    )  # fmt: skip


def test_a_document_is_what_it_was() -> None:
    assert form.parse(form.dump(small()), "x") == small()


def broken(change: Any) -> bytes:
    value = json.loads(form.dump(small()))
    change(value)
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["files"].update({"recipe/../../etc/passwd": dg.of_bytes(b"x")}),
        lambda v: v["files"].update({"/etc/passwd": dg.of_bytes(b"x")}),
        lambda v: v["files"].update({"recipe/a\nb": dg.of_bytes(b"x")}),
        lambda v: v["files"].update({"elsewhere/x": dg.of_bytes(b"x")}),
        lambda v: v["files"].update({"recipe/x": dg.of_bytes(b"not in it")}),
        lambda v: v["parts"][0].update(name="../../part.tar"),
        lambda v: v["parts"][0].update(name="other-abababab.0001.tar"),
        lambda v: v["parts"][0].update(size=-1),
        lambda v: v["parts"][0].update(size=True),
        lambda v: v["parts"][0].update(sha256="sha256:short"),
        lambda v: v["pieces"][0].update(part=2),
        lambda v: v["pieces"][0].update(part=0),
        lambda v: v["pieces"][0].update(offset=4096),
        lambda v: v["pieces"][0].update(at=1),
        lambda v: v["pieces"].append(v["pieces"][0]),
        lambda v: v["pieces"].clear(),
        lambda v: v["items"].update({dg.of_bytes(b"y"): 1}),
        lambda v: v["contents"][0].update(names=["other/base"]),
        lambda v: v["contents"][0].update(names=["small/\x1b[31m"]),
        lambda v: v["contents"][0].update(digest="../../x"),
        lambda v: v["assumes"].update({dg.of_bytes(b"x"): 1}),
        lambda v: v["steps"].update({"sha256:" + "0" * 64: {"stage": "pull", "output": dg.of_bytes(b"z")}}),
        lambda v: v.pop("items"),
        lambda v: v.update({"hyb-bundle": 0}),
        lambda v: v.update({"hyb-bundle": True}),
        lambda v: v.update(name="../x"),
        lambda v: v.update(id="x"),
    ],
)
def test_a_document_that_contradicts_itself_or_reaches_out_is_refused(change: Any) -> None:
    with pytest.raises(HybError) as caught:
        form.parse(broken(change), "x")
    assert caught.value.code is Exit.CHECK


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"hyb-bundle": 1}', b"[" * 100_000])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(HybError) as caught:
        form.parse(data, "x")
    assert caught.value.code is Exit.CHECK


def test_a_newer_format_is_told_apart_from_damage() -> None:
    with pytest.raises(HybError, match="format 2") as caught:
        form.parse(broken(lambda v: v.update({"hyb-bundle": 2, "more": {}})), "x")
    assert caught.value.code is Exit.INPUT


def test_a_document_with_a_flipped_letter_is_the_same_or_refused() -> None:
    data = form.dump(small())
    for at in range(0, len(data), 7):
        bent = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            form.parse(bent, "x")
        except HybError:
            continue


def test_since_takes_a_bundle_or_an_inventory() -> None:
    blob = dg.of_bytes(b"x")
    assert form.parse_since(form.dump(small()), "x") == ({blob: 1}, "ab" * 32)
    assert form.parse_since(form.dump_inventory({blob: 1}), "x") == ({blob: 1}, "")
    with pytest.raises(HybError):
        form.parse_since(b'{"hyb-inventory": 1, "blobs": {"x": 1}}', "x")
