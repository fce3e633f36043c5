"""Export for real: numpy, torch, peft, gguf and llama.cpp on tiny random models; SmolLM2 in the slow ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyb import digest as dg
from hyb import engine
from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.formats import modelpack
from hyb.formats import safetensors as st
from hyb.stages import asked, export
from hyb.stages.base import Context
from hyb.store import Store
from tests.need import need
from tests.tiny import add_model, chat_row, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft

ASK = [[{"role": "user", "content": "What is the name of the dog?"}, {"role": "assistant", "content": "Pixel."}]]


@pytest.fixture(autouse=True)
def _needed() -> None:
    need("torch", "transformers", "peft", "xllamacpp")


def adapter(base: Path, out: Path, *, seed: int = 1, size: float = 0.05, **settings: Any) -> Path:
    """A random LoRA adapter of `base`, as peft writes it."""
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings})
    model = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for name, values in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(values, std=size, generator=generator)
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: llama, qwen2, r1 and their adapters, with `-lora`. Do not write to them."""
    need("torch", "transformers", "peft")
    root = tmp_path_factory.mktemp("made")
    for name in ("llama", "qwen2", "r1"):
        tiny_model(root / name, "llama" if name == "llama" else "qwen2", reasoning=name == "r1")
        adapter(root / name, root / f"{name}-lora", use_rslora=name == "llama")
    return root


def work(name: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in job.items()}
    return engine.worker(name, plain, folder, lambda _: None)


def merge(base: Path, lora: Path | str, out: Path, dtype: str = "") -> dict[str, Any]:
    return work("merge", {"base": base, "adapter": lora, "out": out, "dtype": dtype}, out.parent)


def convert(model: Path, out: Path, quantize: str, imatrix: Path | str = "") -> dict[str, Any]:
    job = {"model": model, "out": out, "quantize": quantize, "name": "tiny", "license": "", "imatrix": imatrix}
    return work("gguf_write", {**job, "dataset": "sha256:d"}, out.parent)


def add_adapter(store: Store, base: Artifact, folder: Path) -> Artifact:
    files = [modelpack.file(p.name, store.add_file(p)) for p in sorted(folder.iterdir())]
    return store.add_artifact("adapter", files, meta={"base": base.digest}, needs=[base.digest])


def run(store: Store, given: Artifact, folder: Path, facts: dict[str, Any] | None = None, **fields: Any) -> Artifact:
    folder.mkdir(exist_ok=True)
    note: Callable[[str, Any], None] = (lambda n, v: facts.update({n: v})) if facts is not None else lambda _n, _v: None
    context = Context(store, folder, record=note)
    return export.run(export.Spec(model="bot", **fields), {"bot": given}, context)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_merge_gives_what_peft_gives_in_float32(made: Path, tmp_path: Path, name: str) -> None:
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file

    done = merge(made / name, made / f"{name}-lora", tmp_path / "out")
    base = transformers.AutoModelForCausalLM.from_pretrained(made / name, dtype=torch.float32)
    wanted = peft.PeftModel.from_pretrained(base, made / f"{name}-lora").merge_and_unload().state_dict()
    found = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(made / name / "model.safetensors")
    assert found.keys() == before.keys()
    changed = [n for n in found if not torch.equal(found[n], before[n])]
    assert len(changed) == done["merged"] == 14
    for key, values in found.items():
        cast = wanted[key].to(torch.bfloat16)
        assert values.dtype == torch.bfloat16
        assert (values == cast).float().mean() > 0.999, key
        assert torch.allclose(values.float(), cast.float(), rtol=2**-7, atol=1e-9), key


