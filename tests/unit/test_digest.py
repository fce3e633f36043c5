"""hyb.digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyb import digest


def test_canonical_json_has_one_byte_form() -> None:
    assert digest.canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    assert digest.of_json({"a": 1, "b": 2}) == digest.of_json({"b": 2, "a": 1})


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest.canonical_json(float("nan"))


def test_a_tree_changes_with_content_and_names_and_not_with_place(tmp_path: Path) -> None:
    for place in ("x", "y"):
        (tmp_path / place / "sub").mkdir(parents=True)
        (tmp_path / place / "sub" / "a").write_text("1")
    same = digest.of_tree(tmp_path / "x")
    assert same == digest.of_tree(tmp_path / "y")
    (tmp_path / "y" / "sub" / ".hidden").write_text("left out")
    assert same == digest.of_tree(tmp_path / "y")
    (tmp_path / "y" / "sub" / "a").rename(tmp_path / "y" / "sub" / "b")
    assert same != digest.of_tree(tmp_path / "y")


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 63, "SHA256:" + "a" * 64])
def test_what_is_no_digest(text: str) -> None:
    assert not digest.is_digest(text)
