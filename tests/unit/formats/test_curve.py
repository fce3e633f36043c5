from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

from hyb.formats import curve

GOLDEN = Path(__file__).parents[2] / "data" / "loss.svg"
LOSSES = [3.4 * math.exp(-i / 12) + 0.05 + 0.1 * (i % 3) * math.exp(-i / 20) for i in range(72)]


def test_the_curve_is_the_golden_document() -> None:
    assert curve.svg(LOSSES, "Facts & figures") == GOLDEN.read_text()


def test_the_curve_is_one_well_formed_document_that_fetches_nothing_and_knows_the_dark() -> None:
    text = curve.svg(LOSSES, "a <b> & c")
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in text
    assert not any(word in text for word in ("href", "url(", "<script", "@import"))
    assert "a <b> & c" in (root[0].text or "")


def test_the_line_goes_through_the_points() -> None:
    root = ET.fromstring(curve.svg([4.0, 2.0, 0.0]))
    raw = next(e for e in root if e.get("class") == "raw")
    assert raw.get("points") == "56.0,44.0 340.0,160.0 624.0,276.0"


def test_any_losses_give_a_curve() -> None:
    for losses in ([], [1.0], [0.0, 0.0], [5e-4, 1e-4], [math.nan, 1.0, math.inf], [-1.0, 2.0], [1e6, 3.0]):
        ET.fromstring(curve.svg(losses))


def test_a_long_run_is_no_heavier_than_a_short_one() -> None:
    assert len(curve.svg([1 / (i + 1) for i in range(100_000)])) < 20_000


def test_ticks_are_round_numbers_that_hold_all_values() -> None:
    assert curve.ticks(0, 3.4) == [0, 1, 2, 3, 4]
    assert curve.ticks(0, 0.0005) == [0, 0.0001, 0.0002, 0.0003, 0.0004, 0.0005]
    assert curve.ticks(1, 72, whole=True) == [20, 40, 60]
    assert curve.ticks(1, 3, whole=True) == [1, 2, 3]


def test_smoothing_keeps_a_constant_and_the_number_of_points() -> None:
    assert curve.smoothed([2.0] * 30) == [2.0] * 30
    assert len(curve.smoothed([1.0, 5.0])) == 2
