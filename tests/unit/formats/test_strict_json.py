"""JSON that reads the same for everybody."""

from __future__ import annotations

import pytest

from hyb.formats import strict_json


def test_plain_json_is_read() -> None:
    assert strict_json.load(b'{"a": [1, "x", null, {"b": 2.5}]}', 100) == {"a": [1, "x", None, {"b": 2.5}]}


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 1}', b'[{"a": {"b": 1, "c": 2, "b": 3}}]', b"NaN", b"[Infinity]", b"\xff", b"", b"{",
        b"[" * 65 + b"]" * 65, b"[" * 200_000, b'"' + b"x" * 101 + b'"', b"1" * 5000,
    ],
)  # fmt: skip
def test_what_two_readers_could_take_for_two_things_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        strict_json.load(data, 5000 if data[:1] != b'"' else 100)
