"""The TrainJob's documents: golden, and valid by Kubeflow's own models and Kubernetes' schemas."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.render import trainjob
from hyb.render.dump import dump
from hyb.render.trainjob import TuneUnit
from tests.need import need, oracle

DATA = Path(__file__).parents[2] / "data" / "tune"
UNIT = TuneUnit(
    name="bot", image="registry.example.com/lab/hyb-tune@sha256:" + "a" * 64, claim="hyb-tune",
    job={"model": "/volume/model", "rank": 16, "name": "tiny — ünï"}, nodes=2, gpus=4, processes=4, memory=8 << 30,
)  # fmt: skip
UNITS = {"bot": UNIT, "cpu": replace(UNIT, name="cpu", nodes=1, gpus=0, processes=1)}


def documents(unit: TuneUnit) -> dict[str, Any]:
    return {d["kind"]: d for d in yaml.safe_load_all(dump(trainjob.documents(unit)))}


@pytest.mark.parametrize("name", UNITS)
def test_the_documents_are_the_golden_ones(name: str) -> None:
    made = {
        f"{name}.yaml": dump(trainjob.documents(UNITS[name])),
        f"{name}.APPLY.md": trainjob.guide(UNITS[name], "base", "facts", "hyb tune base --data facts --from ."),
    }
    for file, text in made.items():
        if os.environ.get("HYB_GOLDEN") == "write":
            DATA.mkdir(parents=True, exist_ok=True)
            (DATA / file).write_text(text)
        assert text == (DATA / file).read_text()


def test_the_job_is_the_worker_s_and_its_pods_are_told_apart_by_the_runtime() -> None:
    made = documents(UNIT)
    assert json.loads(made["ConfigMap"]["data"]["job.json"]) == UNIT.job
    trainer = made["TrainJob"]["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert [*trainer["command"], *trainer["args"]] == [
        "python3", "-P", "-m", "torch.distributed.run", "-m", "hyb.workers.sft", "/job/job.json",
    ]  # fmt: skip
    assert trainer["resourcesPerNode"]["limits"] == {"memory": str(8 << 30), "nvidia.com/gpu": "4"}
    assert made["TrainJob"]["spec"]["runtimeRef"]["name"] == "torch-distributed"


def test_the_pods_reach_each_other_and_names_and_nothing_else() -> None:
    policy = documents(UNIT)["NetworkPolicy"]["spec"]
    own = {"podSelector": {"matchLabels": {"io.hyb.tune": "bot"}}}
    assert policy["podSelector"] == own["podSelector"]
    assert policy["ingress"] == [{"from": [own]}]
    assert policy["egress"][0] == {"to": [own]}
    assert {p["port"] for p in policy["egress"][1]["ports"]} == {53, 5353}
    (patch,) = documents(UNIT)["TrainJob"]["spec"]["runtimePatches"]
    pod = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["metadata"]["labels"]["io.hyb.tune"] == "bot"  # what the policy selects by


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "Bot"}, "no RFC 1123 label"), ({"claim": "a/b"}, "no RFC 1123 label"),
        ({"image": "a b"}, "no whole image"),
        ({"nodes": 0}, "from 1 to 1000"),
    ],
)  # fmt: skip
def test_what_a_cluster_refuses_is_said_before(changed: dict[str, Any], said: str) -> None:
    assert said in "; ".join(trainjob.mistakes(replace(UNIT, **changed)))
    assert trainjob.mistakes(UNIT) == []


@pytest.mark.parametrize("name", UNITS)
def test_kubeflow_s_own_models_take_it_and_lose_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need("kubeflow")
    monkeypatch.setattr(sys, "path", [str(oracle("kubeflow")), *sys.path])
    from kubeflow_trainer_api import models

    document = documents(UNITS[name])["TrainJob"]
    read = models.TrainerV1alpha1TrainJob.from_dict(document)
    assert read
    assert read.to_dict() == document


@pytest.mark.parametrize("name", UNITS)
def test_kubernetes_takes_the_other_documents(name: str) -> None:
    need("kubernetes_validate")
    import kubernetes_validate

    for kind in ("ConfigMap", "NetworkPolicy"):
        kubernetes_validate.validate(documents(UNITS[name])[kind], "1.31", strict=True)
