from __future__ import annotations

import math
import xml.etree.ElementTree as ET

from hyb.formats.chart import Line, Panel, svg

SVG = "{http://www.w3.org/2000/svg}"


def test_a_chart_is_one_well_formed_document_that_fetches_nothing_and_knows_the_dark() -> None:
    text = svg("a <b> & c", ["1", "4"], "clients", [Panel("x", [Line("l", [1.0, 2.0])])])
    root = ET.fromstring(text)
    assert root.get("viewBox") == "0 0 320 300"
    assert "prefers-color-scheme:dark" in text
    assert not any(word in text for word in ("href", "url(", "<script", "@import"))
    assert "a <b> & c" in (root[0].text or "")


def test_lines_go_through_their_points_and_leave_out_what_is_no_number() -> None:
    panels = [Panel("x", [Line("a", [0.0, 5.0, 10.0]), Line("b", [math.nan, 10.0, math.nan], 1, dashed=True)])] * 2
    root = ET.fromstring(svg("t", ["1", "4", "16"], "clients", panels))
    groups = root.findall(f"{SVG}g")
    lines = groups[0].findall(f"{SVG}polyline")
    assert lines[0].get("points") == "94.0,254.0 178.0,169.0 262.0,84.0"
    assert lines[1].get("points") == "178.0,84.0"
    assert "faint" in (lines[1].get("class") or "")
    assert groups[1].get("transform") == "translate(320 0)"
    assert len(groups[0].findall(f"{SVG}circle")) == 4


def test_any_values_give_a_chart() -> None:
    for values in ([], [0.0], [math.nan], [1e-5], [1e9, 3.0]):
        ET.fromstring(svg("t", [str(i) for i in range(len(values))], "x", [Panel("p", [Line("l", values)])]))
