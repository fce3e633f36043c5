"""doctor, completion, man, version: this machine and this program."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from hyb.cli.output import columns
from hyb.cli.session import Session, command


@command
def doctor(
    s: Session,
    network: Annotated[
        bool, typer.Option("--network", help="Ask the model hub whether it can be reached, too.")
    ] = False,
) -> None:
    """Say what is installed, what each missing thing would give, and how to get it.

    Nothing is asked of the network unless --network is given. The exit code is 0 either way: nothing is mandatory.

    Example: hyb doctor --network
    """
    from hyb.doctor import examine
    from hyb.errors import Exit, HybError

    if network and s.offline:
        raise HybError("`--network` and `--offline` exclude each other", code=Exit.USAGE)
    findings = examine(s.store.root, os.environ, network=network)
    rows = [
        ("ok" if f.ok else "--", f.name, f.found, "" if f.ok else f"gives {f.gives}; get it: {f.get}") for f in findings
    ]
    s.show([vars(f) for f in findings], columns(rows, ("", "WHAT", "FOUND", "")))


@command
def version(s: Session) -> None:
    """Print the version.

    Example: hyb version --json
    """
    from hyb import __version__

    s.show({"hyb": __version__, "python": sys.version.split()[0]}, f"hyb {__version__}")


@command
def completion(
    s: Session, shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.")] = "bash"
) -> None:
    """Print the completion script of a shell.

    Example: hyb completion bash > ~/.local/share/bash-completion/completions/hyb
    """
    from typer._completion_shared import get_completion_script

    from hyb.cli import COMPLETE
    from hyb.errors import Exit, HybError

    shells = ("bash", "zsh", "fish", "powershell", "pwsh")
    if shell not in shells:
        raise HybError(f"no completion for `{shell}`", hint=f"one of {', '.join(shells)}", code=Exit.USAGE)
    script = get_completion_script(prog_name="hyb", complete_var=COMPLETE, shell=shell)
    s.show({"shell": shell, "script": script}, script)


@command
def man(
    s: Session,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]", help="A command, `tune` or `link check`; without one, hyb itself."),
    ] = None,
) -> None:
    """Print a man page, made from the program itself.

    Example: hyb man tune | man -l -
    """
    from hyb.cli import reference, table
    from hyb.errors import Exit, HybError

    name = " ".join(words or ())
    if name and name not in table():
        raise HybError(f"no command `{name}`", hint="`hyb --help` lists all", code=Exit.USAGE)
    page = reference.man_page(name)
    s.show({"command": name, "page": page}, page)
