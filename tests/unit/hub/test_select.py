"""Which files of a model are taken, and what is refused."""

import pytest

from hyb.errors import HybError
from hyb.hub.select import select

BASE = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE", "README.md"]


def refusal(paths: list[str], gguf: str = "") -> HybError:
    with pytest.raises(HybError) as caught:
        select(paths, "hf://o/n", gguf=gguf)
    return caught.value


def test_weights_tokenizer_configs_and_licence_are_taken_and_the_rest_is_left() -> None:
    others = [
        ".gitattributes",
        "pytorch_model.bin",
        "flax_model.msgpack",
        "onnx/model.onnx",
        "convert.py",
        "figure.png",
    ]
    others += [
        "original/consolidated.safetensors",
        "consolidated.safetensors",
        "eval.json",
        "model.safetensors.index.json",
    ]
    assert select([*BASE, "model.safetensors", *others], "x") == sorted([*BASE, "model.safetensors"])


def test_all_shards_come_with_their_index() -> None:
    shards = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    assert set(select([*BASE, *shards, "model.safetensors.index.json"], "x")) == {
        *BASE,
        *shards,
        "model.safetensors.index.json",
    }


def test_a_missing_shard_and_a_missing_index_are_named_together() -> None:
    error = refusal([*BASE, "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"])
    assert error.details == ("model-00002-of-00003.safetensors", "model.safetensors.index.json")


def test_pickle_alone_is_refused_with_the_way_out() -> None:
    error = refusal([*BASE, "pytorch_model.bin", "model.pt"])
    assert "pickle" in error.message and error.details == ("model.pt", "pytorch_model.bin")
    assert "safetensors" in error.hint


def test_a_repository_without_weights_is_said_to_have_none() -> None:
    assert "no weights" in refusal(BASE).message


def test_an_adapter_is_no_model() -> None:
    assert "is an adapter" in refusal(["adapter_config.json", "adapter_model.safetensors", "README.md"]).message


def test_weights_without_a_config_are_no_model() -> None:
    assert "config.json" in refusal(["model.safetensors", "LICENSE"]).message


def test_safetensors_of_another_layout_are_named() -> None:
    assert refusal([*BASE, "diffusion.safetensors"]).details == ("diffusion.safetensors",)


def test_the_only_gguf_is_taken_with_the_licence() -> None:
    assert select(["m-q8_0.gguf", "mmproj-f16.gguf", "LICENSE", "config.json"], "x") == ["LICENSE", "m-q8_0.gguf"]


def test_several_ggufs_are_listed_with_how_to_choose() -> None:
    error = refusal(["a-q4.gguf", "b-q8.gguf"])
    assert error.details == ("a-q4.gguf", "b-q8.gguf") and "`hf://o/n/a-q4.gguf`" in error.hint


def test_a_chosen_gguf_is_taken_alone() -> None:
    assert select(["a.gguf", "sub/b.gguf", "model.safetensors", "config.json"], "x", gguf="sub/b.gguf") == [
        "sub/b.gguf"
    ]


def test_a_chosen_gguf_that_is_not_there_gets_the_list_of_those_that_are() -> None:
    assert "`a.gguf`" in refusal(["a.gguf"], gguf="c.gguf").hint


def test_a_part_of_a_split_gguf_is_refused() -> None:
    assert "split GGUF" in refusal(["m-00001-of-00002.gguf"]).message


@pytest.mark.parametrize("path", ["../config.json", "/etc/passwd", "a//b", "a\\b", "a/./b"])
def test_a_path_that_leaves_the_folder_is_refused(path: str) -> None:
    assert "unsafe path" in refusal([*BASE, "model.safetensors", path]).message
