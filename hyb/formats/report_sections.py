"""The parts of a report's page. Each gives HTML, or "" where there is nothing to show; every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hyb.formats import gate as gates
from hyb.formats import report as reports
from hyb.printable import printable

_TITLES = {
    "holdout": "Held-out questions", "control": "Control questions", "probe": "Probes",
    "unrelated": "Unrelated questions",
}  # fmt: skip
_SCORES = (("recall", "held-out"), ("control", "control"), ("probes", "probes"))
_WORST = 12
_HABITS = {
    "answers": "answers", "cut": "cut off at the limit", "loops": "ending in a loop", "refused": "held-out refused",
    "answer_characters": "characters an answer", "reasoning_characters": "characters of reasoning an answer",
    "most_reasoning_characters": "characters of reasoning at most",
}  # fmt: skip
_SHOWN = 2000  # characters of a text; a browser takes minutes to lay out a million of them in a table
Names = Mapping[str, str]
"""The passes → what they are called, "before" first."""


def compared(other: Mapping[str, str]) -> str:
    """What stands in the place of the model before tuning."""
    if not other:
        return ""
    where = other.get("model") or other.get("url", "")
    return f'<p class="dim">compared with {escape(other["name"])} <code>{escape(where)}</code></p>'


def gate(checks: Sequence[Mapping[str, Any]]) -> str:
    """The bounds and whether they hold."""
    if not checks:
        return ""
    lines = [
        f"<tr><td>{escape(c['score'])}</td><td>{escape(c['bound'])}</td><td>{c['value']:g}</td>"
        f"<td>{_reach(c.get('interval'))}</td>{_mark(c['holds'])}</tr>"
        for c in checks
    ]
    return "<h2>Gate</h2>\n" + _small(("Score", "Wanted", "Found", "Could be", "Holds"), lines)


def bars(right: Mapping[str, Sequence[int]], intervals: Mapping[str, Sequence[float]], names: Names) -> str:
    """Bars of the part answered right, with what it could be by luck: before above after, for each set."""
    rows = []
    for score, title in _SCORES:
        for name, called in names.items():
            key = score if name == "after" else f"{score}_{name}"
            if key in right:
                rows.append((f"{title}, {called}", name, right[key], intervals.get(key)))
    said = "; ".join(f"{title}: {good} of {total}" for title, _, (good, total), _ in rows)
    parts = [f'<div class="scroll"><svg viewBox="0 0 660 {30 * len(rows) + 4}" role="img" aria-label="{escape(said)}">']
    for number, (title, name, (good, total), reach) in enumerate(rows):
        top = 30 * number + 5
        parts.append(
            f'<text x="0" y="{top + 15}">{escape(title)}</text>'
            f'<rect class="track" x="180" y="{top}" width="340" height="20" rx="3"/>'
            f'<rect class="bar-{name}" x="180" y="{top}" width="{340 * good / total:.1f}" height="20" rx="3"/>'
            f"{_whisker(reach, top + 10)}"
            f'<text x="532" y="{top + 15}">{good} of {total}</text>'
        )
    return "".join(parts) + "</svg></div>"


def lost(scores: Mapping[str, float]) -> str:
    """The control questions that tuning lost."""
    if "control_lost" not in scores:
        return ""
    count = int(scores["control_lost"])
    return f"<p>Control questions right before and wrong after: <strong>{count}</strong></p>"


def notes(lines: Sequence[str]) -> str:
    """What a reader should know."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="notes"><h3>How much this says</h3><ul>{items}</ul></div>' if lines else ""


def paired(changes: Mapping[str, Mapping[str, Any]], names: Names) -> str:
    """The same questions, before and after."""
    if not changes:
        return ""
    lines = [
        f"<tr><td>{escape(score)}</td><td>{c['gained']}</td><td>{c['lost']}</td><td>{c['gain']:+g}</td>"
        f"<td>{_reach((c['low'], c['high']))}</td><td>{c['p']:.2g}</td></tr>"
        for score, c in changes.items()
    ]
    head = ("Score", "Gained", "Lost", "Change", "Could be", "p")
    how = (
        f"From {names['before']} to {names['after']}, question by question. p: how likely so uneven a change is when"
        " both are as good (McNemar, exact)."
    )
    return f'<h2>What changed</h2>\n{_small(head, lines)}\n<p class="dim">{escape(how)}</p>'