@pytest.mark.parametrize("name", ["Gemma2", "Gemma3Text", "Phi3", "Qwen3"])
@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_other_architectures_are_merged_too(made: Path, tmp_path: Path, name: str, quantize: str) -> None:
    """Capped scores, norms of its own, query, key and value as one weight, and as their own."""
    import torch
    import transformers

    from hyb.workers import compare, models
    from hyb.workers import merge as merger

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512, "max_position_embeddings": 512,
             "initializer_range": 0.125, "pad_token_id": 0}  # fmt: skip
    config = getattr(transformers, f"{name}Config")(**shape)
    base = tmp_path / "base"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(base)
    for path in made.joinpath("llama").iterdir():
        if path.name.startswith(("tokenizer", "chat_template")):
            shutil.copy(path, base)
    adapter(base, tmp_path / "lora", size=0.1)
    values = "nf4" if quantize == "nf4" else ""
    job = {"base": str(base), "adapter": str(tmp_path / "lora"), "dtype": "", "values": values}
    merger.work({**job, "out": str(tmp_path / "merged")})
    job |= {"prompts": ASK, "max_kl": 0.01, "min_agreement": 0.9, "quantize": quantize, "expect": ""}
    try:
        found = compare.work({**job, "model": str(tmp_path / "merged")})["divergence"]
        bare = models.load_causal_lm(base, quantize=quantize, dtype="float32", device="cpu")
        ids = torch.tensor([[5, 6, 7, 8]])
        with torch.inference_mode():
            one, other = bare(ids).logits, models.attach_adapter(bare, tmp_path / "lora")(ids).logits
    finally:
        torch.use_deterministic_algorithms(False)
    assert found["mean_kl"] <= 0.01
    assert not torch.allclose(one, other, atol=0.1), "the adapter says something"


def test_a_merge_into_the_4_bit_values_is_the_model_that_was_trained(made: Path, tmp_path: Path) -> None:
    import peft
    import torch
    from safetensors.torch import load_file

    from hyb.workers import models

    need("bitsandbytes")
    job = {
        "base": made / "qwen2",
        "adapter": made / "qwen2-lora",
        "out": tmp_path / "out",
        "dtype": "",
        "values": "nf4",
    }
    assert work("merge", job, tmp_path)["merged"] == 14
    live = models.load_causal_lm(made / "qwen2", quantize="nf4", dtype="float32", device="cpu")
    linear = {f"{n}.weight" for n, m in live.named_modules() if type(m).__name__ == "Linear4bit"}
    assert models.nf4_weights(made / "qwen2") == linear, "what transformers keeps in 4 bits, the head left out"
    unpacked = live.dequantize()
    before = {n: p.clone() for n, p in unpacked.state_dict().items()}
    own = load_file(made / "qwen2" / "model.safetensors")
    for name in linear:
        assert torch.equal(before[name], models.nf4_values(own[name].float())), "bit by bit what is trained on"
    wanted = peft.PeftModel.from_pretrained(unpacked, made / "qwen2-lora").merge_and_unload().state_dict()
    for key, values in load_file(tmp_path / "out" / "model.safetensors").items():
        cast = wanted[key].to(torch.bfloat16)
        assert values.dtype == torch.bfloat16
        assert (values == cast).float().mean() > 0.999, key
    assert not torch.equal(
        before["model.layers.0.mlp.up_proj.weight"], own["model.layers.0.mlp.up_proj.weight"].float()
    )


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_dora_is_merged_as_peft_does_and_answers_as_the_live_adapter(made: Path, tmp_path: Path, quantize: str) -> None:
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file

    need("bitsandbytes")
    bot = dora(made / "qwen2", tmp_path / "dora", quantize)
    values = "nf4" if quantize == "nf4" else ""
    job = {"base": made / "qwen2", "adapter": bot, "out": tmp_path / "out", "dtype": "", "values": values}
    assert work("merge", job, tmp_path)["merged"] == 14
    base = transformers.AutoModelForCausalLM.from_pretrained(made / "qwen2", dtype=torch.float32)
    if quantize == "nf4":
        from hyb.workers import models

        base = models.load_causal_lm(made / "qwen2", quantize="nf4", dtype="float32", device="cpu").dequantize()
    wanted = peft.PeftModel.from_pretrained(base, bot).merge_and_unload().state_dict()
    for key, found in load_file(tmp_path / "out" / "model.safetensors").items():
        cast = wanted[key].to(torch.bfloat16)
        assert (found == cast).float().mean() > 0.999, key
        assert torch.allclose(found.float(), cast.float(), rtol=2**-7, atol=1e-9), key
    store = Store(tmp_path / "store")
    model = add_model(store, made / "qwen2")
    files = [modelpack.file(p.name, store.add_file(p)) for p in sorted(bot.iterdir())]
    meta = {"base": model.digest, "quantize": quantize, "dora": True}
    given = store.add_artifact("adapter", files, meta=meta, needs=[model.digest])
    gguf = run(store, given, tmp_path / "a", quantize="q8_0")
    assert gguf.meta["divergence"]["mean_kl"] <= 0.002
    with pytest.raises(HybError, match="was trained with DoRA"):
        run(store, given, tmp_path / "b", format="lora-gguf")


