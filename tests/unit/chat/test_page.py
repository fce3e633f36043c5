"""The page's files."""

from __future__ import annotations

import re
from pathlib import Path

from hyb.chat import page

FOLDER = Path(page.__file__).parent / "page"


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    html = (FOLDER / "index.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", html)
    assert not re.findall(r"\son\w+=|<style|style=|<script>|javascript:", html)
    assert not re.findall(r"url\(|@import|https?:", (FOLDER / "style.css").read_text())


def test_no_script_makes_markup_of_text() -> None:
    for path in FOLDER.glob("*.js"):
        code = re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE)
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser", code
        ), path


def test_each_icon_and_element_that_is_named_exists() -> None:
    html, icons = (FOLDER / "index.html").read_text(), (FOLDER / "icon.svg").read_text()
    code = (FOLDER / "main.js").read_text()
    named = set(re.findall(r"icon\.svg#(\w+)", html)) | set(re.findall(r"""(?:icon|button)\("(\w+)\"""", code))
    assert named <= set(re.findall(r'symbol id="(\w+)"', icons))
    assert set(re.findall(r"""\$\("([\w-]+)"\)""", code)) <= set(re.findall(r'\sid="([\w-]+)"', html))


def test_the_page_is_small() -> None:
    files = page.load()
    assert set(files) >= {"/", "/main.js", "/style.css"}
    assert sum(len(f.data) for f in files.values()) <= 100_000
    assert sum(len(f.packed) for f in files.values()) <= 30_000
