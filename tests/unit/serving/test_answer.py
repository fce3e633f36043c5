"""A stream, cut anywhere, gives the same events; its chunks give text, reasoning, tokens and times."""

from __future__ import annotations

import pytest

from hyb.serving import sse
from hyb.serving.answer import TEXT, THOUGHT, Reader

WIRE = 'data: {"a": "ü"}\n\n: a sign of life\n\nevent: x\r\ndata: one\r\ndata: two\r\n\r\ndata:[DONE]\n\n'.encode()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_stream_cut_anywhere_gives_the_same_events(step: int) -> None:
    events = sse.Events()
    found = [e for at in range(0, len(WIRE), step) for e in events.push(WIRE[at : at + step])]
    assert found == ['{"a": "ü"}', "one\ntwo", sse.DONE]


def test_an_event_without_an_end_is_no_event_and_one_without_bounds_is_refused() -> None:
    events = sse.Events()
    assert events.push(b"data: half") == []
    with pytest.raises(ValueError, match="never ends"):
        events.push(b"x" * (sse.MOST + 1))


def chunk(**delta: str) -> dict[str, object]:
    return {"model": "bot", "choices": [{"delta": delta}]}


def test_pieces_tokens_and_times_are_put_together() -> None:
    reader = Reader(sent=10.0)
    assert reader.push(chunk(role="assistant", content=""), 10.1) == []
    assert reader.push(chunk(reasoning_content="hm"), 10.5) == [(THOUGHT, "hm")]
    assert reader.push(chunk(content="Par"), 10.75) == [(TEXT, "Par")]
    assert reader.push(chunk(content="is"), 11.0) == [(TEXT, "is")]
    reader.push({"choices": [{"delta": {}, "finish_reason": "stop"}]}, 11.0)
    reader.push({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}, 11.0)
    answer = reader.answer()
    assert (answer.text, answer.thought, answer.finish, answer.model) == ("Paris", "hm", "stop", "bot")
    assert answer.timing.first == 0.5
    assert answer.timing.gaps == (0.25, 0.25)
    assert (answer.timing.rate, answer.timing.exact, answer.timing.prompt_tokens) == (4.0, True, 7)


def test_a_thought_inside_the_text_and_the_newer_field_are_reasoning_too() -> None:
    reader = Reader(0.0)
    for piece in ("<th", "ink>why", "</think>\n\nso"):
        reader.push(chunk(content=piece), 1.0)
    reader.push(chunk(reasoning="more"), 1.0)
    answer = reader.answer()
    assert (answer.thought, answer.text) == ("whymore", "so")


def test_what_could_have_become_a_thought_is_given_at_the_end() -> None:
    reader = Reader(0.0)
    assert reader.push(chunk(content="<thi"), 1.0) == []
    assert reader.end() == [(TEXT, "<thi")]
    assert reader.answer().text == "<thi"


@pytest.mark.parametrize(
    "junk",
    [
        {},
        {"choices": None},
        {"choices": [1]},
        {"choices": [{"delta": None}]},
        {"usage": 3},
        {"usage": {"prompt_tokens": "x"}},
    ],
)
def test_what_is_no_chunk_of_a_chat_gives_nothing(junk: dict[str, object]) -> None:
    reader = Reader(0.0)
    assert reader.push(junk, 1.0) == []
    timing = reader.answer().timing
    assert (timing.completion_tokens, timing.prompt_tokens, timing.rate, timing.exact) == (0, 0, 0.0, False)
