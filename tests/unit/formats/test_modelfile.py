"""The Modelfile for Ollama."""

from __future__ import annotations

import pytest

from hyb import templates
from hyb.formats import modelfile
from tests.tiny import CHATML, DISTILL, R1

SMOL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' +"
    " message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_chatml_with_a_default_system_prompt_is_said_in_ollamas_language() -> None:
    found = modelfile.chat(SMOL)
    assert found
    assert found.stops == ("<|im_end|>",)
    assert found.template == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ else }}<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{{ end }}{{ range .Messages }}"
        '{{ if ne .Role "system" }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}{{ end }}'
        "<|im_start|>assistant\n"
    )


def test_plain_chatml_has_no_default() -> None:
    found = modelfile.chat(CHATML)
    assert found
    assert "else" not in found.template


def test_the_reasoning_template_opens_the_thought_where_the_model_s_own_does() -> None:
    found, plain = modelfile.chat(DISTILL), modelfile.chat(DISTILL.replace("<think>\\n", ""))
    assert found
    assert plain
    assert found.template.endswith("<｜Assistant｜><think>\n")
    assert plain.template.endswith("<｜Assistant｜>")
    assert "begin▁of▁sentence" not in found.template
    assert modelfile.chat(templates.pair("deepseek-r1").inference) == found


@pytest.mark.parametrize(
    "jinja", [SMOL + "{{ 'x' }}", SMOL.replace("message['content']", "message['content'] | trim"), R1, "{{ messages }}"]
)
def test_a_template_that_is_only_alike_is_not_guessed_at(jinja: str) -> None:
    assert modelfile.chat(jinja) is None
    text = modelfile.render(jinja=jinja)
    assert "\nTEMPLATE" not in text
    assert "# no TEMPLATE" in text


def test_a_modelfile_has_what_the_model_itself_says() -> None:
    text = modelfile.render(
        jinja=CHATML, context=131072, generation={"do_sample": True, "temperature": 0.6, "top_p": 0.95},
        license="apache-2.0",
    )  # fmt: skip
    assert text.startswith("FROM ./model.gguf\nTEMPLATE ")
    assert text.endswith(
        'PARAMETER stop "<|im_end|>"\nPARAMETER temperature 0.6\nPARAMETER top_p 0.95\nPARAMETER num_ctx 8192\n'
        "LICENSE apache-2.0\n"
    )
    assert "SYSTEM" not in text


def test_a_model_that_does_not_sample_is_asked_for_its_likeliest_words() -> None:
    assert "PARAMETER temperature 0\n" in modelfile.render(jinja="", generation={"do_sample": False}, context=512)
    assert "temperature" not in modelfile.render(jinja="", generation={"eos_token_id": 2})


def test_a_licence_s_text_cannot_end_its_own_quotes() -> None:
    text = modelfile.render(jinja="", license='Do as you like.\n"""\nFROM evil\n')
    assert text == 'FROM ./model.gguf\nLICENSE """Do as you like.\n\'\'\'\nFROM evil\n"""\n'


def test_an_adapter_is_named_beside_its_base() -> None:
    assert modelfile.render(jinja="", adapter="./adapter.gguf").startswith(
        "FROM ./model.gguf\nADAPTER ./adapter.gguf\n"
    )
