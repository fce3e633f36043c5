"""The way back from an artifact: whole, or the broken link is named."""

from __future__ import annotations

import inspect
import json
import os
import sys
from pathlib import Path

import pytest

from hyb import digest as dg
from hyb import receipt
from hyb.artifact import Artifact, File
from hyb.attest import sbom
from hyb.attest.trace import find_rows, fits, trace
from hyb.errors import HybError
from hyb.formats import lineage, lineage_chart, modelpack
from hyb.store import Store
from tests.provenance import SECRET_ROW, Lab, made, tuned


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.run()
    return lab


def damage(store: Store, digest: str) -> None:
    path = store.blob_path(digest)
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])


def test_a_chain_is_whole_and_leads_to_files_rows_and_the_source(lab: Lab) -> None:
    found = trace(lab.store, [lab.store.resolve("r/van"), lab.store.resolve("r/facts")])
    assert found.problems == []
    assert [n.stage for n in found.nodes.values()] == ["pull", "serve", "link", "data"]
    facts = found.nodes[lab.store.resolve("r/facts")]
    assert {s.name: dict(s.rows) for s in facts.sources} == {
        "rows": {"train": 5}, "rows/one.jsonl": {"train": 3}, "rows/two.jsonl": {"train": 2},
        "held.jsonl": {"holdout": 2},
    }  # fmt: skip


def test_the_hub_commit_stands_in_the_tree(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = trace(store, [tuned(store)["exam"].digest])
    text = lineage.text(found)
    assert found.problems == [], text
    assert f"gitCommit {'a' * 40}  pkg:huggingface/org/Name-1B@{'a' * 40}" in text
    assert text.count("see above") == 1


def test_rows_are_found_by_place_by_id_and_by_words(lab: Lab) -> None:
    found = trace(lab.store, [lab.store.resolve("r/facts")])
    by_place = find_rows(lab.store, found, "two.jsonl:2")
    assert [(r.source, r.line, r.part) for r in by_place] == [("two.jsonl", 2, "train")]
    assert find_rows(lab.store, found, by_place[0].id) == by_place
    assert len(find_rows(lab.store, found, SECRET_ROW)) == 7
    assert find_rows(lab.store, found, "nobody says this") == []


def test_an_artifact_without_a_receipt_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bare = store.add_artifact("model", [], meta={"base": tuned(store)["base"].digest})
    found = trace(store, [bare.digest])
    assert found.problems == [f"model {bare.digest[7:19]}: no valid receipt says how it was made"]
    assert len(found.nodes) == 2, "what it names itself is followed"


def test_a_receipt_whose_bytes_changed_is_said(lab: Lab) -> None:
    damage(lab.store, dg.of_bytes(dg.canonical_json(lab.statement("base"))))
    said = trace(lab.store, [lab.store.resolve("r/van")]).problems
    assert len(said) == 2 and all(line.startswith("r/base: ") for line in said), said


def test_a_receipt_that_was_edited_and_put_back_is_said(lab: Lab) -> None:
    output = lab.store.artifact(lab.store.resolve("r/service"))
    edited = lab.statement("service")
    assert fits(edited)
    edited["predicate"]["buildDefinition"]["externalParameters"]["port"] = 9000
    edited["predicate"]["runDetails"]["metadata"]["finishedOn"] = "2999-01-01T00:00:00+00:00"
    receipt.add(lab.store, edited, output)
    said = trace(lab.store, [output.digest]).problems
    assert said == ["r/service: its receipt was edited: the parameters do not give the step's key"]


def test_an_input_that_is_swapped_in_a_receipt_is_said(lab: Lab) -> None:
    output = lab.store.artifact(lab.store.resolve("r/van"))
    edited = lab.statement("van")
    edited["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"] = "1" * 64
    edited["predicate"]["runDetails"]["metadata"]["finishedOn"] = "2999-01-01T00:00:00+00:00"
    receipt.add(lab.store, edited, output)
    said = "\n".join(trace(lab.store, [output.digest]).problems)
    assert "was edited" in said and "artifact 111111111111" in said


def test_a_receipt_of_another_artifact_does_not_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = tuned(store)
    lonely = store.add_artifact("model", [], meta={"name": "lonely"})
    receipt.add(store, receipt.read(store, made(store, "pull", found["base"])), lonely)
    said = trace(store, [lonely.digest]).problems
    assert "speaks of" in said[0] and "no valid receipt" in said[1]


def test_an_artifact_that_is_gone_is_said_and_the_rest_is_shown(lab: Lab) -> None:
    lab.store.blob_path(lab.store.resolve("r/base")).unlink()
    found = trace(lab.store, [lab.store.resolve("r/van")])
    assert any("r/base" in line and "not" in line for line in found.problems)
    assert "r/service" in lineage.text(found)


def test_receipts_in_a_circle_end_and_are_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = (store.add_artifact("model", [], meta={"name": n}) for n in ("one", "two"))
    made(store, "export", one, {"two": two})
    made(store, "export", two, {"one": one})
    found = trace(store, [one.digest])
    assert any("a circle" in line for line in found.problems)
    lineage.text(found), lineage.dot(found), lineage_chart.svg(found, "x")


def test_a_chain_may_be_longer_than_pythons_stack_is_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, steps = Store(tmp_path), list[Artifact]()
    for number in range(150):
        steps.append(store.add_artifact("model", [], meta={"name": f"m{number}"}))
        made(store, "export", steps[-1], {"model": steps[-2]} if number else {})
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 140)
    try:
        found = trace(store, [steps[-1].digest])
        text = lineage.text(found)
    finally:
        sys.setrecursionlimit(limit)
    assert len(found.nodes) == 150 and not found.problems
    assert max(map(len, text.splitlines())) < 250, "a longer chain goes on at the margin"
    assert text.count("see below") == 3
    assert all(text.count(f"  m{number}\n") == 1 for number in range(150))


