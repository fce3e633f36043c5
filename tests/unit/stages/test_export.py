"""The export stage: what it plans and what it refuses before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hyb import recipe
from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.plan import key_of
from hyb.stages import export
from hyb.stages.base import Context
from hyb.store import Store


def artifact(kind: str = "model", **meta: Any) -> Artifact:
    return Artifact("sha256:" + "0" * 64, kind, meta={"format": "safetensors", "parameters": 1_000_000, **meta})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"quantize": "q3_k_xxl"}, "q4_k_m"),
        ({"format": "safetensors", "quantize": "q8_0"}, "needs `format: gguf`"),
        ({"format": "onnx"}, "format"),
        ({"max_kl": -1}, "max_kl"),
        ({"min_agreement": 2}, "min_agreement"),
    ],
)
def test_a_wrong_field_is_refused_with_what_would_be_right(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        export.Spec(model="bot", **fields)


def test_a_gguf_is_not_exported_again() -> None:
    with pytest.raises(HybError, match="is a GGUF already") as caught:
        export.plan(export.Spec(model="base"), {"base": artifact(format="gguf")})
    assert "safetensors" in caught.value.hint


def test_a_safetensors_model_is_not_exported_to_itself() -> None:
    with pytest.raises(HybError, match="safetensors model already"):
        export.plan(export.Spec(model="base", format="safetensors"), {"base": artifact()})


def test_the_plan_of_a_conversion_tells_disk_and_memory() -> None:
    found = export.plan(export.Spec(model="base", quantize="q8_0"), {"base": artifact()})
    assert found.disk == 1_062_500
    assert found.memory is not None
    assert found.memory > 4_000_000
    assert not any("merge" in line for line in found.runs)


def test_an_adapter_is_merged_first() -> None:
    found = export.plan(export.Spec(model="bot"), {"bot": artifact("adapter", parameters=None)})
    assert [line.rpartition(".")[2] for line in found.runs] == ["merge", "compare", "gguf_write", "gguf_check"]


def test_a_quantized_base_is_never_merged_into(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    base = store.add_artifact("model", [], meta={"format": "safetensors", "quantization": "bitsandbytes", "name": "b"})
    bot = store.add_artifact("adapter", [], meta={"base": base.digest}, needs=[base.digest])
    with pytest.raises(HybError, match="is quantized: bitsandbytes"):
        export.run(export.Spec(model="bot"), {"bot": bot}, Context(store, tmp_path))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"format": "lora-gguf", "quantize": "q8_0"}, "lora-gguf takes `f16` or `f32`"),
        ({"format": "safetensors", "quantize": "q4_k_m"}, "safetensors takes `bf16` or `f16`"),
        ({"quantize": "q8_0", "imatrix": "facts"}, "changes nothing here"),
        ({"format": "safetensors", "imatrix": "facts"}, "changes nothing here"),
        ({"imatrix": "facts"}, "q4_k_m"),
    ],
)
def test_what_has_no_effect_or_no_place_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        export.Spec(model="bot", **fields)


def test_an_adapter_as_gguf_stays_an_adapter() -> None:
    found = export.plan(export.Spec(model="bot", format="lora-gguf"), {"bot": artifact("adapter", parameters=None)})
    assert found.makes == "adapter (lora-gguf f16)"
    assert not any("merge" in line for line in found.runs)
    assert any("gguf_lora" in line for line in found.runs)


def test_a_recipe_knows_that_it_is_one() -> None:
    stages = {
        "lora": {"stage": "export", "model": "bot", "format": "lora-gguf"},
        "m": {"stage": "export", "model": "lora"},
    }
    made = recipe.build("", stages, {"bot": "sha256:" + "1" * 64}, {"bot": "adapter"}, Path())
    assert [e.spec.makes() for e in made.entries] == ["adapter", ""]
    with pytest.raises(HybError) as caught:
        recipe.build(
            "", {**stages, "exam": {"stage": "pack", "model": "lora"}}, {"bot": "sha256:1"}, {"bot": "adapter"}, Path()
        )
    assert any("which is an adapter" in line for line in (caught.value.message, *caught.value.details))


def test_a_model_is_no_adapter() -> None:
    with pytest.raises(HybError, match="is a model, and `format: lora-gguf` writes an adapter"):
        export.plan(export.Spec(model="base", format="lora-gguf"), {"base": artifact()})


def test_a_recipe_without_an_importance_matrix_keeps_its_steps() -> None:
    """Else every export made before it was there would be made again."""
    spec = export.Spec(model="bot", quantize="q4_k_m", imatrix="facts")
    digests = {"bot": "sha256:b", "facts": "sha256:f"}
    plain = export.Spec(model="bot", quantize="q4_k_m")
    assert key_of(plain, {}, digests) == key_of(export.Spec(model="bot", quantize="q4_k_m", imatrix=""), {}, digests)
    assert key_of(plain, {}, digests) != key_of(spec, {}, digests)
    other = {**digests, "facts": "sha256:g"}
    assert key_of(spec, {}, digests) != key_of(spec, {}, other)
