"""The check in llama.cpp finds GGUFs that are really wrong; an importance matrix is worth something."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyb.errors import HybError
from hyb.formats import modelpack
from hyb.stages import asked, export
from hyb.stages.base import Context
from hyb.store import Store
from hyb.workers.protocol import Failed
from tests.e2e.test_export import convert, merge, work
from tests.need import need
from tests.tiny import TEXT, add_model, chat_row, tiny_model

CODE = ("def f(x):\n    return g(x) + h(x)\n", "f(x) (x) (x) f(x, y) (x)", "f(x): g(x) (x)\n" * 4)


@pytest.fixture(autouse=True)
def _needed() -> None:
    need("torch", "transformers", "peft", "xllamacpp")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, its GGUF `right.gguf` and what is expected of it, `expect.json`. Do not write to it."""
    need("torch", "transformers", "peft", "xllamacpp")
    root = tmp_path_factory.mktemp("llama")
    model = tiny_model(root / "model", "llama", layers=3)
    words = tiny_model(root / "words", "qwen2", layers=1, texts=(*TEXT, *CODE))  # its tokenizer joins `(x`
    shutil.copy(words / "tokenizer.json", model)
    prompts = asked.questions(None)
    job = {"model": model, "base": "", "adapter": "", "prompts": prompts, "tokens": 4, "max_kl": 0, "min_agreement": 0}
    work("compare", {**job, "expect": root / "expect.json"}, root)
    convert(model, root / "right.gguf", "f32")
    return root


def check(llama: Path, gguf: Path) -> dict[str, Any]:
    """What the check says, asked as strictly as for an unquantized file."""
    job = {"gguf": gguf, "lora": "", "expect": llama / "expect.json", "min_agreement": export.FIRST[True]}
    return work("gguf_check", job, gguf.parent)


def another(
    given: Path,
    out: Path,
    tensor: Callable[[str, Any, dict[str, Any]], Any] = lambda _name, values, _all: values,
    keys: dict[str, Any] | None = None,
) -> Path:
    """A copy of a GGUF with `tensor(name, values, all tensors)` in the place of each tensor, and other keys."""
    import gguf

    reader, changed = gguf.GGUFReader(given), keys or {}
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, str(architecture))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = changed.get(name, field.contents())
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, field.types[0])
    every = {t.name: t.data for t in reader.tensors}
    for t in reader.tensors:
        writer.add_tensor(t.name, tensor(t.name, t.data, every))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_a_copy_without_a_change_passes(llama: Path, tmp_path: Path) -> None:
    assert check(llama, another(llama / "right.gguf", tmp_path / "same.gguf"))["first"] == 1.0


def _as_hugging_face_has_them(name: str, values: Any, _all: dict[str, Any]) -> Any:
    """Query and key rows back from pairs to halves: what a converter gives that forgets to reorder them."""
    import numpy as np

    if not name.endswith(("attn_q.weight", "attn_k.weight")):
        return values
    heads = len(values) // 16
    return np.ascontiguousarray(values.reshape(heads, 8, 2, -1).swapaxes(1, 2).reshape(values.shape))


def _gate_and_up_swapped(name: str, values: Any, tensors: dict[str, Any]) -> Any:
    other = {"ffn_gate": "ffn_up", "ffn_up": "ffn_gate"}
    part = name.split(".")[2] if name.startswith("blk.") else ""
    return tensors[name.replace(part, other[part])] if part in other else values


def _two_layers_swapped(name: str, values: Any, tensors: dict[str, Any]) -> Any:
    other = {"blk.0.": "blk.1.", "blk.1.": "blk.0."}
    return tensors[other[name[:6]] + name[6:]] if name[:6] in other else values


@pytest.mark.parametrize("damage", [_as_hugging_face_has_them, _gate_and_up_swapped, _two_layers_swapped])
def test_a_gguf_whose_tensors_are_in_wrong_places_fails_the_check(
    llama: Path, tmp_path: Path, damage: Callable[[str, Any, dict[str, Any]], Any]
) -> None:
    wrong = another(llama / "right.gguf", tmp_path / "wrong.gguf", damage)
    with pytest.raises(HybError, match="first token agrees") as caught:
        check(llama, wrong)
    assert caught.value.code == 4