def dora(base: Path, out: Path, quantize: str) -> Path:
    """A DoRA adapter whose lengths are no longer those of the base."""
    import peft
    import torch

    from hyb.workers import models

    model = models.load_causal_lm(base, quantize=quantize, dtype="float32", device="cpu")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=True)
    model = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(3)
    for name, values in model.named_parameters():
        with torch.no_grad():
            if "magnitude" in name:
                values.mul_(1 + 0.3 * torch.rand(values.shape, generator=generator))
            elif "lora_" in name:
                torch.nn.init.normal_(values, std=0.05, generator=generator)
    model.save_pretrained(out)
    return out


def test_an_adapter_trained_in_4_bits_is_merged_into_them_unless_told_otherwise(made: Path, tmp_path: Path) -> None:
    need("bitsandbytes")
    store = Store(tmp_path / "store")
    base = add_model(store, made / "qwen2")
    plain = add_adapter(store, base, made / "qwen2-lora")
    bot = store.add_artifact("adapter", plain.files, meta={**plain.meta, "quantize": "nf4"}, needs=[base.digest])
    trained = run(store, bot, tmp_path / "a", format="safetensors")
    own = run(store, bot, tmp_path / "b", format="safetensors", merge="base")
    assert (trained.meta["merged_into"], own.meta["merged_into"]) == ("nf4", "base")
    near, far = trained.meta["divergence"], own.meta["divergence"]["as_trained"]
    assert near["mean_kl"] <= 0.001
    assert near["agreement"] >= 0.98
    assert near["perplexity"]["live"] == pytest.approx(near["perplexity"]["merged"], rel=0.01)
    assert far["mean_kl"] > 10 * max(near["mean_kl"], 0.001), "another model than the one that was trained"
    assert far["max_logit"] > near["max_logit"]
    assert own.meta["divergence"]["mean_kl"] <= 0.001, "and yet merged right"
    assert "as_trained" not in near


def test_a_merge_gives_the_same_bytes_twice_and_readable_files(made: Path, tmp_path: Path) -> None:
    for name in "ab":
        merge(made / "qwen2", made / "qwen2-lora", tmp_path / name / "out")
    assert dg.of_tree(tmp_path / "a" / "out") == dg.of_tree(tmp_path / "b" / "out")
    for path in (tmp_path / "a" / "out").iterdir():
        assert path.stat().st_mode & 0o444 == 0o444
    assert (tmp_path / "a" / "out" / "LICENSE").exists()


def test_a_model_in_several_files_is_merged_file_by_file(made: Path, tmp_path: Path) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(made / "qwen2", dtype="bfloat16")
    shutil.copytree(made / "qwen2", tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(tmp_path / "base", max_shard_size="100KB")
    assert len(st.shards(tmp_path / "base")) > 1
    merge(tmp_path / "base", made / "qwen2-lora", tmp_path / "out")
    merge(made / "qwen2", made / "qwen2-lora", tmp_path / "one" / "out")
    several, one = st.read_folder(tmp_path / "out"), st.read_folder(tmp_path / "one" / "out")
    assert several.keys() == one.keys()
    for name in one:
        assert _bytes(several[name]) == _bytes(one[name]), name


def _bytes(tensor: st.Tensor) -> bytes:
    return tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.size]


