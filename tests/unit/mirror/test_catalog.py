from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hyb import receipt
from hyb.artifact import Artifact, Blob, File
from hyb.mirror import answers, catalog, hub, registry, simple, wheels
from hyb.mirror.answers import Part, RefusedError
from hyb.store import Store

COMMIT, OTHER = "a" * 40, "b" * 40


def put(
    store: Store, kind: str, tag: str = "", path: str = "config.json", data: bytes = b"{}", **meta: object
) -> Artifact:
    made = store.add_artifact(kind, [File(path, store.add_bytes(data))], meta=meta)
    if tag:
        store.tag(tag, made.digest)
    return made


def noted(store: Store, name: str, output: Artifact, pins: dict[str, str]) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    said = receipt.statement(
        name=name, stage="pull", key="sha256:" + "0" * 64, spec={}, pins=pins, inputs={}, output=output, started=now,
        ended=now, facts={},
    )  # fmt: skip
    receipt.add(store, said, output)


def test_a_model_from_a_hub_has_its_name_its_commits_and_the_branches_that_receipts_know(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = put(store, "model", "r/base", source=f"hf://O/M@{COMMIT}")
    put(store, "model", source=f"hf://O/M@{OTHER}", data=b"{ }")
    noted(store, "r/base", first, {"hf://O/M@v1.0": f"hf://O/M@{COMMIT}"})
    repo = catalog.read(store).models["O/M"]
    assert repo.refs == {"main": OTHER, "v1.0": COMMIT, "r/base": COMMIT}
    assert hub.commit_of(repo, "main") == OTHER and hub.commit_of(repo, "none") == ""


def test_a_gguf_has_the_name_again_that_it_had_on_the_hub_and_shares_the_commit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "model", source=f"hf://O/M@{COMMIT}/sub/M-Q4.gguf", path="model.gguf", data=b"GGUF")
    put(store, "model", source=f"hf://O/M@{COMMIT}")
    assert set(catalog.read(store).models["O/M"].commits[COMMIT]) == {"sub/M-Q4.gguf", "config.json"}


