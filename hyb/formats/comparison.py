"""What a quantization costs: size, perplexity and recall side by side, as JSON and as a page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hyb.formats import nearness

COLUMNS = ("quantization", "bytes", "bits", "perplexity", "kl", "agreement", "recall", "control")

_DECIMALS = {"perplexity": 3, "kl": 4}
_STYLE = """
:root { color-scheme: light dark; } body { margin: 0 auto; max-width: 56rem; padding: 2rem 1.25rem;
  font: 16px/1.5 system-ui, sans-serif; } h1 { font-size: 1.5rem; } .dim { opacity: .7; }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } .scroll { overflow-x: auto; }
th, td { padding: .5rem .7rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
"""


def entry(
    quantization: str,
    meta: Mapping[str, Any],
    size: int,
    digest: str,
    facts: Mapping[str, Any],
    exam: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """One line. `facts`: what the worker `perplexity` measured; `exam`: the meta of its exam's report, or None."""
    count = meta.get("parameters")
    line: dict[str, Any] = {
        "quantization": quantization,
        "model": digest,
        "bytes": size,
        "bits": round(size * 8 / count, 2) if count else None,
        "perplexity": facts["perplexity"],
        "kl": facts.get("mean_kl"),
        "max_kl": facts.get("max_kl"),
        "agreement": facts.get("agreement"),
    }
    for score in ("recall", "control"):
        if exam and score in exam["scores"]:
            line[score] = exam["scores"][score]
            line[f"{score}_right"] = exam["right"][score]
    return line


def document(
    name: str,
    subject: str,
    data: str,
    texts: Sequence[str],
    tokens: int,
    lines: Sequence[Any],
    *,
    positions: int = 0,
    merge: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report's JSON. `subject`: digest of what was quantized; `data`: digest of the data set asked, or "";
    `positions`: where the distance was measured; `merge`: the divergence of the merge before, where there was one."""
    words = sum(len(t.split()) for t in texts)
    return ({"merge": dict(merge)} if merge else {}) | {
        "comparison": list(lines),
        "name": name,
        "model": subject,
        "data": data,
        "method": f"perplexity of {tokens} tokens in llama.cpp: {len(texts)} plain English texts of {words} words in"
        " all, the same for every line"
        + (
            f"; kl: mean KL divergence (nats) from the unquantized model in transformers at {positions} positions of"
            f" {'the data set’s' if data else 'neutral'} conversations, agreement: same likeliest token there"
            if positions
            else ""
        )
        + ("; recall and control: shares of the data set's questions answered right" if data else ""),
    }


def rows(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, cells) of the table; columns that no line has are left out."""
    lines = found["comparison"]
    shown = [c for c in COLUMNS if any(line.get(c) is not None for line in lines)]
    return [c.upper() for c in shown], [[_cell(line, c) for c in shown] for line in lines]


def page(found: Mapping[str, Any]) -> str:
    """The page: no script, nothing from elsewhere; ends with a line end."""
    header, cells = rows(found)
    title = f"Quantizations of {escape(str(found['name']))}"
    head = "".join(f"<th>{escape(c.lower())}</th>" for c in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in cells)
    data = f'<p class="dim">data <code>{escape(found["data"])}</code></p>\n' if found["data"] else ""
    merge = "".join(f"<p>{escape(line)}</p>\n" for line in nearness.sentences(found.get("merge", {})))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        f'<p class="dim">of <code>{escape(found["model"])}</code></p>\n{data}'
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n'
        f"{merge}<p>{escape(found['method'])}</p>\n</main>\n</body>\n</html>\n"
    )


def _cell(line: Mapping[str, Any], column: str) -> str:
    value = line.get(column)
    if value is None:
        return "-"
    if column == "bytes":
        return f"{value / 1e6:.1f} MB"
    if column in ("recall", "control"):
        right, of = line[f"{column}_right"]
        return f"{value:.2f} ({right} of {of})"
    if column == "agreement":
        return f"{value:.1%}"
    return f"{value:.{_DECIMALS[column]}f}" if column in _DECIMALS else str(value)
