"""The model-signing statement: what it covers, and statements that cover less than they seem to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from hyb.errors import Exit, HybError
from hyb.signing import model

FILES = {"config.json": "sha256:" + "1" * 64, "sub/model.safetensors": "sha256:" + "2" * 64}


def changed(change: Callable[[Any], object], *, rooted: bool = True) -> bytes:
    value = json.loads(model.statement("m", FILES))
    change(value)
    if rooted:  # what is wrong is then not only the digest over all
        raw = b"".join(bytes.fromhex(r["digest"]) for r in value["predicate"]["resources"])
        value["subject"][0]["digest"]["sha256"] = hashlib.sha256(raw).hexdigest()
    return json.dumps(value).encode()


def refused(payload: bytes) -> str:
    with pytest.raises(HybError) as caught:
        model.read(payload)
    assert caught.value.code is Exit.CHECK
    return caught.value.message


def test_a_statement_gives_back_its_files_and_the_manifest() -> None:
    artifact = "sha256:" + "a" * 64
    assert model.read(model.statement("m", FILES)) == model.Signed(FILES)
    assert model.read(model.statement("m", FILES, artifact)) == model.Signed(FILES, artifact)


def test_the_same_files_give_the_same_bytes_whatever_their_order() -> None:
    assert model.statement("m", FILES) == model.statement("m", dict(reversed(FILES.items())))


@pytest.mark.parametrize("hash_type", ["blake2", "blake2b", "blake3", "md5", "", None])
def test_a_hash_that_is_not_sha256_is_refused_by_name(hash_type: str | None) -> None:
    said = refused(changed(lambda v: v["predicate"]["serialization"].update(hash_type=hash_type)))
    assert f"hashes by {hash_type!r}" in said


def test_shards_and_links_are_refused() -> None:
    assert "by 'shards'" in refused(changed(lambda v: v["predicate"]["serialization"].update(method="shards")))
    for value in (True, None, "false"):
        payload = changed(lambda v, x=value: v["predicate"]["serialization"].update(allow_symlinks=x))  # type: ignore[misc]
        assert "symbolic links" in refused(payload)


def test_a_list_of_ignored_paths_takes_nothing_away() -> None:
    payload = changed(lambda v: v["predicate"]["serialization"].update(ignore_paths=["config.json", "."]))
    assert model.read(payload).files == FILES


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../b", "", "a\\b", "a\0b", "./a"])
def test_a_path_that_leaves_the_folder_is_refused(path: str) -> None:
    assert "unsafe path" in refused(changed(lambda v: v["predicate"]["resources"][0].update(name=path)))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda v: v.update(predicateType="https://model_signing/Digests/v0.1"),
        lambda v: v.update(subject=[]),
        lambda v: v.update(subject=v["subject"] * 2),
        lambda v: v["predicate"].pop("resources"),
        lambda v: v["predicate"].update(resources=[]),
        lambda v: v["predicate"]["resources"].append(v["predicate"]["resources"][0]),
        lambda v: v["predicate"]["resources"][0].update(algorithm="sha512"),
        lambda v: v["predicate"]["resources"][0].update(digest="12"),
        lambda v: v["predicate"]["resources"][0].update(digest="Z" * 64),
        lambda v: v["predicate"].update(artifact={"digest": {"sha256": "12"}}),
        lambda v: v["predicate"].update(artifact="sha256:"),
        lambda v: v.clear(),
    ],
)
def test_a_statement_that_is_not_whole_is_none(change: Callable[[Any], object]) -> None:
    try:
        payload = changed(change)
    except (KeyError, IndexError, ValueError):
        payload = changed(change, rooted=False)
    refused(payload)


def test_a_digest_over_other_files_is_refused() -> None:
    payload = changed(lambda v: v["predicate"]["resources"].pop(), rooted=False)
    assert "not that of its subject" in refused(payload)


def test_every_difference_is_told() -> None:
    here = {"config.json": "sha256:" + "3" * 64, "new": "sha256:" + "4" * 64}
    assert model.compare(FILES, here) == [
        "`new` is not signed", "`sub/model.safetensors` was signed and is missing",
        "`config.json` is not what was signed",
    ]  # fmt: skip
