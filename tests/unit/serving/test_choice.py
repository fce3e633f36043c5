"""Which engine serves what, and why."""

from __future__ import annotations

from typing import Any

import pytest

from hyb.artifact import Artifact, Blob, File
from hyb.errors import HybError
from hyb.serving.choice import Choice, choose, gguf_path


def model(name: str, format: str, **meta: Any) -> Artifact:
    return Artifact("sha256:" + name * 64, "model", meta={"format": format, **meta})


GGUF, FOLDER = model("a", "gguf", context=8192), model("b", "safetensors", context=2048)
ADAPTER = Artifact("sha256:" + "c" * 64, "adapter", needs=(FOLDER.digest,))
IMAGE = Artifact("sha256:" + "d" * 64, "image", meta={"model": GGUF.digest}, needs=(GGUF.digest,))
SERVICE = Artifact("sha256:" + "e" * 64, "service", needs=(IMAGE.digest,))
OF_FOLDER = model("1", "gguf", context=2048, base=FOLDER.digest)
MERGED = model("2", "gguf", base=FOLDER.digest, adapter=ADAPTER.digest)
LORA = Artifact("sha256:" + "3" * 64, "adapter", meta={"format": "gguf", "base": FOLDER.digest})
ALIEN = Artifact("sha256:" + "4" * 64, "adapter", meta={"format": "gguf", "base": "sha256:" + "9" * 64})
PACKED = Artifact(
    "sha256:" + "5" * 64, "image", needs=(OF_FOLDER.digest, LORA.digest),
    meta={"model": OF_FOLDER.digest, "adapters": [{"name": "support", "digest": LORA.digest}]},
)  # fmt: skip
DORA = Artifact("sha256:" + "6" * 64, "adapter", meta={"base": FOLDER.digest, "dora": True}, needs=(FOLDER.digest,))
KNOWN = {a.digest: a for a in (GGUF, FOLDER, ADAPTER, IMAGE, SERVICE, OF_FOLDER, MERGED, LORA, ALIEN, PACKED)}


def chosen(artifact: Artifact, **options: Any) -> Choice:
    return choose(artifact, KNOWN.__getitem__, **options)


@pytest.mark.parametrize("artifact", [GGUF, IMAGE, SERVICE])
def test_a_gguf_is_served_by_llama_cpp_however_it_is_wrapped(artifact: Artifact) -> None:
    found = chosen(artifact)
    assert (found.engine, found.model, found.adapter, found.why) == ("llama.cpp", GGUF, None, "the model is a GGUF")


def test_an_adapter_is_served_on_its_base_by_transformers() -> None:
    found = chosen(ADAPTER)
    assert (found.engine, found.model, found.adapter, found.parallel) == ("transformers", FOLDER, ADAPTER, 1)


def test_an_adapter_fits_what_its_base_was_converted_to() -> None:
    assert chosen(OF_FOLDER, adapters=[("support", LORA)]).adapters == (("support", LORA),)
    assert chosen(FOLDER, adapters=[("support", ADAPTER)]).adapters == (("support", ADAPTER),)


def test_an_image_brings_its_adapters() -> None:
    found = chosen(PACKED, adapters=[("more", LORA)])
    assert (found.model, found.engine) == (OF_FOLDER, "llama.cpp")
    assert found.adapters == (("support", LORA), ("more", LORA))


def test_vllm_is_chosen_where_it_can_run_and_for_what_it_can_serve() -> None:
    assert chosen(FOLDER, vllm=True).engine == "vllm"
    assert chosen(GGUF, vllm=True).engine == "llama.cpp"


def test_dora_is_served_by_transformers_for_vllm_has_none() -> None:
    assert chosen(DORA, vllm=True).engine == "transformers"
    assert chosen(FOLDER, vllm=True, adapters=[("x", DORA)]).engine == "transformers"
    with pytest.raises(HybError, match="vLLM can't put"):
        chosen(DORA, vllm=True, engine="vllm")


def test_the_context_is_the_models_own_when_that_is_less() -> None:
    assert chosen(GGUF).context == 4096
    assert chosen(FOLDER).context == 2048
    assert chosen(GGUF, context=8192).context == 8192


def test_more_context_than_the_model_was_made_for_is_refused() -> None:
    with pytest.raises(HybError, match="9000 tokens was asked for; the model was made for 8192"):
        chosen(GGUF, context=9000)


@pytest.mark.parametrize(
    ("artifact", "options", "said", "hint"),
    [
        (GGUF, {"engine": "transformers"}, "the model is a GGUF", "safetensors"),
        (FOLDER, {"engine": "llama.cpp"}, "safetensors folder", "hyb export"),
        (ADAPTER, {"engine": "llama.cpp"}, "adapter", "hyb export"),
        (GGUF, {"engine": "vllm"}, "can't serve", "safetensors model"),
        (GGUF, {"engine": "ollama"}, "no engine `ollama`", "`vllm`"),
        (GGUF, {"adapters": [("x", ALIEN)]}, "another base", "hyb export"),
        (GGUF, {"adapters": [("x", ADAPTER)]}, "is safetensors, and the model gguf", "lora-gguf"),
        (MERGED, {"adapters": [("x", LORA)]}, "another base", "hyb export"),
        (GGUF, {"adapters": [("x", FOLDER)]}, "is a model, no adapter", "hyb export"),
        (OF_FOLDER, {"adapters": [("x", LORA), ("x", LORA)]}, "two adapters are called `x`", "hyb export"),
        (ADAPTER, {"adapters": [("x", ADAPTER)]}, "can't have others beside it", "base model"),
        (FOLDER, {"parallel": 2}, "one request at a time", "hyb export"),
        (Artifact("sha256:" + "f" * 64, "dataset"), {}, "is a dataset", "hyb ls"),
    ],
)
def test_what_can_not_be_served_is_refused_with_a_way_out(
    artifact: Artifact, options: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(HybError, match=said) as caught:
        chosen(artifact, **options)
    assert hint in caught.value.hint


def test_a_split_gguf_is_refused() -> None:
    files = tuple(File(f"m-0000{i}-of-00002.gguf", Blob("sha256:" + "0" * 64, 1)) for i in (1, 2))
    with pytest.raises(HybError, match="2 GGUF files"):
        gguf_path(Artifact("sha256:" + "a" * 64, "model", files))
