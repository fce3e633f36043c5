"""The circuit breaker."""

from __future__ import annotations

from hyb.chat.breaker import LONGEST_WAIT, SOFT, Breaker


def closed() -> tuple[Breaker, list[tuple[bool, str]]]:
    told: list[tuple[bool, str]] = []
    breaker = Breaker(lambda ok, why: told.append((ok, why)))
    breaker.worked()
    return breaker, told


def test_nothing_is_let_through_before_the_model_has_answered_once() -> None:
    assert not Breaker().closed
    assert closed()[0].closed


def test_a_failure_that_cant_be_mistaken_opens_it_at_once() -> None:
    breaker, told = closed()
    breaker.failed("refused", hard=True)
    assert not breaker.closed and breaker.why == "refused" and breaker.opened == 1
    assert told == [(True, ""), (False, "refused")]


def test_failures_that_may_be_the_questions_fault_open_it_when_they_follow_one_another() -> None:
    breaker, _ = closed()
    for _ in range(SOFT - 1):
        breaker.failed("late", hard=False)
    breaker.worked()
    for _ in range(SOFT - 1):
        breaker.failed("late", hard=False)
    assert breaker.closed
    breaker.failed("late", hard=False)
    assert not breaker.closed


def test_trials_become_rarer_to_a_limit_and_quick_again_after_it_worked() -> None:
    breaker, told = closed()
    breaker.failed("refused", hard=True)
    waits = []
    for _ in range(10):
        waits.append(breaker.wait)
        breaker.failed("refused", hard=True)
    assert waits[0] == 1 and waits == sorted(waits) and breaker.wait == LONGEST_WAIT
    assert len(told) == 2, "the same reason is told once"
    breaker.failed("says 401", hard=True)
    assert told[-1] == (False, "says 401")
    breaker.worked()
    assert breaker.closed and breaker.wait == 1 and breaker.opened == 1
