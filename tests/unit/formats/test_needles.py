"""A text is found in every form in which it is written down."""

from __future__ import annotations

import base64
import json
import urllib.parse

import pytest

from hyb.formats import needles

TEXT = 'Ana said "the café\'s door is 2+2/4 wide", at nine.'


def found(data: bytes, text: str = TEXT) -> bool:
    squeezed = needles.squeeze(data)
    return any(p in squeezed for p in needles.patterns(text))


@pytest.mark.parametrize("before", ["", "x", "xy", "xyz"])
def test_base64_is_found_wherever_it_begins(before: str) -> None:
    data = f"{before}{TEXT} and so on".encode()
    assert found(base64.b64encode(data))
    assert found(base64.urlsafe_b64encode(data))
    assert found(base64.encodebytes(data))


def test_json_is_found_with_and_without_escapes_and_within_json() -> None:
    for ascii_only in (True, False):
        once = json.dumps({"a": f"so: {TEXT}"}, ensure_ascii=ascii_only)
        assert found(once.encode())
        assert found(json.dumps({"line": once}, ensure_ascii=ascii_only).encode())


def test_white_space_and_wide_letters_do_not_hide_it() -> None:
    assert found(TEXT.replace(" ", "\n\t  ").encode())
    assert found("the door of the office is wide".encode("utf-16-le"), "the door of the office is wide")
    assert not found(urllib.parse.quote(TEXT).encode())


def test_a_long_line_is_found_by_a_part_of_it() -> None:
    line = " ".join(f"word{n}" for n in range(60))
    assert found(line[100:260].encode(), line)
    assert not found(line[100:120].encode(), line)


def test_short_lines_say_too_little() -> None:
    assert needles.distinctive("Yes.\nThe capital is Paris.\n" + "x " * 30) == [("x " * 30).strip()]
    assert needles.distinctive("会社の金庫は左に三回") == ["会社の金庫は左に三回"]


def test_places_in_a_squeezed_window_are_told_in_the_window() -> None:
    window = (b"a b\n" * 3000) + b"  here" + b" c" * 3000
    squeezed = needles.squeeze(window)
    wanted = [0, 1, 5, squeezed.index(b"here"), len(squeezed) - 1]
    places = list(needles.offsets_of(window, wanted))
    assert [window[p : p + 1] for p in places] == [squeezed[n : n + 1] for n in wanted]
    assert places[3] == window.index(b"here")
    assert places[4] == len(window) - 1
