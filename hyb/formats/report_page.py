"""A report as one HTML page: no script, nothing from elsewhere, light and dark, good on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_TITLES = {"holdout": "held-out questions", "control": "control questions"}
_SCORES = (("recall", "held-out questions"), ("control", "control questions"))
_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1f23; --dim: #5d6670; --line: #d9dee3; --card: #f5f7f9;
  --good: #1a7f4b; --bad: #b3261e; --before: #9aa5b1; --after: #2f6fde; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --text: #e6e9ec; --dim: #9aa3ad; --line: #333a42;
  --card: #1d2127; --good: #5fd39a; --bad: #ff8a80; --before: #5f6b77; --after: #7aa7ff; } }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.6rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
p { margin: .25rem 0; } .dim { color: var(--dim); }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere; }
.word { display: inline-block; padding: .1rem .7rem; border-radius: 1rem; font-weight: 600; border: 2px solid; }
.good { color: var(--good); } .bad { color: var(--bad); }
svg { display: block; width: 100%; max-width: 44rem; height: auto; } svg text { fill: var(--text); font-size: 13px; }
.bar-before { fill: var(--before); } .bar-after { fill: var(--after); }
.track { fill: var(--card); stroke: var(--line); }
table { width: 100%; border-collapse: collapse; font-size: .92rem; }
th, td { padding: .5rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: var(--back); }
td { overflow-wrap: anywhere; min-width: 6rem; } td.mark { min-width: 0; white-space: nowrap; }
.scroll { overflow-x: auto; } .filter label { margin-right: 1.25rem; cursor: pointer; }
main:has(#only-wrong:checked) tr.right, main:has(#only-changed:checked) tr.same { display: none; }
@media print { .filter { display: none; } body { max-width: none; } }
"""


def render(report: Mapping[str, Any], *, curve: str = "") -> str:
    """The page of a report (the JSON of `report.json`); ends with a line end."""
    passed = report["passed"]
    word = ("passed" if passed else "failed") if report["gate"] else "no gate"
    tone = "good" if passed else "bad"
    before = any("before" in e for e in report["questions"])
    body = [
        f"<h1>Exam of {escape(str(report['name']))}</h1>",
        f'<p class="dim">model <code>{escape(report["model"])}</code></p>',
        f'<p class="dim">data <code>{escape(report["data"])}</code></p>',
        f'<p><span class="word {tone}">{word}</span></p>',
        _gate(report["gate"]),
        "<h2>Scores</h2>",
        _bars(report["right"]),
        _lost(report["scores"]),
        "<h2>Questions</h2>",
        _filter(before),
        *(_table(part, title, report["questions"], before) for part, title in _TITLES.items()),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Exam of {escape(str(report['name']))}: {word}</title>\n<style>{_STYLE}</style>\n"
        "</head>\n<body>\n<main>\n" + "\n".join(part for part in body if part) + "\n</main>\n</body>\n</html>\n"
    )


def _gate(checks: Sequence[Mapping[str, Any]]) -> str:
    if not checks:
        return ""
    lines = "".join(
        f"<tr><td>{escape(c['score'])}</td><td>{escape(c['bound'])}</td><td>{c['value']:g}</td>{_mark(c['holds'])}</tr>"
        for c in checks
    )
    head = "<tr><th>Score</th><th>Wanted</th><th>Found</th><th>Holds</th></tr>"
    return f'<h2>Gate</h2>\n<div class="scroll"><table><thead>{head}</thead><tbody>{lines}</tbody></table></div>'


def _bars(right: Mapping[str, Sequence[int]]) -> str:
    """Bars of the part answered right: before above after, for each set."""
    rows: list[tuple[str, str, int, int]] = []
    for score, title in _SCORES:
        for key, name in ((f"{score}_before", "before"), (score, "after")):
            if key in right:
                rows.append((f"{title}, {name}", name, right[key][0], right[key][1]))
    height = 30 * len(rows)
    said = "; ".join(f"{title}: {good} of {total}" for title, _, good, total in rows)
    parts = [f'<svg viewBox="0 0 640 {height}" role="img" aria-label="{escape(said)}">']
    for number, (title, name, good, total) in enumerate(rows):
        top = 30 * number + 5
        parts.append(
            f'<text x="0" y="{top + 15}">{escape(title)}</text>'
            f'<rect class="track" x="210" y="{top}" width="340" height="20" rx="3"/>'
            f'<rect class="bar-{name}" x="210" y="{top}" width="{340 * good / total:.1f}" height="20" rx="3"/>'
            f'<text x="562" y="{top + 15}">{good} of {total}</text>'
        )
    return "".join(parts) + "</svg>"


def _lost(scores: Mapping[str, float]) -> str:
    if "control_lost" not in scores:
        return ""
    lost = int(scores["control_lost"])
    return f"<p>Control questions right before and wrong after: <strong>{lost}</strong></p>"


def _filter(before: bool) -> str:
    choices = [("all", "all"), ("only-wrong", "wrong ones"), *([("only-changed", "changed ones")] if before else [])]
    labels = "".join(
        f'<label><input type="radio" name="show" id="{key}"{" checked" if key == "all" else ""}> {text}</label>'
        for key, text in choices
    )
    return f'<p class="filter">{labels}</p>'


def _table(part: str, title: str, questions: Sequence[Mapping[str, Any]], before: bool) -> str:
    of_part = [q for q in questions if q["set"] == part]
    if not of_part:
        return ""
    names = ["before", "after"] if before else ["after"]
    heads = "".join(f'<th>{name.capitalize()}</th><th aria-label="right {name}"></th>' for name in names)
    rows = "\n".join(_row(q, names) for q in of_part)
    return (
        f"<h2>{title.capitalize()}</h2>\n"
        f'<div class="scroll"><table><thead><tr><th>Question</th><th>Expected</th>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(question: Mapping[str, Any], names: Sequence[str]) -> str:
    right = question["after"]["passed"]
    same = "before" not in question or question["before"]["passed"] == right
    cells = "".join(_answer(question[name]) for name in names)
    kinds = " ".join((["right"] if right else []) + (["same"] if same else []))
    where = f'<br><code class="dim">{escape(question["where"])}</code>'
    asked = f"<td>{escape(question['question'])}{where}</td><td>{escape(question['expected'])}</td>"
    return f'<tr class="{kinds}">{asked}{cells}</tr>'


def _answer(answer: Mapping[str, Any]) -> str:
    notes = [answer["why"]] if "why" in answer else []
    if "reasoning_characters" in answer:
        notes.append(f"{answer['reasoning_characters']} characters of reasoning")
    if answer.get("cut"):
        notes.append("cut off")
    note = f'<br><span class="dim">{escape("; ".join(notes))}</span>' if notes else ""
    return f"<td>{escape(answer['answer'])}{note}</td>{_mark(answer['passed'])}"


def _mark(right: bool) -> str:
    return '<td class="mark good">✓ yes</td>' if right else '<td class="mark bad">✗ no</td>'
