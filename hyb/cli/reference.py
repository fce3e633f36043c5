"""The command reference, made from the program: Markdown for docs/commands.md and man pages."""

from __future__ import annotations

import inspect
from typing import Any

from hyb import __version__
from hyb.cli import ABOUT, COMMANDS, SUBCOMMANDS, USAGE, function, table
from hyb.cli.commands import build
from hyb.cli.session import COMMON


def markdown() -> str:
    """docs/commands.md: every command with its help, its options and its example."""
    lines = [
        "# Commands",
        "",
        "Made from the program by `python -m hyb.cli.reference`; a test fails when it is not current.",
        "",
    ]
    lines += ["Options that mean the same everywhere:", ""]
    shared = [o for o in _options("version") if o["name"] in COMMON or "--help" in o["flags"]]
    lines += [f"- `{o['flags']}`: {o['help']}" for o in shared]
    for title, group in COMMANDS.items():
        lines += ["", f"## {title}"]
        for name in (n for first in group for n in (first, *(f"{first} {w}" for w in SUBCOMMANDS.get(first, {})))):
            lines += ["", f"### hyb {name}", "", *_markdown_body(name)]
    return "\n".join(lines) + "\n"


def _markdown_body(name: str) -> list[str]:
    text, example = _help(name)
    lines = ["```", usage(name), "```", "", text, ""]
    own = [o for o in _options(name) if o["name"] not in COMMON and "--help" not in o["flags"]]
    lines += [f"- `{o['flags']}`: {o['help']}" for o in own]
    return [*lines, *([""] if own else []), "```sh", example, "```"]


def man_page(name: str = "") -> str:
    """A man page in man(7) macros: of one command, or of hyb itself."""
    title = f"hyb-{name}".replace(" ", "-") if name else "hyb"
    summary = table()[name][1] if name else ABOUT
    lines = [f'.TH "{title.upper()}" "1" "" "hyb {__version__}" "hyb"', ".SH NAME", f"{title} \\- {_roff(summary)}"]
    lines += [".SH SYNOPSIS", f".B {_roff(usage(name) if name else USAGE.removeprefix('Usage: '))}"]
    if not name:
        lines.append(".SH COMMANDS")
        for command, (_, about) in table().items():
            lines += [".TP", f".B hyb {command}", _roff(about)]
        return "\n".join(lines)
    text, example = _help(name)
    lines += [".SH DESCRIPTION", *(_roff(x) if x else ".PP" for x in text.splitlines()), ".SH OPTIONS"]
    for option in _options(name):
        lines += [".TP", f".B {_roff(option['flags'])}", _roff(option["help"])]
    return "\n".join([*lines, ".SH EXAMPLE", ".nf", _roff(example), ".fi"])


def usage(name: str) -> str:
    """One line: the command with its arguments."""
    words = [o["flags"] for o in _options(name) if not o["flags"].startswith("-")]
    return " ".join(["hyb", name, "[OPTIONS]", *words])


def _help(name: str) -> tuple[str, str]:
    """(text, example) of a command's help. Raises ValueError when it has no example."""
    text = inspect.cleandoc(function(name).__doc__ or "")
    before, found, example = text.partition("Example: ")
    if not found:
        raise ValueError(f"the help of `hyb {name}` has no example")
    return before.strip(), example.strip()


def _options(name: str) -> list[dict[str, Any]]:
    found = []
    for p in build(name).params:
        argument = p.param_type_name == "argument"
        flags = p.metavar or p.name if argument else ", ".join(p.opts) + (f" {p.metavar}" if p.metavar else "")
        found.append({"name": p.name, "flags": flags, "help": p.help or ""})
    return found


def _roff(text: str) -> str:
    """Text that roff takes as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
