"""Until when certificates are good."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hyb import certificates as cs

NOW = datetime.now(UTC).replace(microsecond=0)
CA = cs.make_ca("test", 400, NOW)


@pytest.mark.parametrize(
    ("passed", "state", "days"),
    [(0, "ok", 400), (370, "ok", 30), (370.001, "soon", 29), (399, "soon", 1), (399.5, "soon", 0), (400, "expired", 0),
     (401, "expired", -1), (-0.01, "ok", 400), (-1, "not yet", 401)],
)  # fmt: skip
def test_thirty_days_before_the_end_is_soon_and_a_clock_that_is_behind_is_seen(
    passed: float, state: str, days: int
) -> None:
    found = cs.lasting("CA", CA.certificate, NOW + timedelta(days=passed))
    assert (found.state, found.days) == (state, days)


def test_what_is_not_plainly_good_is_told_first_end_first() -> None:
    short, long = (cs.make_leaf(CA, "x", days, NOW).certificate for days in (10, 20))
    found = cs.expiring({"long one": long, "CA": CA.certificate, "short one": short}, NOW + timedelta(days=15))
    assert [(f.what, f.state) for f in found] == [("short one", "expired"), ("long one", "soon")]
    assert str(found[0]).startswith("the short one expired on ") and str(found[1]).endswith(", in 5 days")
    assert "check the clock" in str(cs.lasting("CA", CA.certificate, NOW - timedelta(days=9)))


def test_one_day_is_no_days() -> None:
    assert str(cs.lasting("CA", CA.certificate, NOW + timedelta(days=399))).endswith(", in 1 day")
