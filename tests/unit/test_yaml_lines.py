"""hyb.formats.yaml_lines."""

from __future__ import annotations

import pytest

from hyb.formats import yaml_lines


def test_every_key_and_item_has_its_line() -> None:
    document = yaml_lines.load("a: 1\nb:\n  - x\n  - {c: 2}\n")
    assert document.value == {"a": 1, "b": ["x", {"c": 2}]}
    assert document.lines[("b",)] == 2
    assert document.lines[("b", 1, "c")] == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("012", 12), ("1:30", "1:30"), ("0x10", "0x10"), ("1e-3", 1e-3), ("2e-4", 2e-4),
        ("'1'", "1"), ("true", True), ("null", None), ("~", None), ("", None),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert yaml_lines.load(f"a: {text}").value == {"a": value}


def test_a_quoted_bound_stays_text() -> None:
    assert yaml_lines.load('g: {recall: ">= 0.9"}').value == {"g": {"recall": ">= 0.9"}}


def test_a_key_given_twice_is_a_mistake_with_both_lines() -> None:
    document = yaml_lines.load("a: 1\nb: 2\na: 3\n")
    assert document.mistakes == [(3, "key `a` for the second time (first in line 1)")]


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a: &x 1\nb: *x\n", 2, "alias"),
        ("a: [1\n", 2, "expected"),
        ("[" * 20000, 1, "nested"),
        ("a" * (1 << 20) + "aa", 1, "larger"),
        ("? [a]\n: 1\n", 1, "key"),
    ],
)
def test_what_is_refused_names_its_line(text: str, line: int, word: str) -> None:
    with pytest.raises(yaml_lines.YamlError, match=word) as caught:
        yaml_lines.load(text)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "word"), [("a: !!python/name:os.system 1", "tag"), ("a: 1\n---\nb: 2\n", "second document")]
)
def test_tags_and_second_documents_are_mistakes(text: str, word: str) -> None:
    assert any(word in said for _, said in yaml_lines.load(text).mistakes)
