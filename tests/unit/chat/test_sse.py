"""Reading a model's stream."""

from __future__ import annotations

import json

import pytest

from hyb.chat import sse


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_whole_wherever_the_stream_is_cut(size: int) -> None:
    data = ': hello\n\ndata: {"a": "é"}\n\ndata:x\ndata: y\n\nevent: z\ndata: [DONE]\r\n\r\ndata: rest'.encode()
    reader, found = sse.Reader(), []
    for start in range(0, len(data), size):
        found += list(reader.feed(data[start : start + size]))
    assert found == ['{"a": "é"}'.encode(), b"x\ny", b"[DONE]"]
    assert reader.rest == b"data: rest"


def test_an_event_without_end_does_not_fill_the_memory() -> None:
    reader = sse.Reader()
    with pytest.raises(ValueError, match="too long"):
        for _ in range(100):
            list(reader.feed(b"x" * 65536))


def thought(text: str, size: int) -> list[tuple[str, str]]:
    reader, found = sse.Thoughts(), []
    for start in range(0, len(text), size):
        found += list(reader.feed(text[start : start + size]))
    found += list(reader.end())
    merged: dict[str, str] = {}
    for kind, part in found:
        if kind == "was_thought":
            merged = {"thought": merged.pop("text", "")}
        else:
            merged[kind] = merged.get(kind, "") + part
    return sorted(merged.items())


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain < text", {"text": "plain < text"}),
        ("<think>\nhm</think>\n\nyes", {"thought": "hm", "text": "yes"}),
        (" <think>hm", {"thought": "hm"}),
        ("hm, so</think>yes", {"thought": "hm, so", "text": "yes"}),
        ("<thin", {"text": "<thin"}),
        ("a </think", {"text": "a </think"}),
        ("<think></think>yes</think>", {"text": "yes</think>"}),
    ],
)
def test_thoughts_and_answer_are_told_apart(text: str, wanted: dict[str, str], size: int) -> None:
    assert dict(thought(text, size)) == wanted


@pytest.mark.parametrize("data", [b"{", b"[]", b"1", b"null", b'"x"'])
def test_what_is_no_chunk_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        sse.deltas(data)


@pytest.mark.parametrize("data", ["{}", '{"choices": null}', '{"choices": [1]}', '{"choices": [{"delta": []}]}'])
def test_a_chunk_that_says_nothing_is_nothing(data: str) -> None:
    assert sse.deltas(data.encode()) == ("", "", "", None, "")


def test_a_chunk_is_read() -> None:
    data = {
        "choices": [{"delta": {"content": "a", "reasoning_content": "b"}, "finish_reason": "stop"}],
        "usage": {"x": 1},
    }
    assert sse.deltas(json.dumps(data).encode()) == ("b", "a", "stop", {"x": 1}, "")
    assert sse.deltas(b'{"error": {"message": "no"}}')[4] == "no"


def test_half_a_character_does_not_end_the_answer() -> None:
    assert sse.event({"text": "a\ud83d"}) == b'data: {"text":"a?"}\n\n'
