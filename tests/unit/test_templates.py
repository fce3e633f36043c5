"""The pinned chat templates: known by their words, and the one begins as the other."""

from __future__ import annotations

from typing import Any

import pytest

from hyb import templates
from tests.need import need
from tests.tiny import CHATML, DISTILL, R1

USER, ANSWER = {"role": "user", "content": " Hi\n"}, {"role": "assistant", "content": "Yes."}
CALL = {"function": {"name": "f", "arguments": '{"a": 1}'}, "type": "function"}
ASKED = [{"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}, {"role": "tool", "content": "1"}]
CONVERSATIONS = [
    [USER],
    [{"role": "system", "content": "Be kind."}, USER],
    [USER, ANSWER, USER],
    [USER, {"role": "assistant", "content": "<think>\nWhy?\n</think>\n\nSo."}, USER],
    [USER, *ASKED],
    [USER, *ASKED, {"role": "tool", "content": "2"}],
    [USER, *ASKED, ANSWER, USER, *ASKED],
]


def render(text: str, messages: list[dict[str, Any]], *, ask: bool) -> str:
    need("jinja2")
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # as transformers sets it
    template = environment.from_string(text)
    return template.render(messages=messages, bos_token="<B>", eos_token="<E>", add_generation_prompt=ask)


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("reasoning", ["", "First.\n\nThen."])
def test_what_is_trained_begins_with_what_is_asked(messages: list[dict[str, Any]], reasoning: str) -> None:
    pair = templates.pair("deepseek-r1")
    asked = render(pair.inference, messages, ask=True)
    trained = render(pair.training, [*messages, {**ANSWER, "reasoning_content": reasoning}], ask=False)
    assert trained.startswith(asked)
    rest = trained[len(asked) :]
    if messages[-1]["role"] == "user":
        assert asked.endswith("<｜Assistant｜><think>\n")
        assert rest == f"{reasoning}\n</think>\n\nYes.<E>"
    else:
        assert asked.endswith("<｜tool▁outputs▁end｜>")
        assert rest == (f"<think>\n{reasoning}\n</think>\n\n" if reasoning else "") + "Yes.<E>"


def test_an_earlier_answer_stands_without_its_reasoning() -> None:
    text = render(templates.pair("deepseek-r1").inference, CONVERSATIONS[3], ask=True)
    assert text == "<B><｜User｜> Hi\n<｜Assistant｜>So.<E><｜User｜> Hi\n<｜Assistant｜><think>\n"


def test_a_shipped_template_is_known_with_and_without_think_at_its_end() -> None:
    for shipped in (DISTILL, DISTILL.replace("<think>\\n", ""), DISTILL.replace("\\n", "\n")):
        assert templates.inference_of(shipped) == templates.pair("deepseek-r1").inference
    pinned = templates.pair("deepseek-r1").inference
    assert templates.inference_of(pinned) == pinned


@pytest.mark.parametrize(
    "other",
    [CHATML, R1, "", None, {"default": DISTILL}, DISTILL + "{{ 'x' }}",
     DISTILL.replace("message['content']}}", "message['content'] + '<｜Assistant｜>'}}")],
)  # fmt: skip
def test_a_relative_with_other_turns_is_none_of_the_family(other: object) -> None:
    assert templates.pair_of(other) is None


def test_the_digests_are_of_the_files() -> None:
    found = templates.pair("deepseek-r1").as_json()
    assert found["family"] == "deepseek-r1"
    assert found["training"] != found["inference"]
    assert all(found[name].startswith("sha256:") for name in ("training", "inference"))


def test_llama_cpp_is_told_that_the_template_drops_thoughts() -> None:
    from hyb.serving.llama import HINT

    assert HINT in templates.pair("deepseek-r1").inference
