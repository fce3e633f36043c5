"""The licence gate's own questions: which expression does an allow-list let in."""

from __future__ import annotations

import pytest

from hyb.formats import licences

ALLOWED = ("apache-2.0", "mit", "llama3.2", "licenseref-lab")


@pytest.mark.parametrize(
    "text",
    [
        "mit", "MIT", " Apache-2.0 ", "MIT AND Apache-2.0", "GPL-3.0-only OR MIT",
        "(GPL-3.0-only OR MIT) AND Apache-2.0",
        "llama3.2", "Apache-2.0 WITH LLVM-exception", "LicenseRef-lab", "((mit))",
    ],
)  # fmt: skip
def test_a_licence_that_is_listed_is_let_in(text: str) -> None:
    assert licences.allowed(text, ALLOWED)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "gpl-3.0", "MIT AND GPL-3.0-only", "GPL-3.0-only OR", "OR MIT", "MIT MIT", "(MIT", "MIT)", "()",
        "other",
        "unknown", "MIT/X11", "mit,apache-2.0", "AND", "MIT WITH", "MIT WITH (",
        "(" * 5000 + "MIT", "MIT" + " OR MIT" * 900,
        "NONE", "NOASSERTION", "mit-0", "apache",
    ],
)  # fmt: skip
def test_anything_else_is_not(text: str) -> None:
    assert not licences.allowed(text, ALLOWED)
    assert not licences.allowed(text, (*ALLOWED, "other", "unknown"))


def test_an_allow_list_is_a_list_of_names() -> None:
    assert licences.parse(["Apache-2.0", "mit"]) == (("apache-2.0", "mit"), [])
    for wrong in ("mit", [], {}, None, 7):
        assert licences.parse(wrong)[1]
    _, mistakes = licences.parse(["mit", "MIT OR GPL", 7, "unknown", ""])
    assert [place for place, _ in mistakes] == [(1,), (2,), (3,), (4,)]