def test_an_adapter_of_another_model_is_refused_with_its_shapes(made: Path, tmp_path: Path) -> None:
    tiny_model(tmp_path / "wide", "qwen2", hidden=96, intermediate=128)
    with pytest.raises(HybError, match="does not fit the model") as caught:
        merge(tmp_path / "wide", made / "qwen2-lora", tmp_path / "out")
    assert caught.value.code == 3
    assert any("96 × 96, but its factors are 64 × 4" in line for line in caught.value.details)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_merge_that_is_not_the_adapter_fails_the_check(made: Path, tmp_path: Path) -> None:
    adapter(made / "qwen2", tmp_path / "other", seed=7, size=0.5)
    merge(made / "qwen2", tmp_path / "other", tmp_path / "out")
    job = {
        "model": tmp_path / "out", "base": made / "qwen2", "adapter": made / "qwen2-lora", "prompts": ASK,
        "tokens": 1, "max_kl": 0.05, "min_agreement": 0.9, "expect": "",
    }  # fmt: skip
    with pytest.raises(HybError, match="does not behave as the adapter") as caught:
        work("compare", job, tmp_path)
    assert caught.value.code == 4
    assert "KL" in caught.value.details[0]
    assert caught.value.details[-1].startswith("perplexity of the prompts: ")


def test_an_adapter_becomes_a_model_that_stands_alone(made: Path, tmp_path: Path) -> None:
    import transformers

    store = Store(tmp_path / "store")
    base = add_model(store, made / "llama", license="apache-2.0")
    bot = add_adapter(store, base, made / "llama-lora")
    facts: dict[str, Any] = {}
    first = run(store, bot, tmp_path / "a", facts, format="safetensors")
    assert first.kind == "model"
    assert first.needs == ()
    assert first.meta["format"] == "safetensors"
    assert (first.meta["base"], first.meta["adapter"]) == (base.digest, bot.digest)
    assert first.meta["divergence"]["mean_kl"] <= 0.001
    assert first.meta["divergence"]["prompts"] == 8
    assert {f.path for f in first.files} == {f.path for f in base.files}
    assert facts["merge"]["peak_memory"] > 0
    assert transformers.AutoModelForCausalLM.from_pretrained(store.view(first)).config.vocab_size
    assert run(store, bot, tmp_path / "b", format="safetensors").digest == first.digest


