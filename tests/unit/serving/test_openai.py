"""OpenAI's chat API as data: what is taken, what is refused and how."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyb.serving import openai
from hyb.serving.openai import ApiError

HI = {"messages": [{"role": "user", "content": "Hi"}]}


def parse(**fields: Any) -> openai.ChatRequest:
    return openai.parse(json.dumps({**HI, **fields}).encode())


def test_a_plain_request_leaves_everything_to_the_model() -> None:
    asked = parse(model="bot", user="u")
    assert asked == openai.ChatRequest(({"role": "user", "content": "Hi"},), model="bot")


def test_every_supported_field_is_read() -> None:
    asked = parse(
        temperature=0.5,
        top_p=0.9,
        max_tokens=7,
        stop=["a", "b"],
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert (asked.temperature, asked.top_p, asked.max_tokens, asked.seed) == (0.5, 0.9, 7, 3)
    assert asked.stop == ("a", "b")
    assert asked.stream and asked.include_usage


def test_the_new_name_of_max_tokens_wins() -> None:
    assert parse(max_tokens=7, max_completion_tokens=5).max_tokens == 5


def test_content_in_text_parts_is_joined_and_developer_is_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = parse(messages=[{"role": "developer", "content": parts}])
    assert asked.messages == ({"role": "system", "content": "ab"},)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"messages": []}, "messages", "at least one"),
        ({"messages": "Hi"}, "messages", "list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0]", "text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0]", "text"),
        ({"temperature": 3}, "temperature", "between 0 and 2"),
        ({"temperature": True}, "temperature", "number"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"top_p": -0.1}, "top_p", "between 0 and 1"),
        ({"max_tokens": 0}, "max_tokens", "1 or more"),
        ({"max_tokens": 1.5}, "max_tokens", "whole number"),
        ({"seed": 1 << 63}, "seed", "whole number"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": [""]}, "stop", "at most 4"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"n": 2}, "n", "must be 1"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "text"),
    ],
)
def test_what_can_not_be_done_is_refused_in_words(fields: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(ApiError, match=said) as caught:
        parse(**fields)
    assert caught.value.status == 400
    assert caught.value.body()["error"]["param"] == param
    assert caught.value.body()["error"]["type"] == "invalid_request_error"


def test_nan_is_no_number() -> None:
    with pytest.raises(ApiError, match="number"):
        openai.parse(b'{"messages": [{"role": "user", "content": "Hi"}], "temperature": NaN}')


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"text"'])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="JSON"):
        openai.parse(body)


def test_a_wrong_key_has_its_own_type_of_error() -> None:
    assert ApiError(401, "no", code="invalid_api_key").body() == {
        "error": {"message": "no", "type": "authentication_error", "param": None, "code": "invalid_api_key"}
    }


def test_an_answer_holds_the_thought_apart() -> None:
    head = {"id": "x", "created": 1, "model": "bot"}
    answer = openai.completion(head, {"content": "4", "reasoning_content": "2+2"}, "stop", 3, 2)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "4", "reasoning_content": "2+2"}
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_an_event_is_one_line_whatever_the_text_holds() -> None:
    line = openai.event(openai.chunk({"id": "x"}, {"content": "a\n\nb\r"}))
    assert line.startswith("data: ") and line.endswith("\n\n") and "\n" not in line[:-2]
