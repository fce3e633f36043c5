"""Statements as in-toto and SLSA define them: read by the published protocol buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message

from hyb import loaded, receipt
from hyb.errors import HybError
from hyb.formats import intoto
from hyb.store import Store
from tests.provenance import Lab, made, tuned


def check(document: dict[str, Any]) -> None:
    """Raise for a statement that the schemas do not take; unknown fields are refused."""
    Statement.copy_from_pb(json_format.ParseDict(document, Message())).validate()
    predicate = json_format.ParseDict(document["predicate"], provenance_pb2.Provenance())
    for found in (*predicate.build_definition.resolved_dependencies, *predicate.run_details.byproducts,
                  *predicate.run_details.builder.builder_dependencies):  # fmt: skip
        ResourceDescriptor.copy_from_pb(found).validate()
        assert found.uri or found.digest or found.content, found


def test_every_receipt_of_a_run_is_valid_by_the_published_schemas(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run(host=("os", "cpu", "memory", "hostname", "user"))
    for stage in ("base", "facts", "service", "van"):
        statement = lab.statement(stage)
        check(statement)
        assert intoto.mistakes(statement) == []
        assert set(statement["predicate"]["buildDefinition"]["internalParameters"]["host"]) == set(receipt.HOST)
    tuned(lab.store)
    for found in lab.store.artifacts():
        if found.kind == "receipt":
            check(receipt.read(lab.store, found))


def test_a_receipt_names_all_that_came_in_and_went_out(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run()
    data = lab.statement("facts")
    files = {d["name"]: d.get("digest", {}) for d in intoto.sources(data)}
    assert set(files) == {"rows", "rows/one.jsonl", "rows/two.jsonl", "held.jsonl"}
    assert all(files[n].get("sha256") for n in ("rows/one.jsonl", "rows/two.jsonl", "held.jsonl"))
    output = lab.store.artifact(lab.store.resolve("r/facts"))
    assert intoto.subjects(data) == [output.digest, *(f.blob.digest for f in output.files)]
    ran = intoto.programs(data)
    assert ran["pkg:pypi/pydantic"] == loaded.packages()["pydantic"]
    assert ran["pkg:pypi/hyb"] and ran["pkg:generic/python"]
    assert intoto.inputs(lab.statement("van")) == {"service": lab.store.resolve("r/service")}


def test_by_default_nothing_in_a_receipt_tells_the_machine(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    path = lab.folder / "hyb.yaml"
    path.write_text(path.read_text().replace("source: rows", f'source: "{lab.folder}/rows"'))
    lab.run()
    for stage in ("base", "facts", "service", "van"):
        text = str(lab.statement(stage))
        assert str(tmp_path) not in text
        assert "'host': {" not in text
    assert intoto.pins(lab.statement("facts")).keys() == {"rows", "held.jsonl"}


def test_a_host_fact_is_one_that_is_known() -> None:
    assert receipt.host(["os"])["os"]
    with pytest.raises(HybError, match="`mood` is no fact of a host"):
        receipt.host(["mood"])


@pytest.mark.parametrize(
    ("pinned", "uri", "digest"),
    [
        ("hf://o/N@" + "a" * 40, "pkg:huggingface/o/N@" + "a" * 40, {"gitCommit": "a" * 40}),
        ("pypi://A_b==1.0#sha256=" + "c" * 64, "pkg:pypi/a-b@1.0", {"sha256": "c" * 64}),
        ("oci://r.example/x@sha256:" + "d" * 64, "oci://r.example/x@sha256:" + "d" * 64, {"sha256": "d" * 64}),
        ("oci:/home/u/x@sha256:" + "d" * 64, "oci:x@sha256:" + "d" * 64, {"sha256": "d" * 64}),
        ("sha256:" + "e" * 64, "file:data/x.jsonl", {"sha256": "e" * 64}),
    ],
)
def test_a_source_has_a_uri_and_a_digest_that_others_know(pinned: str, uri: str, digest: dict[str, str]) -> None:
    (found,) = intoto.source("data/x.jsonl", pinned)
    assert (found["uri"], found["digest"]) == (uri, digest)


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"_type": intoto.STATEMENT, "predicateType": intoto.PREDICATE, "subject": "x", "predicate": []},
     {"_type": 1, "subject": [{"name": "a", "digest": {"sha256": "zz"}}], "predicate": {"buildDefinition": 7}}],
)  # fmt: skip
def test_what_is_no_statement_is_said_and_never_a_traceback(document: Any) -> None:
    assert intoto.mistakes(document)


def test_a_folder_that_changed_after_it_was_read_gets_no_receipt(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text("{}")
    with pytest.raises(HybError, match="changed while it was read"):
        receipt.materials({"rows": "sha256:" + "0" * 64}, tmp_path)


def test_a_statement_of_another_artifact_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = tuned(store)
    document = receipt.read(store, made(store, "pull", found["base"]))
    with pytest.raises(HybError, match="not of the artifact that it is attached to"):
        receipt.read(store, receipt.add(store, document, found["bot"]))