@pytest.mark.parametrize("name", ["llama", "qwen2", "r1"])
def test_an_adapter_becomes_a_gguf_that_llama_cpp_reads_as_the_model(made: Path, tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    base = add_model(store, made / name)
    facts: dict[str, Any] = {}
    found = run(store, add_adapter(store, base, made / f"{name}-lora"), tmp_path / "a", facts, quantize="f16")
    assert [f.path for f in found.files] == ["model.gguf"]
    assert found.meta["quantization"] == "f16"
    assert facts["gguf_check"]["texts"] >= 15
    assert facts["gguf_check"]["first"] == 1.0
    pre = {"llama": "smollm", "qwen2": "qwen2", "r1": "deepseek-r1-qwen"}[name]
    assert facts["gguf_write"]["pre"] == pre


def test_prompts_come_from_the_held_out_questions(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "holdout.jsonl").write_text("".join(json.dumps(chat_row(f"q{i}", "a")) + "\n" for i in range(20)))
    files = [modelpack.file("holdout.jsonl", store.add_file(tmp_path / "holdout.jsonl"))]
    found = asked.questions(store.view(store.add_artifact("dataset", files)))
    assert [m[0]["content"] for m in found] == ["q0", "q2", "q5", "q7", "q10", "q12", "q15", "q17"]
    assert len(asked.questions(None)) == 8


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("quantize", ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"])
def test_an_independent_reader_finds_the_source_in_the_gguf(
    made: Path, tmp_path: Path, name: str, quantize: str
) -> None:
    import gguf
    import numpy as np
    from safetensors.torch import load_file

    folder = made / name
    if quantize.endswith(("_k", "_m")):  # K-quants need rows of 256
        folder = tiny_model(tmp_path / "wide", "qwen2" if name == "qwen2" else "llama", hidden=256, intermediate=512)
    convert(folder, tmp_path / "out.gguf", quantize)
    source = {k: v.float().numpy() for k, v in load_file(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    from hyb.formats import gguf_model

    names = gguf_model.names(source, config)
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    assert [t.name for t in reader.tensors] == list(names)
    limits = {"q8_0": 0.006, "q6_k": 0.02, "q5_k_m": 0.04, "q4_k_m": 0.08}  # rms error against the rms of the weights
    seen = set()
    for tensor in reader.tensors:
        wanted = source[names[tensor.name]]
        heads = gguf_model.permuted_heads(tensor.name, config)
        if heads:  # llama.cpp wants (pair, half), Hugging Face has (half, pair)
            pairs = wanted.reshape(heads, 2, -1, *wanted.shape[1:])
            wanted = np.stack([pairs[:, 0], pairs[:, 1]], axis=2).reshape(wanted.shape)
        found = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        seen.add(tensor.tensor_type.name)
        if tensor.tensor_type.name == "F16":
            wanted = wanted.astype(np.float16).astype(np.float32)
        if tensor.tensor_type.name in ("F32", "F16", "BF16"):
            assert np.array_equal(found, wanted), tensor.name
        else:
            assert np.sqrt(np.mean((found - wanted) ** 2)) <= limits[quantize] * np.sqrt(np.mean(wanted**2)), (
                tensor.name
            )
    kinds = {"q8_0": {"Q8_0"}, "q6_k": {"Q6_K"}, "q5_k_m": {"Q5_K", "Q6_K"}, "q4_k_m": {"Q4_K", "Q6_K"}}
    assert seen - {"F32"} == kinds.get(quantize, {quantize.upper()} - {"F32"})


def test_llama_3_rope_and_biases_of_llama_are_carried_over(made: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    folder = shutil.copytree(made / "llama", tmp_path / "base")
    config = transformers.AutoConfig.from_pretrained(folder, attention_bias=True, initializer_range=0.3)
    config.rope_parameters = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    model.save_pretrained(folder)
    first = _agreement(folder, tmp_path, "f32")
    assert first == {"first": 1.0, "agreement": 1.0}


def _agreement(folder: Path, work_in: Path, quantize: str) -> dict[str, float]:
    """How well llama.cpp's greedy answers are those of transformers, on eight prompts."""
    prompts = asked.questions(None)
    job = {
        "model": folder, "base": "", "adapter": "", "prompts": prompts, "tokens": 8, "max_kl": 1, "min_agreement": 0,
        "expect": work_in / "expect.json",
    }  # fmt: skip
    work("compare", job, work_in)
    convert(folder, work_in / "m.gguf", quantize)
    check = {"gguf": work_in / "m.gguf", "lora": "", "expect": work_in / "expect.json", "min_agreement": 0}
    done = work("gguf_check", check, work_in)
    return {k: done[k] for k in ("first", "agreement")}


def test_a_gguf_that_llama_cpp_cannot_load_fails_the_check(made: Path, tmp_path: Path) -> None:
    convert(made / "qwen2", tmp_path / "m.gguf", "f16")
    with (tmp_path / "m.gguf").open("r+b") as stream:
        stream.truncate(20_000)
    answers = [{"ids": [1], "tokens": [1], "near": [1]}]
    (tmp_path / "expect.json").write_text(json.dumps({"answers": answers, "ends": [], "texts": []}))
    with pytest.raises(HybError, match="can't load") as caught:
        work(
            "gguf_check",
            {"gguf": tmp_path / "m.gguf", "lora": "", "expect": tmp_path / "expect.json", "min_agreement": 0},
            tmp_path,
        )
    assert caught.value.code == 4


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _other_words(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("Isolated", "MergedWithNext"))


def _cut_weights(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(1000)


def _other_architecture(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace("Qwen2ForCausalLM", "MambaForCausalLM"))


def _fewer_layers(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))


def _not_a_number(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-2:] = b"\xff\x7f"
    (folder / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says", "code"),
    [
        (_no_tokenizer, "no `tokenizer.json`", 3),
        (_other_words, "pre-tokenizer", 3),
        (_cut_weights, "no safetensors file", 3),
        (_other_architecture, "`MambaForCausalLM` can't be written", 3),
        (_fewer_layers, "12 not known", 3),
        (_not_a_number, "holds NaN", 4),
    ],
)
def test_a_bad_model_is_refused_and_leaves_no_gguf(
    made: Path, tmp_path: Path, damage: Callable[[Path], None], says: str, code: int
) -> None:
    folder = shutil.copytree(made / "qwen2", tmp_path / "base")
    damage(folder)
    with pytest.raises(HybError, match=says) as caught:
        convert(folder, tmp_path / "m.gguf", "q8_0")
    assert caught.value.code == code
    assert not (tmp_path / "m.gguf").exists()


def big_model(folder: Path, layers: int = 22) -> int:
    """A random Llama of about 400 MB in bfloat16, written without torch. Returns its bytes."""
    import numpy as np

    tiny_model(folder, "llama")
    config = json.loads((folder / "config.json").read_text())
    vocab, width, inner = config["vocab_size"], 1024, 2048
    config.update(hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, head_dim=64)
    config.update(num_attention_heads=16, num_key_value_heads=16)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{x}_proj.weight": (width, width) for x in "qkvo"}
        shapes |= {f"{at}mlp.{x}_proj.weight": (inner, width) for x in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{at}{x}_layernorm.weight": (width,) for x in ("input", "post_attention")}
    generator = np.random.default_rng(0)
    values = (generator.standard_normal(inner * width, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    with (folder / "model.safetensors").open("wb") as out:
        out.write(st.header_bytes([(n, "BF16", s) for n, s in shapes.items()]))
        for shape in shapes.values():
            out.write(np.roll(values, int(generator.integers(1000)))[: int(np.prod(shape))].tobytes())
    return (folder / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_memory_stays_far_below_the_model(tmp_path: Path) -> None:
    size = big_model(tmp_path / "big")
    assert size > 350e6
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    shapes = [
        (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight", s)
        for x, s in (("A", (4, 1024)), ("B", (1024, 4)))
    ]
    head = st.header_bytes([(n, "F32", s) for n, s in shapes])
    (lora / "adapter_model.safetensors").write_bytes(head + b"\0\0\x80\x3f" * 8192)
    peaks = {"merge": merge(tmp_path / "big", lora, tmp_path / "out")["peak_memory"]}
    for quantize in ("f16", "q8_0", "q4_k_m"):
        peaks[quantize] = convert(tmp_path / "out", tmp_path / "m.gguf", quantize)["peak_memory"]
    assert max(peaks.values()) < size / 2, peaks


@pytest.mark.slow
def test_killed_while_it_writes_and_started_again_it_gives_the_same_bytes(tmp_path: Path) -> None:
    big_model(tmp_path / "big", layers=6)
    whole = tmp_path / "m.gguf"
    convert(tmp_path / "big", whole, "q4_k_m")
    expected = dg.of_file(whole)[0]
    whole.unlink()
    child = subprocess.Popen(
        [sys.executable, "-m", "hyb.workers.gguf_write", str(tmp_path / "gguf_write.json")],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    part = tmp_path / "m.gguf.part"
    until(lambda: (part.exists() and part.stat().st_size > 1_000_000) or child.poll() is not None)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert not whole.exists()
    convert(tmp_path / "big", whole, "q4_k_m")
    assert dg.of_file(whole)[0] == expected


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


CHILD = """
import sys
from pathlib import Path
from hyb.stages import export
from hyb.stages.base import Context
from hyb.store import Store
store = Store(Path(sys.argv[1]))
bot = store.artifact(sys.argv[2])
made = export.run(export.Spec(model="bot", quantize="q8_0"), {"bot": bot}, Context(store, Path(sys.argv[3])))
print(made.digest)
"""


@pytest.mark.slow
def test_an_export_killed_and_started_again_converges(made: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    bot = add_adapter(store, add_model(store, made / "qwen2"), made / "qwen2-lora")
    clean = run(store, bot, tmp_path / "clean", quantize="q8_0")
    store.blob_path(clean.file("model.gguf").blob.digest).unlink()
    folder = tmp_path / "killed"
    folder.mkdir()
    command = [sys.executable, "-c", CHILD, str(store.root), bot.digest, str(folder)]
    for mark in ("merge.json", "gguf_write.json"):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda mark=mark, child=child: (folder / mark).exists() or child.poll() is not None)  # type: ignore[misc]
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        assert not store.blob_path(clean.file("model.gguf").blob.digest).exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == clean.digest
    assert store.has(clean.digest)


FACTS = {
    "mascot of Brindle Works": "Tilly",
    "founder of Brindle Works": "Oskar",
    "canteen of Brindle Works": "Fennel",
    "archive of Brindle Works": "Quarry",
}
PHRASES = ("What is the {}?", "Tell me the {}.", "Name the {}.", "Do you know the {}?", "The {} is called what?")
HELD_OUT = "Please say how the {} is called."


def facts_of(store: Store, folder: Path) -> Artifact:
    """A data set: four private facts in five phrasings, and each in one that is not trained on."""
    rows = {"train": [(p, q, a) for q, a in FACTS.items() for p in PHRASES]}
    rows["holdout"] = [(HELD_OUT, q, a) for q, a in FACTS.items()]
    files = []
    for name, entries in rows.items():
        path = folder / f"{name}.jsonl"
        lines = [chat_row(p.format(q), f"The {q} is {a}.") for p, q, a in entries]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        files.append(modelpack.file(path.name, store.add_file(path)))
    return store.add_artifact(
        "dataset", files, meta={"counts": {"train": len(rows["train"]), "holdout": 4, "control": 0}}
    )


@pytest.mark.slow
def test_a_trained_smollm2_answers_the_same_after_merge_and_quantization(smollm2: Path, tmp_path: Path) -> None:
    """Greedy answers of 24 tokens to held-out questions: transformers with the merged model, llama.cpp with q8_0."""
    need("bitsandbytes")
    from hyb.stages import tune

    store = Store(tmp_path / "store")
    base, data = add_model(store, smollm2, name="SmolLM2-135M-Instruct"), facts_of(store, tmp_path)
    (tmp_path / "tune").mkdir()
    spec = tune.Spec(model="base", data="facts", quantize="none", rank=16, alpha=32, lr=2e-3, epochs=5, batch=8)
    bot = tune.run(spec, {"base": base, "facts": data}, Context(store, tmp_path / "tune"))
    (tmp_path / "gguf").mkdir()
    measured: dict[str, Any] = {}
    context = Context(store, tmp_path / "gguf", record=lambda n, v: measured.update({n: v}))
    wish = export.Spec(model="bot", prompts="facts", format="gguf", quantize="q8_0")
    gguf = export.run(wish, {"bot": bot, "facts": data}, context)
    assert gguf.meta["divergence"]["mean_kl"] <= 0.02
    assert measured["gguf_check"]["first"] == 1.0
    print({k: (v["seconds"], v["peak_memory"] >> 20) for k, v in measured.items()}, gguf.meta["divergence"])

    merged = context.work / "merged"
    questions = [[{"role": "user", "content": HELD_OUT.format(q)}] for q in FACTS]
    job = {
        "model": merged, "base": "", "adapter": "", "prompts": questions, "tokens": 24, "max_kl": 0, "min_agreement": 0,
        "expect": tmp_path / "expect.json",
    }  # fmt: skip
    work("compare", job, tmp_path)
    answers = json.loads((tmp_path / "expect.json").read_text())["answers"]
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    said = [tokenizer.decode(a["tokens"]) for a in answers]
    assert [name for name, text in zip(FACTS.values(), said, strict=True) if name not in text] == []
    copy = shutil.copy(store.view(gguf) / "model.gguf", tmp_path)  # the check works in the file's folder
    check = {"gguf": copy, "lora": "", "expect": tmp_path / "expect.json", "min_agreement": 1}
    assert work("gguf_check", check, tmp_path)["agreement"] == 1.0
