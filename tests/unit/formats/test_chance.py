"""Intervals and the paired test: against what is known exactly, and what they must never say."""

from __future__ import annotations

import random

import pytest

from hyb.formats import chance


def one(right: int, of: int) -> list[chance.Group]:
    """Questions that all expect something else."""
    return [(1.0, 1)] * right + [(0.0, 1)] * (of - right)


def changes(gained: int, lost: int, of: int) -> list[chance.Group]:
    return [(1.0, 1)] * gained + [(-1.0, 1)] * lost + [(0.0, 1)] * (of - gained - lost)


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),  # Agresti and Coull's interval for each
    [(44, 44, 0.90, 1.0), (90, 100, 0.82, 0.95), (50, 100, 0.40, 0.60), (950, 1000, 0.93, 0.96), (5, 5, 0.51, 1.0)],
)
def test_an_interval_is_near_the_known_one(right: int, of: int, low: float, high: float) -> None:
    found = chance.share(one(right, of))
    assert found == pytest.approx((low, high), abs=0.08 if of < 10 else 0.02)


@pytest.mark.parametrize(("right", "of"), [(0, 1), (1, 1), (0, 8), (8, 8), (3, 7), (44, 44)])
def test_an_interval_holds_its_score_and_is_never_a_point(right: int, of: int) -> None:
    low, high = chance.share(one(right, of))
    assert 0 <= low <= right / of <= high <= 1
    assert high - low > 0.1, "few questions are never sure"


def test_more_questions_are_surer_and_phrasings_of_one_fact_are_not() -> None:
    forty = chance.share(one(36, 40))
    assert chance.share(one(360, 400))[0] > forty[0]
    together = [(4.0, 4)] * 9 + [(0.0, 4)]
    assert chance.share(together)[0] < forty[0], "ten facts in four phrasings each are ten facts"


def test_the_same_questions_give_the_same_interval() -> None:
    assert chance.share(one(36, 40)) == chance.share(one(36, 40))


def test_an_interval_holds_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chance, "DRAWS", 300)
    rng = random.Random(7)
    for truth, of in ((0.9, 30), (0.6, 20)):
        held = 0
        for _ in range(150):
            low, high = chance.share(one(sum(rng.random() < truth for _ in range(of)), of))
            held += low <= truth <= high
        assert held >= 0.9 * 150


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (10, 2, 0.03857), (3, 3, 1.0), (1, 0, 1.0)]
)
def test_mcnemar_is_the_binomial_tail(gained: int, lost: int, p: float) -> None:
    assert chance.mcnemar(gained, lost) == pytest.approx(p, abs=1e-5)
    assert chance.mcnemar(lost, gained) == chance.mcnemar(gained, lost)


@pytest.mark.parametrize(  # scipy.stats.binomtest
    ("gained", "lost", "p"),
    [(520, 480, 0.2174482932041415), (600, 400, 2.728464156065947e-10), (5000, 5200, 0.04878796312682234)],
)
def test_mcnemar_of_many_is_exact_too(gained: int, lost: int, p: float) -> None:
    assert chance.mcnemar(gained, lost) == pytest.approx(p, rel=1e-9)
    assert chance.mcnemar(5000, 0) == 0.0


@pytest.mark.parametrize(("gained", "lost", "of", "sure"), [
    (3, 0, 3, False), (5, 0, 5, False), (7, 0, 7, True), (10, 2, 100, True), (6, 4, 100, False), (0, 0, 50, False),
])  # fmt: skip
def test_a_gain_is_sure_where_mcnemar_is(gained: int, lost: int, of: int, sure: bool) -> None:
    assert (chance.change(changes(gained, lost, of))[0] > 0) is sure
    assert (chance.mcnemar(gained, lost) < 0.05) is sure


def test_nothing_lost_of_few_could_still_be_a_loss() -> None:
    low, high = chance.change(changes(0, 0, 8))
    assert low < -0.2
    assert high > 0.2
    assert chance.change(changes(0, 0, 800))[0] > -0.02


def test_a_mean_of_measured_numbers_has_an_interval_too() -> None:
    groups = [(float(n % 5), 1) for n in range(200)]
    low, high = chance.mean(groups)
    assert 1.7 < low < 2 < high < 2.3


def test_ten_thousand_questions_do_not_take_minutes() -> None:
    assert chance.share(one(9000, 10_000)) == pytest.approx((0.894, 0.906), abs=0.004)
