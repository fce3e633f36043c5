"""What is told of a data set before training: each figure on rows made for it."""

from __future__ import annotations

from typing import Any

from hyb.formats import chat_report

LONG = "the warehouse of the company opens at seven in the morning and closes at nine in the evening"


def row(number: int, question: str, answer: str, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]
    return {"id": f"{question}{answer}", "messages": said, "meta": {"source": "a.jsonl", "line": number}}


def test_duplicates_contamination_and_odd_answers_are_counted_with_their_places() -> None:
    train = [
        row(1, "When?", LONG), row(2, "When?", LONG), row(3, "When?", LONG + " today"), row(4, "Who?", "Nobody"),
        row(5, "Why?", "", tool_calls=[{}]), row(6, "Thought?", "It is so.", reasoning="hm"),
    ]  # fmt: skip
    found = chat_report.report(
        {"train": train, "holdout": [row(9, "When?", LONG + " now"), row(8, "What?", "A dog runs.")]}
    )
    assert found["train"]["duplicates"]["exact"] == 1
    assert found["train"]["duplicates"]["near"]["count"] == 2
    assert found["train"]["answers"]["one_word"] == {"count": 1, "first": ["a.jsonl:4"]}
    assert found["train"]["answers"]["empty"]["count"] == 0
    assert found["train"]["with_reasoning"] == 1
    assert found["holdout"]["contaminated"]["first"][0][:2] == ["a.jsonl:9", "a.jsonl:1"]
    text = chat_report.text_of(found)
    assert "near twins of training rows: 1" in text and "a.jsonl:9 ~ a.jsonl:1" in text


def test_tokens_give_truncation_and_what_padding_and_packing_waste() -> None:
    rows = [row(n, "q", "w " * (1 if n % 2 else 99)) for n in range(400)]
    found = chat_report.report({"train": rows}, count=lambda text: len(text.split()), max_length=90, pack=100)
    tokens = found["train"]["tokens"]
    assert tokens["over_max_length"] == 200
    assert tokens["padded_efficiency"] == 1.0
    assert tokens["packed_efficiency"] == 1.0
    mixed = chat_report.report({"train": rows}, count=lambda text: len(text.split()), pack=1000)["train"]["tokens"]
    assert mixed["padded_efficiency"] < 0.6 < 0.95 < mixed["packed_efficiency"]


def test_rows_of_every_kind_are_counted_and_languages_where_they_can_be_told() -> None:
    rows = [
        {"id": "1", "text": "Once upon a time"},
        {"id": "2", "tokens": {"ids": [1], "labels": [1]}},
        {"id": "3", "segments": [{"train": True, "text": "x"}]},
        {**row(1, "q", "a"), "rejected": {"role": "assistant", "content": "b"}},
        {**row(2, "q", "a"), "label": False},
    ]
    found = chat_report.report({"train": rows}, language=lambda text: "en")["train"]
    assert found["kinds"] == {"text": 1, "tokens": 1, "segments": 1, "preference": 1, "unpaired": 1}
    assert found["languages"] == {"en": 4}
