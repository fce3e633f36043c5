"""The walk through the parts, the report, and the table of causes that the guide explains."""

from __future__ import annotations

import re
from pathlib import Path

from hyb.linking.causes import CAUSES, NETWORK, OPENSHIFT, PRIVATE
from hyb.linking.findings import FaultError, Report, UntriedError, Walk

DOCS = Path(__file__).parents[3] / "docs" / "link-check.md"


def fails(cause: str, **more: bool) -> tuple[None, str]:
    raise FaultError(cause, "seen", value="a value", **more)


def untried() -> tuple[None, str]:
    raise UntriedError("not here")


def test_a_part_that_fails_keeps_those_that_build_on_it_from_being_tried_and_no_other() -> None:
    walk = Walk()
    assert walk.step("a", lambda: fails("refused")) is None
    assert walk.step("b", lambda: (1, "never"), needs=("a",)) is None
    assert walk.step("c", lambda: (1, "never"), needs=("b",)) is None
    assert walk.step("d", lambda: (4, "fine")) == 4
    states = [(f.part, f.state, f.seen) for f in walk.findings]
    assert states == [
        ("a", "failed", "seen"), ("b", "not tried", "needs `a`"), ("c", "not tried", "needs `b`"), ("d", "ok", "fine"),
    ]  # fmt: skip


def test_a_warning_has_its_value_and_an_optional_failure_has_none() -> None:
    walk = Walk()
    assert walk.step("a", lambda: fails("clock-skew", warning=True)) == "a value"
    assert walk.step("b", lambda: (2, "fine"), needs=("a",)) == 2
    assert walk.step("c", lambda: fails("refused"), optional=True) is None
    assert walk.step("d", lambda: (4, "never"), needs=("c",)) is None
    assert [f.state for f in walk.findings] == ["warning", "ok", "warning", "not tried"]


def test_a_report_without_a_failure_and_without_a_success_claims_nothing() -> None:
    walk = Walk()
    walk.step("a", untried)
    report = Report("client", "x", tuple(walk.findings))
    assert not report.ok and report.text().splitlines()[-1] == "nothing could be tried from here"


def test_the_same_advice_is_given_once_and_every_cause_is_named() -> None:
    walk = Walk()
    for part in ("tcp edge", "tcp inter-router"):
        walk.step(part, lambda: fails("refused"))
    walk.step("model", lambda: fails("model-down"))
    lines = Report("private", "x", tuple(walk.findings)).text().splitlines()
    assert sum(line.startswith("openshift: nobody listens there (tcp edge, tcp inter-router)") for line in lines) == 1
    assert lines[-1] == "the link does not work: nobody listens there; model down"


def test_every_cause_has_words_a_side_and_advice() -> None:
    for key, cause in CAUSES.items():
        assert re.fullmatch(r"[a-z0-9-]+", key)
        assert cause.side in (PRIVATE, OPENSHIFT, NETWORK) and cause.title and cause.do


def test_the_guide_explains_every_cause_and_no_other() -> None:
    explained = re.findall(
        r"^\| `([a-z0-9-]+)` \| [^|]+ \| (private|openshift|network) \|", DOCS.read_text(), re.MULTILINE
    )
    assert dict(explained) == {key: cause.side for key, cause in CAUSES.items()}
