"""From a command's name to its end: typer parses, HybError becomes a message and an exit code."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from types import FrameType
from typing import Any

import typer

from hyb.cli import COMMANDS, COMPLETE, SUBCOMMANDS, function, table
from hyb.cli.output import show_error
from hyb.errors import Exit, HybError

UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]  # what all of typer's usage errors have in common


def run_command(word: str, arguments: list[str]) -> int:
    """Run one command and return its exit code. A bug is left to Python, with its traceback."""
    as_json = "--json" in arguments
    try:
        signal.signal(signal.SIGTERM, _terminated)
        if arguments and arguments[0] in SUBCOMMANDS.get(word, {}):
            word, arguments = f"{word} {arguments[0]}", arguments[1:]
        if word not in table():
            raise HybError(f"no command `{word}`", hint=_near(word), code=Exit.USAGE)
        command = build(word)
        result = command.main(args=arguments, prog_name=f"hyb {word}", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except HybError as error:
        return _told(error, as_json)
    except UsageProblem as error:
        text = error.format_message()  # type: ignore[attr-defined]
        return _told(
            HybError(text[:1].lower() + text[1:].rstrip("."), hint=f"`hyb {word} --help` explains", code=Exit.USAGE),
            as_json,
        )
    except (KeyboardInterrupt, typer.Abort):
        told = HybError("interrupted; what is whole is kept, run it again to go on", code=Exit.INTERRUPTED)
        return _told(told, as_json)
    except BrokenPipeError:
        return _nobody_reads(0)
    except SystemExit as error:  # what typer makes of a broken pipe: the cause is all that tells it
        if isinstance(error.__context__, BrokenPipeError):
            return _nobody_reads(0)
        raise


def _told(error: HybError, as_json: bool) -> int:
    try:
        show_error(error, as_json=as_json)
    except BrokenPipeError:
        return _nobody_reads(int(error.code))
    return int(error.code)


def _nobody_reads(code: int) -> int:
    """The reader has gone: what is still to be written goes nowhere, so that Python says nothing of it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    return code


def build(name: str) -> Any:
    """One command as typer's command object."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    settings = {"help_option_names": ["--help", "-h"]}
    app.command(name=name, context_settings=settings, epilog=_more(name))(function(name))
    return typer.main.get_command(app)


def _more(name: str) -> str | None:
    """What stands at the end of a command's help: its second words. \\b keeps the lines as they are."""
    words = SUBCOMMANDS.get(name)
    if not words:
        return None
    width = max(map(len, words)) + 2
    return "\n".join(["\b", "More:", *(f"  hyb {name} {w:<{width}}{summary}" for w, (_, summary) in words.items())])


def group() -> Any:
    """All commands as one group: for completion and for the generated reference."""
    app = typer.Typer(rich_markup_mode=None, add_completion=True, pretty_exceptions_enable=False)
    for name in (n for words in COMMANDS.values() for n in words):
        if not (words := SUBCOMMANDS.get(name)):
            app.command(name=name)(function(name))
            continue
        below = typer.Typer(rich_markup_mode=None, invoke_without_command=True)
        below.callback()(function(name))
        for word in words:
            below.command(name=word)(function(f"{name} {word}"))
        app.add_typer(below, name=name)
    whole = typer.main.get_command(app)
    for name in SUBCOMMANDS:  # what follows is a second word; an argument in its place would be completed with nothing
        one = whole.commands[name]  # type: ignore[attr-defined]
        one.params = [p for p in one.params if p.param_type_name != "argument"]
    return whole


def complete() -> None:
    """Answer a shell's question for completions."""
    group().main(prog_name="hyb", complete_var=COMPLETE)


def _near(word: str) -> str:
    hits = difflib.get_close_matches(word, [n for n in table() if " " not in n], n=1, cutoff=0.5)
    return f"did you mean `hyb {hits[0]}`?" if hits else "`hyb --help` lists all"


def _terminated(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM unwinds like ^C, so that children end and locks go, and exits with 143."""
    raise SystemExit(128 + signal.SIGTERM)
