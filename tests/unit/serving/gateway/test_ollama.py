"""Ollama's API into OpenAI's and back, with the `ollama` package's own types as the judge of shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyb.serving.gateway import ollama, ollama_answer
from hyb.serving.gateway.errors import GatewayError
from hyb.serving.gateway.ollama_answer import Answer
from hyb.serving.gateway.types import Model

QUESTION = [{"role": "user", "content": "Hi"}]
BASE = Model("bot", "base", "sha256:" + "1" * 64, 2048, 90)
ADAPTER = Model("support", "adapter", "sha256:" + "2" * 64, 2048, 10)
META = {
    "format": "gguf", "architecture": "Qwen2ForCausalLM", "quantization": "q4_k_m", "parameters": 1777088000,
    "license": "mit",
}  # fmt: skip


def chat(**body: Any) -> ollama.Asked:
    return ollama.chat({"model": "bot", "messages": QUESTION, **body})


def answer(asked: ollama.Asked, began: float = 0.0) -> Answer:
    return Answer(asked, "2026-11-22T00:00:00Z", began)


# -- requests --------------------------------------------------------------------------------------------------------


def test_options_become_fields_and_an_engines_own_settings_change_nothing() -> None:
    options = {"temperature": 0.5, "num_predict": 7, "top_k": 3, "stop": ["\n"], "seed": 1, "num_ctx": 9, "numa": True}
    body = chat(options=options).body
    assert body == {
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0.5, "max_tokens": 7, "top_k": 3, "stop": ["\n"], "seed": 1,
    }  # fmt: skip


@pytest.mark.parametrize("endless", [-1, -2])
def test_an_endless_answer_has_no_limit(endless: int) -> None:
    assert "max_tokens" not in chat(options={"num_predict": endless}).body


@pytest.mark.parametrize(
    "options", [{"temperature": "hot"}, {"temperature": True}, {"num_predict": 1.5}, {"stop": [1]}, {"seed": "x"}]
)
def test_an_option_of_the_wrong_kind_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(GatewayError, match=next(iter(options))):
        chat(options=options)


def test_a_schema_and_json_become_response_formats() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    assert chat(format="json").body["response_format"] == {"type": "json_object"}
    form = chat(format=schema).body["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["schema"] == schema
    with pytest.raises(GatewayError, match="format"):
        chat(format="yaml")


@pytest.mark.parametrize(
    ("think", "kwargs", "effort", "shown"),
    [(True, True, None, True), (False, False, None, False), ("high", True, "high", True), (None, None, None, True)],
)
def test_think_asks_the_template_and_says_whether_the_thought_is_shown(
    think: Any, kwargs: bool | None, effort: str | None, shown: bool
) -> None:
    asked = chat(think=think)
    assert asked.body.get("chat_template_kwargs") == (None if kwargs is None else {"enable_thinking": kwargs})
    assert asked.body.get("reasoning_effort") == effort
    assert asked.think is shown


def test_tool_calls_in_the_history_get_ids_and_their_results_find_them() -> None:
    calls = [{"function": {"name": name, "arguments": {"city": name}}} for name in ("rain", "wind")]
    messages = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "calm", "tool_name": "wind"},
        {"role": "tool", "content": "wet", "tool_name": "rain"},
    ]
    _, made, wind, rain = ollama.chat({"model": "bot", "messages": messages}).body["messages"]
    ids = {c["function"]["name"]: c["id"] for c in made["tool_calls"]}
    assert len(set(ids.values())) == 2
    assert wind["tool_call_id"] == ids["wind"]
    assert rain["tool_call_id"] == ids["rain"]
    assert json.loads(made["tool_calls"][0]["function"]["arguments"]) == {"city": "rain"}


def test_two_results_without_a_name_answer_the_calls_in_their_order() -> None:
    calls = [{"function": {"name": name, "arguments": {}}} for name in ("a", "b")]
    results = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    messages = [{"role": "assistant", "tool_calls": calls}, *results]
    made, first, second = ollama.chat({"model": "bot", "messages": messages}).body["messages"]
    assert [first["tool_call_id"], second["tool_call_id"]] == [c["id"] for c in made["tool_calls"]]


def test_an_image_travels_inside_the_request() -> None:
    content = ollama.chat({"model": "b", "messages": [{**QUESTION[0], "images": ["QUJD"]}]}).body["messages"][0][
        "content"
    ]
    assert content[0] == {"type": "text", "text": "Hi"}
    assert content[1]["image_url"]["url"] == "data:image/jpeg;base64,QUJD"


def test_generate_is_a_chat_with_one_question() -> None:
    asked = ollama.generate({"model": "bot", "prompt": "Hi", "system": "Be brief"})
    assert [m["role"] for m in asked.body["messages"]] == ["system", "user"]
    assert (asked.chat, asked.raw, asked.stream) == (False, False, True)


def test_a_raw_prompt_goes_round_the_template() -> None:
    asked = ollama.generate({"model": "bot", "prompt": "<s>Hi", "raw": True, "stream": False})
    assert asked.raw
    assert asked.body["prompt"] == "<s>Hi"
    assert not asked.stream


@pytest.mark.parametrize("field", ["template", "context", "suffix"])
def test_what_a_served_model_does_not_have_is_refused_by_name(field: str) -> None:
    with pytest.raises(GatewayError, match=field):
        ollama.generate({"model": "bot", "prompt": "Hi", field: "x"})


@pytest.mark.parametrize(("keep", "reason"), [(None, "load"), ("5m", "load"), (0, "unload")])
def test_nothing_asked_is_a_wish_to_load(keep: Any, reason: str) -> None:
    for asked in (
        ollama.chat({"model": "bot", "messages": [], "keep_alive": keep}),
        ollama.generate({"model": "bot", "keep_alive": keep}),
    ):
        assert not asked.body
        said = ollama_answer.loaded(asked, "now")
        assert (said["done"], said["done_reason"]) == (True, reason)


def test_a_request_without_a_model_is_refused() -> None:
    with pytest.raises(GatewayError, match="model"):
        ollama.chat({"messages": QUESTION})


@pytest.mark.parametrize(
    "body", [{"messages": "Hi"}, {"messages": [1]}, {"options": 1}, {"think": 3}, {"stream": "no"}, {"model": 5}]
)
def test_a_body_of_the_wrong_kind_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(GatewayError):
        ollama.chat({"model": "bot", "messages": QUESTION, **body})


# -- answers ---------------------------------------------------------------------------------------------------------


def delta(finish: str | None = None, **said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def test_a_stream_becomes_lines_and_ends_with_counts_in_nanoseconds() -> None:
    from ollama import ChatResponse

    made = answer(chat(), began=10.0)
    said = [made.chunk(e, now) for now, e in enumerate(
        (delta(role="assistant", content=None), delta(content="Hel"), delta(content="lo"), delta("length")), 11
    )]  # fmt: skip
    made.chunk({"choices": [], "usage": {"prompt_tokens": 31, "completion_tokens": 2}}, 15)
    assert [line["message"]["content"] for line, _ in said if line] == ["Hel", "lo"]
    assert [token for _, token in said] == [False, True, True, False]
    (last,) = made.last(16.0)
    assert last["done_reason"] == "length"
    assert last["total_duration"] == 6_000_000_000
    assert last["prompt_eval_duration"] == 2_000_000_000, "until the first token"
    assert last["eval_duration"] == 4_000_000_000
    assert (last["prompt_eval_count"], last["eval_count"]) == (31, 2)
    assert ChatResponse(**last).done


def test_an_engines_own_timings_are_better_than_ours() -> None:
    made = answer(chat())
    made.chunk({"choices": [], "timings": {"prompt_ms": 20.5, "predicted_ms": 40.25}}, 1)
    (last,) = made.last(2.0)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (20_500_000, 40_250_000)


def test_a_thought_is_called_thinking_and_can_be_left_out() -> None:
    for think, expected in ((True, ["hmm", ""]), (False, [""])):
        made = answer(chat(think=think))
        lines = [made.chunk(delta(reasoning_content="hmm"), 1), made.chunk(delta(content="42"), 2)]
        shown = [line for line, _ in lines if line]
        assert [line["message"].get("thinking", "") for line in shown] == expected
        assert shown[-1]["message"]["content"] == "42"
        assert all(token for _, token in lines), "a hidden thought is tokens, too"


def test_a_tool_call_in_pieces_becomes_one_with_an_object() -> None:
    from ollama import ChatResponse

    made = answer(chat())
    pieces = [{"name": "rain", "arguments": ""}, {"arguments": '{"city": '}, {"arguments": '"Graz"}'}]
    for piece in pieces:
        line, token = made.chunk(delta(tool_calls=[{"index": 0, "function": piece}]), 1)
        assert (line, token) == (None, True)
    call, last = made.last(2)
    found = ChatResponse(**call).message.tool_calls
    assert found and found[0].function.arguments == {"city": "Graz"}
    assert not call["done"]
    assert last["done"]


def test_a_whole_answer_is_one_line() -> None:
    from ollama import ChatResponse, GenerateResponse

    message = {"role": "assistant", "content": "Paris", "reasoning_content": "France"}
    whole = {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    said = ChatResponse(**answer(chat()).whole(whole, 1.0))
    assert (said.message.content, said.message.thinking, said.done_reason) == ("Paris", "France", "stop")
    asked = ollama.generate({"model": "bot", "prompt": "x"})
    assert GenerateResponse(**answer(asked).whole(whole, 1.0)).response == "Paris"
    raw = {"choices": [{"text": "Rome", "finish_reason": "length"}]}
    assert GenerateResponse(**answer(asked).whole(raw, 1.0)).response == "Rome"


# -- lists and embeddings --------------------------------------------------------------------------------------------


def test_base_and_adapters_are_listed_as_the_ollama_client_reads_them() -> None:
    from ollama import ListResponse, ProcessResponse

    found = ListResponse(**ollama_answer.tags([BASE, ADAPTER], META, 1000)).models
    assert [m.model for m in found] == ["bot", "support"]
    assert found[0].details and found[0].details.quantization_level == "Q4_K_M"
    assert found[0].details.parameter_size == "1.8B"
    assert found[1].details and found[1].details.parent_model == "bot"
    running = ProcessResponse(**ollama_answer.ps([BASE, ADAPTER], META, 1000)).models
    assert running[0].expires_at and running[0].expires_at.year > 2300


def test_show_says_what_the_template_can() -> None:
    from ollama import ShowResponse

    props = {"chat_template": "{% if x %}<think>{% endif %}", "chat_template_caps": {"supports_tools": True}}
    said = ShowResponse(**ollama_answer.show(BASE, "bot", META, props))
    assert said.capabilities == ["completion", "tools", "thinking"]
    assert said.modelinfo and said.modelinfo["qwen2.context_length"] == 2048
    assert ShowResponse(**ollama_answer.show(BASE, "bot", {}, {})).capabilities == ["completion"]


def test_embeddings_old_and_new() -> None:
    from ollama import EmbeddingsResponse, EmbedResponse

    said = {"data": [{"embedding": [0.5, 1.0]}, {"embedding": [2.0, 3.0]}], "usage": {"prompt_tokens": 4}}
    assert ollama.embed({"input": ["a", "b"], "dimensions": 2}) == {
        "input": ["a", "b"], "encoding_format": "float", "dimensions": 2
    }  # fmt: skip
    new = EmbedResponse(**ollama_answer.embedded(said, "bot", 0.5))
    assert [list(v) for v in new.embeddings] == [[0.5, 1.0], [2.0, 3.0]]
    assert (new.prompt_eval_count, new.total_duration) == (4, 500_000_000)
    assert ollama.embed({"prompt": "a"}, old=True)["input"] == "a"
    assert list(EmbeddingsResponse(**ollama_answer.embedded(said, "bot", 0.5, old=True)).embedding) == [0.5, 1.0]
    with pytest.raises(GatewayError):
        ollama.embed({})