def more(scores: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> str:
    """The scores that are no shares of the sets."""
    shown = ("recall", "control", "probes")
    rest = {k: v for k, v in scores.items() if not k.startswith(shown)}
    lines = [
        f"<tr><td>{escape(name)}</td><td>{value:g}</td><td>{_reach(intervals.get(name))}</td>"
        f"<td>{escape(gates.SCORES.get(name, 'lm-evaluation-harness'))}</td></tr>"
        for name, value in rest.items()
    ]
    return "<h2>More</h2>\n" + _small(("Score", "Found", "Could be", "What it is"), lines) if lines else ""


def worst(questions: Sequence[Mapping[str, Any]], names: Names) -> str:
    """The worst answers, both side by side."""
    cases = reports.worst(questions)
    if not cases:
        return ""
    more = f'<p class="dim">and {len(cases) - _WORST} more, below</p>' if len(cases) > _WORST else ""
    return "<h2>Worst answers</h2>\n" + "\n".join(_case(q, names) for q in cases[:_WORST]) + more


def habits(found: Mapping[str, Mapping[str, Any]], names: Names) -> str:
    """How long the answers are, how they end."""
    if not found:
        return ""
    passes = [n for n in names if n in found]
    kept = [h for h in _HABITS if any(found[n].get(h) for n in passes)]
    lines = [
        f"<tr><td>{_HABITS[h]}</td>" + "".join(f"<td>{found[n][h]:g}</td>" for n in passes) + "</tr>" for h in kept
    ]
    return "<h2>How it answers</h2>\n" + _small(("", *(names[n] for n in passes)), lines)


def card(found: Mapping[str, Any]) -> str:
    """The data set and the licences."""
    data = found.get("data", {})
    lines = []
    for name, part in data.get("parts", {}).items():
        if part["rows"]:
            words = {side: _median(part, side) for side in ("question", "answer")}
            overlap = data.get("overlap", {}).get(name, {}).get("rows", "")
            lines.append(
                f"<tr><td>{escape(name)}</td><td>{part['rows']}</td>"
                f"<td>{part['duplicates']}</td><td>{words['question']}</td>"
                f"<td>{words['answer']}</td><td>{overlap}</td></tr>"
            )
    head = ("", "Rows", "Exact duplicates", "Words a question", "Words an answer", "Also trained")
    parts = ["<h2>Data</h2>\n" + _small(head, lines)] if lines else []
    said = [f"{k}: {escape(v)}" for k, v in found.get("licenses", {}).items()]
    for work in data.get("attribution", ()):
        said.append("; ".join(escape(str(v)) for k, v in work.items() if k != "file" and v))
    if found:
        said = said or ["none is named by the model or the data"]
        parts.append("<h2>Licences</h2>\n" + "".join(f"<p>{line}</p>" for line in said))
    return "\n".join(parts)


def questions(asked: Sequence[Mapping[str, Any]], names: Names) -> str:
    """All questions with all answers, and what chooses among them."""
    tables = [_table(part, title, asked, names) for part, title in _TITLES.items()]
    return "\n".join(["<h2>Questions</h2>", _filter("before" in names), *filter(None, tables)])


def _case(question: Mapping[str, Any], names: Names) -> str:
    told = []
    for name, called in names.items():
        answer = question[name]
        tone = "good" if answer["passed"] else "bad"
        told.append(
            f'<div><span class="dim">{escape(called)}</span> {_word(answer["passed"])}'
            f'<div class="said {tone}"><span>{_text(answer["answer"]) or "(nothing)"}</span></div>'
            f'<span class="dim">{_notes(answer)}</span></div>'
        )
    leak = f'<p class="bad">gives away: {_text(question["leak"])}</p>' if "leak" in question else ""
    return (
        f'<div class="case"><h3>{_text(question["question"])}</h3>'
        f'<p>expected {_text(question["expected"])} <code class="dim">{escape(question["where"])}</code></p>{leak}'
        f'<div class="pair">{"".join(told)}</div></div>'
    )


def _filter(before: bool) -> str:
    choices = [("all", "all"), ("only-wrong", "wrong ones"), *([("only-changed", "changed ones")] if before else [])]
    labels = "".join(
        f'<label><input type="radio" name="show" id="{key}"{" checked" if key == "all" else ""}> {text}</label>'
        for key, text in choices
    )
    return f'<p class="filter">{labels}</p>'


def _table(part: str, title: str, asked: Sequence[Mapping[str, Any]], names: Names) -> str:
    of_part = [q for q in asked if q["set"] == part]
    if not of_part:
        return ""
    heads = "".join(
        f'<th>{escape(n.capitalize())}</th><th aria-label="right {escape(n)}"></th>' for n in names.values()
    )
    rows = "\n".join(_row(q, list(names)) for q in of_part)
    return (
        f'<h2>{title}</h2>\n<div class="scroll"><table class="questions">'
        f"<thead><tr><th>Question</th><th>Expected</th>{heads}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(question: Mapping[str, Any], names: Sequence[str]) -> str:
    right = question["after"]["passed"]
    same = "before" not in question or question["before"]["passed"] == right
    cells = "".join(f"<td>{_text(question[n]['answer'])}{_note(question[n])}</td>{_mark(question[n]['passed'])}"
                    for n in names)  # fmt: skip
    kinds = " ".join((["right"] if right else []) + (["same"] if same else []))
    where = f'<br><code class="dim">{escape(question["where"])}</code>'
    asked = f"<td>{_text(question['question'])}{where}</td><td>{_text(question['expected'])}</td>"
    return f'<tr class="{kinds}">{asked}{cells}</tr>'


def _note(answer: Mapping[str, Any]) -> str:
    said = _notes(answer)
    return f'<br><span class="dim">{said}</span>' if said else ""


def _notes(answer: Mapping[str, Any]) -> str:
    said = [answer["why"]] if "why" in answer else []
    if "reasoning_characters" in answer:
        said.append(f"{answer['reasoning_characters']} characters of reasoning")
    if answer.get("cut"):
        said.append("cut off")
    if answer.get("loop"):
        said.append(f"ends in a loop: {answer['loop'][:80]}")
    return _text("; ".join(said))


def _text(text: str) -> str:
    """A stranger's text: escaped, without what HTML must not hold, and its beginning alone when it is very long."""
    rest = len(text) - _SHOWN
    kept = text if rest <= 0 else f"{text[:_SHOWN]}… ({rest} more characters: report.json has them)"
    return escape(printable(kept))


def _small(head: Sequence[str], lines: Sequence[str]) -> str:
    cells = "".join(f"<th>{escape(h)}</th>" for h in head)
    return (
        f'<div class="scroll"><table class="small"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _reach(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else ""


def _whisker(interval: Sequence[float] | None, y: int) -> str:
    if not interval:
        return ""
    left, right = (180 + 340 * max(0.0, min(1.0, end)) for end in interval)
    ends = "".join(f'<line class="reach" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 4}" y2="{y + 4}"/>' for x in (left, right))
    return f'<line class="reach" x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}"/>{ends}'


def _median(part: Mapping[str, Any], side: str) -> str:
    found = part.get("lengths", {}).get(side, {}).get("words", {})
    return f"{found['median']:g}" if "median" in found else ""


def _word(right: bool) -> str:
    return f'<span class="{"good" if right else "bad"}">{"✓ yes" if right else "✗ no"}</span>'


def _mark(right: bool) -> str:
    return '<td class="mark good">✓ yes</td>' if right else '<td class="mark bad">✗ no</td>'
