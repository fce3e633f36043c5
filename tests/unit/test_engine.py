"""The subprocess door, as far as it is pure."""

from __future__ import annotations

from hyb import engine


def test_threads_spin_for_a_moment_and_sleep_then_unless_the_user_has_chosen() -> None:
    assert engine.openmp({"HOME": "/home/ann"}) == engine.OPENMP
    assert int(engine.OPENMP["GOMP_SPINCOUNT"]) > 0, "without any spin a small model is decoded at half the speed"
    assert engine.openmp({"OMP_WAIT_POLICY": "active"}) == {}
    assert engine.openmp({"GOMP_SPINCOUNT": "0"}) == {}
