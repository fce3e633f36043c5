"""Gates of a report."""

from __future__ import annotations

import pytest

from hyb.formats import gate


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        (">= 0.9", [0.9, 1, 0.9 - 1e-12], [0.89]),
        (">0.9", [0.91], [0.9, 0.5]),
        ("<= 0", [0, -1], [0.1]),
        ("< 1", [0.99], [1]),
        ("== 0", [0], [1, 0.001]),
        (">= 90%", [0.9], [0.89]),
        ("  >=   .5 ", [0.5], [0.4]),
    ],
)
def test_a_bound_holds_where_it_should(text: str, good: list[float], bad: list[float]) -> None:
    (bound,) = gate.parse({"recall": text})
    assert all(bound.holds(score) for score in good)
    assert not any(bound.holds(score) for score in bad)


@pytest.mark.parametrize("text", ["0.9", "=> 0.9", "!= 1", ">= nan", ">= inf", "", ">= 0.9 0.8", 0.9, None])
def test_a_bound_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is no bound"):
        gate.parse({"recall": text})


def test_an_unknown_score_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="no score `recal`; scores are recall, control") as caught:
        gate.parse({"recal": ">= 1", "control": "much"})
    assert "`control: much` is no bound" in str(caught.value), "all mistakes at once"


def test_a_bound_is_written_in_one_way() -> None:
    assert str(gate.parse({"recall": ">=90%"})[0]) == ">= 0.9"
    assert str(gate.parse({"control_lost": "==0"})[0]) == "== 0"
