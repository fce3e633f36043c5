"""The auditor's page of a recipe: one HTML file without script, without network, without a row of data. Pure.

What was not made yet and what is broken is said on top. The same recipe, lock and store give the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from hyb.formats import licences, lineage, lineage_chart
from hyb.formats.audit import Audit, Exam, checks
from hyb.formats.lineage import clean, short
from hyb.formats.report_page import STYLE

_MORE = """
.lineage svg { max-width: 64rem; } .lineage svg text { font-size: 12px; } figure { margin: 1rem 0; }
figcaption { color: var(--dim); font-size: .92rem; } pre { white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; margin: .35rem 0;
  font: .82em/1.45 ui-monospace, monospace; } summary { cursor: pointer; } a { color: inherit; }
thead th { position: static; } li { margin: .2rem 0; } caption { text-align: left; color: var(--dim); }
nav ul { columns: 14rem; padding-left: 1.2rem; }
"""


def render(audit: Audit) -> str:
    """The page; ends with a line end."""
    word, tone = ("broken", "bad") if audit.problems else ("incomplete", "dim") if audit.missing else ("whole", "good")
    name = escape(clean(audit.name))
    sections = {
        "wrong": ("What is wrong", _wrong(audit)),
        "lineage": ("Lineage", _lineage(audit)),
        "stages": ("Stages, digests and receipts", _stages(audit)),
        "sources": ("Sources", _sources(audit)),
        "licences": ("Licences", _licences(audit)),
        "scores": ("Scores", "".join(map(_exam, audit.exams)) or "<p>No exam has run.</p>"),
        "boundary": ("What may leave the host", _boundary(audit)),
        "signatures": ("Signatures", _signatures(audit)),
        "programs": ("Programs that ran", _programs(audit)),
        "files": ("Files", _files(audit)),
        "documents": ("Bill of materials and statements", _documents(audit)),
        "checks": ("How to check each part", _checks(audit)),
    }
    shown = {k: v for k, v in sections.items() if v[1]}
    links = "".join(f'<li><a href="#{k}">{escape(title)}</a></li>' for k, (title, _) in shown.items())
    body = "\n".join(f'<h2 id="{k}">{escape(title)}</h2>\n{html}' for k, (title, html) in shown.items())
    done = len(audit.stages) - len(audit.missing)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Audit of {name}: {word}</title>\n<style>{STYLE}{_MORE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>Audit of {name}</h1>\n<p><span class="word {tone}">{word}</span></p>\n'
        f'<p class="dim">{done} of {len(audit.stages)} stages have run. Written by hyb {escape(audit.hyb)} from the '
        "recipe, its lock and the store; nothing was fetched, and no row of data is in this page.</p>\n"
        f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _wrong(audit: Audit) -> str:
    lines = [f"<li>{_text(p)}</li>" for p in audit.problems]
    lines += [f"<li>The stage {_text(m)} has not run.</li>" for m in audit.missing]
    return f'<div class="notes"><ul>{"".join(lines)}</ul></div>' if lines else ""


def _lineage(audit: Audit) -> str:
    chart = lineage_chart.svg(audit.lineage, f"What {clean(audit.name)} was made from")
    return (
        f'<figure class="lineage">{chart}<figcaption>From what came from outside (dashed) to what is served. '
        "Each arrow is a digest in a receipt.</figcaption></figure>\n"
        f"<details><summary>The same as text</summary><pre>{escape(lineage.text(audit.lineage))}</pre></details>"
    )


def _stages(audit: Audit) -> str:
    rows = []
    for name, stage, digest in audit.stages:
        node = audit.lineage.nodes.get(digest)
        if node is None:
            rows.append((_text(name), _text(stage), "not run", "", "", ""))
            continue
        signed = ", ".join(sorted({s.key for s in node.signatures})) or "no"
        receipt = _code(node.receipt) if node.receipt else "none"
        rows.append((_text(name), _text(stage), _code(digest), receipt, _text(node.finished), _text(signed)))
    return _table(("Name", "Stage", "Output", "Receipt", "Finished", "Signed by"), rows, "Stages")


def _sources(audit: Audit) -> str:
    found = {(s.uri, s.digest): s for n in audit.lineage.nodes.values() for s in n.sources}
    rows = [
        (_text(s.name), _text(s.uri), _code(s.digest), _text(", ".join(f"{n} {p}" for p, n in s.rows.items())))
        for s in found.values()
    ]
    return _table(("Name", "Where from", "Digest", "Rows"), rows, "Sources") if rows else "<p>None is known.</p>"


def _licences(audit: Audit) -> str:
    def gate(licence: str) -> str:
        return "" if audit.allowed is None else "yes" if licences.allowed(licence, audit.allowed) else "no"

    rows = [
        (_text(a), _code(short(d)), _text(x) if x else "<strong>not said</strong>", gate(x))
        for a, d, x in audit.licences
    ]
    said = "the recipe allows " + ", ".join(map(clean, audit.allowed)) if audit.allowed else "the recipe allows any"
    table = _table(("Artifact", "Digest", "Licence", "Allowed"), rows, "Licences")
    return f'{table}<p class="dim">{escape(said)}</p>' if rows else "<p>No model has been made.</p>"


def _exam(exam: Exam) -> str:
    report = exam.report
    reach, right = report.get("intervals", {}), report.get("right", {})
    rows = []
    for score, value in sorted(report.get("scores", {}).items()):
        low, high = (*reach[score][:2],) if score in reach else (None, None)
        of = right.get(score)
        rows.append((
            _text(score), f"{value:g}", f"{low:.3g} to {high:.3g}" if low is not None and high is not None else "",
            f"{of[0]} of {of[1]}" if of else "", _text(exam.gate.get(score, "")),
        ))  # fmt: skip
    word = ("passed" if report.get("passed") else "failed") if exam.gate else "no gate"
    failed = "".join(f"<li>{_text(f)}</li>" for f in report.get("failed", ()))
    return (
        f"<h3>{_text(exam.name)}: {word}</h3>"
        + _table(("Score", "Found", "Could be by luck", "Questions", "Gate"), rows, f"Scores of {exam.name}")
        + (f"<ul>{failed}</ul>" if failed else "")
    )


def _boundary(audit: Audit) -> str:
    if audit.boundary is None:
        return "<p>The recipe says nothing of it; the strictest holds.</p>"
    return _table(("Class", "May leave"), [(_text(k), _text(v)) for k, v in audit.boundary.items()], "Boundary")


def _signatures(audit: Audit) -> str:
    if not audit.signatures:
        return "<p>Nothing is signed.</p>"
    rows = [(_text(title), _text(s.of), _code(s.key), _code(s.digest)) for title, s in audit.signatures]
    note = '<p class="dim">The store has them; whether they are good is told by the last checks below.</p>'
    return _table(("Of", "What", "Key", "Signature"), rows, "Signatures") + note


def _programs(audit: Audit) -> str:
    ran: dict[tuple[str, str], set[str]] = {}
    for node in audit.lineage.nodes.values():
        for name, version in node.programs.items():
            ran.setdefault((name, version), set()).add(node.stage)
    rows = [(_text(n.removeprefix("pkg:")), _text(v), _text(", ".join(sorted(s)))) for (n, v), s in sorted(ran.items())]
    if not rows:
        return "<p>No receipt says.</p>"
    table = _table(("Program", "Version", "In the stages"), rows, "Programs")
    return f"<details><summary>{len(rows)} programs and packages</summary>{table}</details>"


def _files(audit: Audit) -> str:
    rows = [(_text(a), _text(p), _code(d), f"{size}") for a, p, d, size in audit.files]
    table = _table(("Artifact", "File", "Digest", "Bytes"), rows, "Files")
    return f"<details><summary>{len(rows)} files</summary>{table}</details>" if rows else "<p>None is here.</p>"


def _documents(audit: Audit) -> str:
    bom = _download(f"{clean(audit.name)}.cdx.json", "application/json", audit.bom)
    receipts = _download(f"{clean(audit.name)}.intoto.jsonl", "application/x-ndjson", audit.statements)
    return (
        f"<ul><li>{bom}: CycloneDX 1.6, the bill of materials with model cards</li>"
        f"<li>{receipts}: the receipts, in-toto statements with SLSA provenance, one a line</li></ul>"
    )


def _download(name: str, media: str, text: str) -> str:
    data = base64.b64encode(text.encode()).decode()
    return f'<a download="{escape(name)}" href="data:{media};base64,{data}">{escape(name)}</a>'


def _checks(audit: Audit) -> str:
    found: dict[str, list[str]] = {}
    for check in checks(audit):
        said = f"<p>{_text(check.title)}:</p><pre>{escape(check.command)}</pre>"
        item = f"{said}<p>prints <code>{escape(check.prints)}</code></p>"
        found.setdefault(check.needs or "coreutils", []).append(item)
    parts = [
        f"<details><summary>{len(items)} with {program}</summary>{''.join(items)}</details>"
        for program, items in found.items()
    ]
    return (
        "<p>None of these needs hyb. They run in the recipe's folder; STORE is the folder of the store.</p>"
        "<pre>export STORE=~/.local/share/hyb/store</pre>" + "".join(parts)
    )


def _text(text: object) -> str:
    return escape(clean(text))


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], name: str) -> str:
    """A table; the cells are HTML. It can be scrolled with the keyboard where it is too wide."""
    top = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(name)}"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"
    )
