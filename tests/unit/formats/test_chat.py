"""Every shape of a row to the one normal form, and every mistake in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyb.formats import chat


def turns(row: chat.Row) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in row.messages]


Q, A, S = ("user", "q"), ("assistant", "a"), ("system", "s")
SHAPES: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    ("chat", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, [Q, A]),
    (
        "chat",
        {
            "messages": [
                {"role": "developer", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"text": "b"}]},
            ]
        },
        [S, Q, ("assistant", "ab")],
    ),
    ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [Q, A]),
    (
        "sharegpt",
        {"conversations": [{"from": "user", "value": "q"}, {"from": "model", "value": "a"}], "system": "s"},
        [S, Q, A],
    ),
    (
        "sharegpt",
        {"conversations": [{"from": x, "value": x} for x in ("system", "human", "gpt", "human", "chatgpt")]},
        [("system", "system"), ("user", "human"), ("assistant", "gpt"), ("user", "human"), ("assistant", "chatgpt")],
    ),
    ("alpaca", {"instruction": "q", "output": "a"}, [Q, A]),
    ("alpaca", {"instruction": "q", "input": "i", "output": "a", "system": "s"}, [S, ("user", "q\n\ni"), A]),
    ("alpaca", {"instruction": "q", "input": "", "output": "a", "history": None}, [Q, A]),
    (
        "alpaca",
        {"instruction": "q", "output": "a", "history": [["q1", "a1"]]},
        [("user", "q1"), ("assistant", "a1"), Q, A],
    ),
    ("alpaca", {"instruction": "q", "response": "a"}, [Q, A]),
    ("alpaca", {"INSTRUCTION": "q", "RESPONSE": "a"}, [Q, A]),
    ("alpaca", {"question": "q", "answer": "a"}, [Q, A]),
    ("alpaca", {"context": "c", "question": "q", "answer": "a"}, [("user", "c\n\nq"), A]),
    ("alpaca", {"system_prompt": "s", "question": "q", "response": "a"}, [S, Q, A]),
    ("alpaca", {"prompt": "q", "generation": "a"}, [Q, A]),
    ("completion", {"prompt": "q", "completion": "a"}, [Q, A]),
    (
        "completion",
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        [Q, A],
    ),
    ("ilab", {"system": "s", "user": "q", "assistant": "a"}, [S, Q, A]),
    ("ilab", {"user": "q", "assistant": "a"}, [Q, A]),
]

MISTAKES: list[tuple[Any, str]] = [
    ([1], "is a list, not an object"),
    ("x", "is a text, not an object"),
    (None, "is null, not an object"),
    ({}, r"unknown shape \(keys: none\)"),
    ({"a": 1, "b": 2}, r"unknown shape \(keys: `a`, `b`\)"),
    ({"messages": []}, "no question"),
    ({"messages": "hello"}, "`messages` is a text, not a list"),
    ({"messages": ["hello"]}, r"`messages\[0\]` is a text, not an object"),
    ({"messages": [{"content": "q"}]}, r"`messages\[0\]` has no role"),
    ({"messages": [{"role": "tool", "content": "q"}]}, "unknown role `tool`"),
    ({"messages": [{"role": "user", "content": "q"}]}, "no answer: its last message is from `user`"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}, "an empty answer"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]}, "an empty answer"),
    ({"messages": [{"role": "user", "content": 3}]}, "`messages[0]` is a number, not a text".replace("[", r"\[")),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part that is no text: image_url"),
    ({"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]}, "answers before it is"),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "system", "content": "s"}]},
        "`system` message that is not the first",
    ),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]},
        "no answer to train on",
    ),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 2}]},
        "weight `2`; it is 0 or 1",
    ),
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{}], "content": "a"}]},
        "calls tools",
    ),
    ({"conversations": [{"from": "gpt", "value": "a"}]}, "take turns, human first; turn 1 is from the assistant"),
    (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "human", "value": "q"}]},
        "turn 2 is from the user",
    ),
    ({"instruction": "q"}, "no answer"),
    ({"instruction": "q", "output": ""}, "`output` has an empty answer"),
    ({"instruction": "q", "output": "a", "history": [["x"]]}, "must be a pair"),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "is a preference row"),
    ({"prompt": "q", "completion": "a", "label": False}, "a row with a verdict"),
    ({"text": "hello"}, "plain text without question and answer"),
    ({"input_ids": [1]}, "a row of token ids"),
    ({"question": "q", "answer": "a", "expect": {}}, "`expect` needs exactly one of"),
]


@pytest.mark.parametrize(("shape", "value", "wanted"), SHAPES)
def test_each_shape_becomes_the_normal_form(shape: str, value: dict[str, Any], wanted: list[tuple[str, str]]) -> None:
    row = chat.normalise(value)
    assert (row.shape, turns(row)) == (shape, wanted)
    assert all(m["train"] for m in row.messages if m["role"] == "assistant")


@pytest.mark.parametrize(("shape", "value", "wanted"), SHAPES)
def test_the_normal_form_reads_itself(shape: str, value: dict[str, Any], wanted: list[tuple[str, str]]) -> None:
    row = chat.normalise(value)
    again = chat.normalise(json.loads(json.dumps(row.as_json("facts.jsonl", 3))))
    assert (again.messages, again.id, again.shape) == (row.messages, row.id, "chat")


@pytest.mark.parametrize(("value", "said"), MISTAKES)
def test_a_bad_row_is_refused_in_words(value: Any, said: str) -> None:
    with pytest.raises(chat.RowError, match=said):
        chat.normalise(value)


def test_reasoning_and_weights_are_kept() -> None:
    row = chat.normalise(
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "weight": 0},
                {"role": "user", "content": "r"},
                {"role": "assistant", "content": "b", "reasoning_content": "because"},
            ]
        }
    )
    assert [m.get("train") for m in row.messages] == [None, False, None, True]
    assert row.messages[3]["reasoning"] == "because"


def test_a_question_needs_an_answer_or_an_expectation() -> None:
    asked = {"messages": [{"role": "user", "content": "q"}]}
    assert chat.normalise({**asked, "expect": "a"}, answered=False).answer == ""
    with pytest.raises(chat.RowError, match="no answer"):
        chat.normalise(asked, answered=False)
    with pytest.raises(chat.RowError, match="no answer"):
        chat.normalise({**asked, "expect": "a"})


def test_a_row_that_asks_the_same_has_the_same_question_id() -> None:
    one, two = chat.normalise({"question": "q", "answer": "a"}), chat.normalise({"user": "q", "assistant": "b"})
    assert one.question_id == two.question_id
    assert one.id != two.id


def test_only_one_shape_can_be_asked_for() -> None:
    with pytest.raises(chat.RowError, match="has the shape `ilab`, not `alpaca`"):
        chat.normalise({"user": "q", "assistant": "a"}, only="alpaca")


def test_a_message_never_repeats_a_huge_value() -> None:
    with pytest.raises(chat.RowError) as caught:
        chat.normalise({"messages": [{"role": "x" * 10_000, "content": "q"}]})
    assert len(str(caught.value)) < 250
