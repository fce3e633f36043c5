from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.stages import tune


def spec(**fields: Any) -> tune.Spec:
    return tune.Spec.model_validate({"stage": "tune", "model": "base", "data": "facts", **fields})


def model(**meta: Any) -> Artifact:
    return Artifact("sha256:" + "0" * 64, "model", meta={"format": "safetensors", "name": "base", **meta})


def data(count: int) -> Artifact:
    return Artifact("sha256:" + "1" * 64, "dataset", meta={"counts": {"train": count, "holdout": 0, "control": 0}})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("rank", 0, "greater than or equal to 1"),
        ("rank", 2.5, "valid integer"),
        ("lr", float("nan"), "finite number"),
        ("lr", float("inf"), "finite number"),
        ("lr", 0, "greater than 0"),
        ("lr", 3, "less than or equal to 1"),
        ("dropout", 1, "less than 1"),
        ("dropout", -0.1, "greater than or equal to 0"),
        ("alpha", 0, "greater than 0"),
        ("epochs", 0, "greater than 0"),
        ("batch", 0, "greater than or equal to 1"),
        ("max_length", 7, "greater than or equal to 8"),
        ("quantize", "int8", "'nf4' or 'none'"),
        ("long", "cut", "'error', 'skip' or 'truncate'"),
        ("think", "yes", "'keep' or 'empty'"),
        ("seed", -1, "greater than or equal to 0"),
        ("targets", [], "all-linear"),
        ("targets", ["q_proj", ""], "all-linear"),
        ("learning_rate", 1e-3, "not permitted"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_and_its_field_named(field: str, value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as error:
        spec(**{field: value})
    assert said in str(error.value)
    assert error.value.errors()[0]["loc"][0] == field


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ValidationError) as error:
        spec(rank=0, lr=float("nan"), epochs=0)
    assert {e["loc"][0] for e in error.value.errors()} == {"rank", "lr", "epochs"}


def test_the_estimates_are_near_what_was_measured() -> None:
    """SmolLM2-135M and the 1.8 B Qwen2 on two cores; figures in docs/stages/tune.md. Within a factor of 1.6."""
    assert 1 / 1.6 < tune.adapter_bytes(134_515_008, 16) / (4 * 4_884_480) < 1.6
    assert 1 / 1.6 < tune.adapter_bytes(1_777_088_000, 16) / (4 * 18_464_768) < 1.6
    assert 1 / 1.6 < tune.memory_bytes(134_515_008, spec()) / 2.1e9 < 1.6
    assert 1 / 1.6 < tune.memory_bytes(1_777_088_000, spec(gradient_checkpointing="full")) / 8.4e9 < 1.6
    assert 1 / 1.6 < tune.cpu_seconds(134_515_008, 96, spec()) / 85 < 1.6


def test_the_plan_says_what_is_read_and_run_and_what_it_costs() -> None:
    plan = tune.plan(spec(), {"base": model(parameters=134_515_008), "facts": data(190)})
    assert "rank 16" in plan.makes
    assert plan.reads == ("model `base`", "data set `facts` (190 rows)")
    assert "hyb.workers.sft" in plan.runs[0]
    assert plan.seconds
    assert plan.memory
    assert plan.disk
    assert not plan.opens


def test_the_plan_works_when_nothing_is_made_yet_and_gives_no_time_for_a_gpu() -> None:
    assert tune.plan(spec(), {"base": None, "facts": None}).seconds is None
    known = {"base": model(parameters=1_777_088_000), "facts": data(100)}
    assert tune.plan(spec(device="cuda"), known).seconds is None


def test_a_gguf_is_refused_in_the_plan() -> None:
    with pytest.raises(HybError, match="`base` is gguf; only safetensors can be trained on") as error:
        tune.plan(spec(), {"base": model(format="gguf"), "facts": None})
    assert "safetensors" in error.value.hint


def test_the_model_and_the_data_are_the_only_inputs() -> None:
    from hyb.stages.base import refs, sources

    assert {n: r.kinds for n, r in refs(tune.Spec).items()} == {"model": ("model",), "data": ("dataset",)}
    assert sources(tune.Spec) == {}