@pytest.mark.parametrize("pre", ["gpt-2", "smollm"])
def test_a_gguf_with_another_pre_tokenizer_fails_the_check(llama: Path, tmp_path: Path, pre: str) -> None:
    wrong = another(llama / "right.gguf", tmp_path / "wrong.gguf", keys={"tokenizer.ggml.pre": pre})
    with pytest.raises(HybError, match="splits") as caught:
        check(llama, wrong)
    assert caught.value.code == 4
    assert caught.value.details


def test_a_gguf_of_an_architecture_that_nobody_knows_is_refused_in_words(llama: Path, tmp_path: Path) -> None:
    data = (llama / "right.gguf").read_bytes()
    at = data.index(b"llama", data.index(b"general.architecture"))
    (tmp_path / "wrong.gguf").write_bytes(data[:at] + b"lloma" + data[at + 5 :])
    with pytest.raises(HybError, match="can't load the GGUF") as caught:
        check(llama, tmp_path / "wrong.gguf")
    assert caught.value.code == 4


def test_an_unknown_quantization_is_refused_with_those_that_are_known(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(HybError, match="quantization `q3_k_xxl` is not known") as caught:
        convert(llama / "model", tmp_path / "m.gguf", "q3_k_xxl")
    assert caught.value.code == 3
    assert "q4_k_m" in caught.value.hint


def test_safetensors_in_float16_are_the_same_numbers_rounded_once(llama: Path, tmp_path: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file

    merge(llama / "model", "", tmp_path / "out", "f16")
    source, found = (load_file(f / "model.safetensors") for f in (llama / "model", tmp_path / "out"))
    assert all(torch.equal(found[n], source[n].to(torch.float16)) for n in source)
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float16


def test_a_number_too_large_for_float16_is_an_error_that_names_its_tensor(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(llama / "model", tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 70000.0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(HybError, match=r"`model\.layers\.1\.mlp\.up_proj\.weight` does not fit into float16") as caught:
        merge(folder, "", tmp_path / "out", "f16")
    assert (caught.value.code, caught.value.hint) == (4, "choose `bf16`")
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[7] }}{{ messages[7].x }}",
        "{% if %}",
    ],
)
def test_a_hostile_chat_template_is_refused_in_words(llama: Path, template: str) -> None:
    import transformers

    from hyb.workers import prompts
    from hyb.workers.protocol import Failed

    tokenizer = transformers.AutoTokenizer.from_pretrained(llama / "model")
    tokenizer.chat_template = template
    with pytest.raises(Failed, match="the chat template does not take a conversation"):
        prompts.ids(tokenizer, [{"role": "user", "content": "Hello"}], whole=True, limit=64)


