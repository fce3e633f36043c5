"""What every stage owes."""

from __future__ import annotations

import inspect
import socket
from pathlib import Path

import pytest
from pydantic import BaseModel

from hyb import stages
from hyb.stages.base import StageSpec, refs

DOCS = Path(__file__).parents[2] / "docs" / "stages"
ALL = stages.NAMES
SMALLEST: dict[str, dict[str, object]] = {
    "pull": {"source": "smollm2-135m"},
    "data": {"source": "facts.jsonl"},
    "tune": {"model": "base", "data": "facts"},
    "eval": {"model": "bot", "data": "facts"},
    "export": {"model": "bot"},
    "pack": {"model": "gguf"},
    "serve": {"image": "image"},
    "link": {"service": "service", "namespace": "chat", "apps_domain": "apps.example.com"},
}


def spec(name: str) -> StageSpec:
    return stages.load(name).Spec.model_validate({"stage": name, **SMALLEST[name]})  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ALL)
def test_a_stage_has_the_names_of_the_contract(name: str) -> None:
    module = stages.load(name)
    assert module.SUMMARY
    assert isinstance(module.REVISION, int)
    assert issubclass(module.Spec, BaseModel)
    assert list(inspect.signature(module.plan).parameters)[:2] == ["spec", "inputs"]
    assert list(inspect.signature(module.run).parameters)[:3] == ["spec", "inputs", "context"]


@pytest.mark.parametrize("name", ALL)
def test_a_spec_needs_only_what_cannot_have_a_default_and_refuses_unknown_keys(name: str) -> None:
    found = spec(name)
    with pytest.raises(ValueError, match=r"[Ee]xtra"):
        type(found).model_validate({"stage": name, **SMALLEST[name], "nonsense": 1})


@pytest.mark.parametrize("name", ALL)
def test_the_plan_of_a_stage_is_pure_and_works_before_its_inputs_exist(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan opens nothing")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr("subprocess.Popen", refuse)
    found = spec(name)
    inputs = {}
    for field in refs(type(found)):
        value = getattr(found, field)
        inputs |= dict.fromkeys(value if isinstance(value, (list, tuple)) else [value] if value else [])
    first, second = (stages.load(name).plan(found, inputs) for _ in range(2))
    assert first == second
    assert first.makes


@pytest.mark.parametrize("name", ALL)
def test_every_stage_has_its_page(name: str) -> None:
    text = (DOCS / f"{name}.md").read_text()
    assert f"stage: {name}" in text
    assert f"hyb {name}" in text


@pytest.mark.parametrize("name", ALL)
def test_stages_import_nothing_heavy_and_not_each_other(name: str) -> None:
    import subprocess
    import sys

    others = [f"hyb.stages.{n}" for n in ALL if n != name]
    heavy = ["torch", "transformers", "huggingface_hub", "podman", "numpy", "xllamacpp", *others]
    code = f"import sys, hyb.stages.{name}\nbad = [m for m in {heavy!r} if m in sys.modules]\nassert not bad, bad"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
