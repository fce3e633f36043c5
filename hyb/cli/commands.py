"""From a command's name to its end: typer parses, HybError becomes a message and an exit code."""

from __future__ import annotations

import difflib
import signal
import sys
from types import FrameType
from typing import Any

import typer

from hyb.cli import COMPLETE, function, table
from hyb.cli.output import show_error
from hyb.errors import Exit, HybError

UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]  # what all of typer's usage errors have in common


def run_command(word: str, arguments: list[str]) -> int:
    """Run one command and return its exit code. A bug is left to Python, with its traceback."""
    as_json = "--json" in arguments
    try:
        signal.signal(signal.SIGTERM, _terminated)
        if word not in table():
            raise HybError(f"no command `{word}`", hint=_near(word), code=Exit.USAGE)
        command = build(word)
        result = command.main(args=arguments, prog_name=f"hyb {word}", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except HybError as error:
        show_error(error, as_json=as_json)
        return int(error.code)
    except UsageProblem as error:
        text = error.format_message()  # type: ignore[attr-defined]
        usage = HybError(text[:1].lower() + text[1:].rstrip("."), hint=f"`hyb {word} --help` explains", code=Exit.USAGE)
        show_error(usage, as_json=as_json)
        return int(Exit.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        show_error(
            HybError("interrupted; what is whole is kept, run it again to go on", code=Exit.INTERRUPTED),
            as_json=as_json,
        )
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone: nobody to tell
        return 0


def build(name: str) -> Any:
    """One command as typer's command object."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    app.command(name=name, context_settings={"help_option_names": ["--help", "-h"]})(function(name))
    return typer.main.get_command(app)


def group() -> Any:
    """All commands as one group: for completion and for the generated reference."""
    app = typer.Typer(rich_markup_mode=None, add_completion=True, pretty_exceptions_enable=False)
    for name in table():
        app.command(name=name)(function(name))
    return typer.main.get_command(app)


def complete() -> None:
    """Answer a shell's question for completions."""
    group().main(prog_name="hyb", complete_var=COMPLETE)


def _near(word: str) -> str:
    hits = difflib.get_close_matches(word, list(table()), n=1, cutoff=0.5)
    return f"did you mean `hyb {hits[0]}`?" if hits else "`hyb --help` lists all"


def _terminated(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM unwinds like ^C, so that children end and locks go, and exits with 143."""
    raise SystemExit(128 + signal.SIGTERM)