def test_an_importance_matrix_lowers_the_error_where_it_counts(tmp_path: Path) -> None:
    """For each weight: the mean over the data's tokens of the squared error of its output, diagonal part."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    model = tiny_model(tmp_path / "model", "qwen2", hidden=256, intermediate=512, dtype="float32")
    source = load_file(model / "model.safetensors")
    rows = [
        chat_row(f"What is the name of the company's dog number {i}?", "The dog is called Pixel.") for i in range(6)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    job = {"model": model, "rows": [str(tmp_path / "train.jsonl")], "out": tmp_path / "imatrix"}
    done = work("imatrix", job, tmp_path)
    assert (done["entries"], done["chunks"]) == (15, 6)
    first = (tmp_path / "imatrix").read_bytes()
    (tmp_path / "imatrix").unlink()
    work("imatrix", job, tmp_path)
    assert (tmp_path / "imatrix").read_bytes() == first
    importance = load_file(tmp_path / "imatrix")
    convert(model, tmp_path / "plain.gguf", "q4_k_m")
    convert(model, tmp_path / "weighed.gguf", "q4_k_m", tmp_path / "imatrix")

    def error(path: Path, name: str, original: str) -> float:
        tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
        found = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(source[original].shape)
        return float((((found - source[original]) ** 2) * importance[name]).mean())

    from hyb.formats import gguf_model

    names = gguf_model.names(source, json.loads((model / "config.json").read_text()))
    pairs = [
        (error(tmp_path / "plain.gguf", n, names[n]), error(tmp_path / "weighed.gguf", n, names[n])) for n in importance
    ]
    assert all(weighed < plain for plain, weighed in pairs), pairs
    assert float(np.mean([weighed / plain for plain, weighed in pairs])) < 0.95
    fields = gguf.GGUFReader(tmp_path / "weighed.gguf").fields
    assert fields["quantize.imatrix.entries_count"].contents() == 15
    assert fields["quantize.imatrix.chunks_count"].contents() == 6
    assert fields["quantize.imatrix.dataset"].contents() == "sha256:d"
    assert "quantize.imatrix.dataset" not in gguf.GGUFReader(tmp_path / "plain.gguf").fields


def test_perplexity_in_llama_cpp_is_that_of_transformers(llama: Path, tmp_path: Path) -> None:
    import math

    import torch
    import transformers

    texts = ["The dog is called Pixel.", "Our warehouse opens at seven in the morning."]
    done = work("perplexity", {"gguf": llama / "right.gguf", "texts": texts}, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(llama / "model", dtype=torch.float32)
    logs: list[float] = []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text)])
        with torch.inference_mode():
            said = torch.log_softmax(model(ids).logits[0, :-1], -1)
        logs += said.gather(-1, ids[0, 1:, None])[:, 0].tolist()
    assert done["tokens"] == len(logs)
    assert done["perplexity"] == pytest.approx(math.exp(-sum(logs) / len(logs)), rel=1e-3)


def test_a_long_text_is_read_in_pieces_and_what_it_shares_with_the_one_before_only_once(llama: Path) -> None:
    import torch
    import transformers

    from hyb.workers.llama_reader import PIECE, Reader

    model = transformers.AutoModelForCausalLM.from_pretrained(llama / "model", dtype=torch.float32)
    start = "Our warehouse opens at seven in the morning and closes at nine in the evening. " * 10
    ends = ("The dog is called Pixel.", "The capital of France is Paris.", "")
    with Reader(llama / "right.gguf", 512) as reader:
        for end in ends:
            ids = reader.ids(start + end, special=True)
            assert PIECE < len(ids) - 20 < 512, "the pieces' border is within the text"
            with torch.inference_mode():
                said = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1], -1)
            wanted = said.gather(-1, torch.tensor(ids)[1:, None])[:, 0].tolist()
            for first in (1, len(ids) - 9, PIECE + 1, PIECE):
                told = [log for log, _ in reader.likelihood(ids, first)]
                assert told == pytest.approx(wanted[first - 1 :], abs=1e-2), (end, first)
        with pytest.raises(Failed, match="can't evaluate"):
            reader.likelihood([1] * 2000, 1)


def test_the_likeliest_text_ends_where_it_is_told_to(llama: Path) -> None:
    from hyb.workers.llama_reader import Reader

    with Reader(llama / "right.gguf", 128) as reader:
        ids = reader.ids("What is the name of the", special=True)
        text = reader.answer(ids, 8, [])
        assert len(text) > 4
        assert reader.answer(ids, 8, ["never said", text[3:5]]) == text[: text.index(text[3:5])]
        assert reader.answer(ids, 0, []) == ""


def test_a_file_that_is_no_gguf_is_not_read(tmp_path: Path) -> None:
    from hyb.workers.llama_reader import Reader

    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(Failed, match="can't load the GGUF") as caught:
        Reader(tmp_path / "cut.gguf", 16)
    assert caught.value.fields["code"] == 4


@pytest.mark.slow
def test_an_importance_matrix_is_measured_once_for_all_quantizations(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    base = add_model(store, tiny_model(tmp_path / "model", "qwen2", hidden=256, intermediate=512))
    (tmp_path / "train.jsonl").write_text(json.dumps(chat_row("Who?", "Pixel.")) + "\n")
    data = store.add_artifact("dataset", [modelpack.file("train.jsonl", store.add_file(tmp_path / "train.jsonl"))])
    made = []
    for quantize in ("q4_k_m", "q5_k_m"):
        (tmp_path / quantize).mkdir()
        facts: dict[str, Any] = {}
        context = Context(store, tmp_path / quantize, record=facts.__setitem__)
        spec = export.Spec(model="base", quantize=quantize, imatrix="facts")
        made.append((export.run(spec, {"base": base, "facts": data}, context), sorted(facts)))
    (first, did), (second, did_then) = made
    assert ("imatrix" in did, "imatrix" in did_then) == (True, False)
    assert first.meta["imatrix"] == second.meta["imatrix"] == data.digest
    assert first.meta["quantization"] == "q4_k_m"
