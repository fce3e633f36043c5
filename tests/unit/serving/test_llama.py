"""What llama.cpp is told of a model."""

from __future__ import annotations

import pytest

from hyb.serving.llama import HINT, with_hint

THINKS = "{{ m['content'].split('</think>')[-1] }}{{ '<think>' }}"


def test_a_template_that_drops_thoughts_in_other_words_gets_a_comment() -> None:
    assert with_hint(THINKS) == THINKS + "{# content.split('</think>') #}"


@pytest.mark.parametrize(
    "template", ["", "{{ m['content'] }}", "<think></think>" + HINT, "<think></think>{{ m.reasoning_content }}"]
)
def test_a_template_that_is_understood_stays_as_it_is(template: str) -> None:
    assert with_hint(template) == ""
