"""rollback: a recipe's generations, and the way back to one of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.output import columns
from hyb.cli.recipes import RecipeArgument
from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.generations import Ledger
    from hyb.rollback import Done


@command
def rollback(
    s: Session,
    recipe: RecipeArgument = None,
    to: Annotated[int, typer.Option("--to", metavar="N", help="This generation; also one that is later.")] = 0,
    list_: Annotated[bool, typer.Option("--list", help="List the generations and change nothing.")] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            metavar="N",
            help="Keep the last N from now on, 0 for none; nothing is rolled back.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The link's folder; when not given: link, if it is this recipe's."),
    ] = None,
    units: Annotated[
        Path | None,
        typer.Option("--units", metavar="DIR", help="The units' folder; when not given: where Podman reads Quadlets."),
    ] = None,
) -> None:
    """Return model, adapter, unit and link of a recipe to the generation before, all together or not at all.

    Each hyb run to its end that changes an output makes a generation; the last five are kept. The older one is first
    read byte by byte: when a byte, a receipt or an exam is wrong, exit code 4, and all stays as it is. Then names in
    the store, hyb.lock, units, the link's folder and the services that run are moved; these answer all the time.

    A second rollback goes one further back, --to goes forward, too: numbers stay, and only the pointer moves.

    Example: hyb rollback recipes/quickstart --to 3
    """  # fmt: skip
    from hyb import recipe as recipes
    from hyb import rollback as back
    from hyb.errors import Exit, HybError

    if sum((bool(to), list_, keep is not None)) > 1 or to < 0 or (keep is not None and keep < 0):
        wrong = "a generation is a number from 1" if to < 0 else "one of `--to`, `--list` and `--keep N` at a time"
        raise HybError(wrong, hint="`hyb rollback --help` explains", code=Exit.USAGE)
    path = recipes.find(recipe)
    if list_ or keep is not None:
        stands = back.standing(path, s.store)
        ledger = stands.ledger if keep is None else back.keep(path, s.store, keep, dry_run=s.dry_run)
        s.show(ledger_dict(stands.recipe.name, ledger, stands.number), ledger_text(ledger, stands.number))
        return
    done = back.rollback(back.Request(path, to, out, units), s.store, os.environ, s.talk, dry_run=s.dry_run)
    s.show({**done.as_dict(), "dry_run": s.dry_run}, done_text(done, s.dry_run))


def done_text(done: Done, dry_run: bool) -> str:
    """What a rollback did, for people."""
    from hyb.artifact import short

    rows = [
        (c.what, c.where, f"{short(c.before) or '-'} → {short(c.after) or '-'}" if c.before or c.after else "rewritten")
        for c in done.changes
    ]
    came = f"generation {done.came_from}" if done.came_from else "an unfinished state"
    would = "would go" if dry_run else "went"
    head = f"`{done.recipe}` {would} from {came} to generation {done.to}"
    if not rows:
        head = f"`{done.recipe}` is at generation {done.to} already; all of it is whole"
    return "\n".join([head, *(["", columns(rows, ("WHAT", "WHERE", "CHANGE"))] if rows else []), *done.notes])


def ledger_dict(name: str, ledger: Ledger, number: int) -> dict[str, Any]:
    """Generations as JSON, newest first."""
    return {
        "recipe": name, "current": ledger.current or None, "keep": ledger.keep, "on_it": bool(number),
        "generations": [
            {"number": g.number, "made": g.made, "after": g.after or None, "current": g.number == ledger.current,
             "outputs": g.outputs}
            for g in reversed(ledger.generations)
        ],
    }  # fmt: skip


def ledger_text(ledger: Ledger, number: int) -> str:
    """Generations for people, newest first, each with what differs from the one that it came after."""
    from hyb.artifact import short

    if not ledger.generations:
        return "no generations yet" if ledger.keep else "no generations are kept"
    rows = []
    for g in reversed(ledger.generations):
        before = before_of.outputs if (before_of := ledger.get(g.after)) else {}
        changed = [f"{stage} {short(d)}" for stage, d in g.outputs.items() if before.get(stage) != d]
        gone = [f"{stage} gone" for stage in before if stage not in g.outputs]
        mark = "*" if g.number == ledger.current else ""
        rows.append((f"{g.number}{mark}", g.made, g.after or "-", ", ".join([*changed, *gone]) or "-"))
    lines = [columns(rows, ("GENERATION", "MADE", "AFTER", "CHANGED"))]
    if ledger.moving:
        lines.append(f"a rollback to {ledger.moving} was cut off in the middle: `hyb rollback` ends it")
    elif ledger.current and not number:
        lines.append(f"hyb.lock is not that of {ledger.current}: `hyb rollback` returns to it")
    return "\n".join(lines)
