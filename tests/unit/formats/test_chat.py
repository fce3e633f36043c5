"""Every shape of a row to the one normal form, and every mistake in words."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from hyb.formats import chat, chat_shapes


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
    ({"messages": [{"role": "tool", "content": "q"}]}, "no question: no message is from the user"),
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
        "calls no function by name",
    ),
    ({"conversations": [{"from": "gpt", "value": "a"}]}, "take turns, human first; turn 1 is from the assistant"),
    (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "human", "value": "q"}]},
        "turn 2 is from the user",
    ),
    ({"instruction": "q"}, "no answer"),
    ({"instruction": "q", "output": ""}, "`output` has an empty answer"),
    ({"instruction": "q", "output": "a", "history": [["x"]]}, "must be a pair"),
    ({"prompt": "q", "chosen": "a"}, "unknown role|no answer"),
    ({"prompt": "q", "chosen": "a", "rejected": ""}, "preference row without `rejected`"),
    ({"prompt": "q", "rejected": "a"}, "preference row without `chosen`"),
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "are the same answer"),
    ({"chosen": "a", "rejected": "b"}, "no question"),
    (
        {
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "b"}],
        },
        "must answer the same question",
    ),
    ({"prompt": "q", "chosen": [{"role": "user", "content": "a"}], "rejected": "b"}, "must end in an answer"),
    ({"prompt": "q", "completions": ["a"], "labels": [True, False]}, "true or false for each of `completions`"),
    ({"text": "  "}, "`text` is empty"),
    ({"text": 3}, "`text` is a number, not a text"),
    ({"segments": [{"label": False, "text": "a"}]}, "no segment to train on"),
    ({"segments": [{"label": 1, "text": "a"}]}, "not true or false"),
    ({"input_ids": [1.5]}, "must hold whole numbers"),
    ({"input_ids": [1, 2], "labels": [1]}, "differ in length: 2, 1, 2"),
    ({"input_ids": [1], "labels": [-100]}, "no token to train on"),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": "x"}]}, "result that no answer asked"),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{"}]}, "that is no JSON"),
    (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "train_detail": [{}]}]},
        "needs `begin_offset` and `end_offset`",
    ),
    (
        {"user": "q", "assistant": "a", "tools": "["},
        "`tools` is a text that is no JSON",
    ),
    ({"question": "q", "answer": "a", "expect": {}}, "`expect` needs exactly one of"),
]


DETAIL = [{"begin_offset": 0, "end_offset": 3, "train": False}, {"begin_offset": 4, "end_offset": 8, "train": True}]
PARTS = [{"type": "text", "text": "Yes", "train": True}, {"type": "text", "text": ", I think", "train": False}]


@pytest.mark.parametrize(
    ("turn", "spans"),
    [
        ({"from": "gpt", "value": "Well yes.", "train_detail": DETAIL}, [[4, 9]]),
        ({"role": "assistant", "content": PARTS}, [[0, 3]]),
        ({"role": "assistant", "content": "Well yes.", "spans": [[4, 9]]}, [[4, 9]]),
    ],
)
def test_parts_of_an_answer_that_are_learnt_are_kept_as_such(turn: dict[str, Any], spans: list[list[int]]) -> None:
    key, who = ("conversations", {"from": "human", "value": "q"}) if "from" in turn else ("messages", {"role": "user"})
    row = chat_shapes.normalise({key: [{"content": "q", **who} if "role" in who else who, turn]})
    assert row.messages[-1]["spans"] == spans
    assert chat_shapes.normalise(row.body()).messages == row.messages, "the normal form reads itself"


def test_parts_beyond_an_answer_and_an_answer_without_a_part_are_refused() -> None:
    far = [{"begin_offset": 0, "end_offset": 9, "train": True}]
    row = {
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "Well yes.", "train_detail": far}]
    }
    with pytest.raises(chat.RowError, match="not within its 9 characters"):
        chat_shapes.normalise(row)
    row["conversations"][1]["train_detail"] = [{"begin_offset": 0, "end_offset": 3, "train": False}]  # type: ignore[index]
    with pytest.raises(chat.RowError, match="no answer to train on"):
        chat_shapes.normalise(row)


@pytest.mark.parametrize(("shape", "value", "wanted"), SHAPES)
def test_each_shape_becomes_the_normal_form(shape: str, value: dict[str, Any], wanted: list[tuple[str, str]]) -> None:
    row = chat_shapes.normalise(value)
    assert (row.shape, turns(row)) == (shape, wanted)
    assert all(m["train"] for m in row.messages if m["role"] == "assistant")


@pytest.mark.parametrize(("shape", "value", "wanted"), SHAPES)
def test_the_normal_form_reads_itself(shape: str, value: dict[str, Any], wanted: list[tuple[str, str]]) -> None:
    row = chat_shapes.normalise(value)
    again = chat_shapes.normalise(json.loads(json.dumps(row.as_json("facts.jsonl", 3))))
    assert (again.messages, again.id, again.shape) == (row.messages, row.id, "chat")


@pytest.mark.parametrize(("value", "said"), MISTAKES)
def test_a_bad_row_is_refused_in_words(value: Any, said: str) -> None:
    with pytest.raises(chat.RowError, match=said):
        chat_shapes.normalise(value)


def test_reasoning_and_weights_are_kept() -> None:
    row = chat_shapes.normalise(
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
    assert chat_shapes.normalise({**asked, "expect": "a"}, answered=False).answer == ""
    with pytest.raises(chat.RowError, match="no answer"):
        chat_shapes.normalise(asked, answered=False)
    with pytest.raises(chat.RowError, match="no answer"):
        chat_shapes.normalise({**asked, "expect": "a"})


def test_a_row_that_asks_the_same_has_the_same_question_id() -> None:
    one, two = (
        chat_shapes.normalise({"question": "q", "answer": "a"}),
        chat_shapes.normalise({"user": "q", "assistant": "b"}),
    )
    assert one.question_id == two.question_id
    assert one.id != two.id


def test_only_one_shape_can_be_asked_for() -> None:
    with pytest.raises(chat.RowError, match="has the shape `ilab`, not `alpaca`"):
        chat_shapes.normalise({"user": "q", "assistant": "a"}, only="alpaca")


def test_a_message_never_repeats_a_huge_value() -> None:
    with pytest.raises(chat.RowError) as caught:
        chat_shapes.normalise({"messages": [{"role": "x" * 10_000, "content": "q"}]})
    assert len(str(caught.value)) < 250


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Porto"}}}
JUDGED: list[tuple[str, dict[str, Any], list[tuple[str, str]], dict[str, Any]]] = [
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}, [Q, A], {"rejected": "b"}),
    ("preference", {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}],
                    "rejected": [{"role": "assistant", "content": "b"}]}, [Q, A], {"rejected": "b"}),
    ("preference", {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                    "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]},
     [Q, A], {"rejected": "b"}),
    ("preference", {"input": {"messages": [{"role": "user", "content": "q"}]},
                    "preferred_output": [{"role": "assistant", "content": "a"}],
                    "non_preferred_output": [{"role": "assistant", "content": "b"}]}, [Q, A], {"rejected": "b"}),
    ("preference", {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
                    "rejected": {"from": "gpt", "value": "b"}}, [Q, A], {"rejected": "b"}),
    ("preference", {"instruction": "q", "input": "i", "chosen": "a", "rejected": "b"},
     [("user", "q\n\ni"), A], {"rejected": "b"}),
    ("preference", {"system": "s", "input": "q", "chosen": "a", "rejected": "b", "generations": ["a", "b"]},
     [S, Q, A], {"rejected": "b"}),
    ("preference", {"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: more\nHuman: x\n\nAssistant: c",
                    "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: more\nHuman: x\n\nAssistant: d"},
     [Q, A, ("user", "more\nHuman: x"), ("assistant", "c")], {"rejected": "d"}),
    ("unpaired", {"prompt": "q", "completion": "a", "label": False}, [Q, A], {"label": False}),
    ("unpaired", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                  "kto_tag": True}, [Q, A], {"label": True}),
    ("stepwise", {"prompt": "q", "completions": ["a", "b"], "labels": [True, False]},
     [Q, ("assistant", "a\nb")], {"label": False}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "value", "wanted", "judged"), JUDGED)
def test_a_judged_row_ends_in_the_better_answer_and_keeps_the_verdict(
    shape: str, value: dict[str, Any], wanted: list[tuple[str, str]], judged: dict[str, Any]
) -> None:
    row = chat_shapes.normalise(value)
    assert (row.shape, turns(row)) == (shape, wanted)
    assert row.rejected is None or row.rejected["content"] == judged["rejected"]
    assert row.label == judged.get("label")
    again = chat_shapes.normalise(json.loads(json.dumps(row.as_json("f", 1))))
    assert (again.body(), again.kind) == (row.body(), row.kind)


def test_tool_calls_and_their_results_are_kept_whatever_their_shape() -> None:
    openai = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Porto"}'}}]},
            {"role": "tool", "tool_call_id": "1", "content": "rain"},
            {"role": "assistant", "content": "a"},
        ],
        "tools": '[{"type": "function", "function": {"name": "weather"}}]',
    }  # fmt: skip
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Porto"}}'},
            {"from": "observation", "value": "rain"},
            {"from": "gpt", "value": "a"},
        ]
    }
    one, two = chat_shapes.normalise(openai), chat_shapes.normalise(sharegpt)
    assert one.messages[1]["tool_calls"] == [{**CALL, "id": "1"}]
    assert two.messages[1]["tool_calls"] == [CALL]
    assert (
        [m["role"] for m in one.messages]
        == [m["role"] for m in two.messages]
        == ["user", "assistant", "tool", "assistant"]
    )
    assert one.tools == [{"type": "function", "function": {"name": "weather"}}]
    assert chat_shapes.normalise(one.as_json("f", 1)).body() == one.body()


PLAIN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("text", {"text": "once"}, {"text": "once"}),
    ("text", {"document": "once"}, {"text": "once"}),
    ("segments", {"segments": [{"label": False, "text": "q"}, {"label": True, "text": "a"}]},
     {"segments": [{"train": False, "text": "q"}, {"train": True, "text": "a"}]}),
    ("tokens", {"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0], "labels": [-100, 6, -100]},
     {"tokens": {"ids": [5, 6], "labels": [-100, 6]}}),
    ("tokens", {"input_ids": [5, 6]}, {"tokens": {"ids": [5, 6], "labels": [5, 6]}}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "value", "body"), PLAIN)
def test_a_row_without_messages_is_kept_as_it_is_and_reads_itself(
    shape: str, value: dict[str, Any], body: dict[str, Any]
) -> None:
    row = chat_shapes.normalise(value)
    assert (row.shape, row.kind, row.body(), row.answer) == (shape, shape, body, "")
    assert chat_shapes.normalise(row.as_json("f", 1)).body() == body
    with pytest.raises(chat.RowError, match="asks nothing"):
        chat_shapes.normalise(value, answered=False)


def test_openais_first_form_of_calls_and_the_tools_of_a_preference_are_kept() -> None:
    first = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "function_call": {
                "name": "weather", "arguments": '{"city": "Porto"}'}},
            {"role": "function", "name": "weather", "content": "rain"},
            {"role": "assistant", "content": "a"},
        ],
        "functions": [{"name": "weather"}],
    }  # fmt: skip
    row = chat_shapes.normalise(first)
    assert row.messages[1]["tool_calls"] == [CALL]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert row.tools == tools
    said = {"messages": [{"role": "user", "content": "q"}], "tools": tools}
    judged = {"input": said, "preferred_output": [{"role": "assistant", "content": "a"}],
              "non_preferred_output": [{"role": "assistant", "content": "b"}]}  # fmt: skip
    assert chat_shapes.normalise(judged).tools == tools


def test_of_a_tree_of_messages_the_best_answers_are_read() -> None:
    def node(role: str, text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"role": role, "text": text, "replies": list(replies), **more}

    unanswered = node("prompter", "And?")
    asked = node("prompter", "more", node("assistant", "c", unanswered, rank=None))
    root = node("prompter", "q", node("assistant", "worse", rank=1), node("assistant", "a", asked, rank=0))
    row = chat_shapes.normalise({"message_tree_id": "1", "prompt": root})
    assert (row.shape, turns(row)) == ("tree", [Q, A, ("user", "more"), ("assistant", "c")])
    with pytest.raises(chat.RowError, match="no answer"):
        chat_shapes.normalise({"prompt": node("prompter", "q", node("assistant", "a", deleted=True))})
    with pytest.raises(chat.RowError, match="one message of a tree"):
        chat_shapes.normalise({"message_id": "1", "parent_id": None, "role": "prompter", "text": "q"})


@pytest.mark.parametrize(
    "value",
    [
        {"Question": "q", "Answer": "a"},
        {"input": "q", "output": "a"},
        {"query": "q", "response": "a"},
        {"problem": "q", "solution": "a"},
        {"conversation": [{"role": "User", "content": "q"}, {"role": "AI", "content": "a"}]},
    ],
)
def test_keys_and_roles_are_known_by_their_other_names(value: dict[str, Any]) -> None:
    assert turns(chat_shapes.normalise(value)) == [Q, A]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"text": "spam", "label": True}, "shape `text`, which asks nothing"),
        ({"input_ids": [1], "label": False}, "shape `tokens`, which asks nothing"),
        ({"segments": [], "kto_tag": True}, "shape `segments`, which asks nothing"),
        ({"question": "q", "answer": "a", "tools": [{"when": datetime.date(2026, 1, 1)}]}, "`tools` holds what JSON"),
        ({"question": "q", "answer": "a", "tools": [{"most": float("nan")}]}, "`tools` holds what JSON"),
        ({"text": b"bytes"}, "`text` is bytes"),
    ],
)
def test_what_only_a_table_or_a_classifier_has_is_refused_in_words(value: dict[str, Any], said: str) -> None:
    with pytest.raises(chat.RowError, match=said):
        chat_shapes.normalise(value)


def test_what_instructlab_writes_is_read() -> None:
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    mixed = {"id": "1", "messages": said, "metadata": '{"dataset": "x"}', "unmask": True}
    assert chat_shapes.normalise(mixed).unmask
    legacy = {"messages": said, "metadata": '{"system": "s"}'}
    assert turns(chat_shapes.normalise(legacy)) == [S, Q, A]
    early = {"messages": [*said, {"role": "pretraining", "content": "<|user|>q"}], "metadata": "{}"}
    assert turns(chat_shapes.normalise(early)) == [Q, A]
