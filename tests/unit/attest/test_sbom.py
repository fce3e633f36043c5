"""The bill of materials: valid by CycloneDX's own schema, the same bytes each time, and what an auditor asks in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from hyb.artifact import Artifact
from hyb.attest import sbom
from hyb.attest.trace import trace
from hyb.formats import modelpack
from hyb.store import Store
from tests.provenance import SECRET_ROW, Lab, made, tuned


def document(store: Store, *roots: Artifact) -> dict[str, Any]:
    """The document of some artifacts, checked."""
    found = sbom.bom(store, trace(store, [r.digest for r in roots]), "x")
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom.dump(found))
    assert error is None, str(error)[:800]
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def parts(found: dict[str, Any]) -> dict[str, Any]:
    return {c["bom-ref"]: c for c in [found["metadata"]["component"], *found["components"]]}


def test_an_adapter_has_a_card_with_data_scores_licence_and_base(store: Store) -> None:
    made_ = tuned(store)
    found = parts(document(store, made_["bot"]))
    bot, base, facts = (found[made_[n].digest] for n in ("bot", "base", "facts"))
    assert bot["type"] == base["type"] == "machine-learning-model"
    assert bot["modelCard"]["modelParameters"]["datasets"] == [{"ref": facts["bom-ref"]}]
    (metric,) = bot["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metric == {"type": "recall", "value": "0.75", "slice": "t/exam",
                      "confidenceInterval": {"lowerBound": "0.5", "upperBound": "0.9"}}  # fmt: skip
    assert {"name": "hyb:quantize", "value": "nf4"} in bot["modelCard"]["properties"]
    assert bot["pedigree"]["ancestors"][0]["version"] == base["bom-ref"]
    assert base["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert "datasets" not in base["modelCard"]["modelParameters"]
    assert facts["type"] == "data" and facts["data"][0]["type"] == "dataset"


def test_what_ran_is_listed_apart_from_what_is_in_it(store: Store) -> None:
    found = document(store, tuned(store)["bot"])
    excluded = {c["purl"]: c for c in found["components"] if c.get("scope") == "excluded"}
    assert {"pkg:pypi/torch@2.10.0%2Bcpu", "pkg:generic/podman@5.4.1", "pkg:generic/python@3.11.7"} & excluded.keys()
    assert excluded["pkg:generic/podman@5.4.1"]["properties"] == [{"name": "hyb:ran-in", "value": "tune"}]


def test_the_dependencies_are_the_steps(store: Store) -> None:
    made_ = tuned(store)
    found = document(store, made_["exam"])
    below = {d["ref"]: d.get("dependsOn", []) for d in found["dependencies"]}
    assert sorted(below[made_["exam"].digest]) == sorted([made_["bot"].digest, made_["facts"].digest])
    assert any("pkg:huggingface/org/Name-1B" in ref for ref in below[made_["base"].digest])


def test_the_same_artifacts_give_the_same_bytes_and_another_gives_another_serial(store: Store, tmp_path: Path) -> None:
    made_ = tuned(store)
    one, two = document(store, made_["bot"]), document(store, made_["bot"])
    assert sbom.dump(one) == sbom.dump(two)
    assert "timestamp" not in one["metadata"]
    assert document(store, made_["base"])["serialNumber"] != one["serialNumber"]


def test_no_row_of_data_is_in_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run()
    tuned(lab.store)
    artifacts = [a for a in lab.store.artifacts() if a.kind not in ("receipt", "signature")]
    text = sbom.dump(document(lab.store, *artifacts))
    assert SECRET_ROW not in text and str(tmp_path) not in text


@pytest.mark.parametrize("licence", ["other", "LicenseRef-x", "MIT AND Apache-2.0", "\x1b[2J<b>", "a" * 5000])
def test_hostile_and_odd_facts_stay_valid(store: Store, licence: str) -> None:
    file = modelpack.file("a\nb\x07.bin", store.add_bytes(b"x"))
    meta = {"name": "\x00\u202e<script>", "license": licence, "architecture": ["?"], "divergence": {"kl": 0.1}}
    odd = store.add_artifact("model", [file], meta=meta)
    made(store, "pull", odd, pins={"file:/home/who/x": "file:/home/who/x#sha256=" + "1" * 64}, name="\x1b")
    text = json.dumps(document(store, odd), ensure_ascii=False)
    assert "\x1b" not in text and "\u202e" not in text and "/home/who" not in text


def test_a_damaged_chain_has_a_document_that_says_so(store: Store) -> None:
    made_ = tuned(store)
    store.blob_path(made_["base"].digest).unlink()
    found = parts(document(store, made_["bot"]))
    assert any(p["name"] == "hyb:problems" for p in found[made_["base"].digest]["properties"])
