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


@pytest.mark.parametrize(
    ("text", "interval", "holds"),
    [
        ("surely >= 0.8", (0.81, 1.0), True),
        ("surely >= 0.9", (0.81, 1.0), False),
        ("surely>0", (0.0, 1.0), False),
        ("surely <= 0.2", (0.0, 0.19), True),
        ("surely < 0.2", (0.0, 0.21), False),
    ],
)
def test_surely_looks_at_the_worse_end_of_the_interval(text: str, interval: tuple[float, float], holds: bool) -> None:
    (bound,) = gate.parse({"recall": text})
    assert bound.holds(0.5, interval) is holds
    assert str(gate.parse({"recall": str(bound)})[0]) == str(bound)


def test_surely_without_an_interval_never_holds_in_silence() -> None:
    with pytest.raises(ValueError, match="`recall` has no interval"):
        gate.parse({"recall": "surely > 0"})[0].holds(1.0)


@pytest.mark.parametrize(
    ("score", "text", "said"),
    [
        ("recall", "surely == 1", "nothing measured is surely one number"),
        ("text_rise", "surely <= 1.1", "has no interval"),
        ("recall", "surelyish >= 1", "is no bound"),
        ("recall", "probably >= 1", "is no bound"),
        ("task_", ">= 1", "no score `task_`"),
    ],
)
def test_what_can_not_be_sure_is_refused_in_words(score: str, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gate.parse({score: text})


def test_a_bound_that_only_the_score_holds_is_known_as_luck() -> None:
    (plain,), (sure,) = gate.parse({"recall": ">= 0.9"}), gate.parse({"recall": "surely >= 0.9"})
    assert gate.by_luck(plain, (0.8, 1.0))
    assert not gate.by_luck(plain, (0.92, 1.0))
    assert not gate.by_luck(plain, None)
    assert not gate.by_luck(sure, (0.8, 1.0))


def test_a_bound_is_written_in_one_way() -> None:
    assert str(gate.parse({"recall": ">=90%"})[0]) == ">= 0.9"
    assert str(gate.parse({"control_lost": "==0"})[0]) == "== 0"
