"""An adapter as GGUF: llama.cpp with it on the base answers as peft does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hyb import digest as dg
from hyb.errors import HybError
from hyb.stages import asked, export
from hyb.stages.base import Context
from hyb.store import Store
from tests.e2e.test_export import adapter, add_adapter, convert, made, work
from tests.need import need
from tests.tiny import add_model

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft
__all__ = ["made"]


@pytest.fixture(autouse=True)
def _needed() -> None:
    need("torch", "transformers", "peft", "xllamacpp")


def lora(model: Path, given: Path, out: Path, quantize: str = "f16") -> dict[str, Any]:
    job = {"model": model, "adapter": given, "out": out, "quantize": quantize, "name": "tiny"}
    return work("gguf_lora", job, out.parent)


def held(model: Path, gguf: Path, folder: Path) -> dict[str, Any]:
    """What the check says of an adapter's GGUF on its base in llama.cpp, against what peft said (`expect.json`)."""
    if not (folder / "base.gguf").exists():
        convert(model, folder / "base.gguf", "f32")
    check = {"gguf": folder / "base.gguf", "lora": gguf, "expect": folder / "expect.json", "min_agreement": 0.9}
    return work("gguf_check", check, folder)


@pytest.mark.parametrize("name", ["llama", "r1"])
def test_an_adapter_becomes_a_gguf_that_answers_as_peft_does(made: Path, tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    base = add_model(store, made / name)
    bot = add_adapter(store, base, made / f"{name}-lora")
    facts: dict[str, Any] = {}
    context = Context(store, tmp_path / "a", record=lambda n, v: facts.update({n: v}))
    context.work.mkdir()
    found = export.run(export.Spec(model="bot", format="lora-gguf"), {"bot": bot}, context)
    assert (found.kind, [f.path for f in found.files], found.needs) == ("adapter", ["adapter.gguf"], (base.digest,))
    wanted = {"format": "gguf", "base": base.digest, "adapter": bot.digest, "rank": 4, "name": "tiny"}
    assert {k: found.meta[k] for k in wanted} == wanted
    assert found.meta["alpha"] == (16.0 if name == "llama" else 8.0)  # rsLoRA: alpha · √rank
    assert facts["gguf_check"]["first"] == 1.0
    lora(made / name, made / f"{name}-lora", tmp_path / "again.gguf")
    assert dg.of_file(tmp_path / "again.gguf")[0] == found.file("adapter.gguf").blob.digest


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_the_factors_are_in_the_file_bit_for_bit(made: Path, tmp_path: Path, name: str) -> None:
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    done = lora(made / name, made / f"{name}-lora", tmp_path / "a.gguf", "f32")
    found = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    source = load_file(made / f"{name}-lora" / "adapter_model.safetensors")
    assert len(found) == len(source) == done["tensors"] == 28
    at = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
    assert np.array_equal(found["blk.1.attn_q.weight.lora_a"], source[at + "A.weight"])
    b = source[at + "B.weight"]
    if name == "llama":  # 4 heads of 16 rows: from halves to pairs
        b = np.stack([b.reshape(4, 2, 8, 4)[:, i] for i in (0, 1)], axis=2).reshape(64, 4)
    assert np.array_equal(found["blk.1.attn_q.weight.lora_b"], b)
    down = "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"
    assert np.array_equal(found["blk.0.ffn_down.weight.lora_b"], source[down])


def _another(given: Path, out: Path, change: Any) -> Path:
    """A copy of an adapter's GGUF with `change(name, values)` done to each tensor."""
    import gguf

    reader = gguf.GGUFReader(given)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(reader.fields["adapter.lora.alpha"].contents()))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, change(tensor.name, tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_an_adapters_gguf_that_is_wrong_fails_the_check(made: Path, tmp_path: Path) -> None:
    """Rows of B in the order of Hugging Face, and a factor that is lost, for a base of Llama's."""
    import numpy as np

    strong = adapter(made / "llama", tmp_path / "strong", size=0.4, target_modules=["q_proj", "k_proj"])
    lora(made / "llama", strong, tmp_path / "a.gguf", "f32")
    job = {
        "model": made / "llama", "base": "", "adapter": strong, "prompts": asked.questions(None),
        "tokens": 8, "max_kl": 0, "min_agreement": 0, "expect": tmp_path / "expect.json",
    }  # fmt: skip
    work("compare", job, tmp_path)
    assert held(made / "llama", tmp_path / "a.gguf", tmp_path)["first"] == 1.0

    def unpermuted(name: str, b: Any) -> Any:
        heads = 4 if "attn_q" in name else 2
        return (
            np.ascontiguousarray(b.reshape(heads, 8, 2, 4).swapaxes(1, 2).reshape(b.shape)) if "lora_b" in name else b
        )

    wrong = _another(tmp_path / "a.gguf", tmp_path / "wrong.gguf", unpermuted)
    with pytest.raises(HybError, match="first token agrees") as caught:
        held(made / "llama", wrong, tmp_path)
    assert caught.value.code == 4
    idle = _another(tmp_path / "a.gguf", tmp_path / "idle.gguf", lambda n, v: v * 0 if "lora_b" in n else v)
    with pytest.raises(HybError, match="first token agrees"):
        held(made / "llama", idle, tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"use_dora": True}, "`use_dora` is set"),
        ({"bias": "lora_only"}, "`bias` is"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save` is set"),
        ({"rank_pattern": {"q_proj": 2}}, "`rank_pattern` is set"),
        ({"alpha_pattern": {"q_proj": 2}}, "`alpha_pattern` is set"),
    ],
)
def test_what_llama_cpp_would_leave_out_is_refused_by_name(
    made: Path, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    given = shutil.copytree(made / "qwen2-lora", tmp_path / "given")
    path = given / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(HybError, match="only a plain LoRA adapter") as caught:
        lora(made / "qwen2", given, tmp_path / "a.gguf")
    assert caught.value.code == 3
    assert any(says in line for line in caught.value.details)
    assert not (tmp_path / "a.gguf").exists()
