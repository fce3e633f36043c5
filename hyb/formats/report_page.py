"""A report as one HTML page: no script, nothing from elsewhere, light and dark, good on paper.

The frame and the order are here, the parts in `report_sections`.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from hyb.formats import report_sections as parts

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1f23; --dim: #5d6670; --line: #d9dee3; --card: #f5f7f9;
  --good: #1a7f4b; --bad: #b3261e; --before: #9aa5b1; --after: #2f6fde; --pale: #b9cdf3; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --text: #e6e9ec; --dim: #9aa3ad; --line: #333a42;
  --card: #1d2127; --good: #5fd39a; --bad: #ff8a80; --before: #5f6b77; --after: #7aa7ff; --pale: #33496f; } }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.6rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
h3 { margin: 0 0 .5rem; font-size: 1rem; } p { margin: .25rem 0; } .dim { color: var(--dim); }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere; }
.word { display: inline-block; padding: .1rem .7rem; border-radius: 1rem; font-weight: 600; border: 2px solid; }
.good { color: var(--good); } .bad { color: var(--bad); }
svg { display: block; width: 100%; max-width: 46rem; height: auto; } svg text { fill: var(--text); font-size: 13px; }
.bar-before { fill: var(--before); } .bar-after { fill: var(--after); }
.track { fill: var(--card); stroke: var(--line); } .reach { stroke: var(--text); stroke-width: 1.5; }
.curve svg { max-width: 40rem; } .curve svg text { font-size: 12px; fill: var(--dim); }
.curve .back { fill: var(--card); } .curve .grid { stroke: var(--line); } .curve polyline { fill: none; }
.curve .raw { stroke: var(--pale); } .curve .line { stroke: var(--after); }
table { width: 100%; border-collapse: collapse; font-size: .92rem; } table.small { width: auto; min-width: 50%; }
th, td { padding: .45rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: var(--back); }
td { overflow-wrap: anywhere; } .small td { overflow-wrap: normal; } .small td:first-child { white-space: nowrap; }
.questions td { min-width: 7rem; } .questions td.mark { min-width: 0; }
td.mark { white-space: nowrap; }
.scroll { overflow-x: auto; } .filter label { margin-right: 1.25rem; cursor: pointer; }
.notes, .case { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.notes { padding: .75rem 1.1rem; margin: 1rem 0; } .notes ul { margin: .25rem 0; padding-left: 1.2rem; }
.case { padding: .9rem 1.1rem; margin: .75rem 0; } .pair { display: grid; gap: .25rem 1.5rem; margin-top: .5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
.said { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid; padding-left: .7rem; margin: .25rem 0; }
.said span { color: var(--text); } .scroll svg { min-width: 32rem; }
main:has(#only-wrong:checked) tr.right, main:has(#only-changed:checked) tr.same { display: none; }
@media print { .filter { display: none; } body { max-width: none; } .case { break-inside: avoid; } }
"""


def render(report: Mapping[str, Any], *, curve: str = "") -> str:
    """The page of a report (the JSON of `report.json`); ends with a line end. `curve`: of the training, as bare SVG."""
    passed = report["passed"]
    word = ("passed" if passed else "failed") if report["gate"] else "no gate"
    tone = "good" if passed else "bad"
    names = _names(report)
    body = [
        f"<h1>Exam of {escape(str(report['name']))}</h1>",
        f'<p class="dim">model <code>{escape(report["model"])}</code></p>',
        f'<p class="dim">data <code>{escape(report["data"])}</code></p>',
        parts.compared(report.get("compared", {})),
        f'<p><span class="word {tone}">{word}</span></p>',
        parts.gate(report["gate"]),
        "<h2>Scores</h2>",
        parts.bars(report["right"], report.get("intervals", {}), names),
        parts.lost(report["scores"]),
        parts.notes(report.get("notes", ())),
        parts.paired(report.get("paired", {}), names),
        parts.more(report["scores"], report.get("intervals", {})),
        parts.worst(report["questions"], names),
        parts.habits(report.get("habits", {}), names),
        f'<h2>Training</h2>\n<div class="curve">{curve}</div>' if curve else "",
        parts.card(report.get("card", {})),
        parts.questions(report["questions"], names),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Exam of {escape(str(report['name']))}: {word}</title>\n<style>{STYLE}</style>\n"
        "</head>\n<body>\n<main>\n" + "\n".join(part for part in body if part) + "\n</main>\n</body>\n</html>\n"
    )


def _names(report: Mapping[str, Any]) -> dict[str, str]:
    """The passes that were made → what they are called."""
    other = "other" if report.get("compared") else "before"
    before = any("before" in e for e in report["questions"])
    after = "this model" if report.get("compared") else "after"
    return {"before": other, "after": after} if before else {"after": after}