def test_what_a_name_stood_for_before_can_still_be_pinned(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = put(store, "model", "r/bot", data=b"old")
    noted(store, "r/bot", old, {})
    new = put(store, "model", "r/bot", data=b"new")
    repo = catalog.read(store).models["r/bot"]
    assert repo.refs["main"] == new.digest[7:47]
    assert set(repo.commits) == {new.digest[7:47], old.digest[7:47]}


def test_names_that_no_hub_or_registry_could_bear_are_left_out_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for tag in ("api/x", "v2", "a/b/c", "UPPER", "ümlaut", "a--b", "host.example:5000/x/y:1"):
        put(store, "model", tag)
    found = catalog.read(store)
    assert set(found.models) == {"UPPER"}
    assert {"upper", "a/b/c", "a--b"} <= set(found.images) and "ümlaut" not in found.images


def test_a_manifest_that_is_damaged_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bad, good = put(store, "model", "bad"), put(store, "model", "good", data=b"1")
    path = store.blob_path(bad.digest)
    path.chmod(0o644)
    path.write_bytes(b"{")
    found = catalog.read(store)
    assert found.damaged == [bad.digest] and set(found.models) == {"good"} and set(found.documents) == {good.digest}


def test_what_speaks_of_something_private_is_private(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = put(store, "dataset", "facts")
    noted(store, "facts", data, {})
    assert catalog.read(store).documents == {} and catalog.read(store).referrers == {}
    assert len(catalog.read(store, everything=True).documents) == 2


def test_the_files_of_a_loaded_bundle_are_private_and_its_wheels_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = put(store, "bundle", "bundle/r", path="recipe/data/facts.jsonl", data=b"a secret row")
    put(store, "wheels", "wheels/r", path="x-1-py3-none-any.whl", data=b"wheel")
    found = catalog.read(store)
    assert set(found.projects) == {"x"} and "bundle/r" not in found.images
    assert rows.digest not in found.documents and rows.files[0].blob.digest not in found.blobs
    assert "bundle/r" in catalog.read(store, everything=True).images


@pytest.mark.parametrize("target", ["/a/../b", "/%2e%2e/x", "/%00", "/%ff", "x", "", "/a%0d%0ab"])
def test_a_path_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(RefusedError):
        answers.parse("GET", target, {})


def test_an_address_with_a_host_in_it_is_its_path() -> None:
    assert answers.parse("GET", "http://h:1/v2/a?n=1", {}).segments == ("v2", "a")
    assert answers.parse("GET", "/a%2Fb?next=http://h/", {}).segments == ("a/b",)


@pytest.mark.parametrize(
    ("asked", "status", "start", "count"),
    [("bytes=0-", 206, 0, 10), ("bytes=9-20", 206, 9, 1), ("bytes=-3", 206, 7, 3), ("bytes=3-2", 200, 0, 10),
     ("bytes=0-1,2-3", 200, 0, 10), ("nonsense", 200, 0, 10), ("bytes=10-", 416, 0, 0), ("bytes=-0", 416, 0, 0)],
)  # fmt: skip
def test_one_range_is_a_part_and_nonsense_the_whole(asked: str, status: int, start: int, count: int) -> None:
    request = answers.parse("GET", "/x", {"range": asked})
    found = answers.file(request, Blob("sha256:" + "0" * 64, 10), {})
    assert found.status == status
    if status != 416:
        assert isinstance(found.body, Part) and (found.body.start, found.body.count) == (start, count)


def test_an_empty_file_has_no_range() -> None:
    blob = Blob("sha256:" + "0" * 64, 0)
    assert answers.file(answers.parse("GET", "/x", {}), blob, {}).length == 0
    assert answers.file(answers.parse("GET", "/x", {"range": "bytes=0-"}), blob, {}).status == 416


def test_a_tree_lists_folders_and_what_is_below_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blob = store.add_bytes(b"1")
    made = store.add_artifact("model", [File(p, blob) for p in ("a.json", "d/b.json", "d/e/c.json")])
    store.tag("m", made.digest)
    found = catalog.read(store)

    def paths(target: str) -> list[str]:
        import json

        answer = hub.answer(answers.parse("GET", target, {}), found)
        assert answer and isinstance(answer.body, bytes)
        return [e["path"] for e in json.loads(answer.body)]

    assert paths("/api/models/m/tree/main") == ["d", "a.json"]
    assert paths("/api/models/m/tree/main?recursive=true") == ["d", "d/e", "a.json", "d/b.json", "d/e/c.json"]
    assert paths("/api/models/m/tree/main/d") == ["d/e", "d/b.json"]
    missing = hub.answer(answers.parse("GET", "/api/models/m/tree/main/none", {}), found)
    assert missing and missing.headers["X-Error-Code"] == "EntryNotFound"


@pytest.mark.parametrize(
    ("name", "project"),
    [("Foo_Bar.baz-1.0-py3-none-any.whl", "foo-bar-baz"), ("x-1.0-1-cp311-cp311-manylinux_2_28_x86_64.whl", "x"),
     ("my-pkg-2.0.tar.gz", "my-pkg"), ("x.whl", None),
     ("../x-1-py3-none-any.whl", None), ("a b-1-py3-none-any.whl", None)],
)  # fmt: skip
def test_a_wheel_is_known_by_its_name(name: str, project: str | None) -> None:
    found = wheels.wheel(name, Blob("", 0))
    assert (found.project if found else None) == project


def test_json_is_given_to_who_would_rather_have_it() -> None:
    pip = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
    assert simple.wants_json(pip)
    assert not simple.wants_json("text/html, application/vnd.pypi.simple.v1+json;q=0.5") and not simple.wants_json(
        "*/*"
    )
    assert not simple.wants_json("application/vnd.pypi.simple.v1+json;q=x")


def test_a_wheel_that_is_no_archive_has_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"PK\x03\x04garbage")
    assert wheels.metadata(tmp_path / "x") == b""


def test_a_registry_lists_names_in_pages(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for tag in ("a:1", "a:2", "a:3"):
        put(store, "model", tag)
    found = catalog.read(store)
    answer = registry.answer(answers.parse("GET", "/v2/a/tags/list?n=2", {}), found)
    assert (
        answer and b'"1", "2"]' in answer.body and answer.headers["Link"] == '</v2/a/tags/list?n=2&last=2>; rel="next"'
    )  # type: ignore[operator]
    answer = registry.answer(answers.parse("GET", "/v2/a/tags/list?n=2&last=2", {}), found)
    assert answer and b'["3"]' in answer.body and "Link" not in answer.headers  # type: ignore[operator]
