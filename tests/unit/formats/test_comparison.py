"""The table of quantizations."""

from __future__ import annotations

from typing import Any

from hyb.formats import comparison
from hyb.formats.prose import TEXTS

EXAM = {"scores": {"recall": 0.75, "control": 1.0}, "right": {"recall": [3, 4], "control": [2, 2]}}


def found(exam: dict[str, Any] | None, parameters: int | None = 1_000_000) -> dict[str, Any]:
    meta = {"parameters": parameters}
    lines = [
        comparison.entry("f16", meta, 2_100_000, "sha256:a", {"perplexity": 12.5}, exam),
        comparison.entry("q8_0", meta, 1_100_000, "sha256:b", {"perplexity": 12.625}, exam),
    ]
    return comparison.document("tiny <b>", "sha256:c", "sha256:d" if exam else "", TEXTS, 400, lines)


def test_a_line_has_size_perplexity_and_what_the_exam_gave() -> None:
    header, cells = comparison.rows(found(EXAM))
    assert header == ["QUANTIZATION", "BYTES", "BITS", "PERPLEXITY", "RECALL", "CONTROL"]
    assert cells[1] == ["q8_0", "1.1 MB", "8.8", "12.625", "0.75 (3 of 4)", "1.00 (2 of 2)"]


def test_columns_that_nobody_measured_are_left_out() -> None:
    header, cells = comparison.rows(found(None, None))
    assert header == ["QUANTIZATION", "BYTES", "PERPLEXITY"]
    assert cells[0] == ["f16", "2.1 MB", "12.500"]


def test_the_method_says_what_was_measured_on_what() -> None:
    assert "400 tokens in llama.cpp: 4 plain English texts" in found(None)["method"]
    assert "recall" in found(EXAM)["method"]
    assert "recall" not in found(None)["method"]


def test_the_page_escapes_names_and_asks_nothing_of_the_network() -> None:
    page = comparison.page(found(EXAM))
    assert "tiny &lt;b&gt;" in page
    assert "default-src 'none'" in page
    assert "0.75 (3 of 4)" in page
    assert "http" not in page.replace("http-equiv", "")
