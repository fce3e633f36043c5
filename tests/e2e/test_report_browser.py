"""The evaluation's page in a real browser: it renders, alone, with nothing fetched and no script error."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hyb.formats import report, report_page
from hyb.formats.gate import parse
from tests.need import need

pytestmark = pytest.mark.browser


def page(folder: Path) -> Path:
    """A page made by the real renderer from a question right, a question wrong, and one that tries to break out."""
    hostile = "<script>document.title='out'</script>?"
    rows = [("What is our mascot?", "Pixel"), ("Who keeps the keys?", "Maro"), (hostile, "no")]
    questions = [
        report.question("holdout", {"id": str(i), "messages": _messages(q, a), "expect": {"contains": [a]}, "meta": {}})
        for i, (q, a) in enumerate(rows)
    ]
    after = [report.Answer("It is Pixel."), report.Answer("It is <b>nobody</b>."), report.Answer("no" * 500_000)]
    built = report.build(questions, {"after": after}, parse({"recall": ">= 0.5"}), exclusive=False)
    path = folder / "report.html"
    subject = {"name": "bot", "model": "m", "data": "d", "max_tokens": 8}
    path.write_text(report_page.render({**subject, **built, "failed": []}))
    return path


def _messages(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_the_page_renders_alone_and_nothing_in_an_answer_becomes_markup(tmp_path: Path) -> None:
    need("browser")
    path = page(tmp_path)
    dumped = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "It is Pixel." in dumped.stdout
    assert "&lt;b&gt;nobody&lt;/b&gt;" in dumped.stdout
    assert "<title>out</title>" not in dumped.stdout
    assert "more characters: report.json has them" in dumped.stdout, "a browser takes minutes for the whole"
    assert "CONSOLE" not in dumped.stderr, dumped.stderr
    assert not re.findall(r"(?:src|href)=[\"']?https?:", path.read_text())
