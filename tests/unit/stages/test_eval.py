"""The eval stage's Spec and plan."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.stages import eval as exam
from hyb.stages.base import referenced


def spec(**fields: Any) -> exam.Spec:
    return exam.Spec(model="bot", data="facts", **fields)


def test_a_gate_is_read_with_the_recipe_and_written_in_one_way() -> None:
    assert spec(gate={"recall": ">=90%", "control_lost": "==0"}).gate == {"recall": ">= 0.9", "control_lost": "== 0"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gate": {"recal": ">= 0.9"}}, "there is no score `recal`; scores are recall, control, recall_before"),
        ({"gate": {"recall": "0.9"}}, "is no bound; write for example"),
        ({"gate": {"control_lost": "== 0"}, "before": False}, "needs `control_lost`, which `before: false` leaves out"),
        ({"gate": {"recall": "surely == 1"}}, "nothing measured is surely one number"),
        ({"gate": {"recall_gain": "surely > 0"}, "before": False}, "needs `recall_gain`"),
        ({"gate": {"probes": ">= 1"}}, "needs `probes`, and there are no `probes`"),
        ({"gate": {"leaks": "== 0"}}, "set `leaks: true`"),
        ({"gate": {"task_arc": ">= 0.3"}, "tasks": ["hellaswag"]}, "`task_arc`, which is no task of `tasks`"),
        ({"against": "old", "before": False}, "leaves out what `against`"),
        ({"against": "old", "endpoint": "http://x/v1"}, "either `against` or `endpoint`"),
        ({"endpoint": "http://x/v1", "gate": {"text_rise": "<= 2"}}, "can't be measured at an endpoint"),
        ({"tasks_limit": -1}, "greater than or equal to 0"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
        ({"judge": "gpt"}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_in_the_spec_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec(**fields)


def test_a_spec_names_its_model_and_its_data() -> None:
    assert referenced(spec()) == ["bot", "facts"]
    assert referenced(spec(against="old")) == ["bot", "facts", "old"]


def test_a_gate_on_a_perplexity_has_it_measured() -> None:
    assert not spec().measures
    assert spec(perplexity=True).measures
    assert spec(gate={"text_rise": "<= 1.2"}).measures


def test_the_plan_counts_the_questions_and_says_which_port_opens() -> None:
    data = Artifact("sha256:d", "dataset", meta={"counts": {"train": 5, "holdout": 3, "control": 2}})
    model = Artifact("sha256:m", "model", meta={"format": "safetensors"})
    plan = exam.plan(spec(), {"bot": model, "facts": data})
    assert plan.makes == "report on 5 questions"
    assert plan.opens == ()
    gguf = Artifact("sha256:g", "model", meta={"format": "gguf"})
    assert "127.0.0.1" in exam.plan(spec(), {"bot": gguf, "facts": None}).opens[0]
    assert exam.plan(spec(), {"bot": None, "facts": None}).makes == "report"


def test_the_plan_says_which_endpoint_is_asked_and_what_else_is_read() -> None:
    found = exam.plan(spec(endpoint="http://10.0.0.1/v1", probes="probes.jsonl"), {"bot": None, "facts": None})
    assert found.opens == ("the endpoint `http://10.0.0.1/v1`",)
    assert "probes.jsonl" in found.reads


def test_what_can_not_be_compared_or_run_is_refused_in_the_plan() -> None:
    lora = Artifact("sha256:l", "adapter", meta={"format": "gguf", "base": "sha256:b"})
    with pytest.raises(HybError, match="`old` is an adapter in GGUF"):
        exam.plan(spec(against="old"), {"bot": None, "facts": None, "old": lora})


def test_an_adapter_in_gguf_is_examined_as_the_one_it_was_made_from() -> None:
    lora = Artifact("sha256:l", "adapter", meta={"format": "gguf", "base": "sha256:b"})
    with pytest.raises(HybError, match="is an adapter in GGUF") as caught:
        exam.plan(spec(), {"bot": lora, "facts": None})
    assert "merged" in caught.value.hint