@pytest.mark.parametrize(
    ("kind", "meta"),
    [
        ("dataset", {"counts": None}), ("dataset", {"counts": [1]}), ("report", {"compares": "x", "perplexity": 1}),
        ("report", {"scores": "x"}), ("report", {"scores": {"r": "high"}, "gate": 1}), ("image", {"adapters": 1}),
    ],
)  # fmt: skip
def test_a_strangers_odd_notes_are_shown_and_break_nothing(tmp_path: Path, kind: str, meta: dict[str, object]) -> None:
    store = Store(tmp_path)
    bot = tuned(store)["bot"]
    odd = store.add_artifact(kind, [], meta=meta, subject=bot)
    made(store, "export", odd, {"bot": bot})
    found = trace(store, [odd.digest])
    assert f"{kind} {odd.digest[7:19]}" in lineage.text(found)
    sbom.bom(store, found, "x")
    sbom.bom(store, trace(store, [store.resolve("t/bot")]), "x")


def test_rows_that_are_none_are_said_to_be_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files = [modelpack.file(f"{part}.jsonl", store.add_bytes(b'["q"]\n')) for part in ("train", "holdout", "control")]
    data = store.add_artifact("dataset", files)
    with pytest.raises(HybError, match="not as hyb writes them"):
        find_rows(store, trace(store, [data.digest]), "q")


def test_what_an_artifact_names_must_be_behind_its_receipt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = tuned(store)
    other = store.add_artifact("adapter", [], needs=[found["base"].digest], meta={"rank": 2})
    made(store, "tune", other, {"facts": found["facts"]})
    (said,) = trace(store, [other.digest]).problems
    assert f"it names `{found['base'].digest[7:19]}`" in said


def test_a_signature_is_shown_by_its_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bot = tuned(store)["bot"]
    bundle = {"verificationMaterial": {"publicKey": {"hint": "sha256:" + "9" * 64}}}
    blob = store.add_bytes(json.dumps(bundle).encode())
    store.add_artifact("signature", [File("signature.sigstore.json", blob)], subject=bot)
    assert f"artifact signed by the key whose PEM file is sha256:{'9' * 64}" in lineage.text(trace(store, [bot.digest]))


def test_hostile_names_move_no_cursor_and_become_no_markup(tmp_path: Path) -> None:
    store = Store(tmp_path)
    evil = '<script>alert(1)</script>\x1b[2J\u202e"\n'
    model = store.add_artifact("model", [], meta={"name": evil, "license": evil})
    made(store, "pull", model, pins={evil: "sha256:" + "b" * 64}, name=evil)
    store.tag(evil, model.digest)
    found = trace(store, [model.digest])
    for text in (lineage.text(found), lineage.dot(found), lineage_chart.svg(found, evil)):
        assert "\x1b" not in text and "\u202e" not in text
    assert "<script" not in lineage_chart.svg(found, lineage.clean(evil))
    json.dumps(lineage.as_dict(found))


def test_the_picture_is_the_same_each_time_and_well_formed(lab: Lab) -> None:
    import xml.etree.ElementTree as ET

    found = trace(lab.store, [lab.store.resolve("r/van"), lab.store.resolve("r/facts")])
    drawn = lineage_chart.svg(found, "all")
    assert drawn == lineage_chart.svg(found, "all")
    root = ET.fromstring(drawn)
    shown = {e.text for e in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"r/van", "r/service", "r/base", "r/facts", "rows/one.jsonl"} <= shown
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) == len(lineage.edges(found))


def test_a_store_that_is_read_only_can_be_traced(lab: Lab) -> None:
    before = {p: p.stat().st_mtime_ns for p in lab.store.root.rglob("*")}
    assert trace(lab.store, [lab.store.resolve("r/van")]).problems == []
    assert before == {p: p.stat().st_mtime_ns for p in lab.store.root.rglob("*")}
    assert os.access(lab.store.root, os.R_OK)
