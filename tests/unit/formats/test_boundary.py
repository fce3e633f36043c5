"""The boundary of a recipe, told with every mistake."""

from __future__ import annotations

from typing import Any

import pytest

from hyb.formats.boundary import CHOICES, COVERS, Boundary, parse


def test_what_is_not_said_is_strict() -> None:
    assert parse(None) == parse({}) == (Boundary("never", "never", "signed", "not-stored"), [])


@pytest.mark.parametrize("word", ["not-stored", "not stored", "not_stored"])
def test_not_stored_may_be_written_as_people_do(word: str) -> None:
    assert parse({"prompts": word}) == (Boundary(), [])


def test_every_word_that_is_offered_is_taken() -> None:
    for name, words in CHOICES.items():
        for word in words:
            found, mistakes = parse({name: word})
            assert (found.as_dict()[name], mistakes) == (word, [])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"wieghts": "never"}, "unknown class `wieghts` (did you mean `weights`?)"),
        ({"data": "signed"}, "`data` is one of never, allowed, not `signed`"),
        ({"data": False}, "`data` is one of never, allowed, not `false`"),
        ({"adapter": ["signed"]}, "`adapter` is one of never, signed, sealed, allowed"),
        ({"prompts": None}, "`prompts` is one of not-stored, allowed, not `nothing`"),
        ("never", "`boundary` is a mapping"),
        (["data"], "`boundary` is a mapping"),
    ],
)
def test_a_mistake_is_told_and_the_strict_value_stays(value: Any, said: str) -> None:
    found, ((_, text),) = parse(value)
    assert found == Boundary()
    assert said in text


def test_a_signature_lets_an_adapter_out_and_nothing_else() -> None:
    assert not Boundary().forbids("adapter", signed=True)
    assert Boundary().forbids("adapter")
    assert Boundary(adapter="never").forbids("adapter", signed=True)
    assert all(Boundary("allowed", "allowed", "allowed", "allowed").forbids(k) for k in ("credential", "canary"))


def test_every_class_is_explained() -> None:
    assert set(COVERS) == {*CHOICES, "credential"}
