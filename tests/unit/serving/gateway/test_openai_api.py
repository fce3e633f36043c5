"""What passes to an engine, what is refused, what is left out."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from hyb.serving.gateway import openai_api
from hyb.serving.gateway.errors import GatewayError, from_engine, refusal, shaped
from hyb.serving.gateway.types import EngineDrainingError, EngineLostError, Model, UnknownModelError

QUESTION = [{"role": "user", "content": "Hi"}]


def chat(**body: Any) -> dict[str, Any]:
    return openai_api.chat({"messages": QUESTION, **body})[0]


def test_the_apis_own_fields_pass_and_unknown_ones_are_named() -> None:
    body = {"messages": QUESTION, "temperature": 0.5, "tools": [{}], "user": "u", "metadata": {}, "x_strange": 1}
    request, left = openai_api.chat(body)
    assert request == {"messages": QUESTION, "temperature": 0.5, "tools": [{}]}
    assert left == ["user", "metadata", "x_strange"]


def test_null_is_no_value() -> None:
    assert chat(stop=None, max_tokens=None, stream=None) == {"messages": QUESTION}


@pytest.mark.parametrize("field", ["lora", "id_slot", "cache_prompt", "samplers", "chat_template", "grammar",
                                   "kv_transfer_params", "lora_request", "prompt_logprobs"])  # fmt: skip
def test_a_client_may_not_reach_past_the_api(field: str) -> None:
    with pytest.raises(GatewayError, match=field) as caught:
        chat(**{field: 1})
    assert caught.value.status == 400
    assert caught.value.param == field


def test_a_template_takes_known_arguments_only() -> None:
    assert chat(chat_template_kwargs={"enable_thinking": False})
    for bad in ({"tools": []}, {"messages": 1}, [], "x"):
        with pytest.raises(GatewayError, match="chat_template_kwargs"):
            chat(chat_template_kwargs=bad)


@pytest.mark.parametrize("body", [
    {"n": 9}, {"n": 0}, {"n": True}, {"max_tokens": -1}, {"max_tokens": "5"}, {"max_completion_tokens": 1.5},
    {"stream": "yes"}, {"stream_options": 1}, {"response_format": "json"}, {"tools": {}}, {"functions": [{}]},
    {"logit_bias": {str(n): 1 for n in range(2000)}}, {"logit_bias": "x"},
    {"model": 3}, {"stop": ["a"] * 17}, {"stop": [1]}, {"top_logprobs": 99},
])  # fmt: skip
def test_values_that_mean_something_else_to_an_engine_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(GatewayError) as caught:
        chat(**body)
    assert caught.value.param == next(iter(body))


def test_a_schema_that_would_keep_an_engine_busy_for_minutes_is_refused() -> None:
    wide = {"type": "object", "properties": {f"p{n}": {} for n in range(3000)}}
    many = {"anyOf": [{"anyOf": [{"type": "string"}] * 100}] * 100}
    for schema in (wide, many):
        for body in ({"response_format": {"json_schema": {"schema": schema}}},
                     {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}):  # fmt: skip
            with pytest.raises(GatewayError, match="too large") as caught:
                chat(**body)
            assert caught.value.code == "too_complex"
    tools = [
        {"type": "function", "function": {"name": f"f{n}", "parameters": {"properties": {"a": {}, "b": {}}}}}
        for n in range(128)
    ]
    assert chat(tools=tools)["tools"] == tools


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "file:///etc/passwd", "/etc/passwd"])
def test_an_engine_is_never_told_to_fetch_a_url(url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(GatewayError, match="data:"):
        openai_api.chat({"messages": [{"role": "user", "content": [part]}]})
    inside = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    assert openai_api.chat({"messages": [{"role": "user", "content": [inside]}]})


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": "Hi"}])
def test_a_chat_needs_messages(body: dict[str, Any]) -> None:
    with pytest.raises(GatewayError, match="messages"):
        openai_api.chat(body)


def test_a_named_tool_becomes_the_only_one_and_required() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("rain", "wind")]
    request: dict[str, Any] = {"tools": tools, "tool_choice": {"type": "function", "function": {"name": "wind"}}}
    openai_api.one_tool(request)
    assert request == {"tools": [tools[1]], "tool_choice": "required"}
    for choice in ("auto", "required", "none"):
        request = {"tools": tools, "tool_choice": choice}
        openai_api.one_tool(request)
        assert request == {"tools": tools, "tool_choice": choice}
    for bad in ({"function": {"name": "snow"}}, {"function": 1}, {}):
        with pytest.raises(GatewayError, match="tool_choice"):
            openai_api.one_tool({"tools": tools, "tool_choice": bad})


def test_completions_and_embeddings_need_their_text() -> None:
    assert openai_api.completion({"prompt": "x", "messages": []}) == ({"prompt": "x"}, ["messages"])
    assert openai_api.embedding({"input": ["x"]})[0] == {"input": ["x"]}
    for function, body in ((openai_api.completion, {"prompt": 1}), (openai_api.embedding, {}),
                           (openai_api.completion, {"prompt": ["x"] * 9})):  # fmt: skip
        with pytest.raises(GatewayError):
            function(body)
    assert openai_api.completion({"prompt": [1] * 99})[0], "token ids are one prompt"


# -- bodies that are bombs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [
    b"", b"{", b"[]", b"3", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": \xff}', b"\x00", b'{"a": ' + b"9" * 5000 + b"}",
])  # fmt: skip
def test_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        openai_api.parse(data)
    assert caught.value.status == 400


@pytest.mark.parametrize(("open_", "close"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("depth", [100, 100_000])
def test_a_deep_body_is_refused(open_: bytes, close: bytes, depth: int) -> None:
    body = b'{"messages":' + open_ * depth + b"1" + close * depth + b"}"
    with pytest.raises(GatewayError, match="inside each other"):
        openai_api.parse(body)


def test_a_body_of_millions_of_values_is_refused_before_it_is_read() -> None:
    body = b'{"messages":[' + b"[]," * 2_600_000 + b"0]}"
    began = time.process_time()
    with pytest.raises(GatewayError, match="values"):
        openai_api.parse(body)
    assert time.process_time() - began < 1


def test_a_long_prompt_and_a_deep_schema_pass() -> None:
    schema: dict[str, Any] = {}
    for _ in range(25):
        schema = {"type": "object", "properties": {"a": schema}}
    body = {"messages": [{"role": "user", "content": "a, b [c] {d}\n" * 30_000}], "response_format": schema}
    assert openai_api.parse(json.dumps(body).encode()) == body


def test_half_a_character_never_reaches_an_engine() -> None:
    body = openai_api.parse(b'{"messages": [{"role": "user", "content": "\\ud800"}]}')
    with pytest.raises(GatewayError, match="surrogate"):
        openai_api.dump(body)


# -- models and errors -----------------------------------------------------------------------------------------------


def test_an_adapter_is_listed_with_its_parent() -> None:
    models = [Model("bot", "base", "sha256:1", 2048, 100), Model("support", "adapter", "sha256:2", 2048, 0)]
    listed = openai_api.listing(models)["data"]
    assert [(m["id"], m["parent"]) for m in listed] == [("bot", None), ("support", "bot")]


@pytest.mark.parametrize(("status", "body", "expected"), [
    (400, {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error", "n_ctx": 9}},
     (400, "context_length_exceeded")),
    (400, {"error": {"message": "This model's maximum context length is 9", "type": "BadRequestError"}},
     (400, "context_length_exceeded")),
    (501, {"error": {"code": 501, "message": "no embeddings", "type": "not_supported_error"}},
     (400, "unsupported_by_engine")),
    (404, {"detail": "Not Found"}, (400, "unsupported_by_engine")),
    (503, {"error": {"message": "Loading model"}}, (503, "engine_busy")),
    (500, {"error": {"message": "boom"}}, (502, "engine_error")),
    (401, {"error": {"message": "key"}}, (502, "engine_error")),
    (422, {"error": "text"}, (422, "invalid_value")),
])  # fmt: skip
def test_an_engines_refusal_in_the_apis_shape(status: int, body: Any, expected: tuple[int, str]) -> None:
    error = from_engine(status, json.dumps(body).encode())
    assert (error.status, error.code) == expected
    assert set(error.body()["error"]) == {"message", "type", "param", "code"}


def test_an_engine_that_speaks_no_json_is_quoted_in_short() -> None:
    assert len(str(from_engine(500, b"<html>" + b"x" * 99_999))) <= 2000


def test_what_each_error_is_to_a_client() -> None:
    unknown = refusal(UnknownModelError("nix", ["bot", "support"]))
    assert unknown and (unknown.status, unknown.code) == (404, "model_not_found")
    assert "`support`" in str(unknown)
    lost, ending = refusal(EngineLostError("gone")), refusal(EngineDrainingError("ending"))
    assert lost and ending and (lost.status, lost.code, ending.code) == (503, "engine_lost", "draining")
    assert refusal(KeyError("a bug")) is None
    assert shaped(GatewayError(400, "no"), ollama=True) == {"error": "no"}


def test_headers_that_go_with_a_status() -> None:
    assert dict(GatewayError(429, "", retry_after=0.2).headers()) == {b"retry-after": b"1"}
    assert dict(GatewayError(401, "").headers()) == {b"www-authenticate": b"Bearer"}
    assert dict(GatewayError(405, "", allow="GET").headers()) == {b"allow": b"GET"}
