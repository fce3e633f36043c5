"""The table of faults: each of its tests is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_test_that_the_table_of_faults_names_exists() -> None:
    named = re.findall(r"\| `(test_\w+)` \|$", (ROOT / "docs" / "faults.md").read_text(), re.MULTILINE)
    texts = [p.read_text() for p in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    assert len(named) > 40
    assert sorted(set(named) - there) == []


def test_each_row_of_the_table_of_faults_names_a_test() -> None:
    rows = [x for x in (ROOT / "docs" / "faults.md").read_text().splitlines() if x.startswith("| ") and "---" not in x]
    assert not [r for r in rows if "`test_" not in r and "| Test |" not in r]


def test_each_fault_test_is_in_the_table_or_beside_one_that_is() -> None:
    """A file of fault tests that the table does not know would be a promise that nobody reads."""
    text = (ROOT / "docs" / "faults.md").read_text()
    for path in (ROOT / "tests" / "e2e" / "faults").glob("test_*.py"):
        assert any(name in text for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)), path.name
