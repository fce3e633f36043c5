"""boundary: what may leave this host, and whether something that is to leave holds what may not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyb.cli.output import columns
from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.recipe import Recipe


@command
def boundary(
    s: Session,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe or its folder; none: the current folder.")
    ] = None,
) -> None:
    """Show what may leave this host: a recipe's boundary, and what each class covers.

    Example: hyb boundary recipes/quickstart
    """
    from hyb.formats.boundary import CHOICES, COVERS, Boundary

    found = _recipe(recipe)
    limits = (found.boundary if found else None) or Boundary()
    said = limits.as_dict() | {"credential": "never"}
    where = f"of `{found.name}`" if found and found.boundary else "by default: no recipe says another"
    rows = [(name, said[name], " | ".join(CHOICES.get(name, ("never",))), COVERS[name]) for name in COVERS]
    value = {"recipe": found.name if found else None, "written": bool(found and found.boundary), "boundary": said,
             "covers": dict(COVERS)}  # fmt: skip
    s.show(value, f"the boundary {where}\n{columns(rows, ('CLASS', 'MAY LEAVE', 'CHOICES', 'COVERS'))}")


@command
def boundary_check(
    s: Session,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Files, folders, or `containers-storage:IMAGE` for Podman's images."),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", metavar="PATH", help="The recipe whose boundary and data count; else that here."),
    ] = None,
    canary: Annotated[
        list[Path] | None,
        typer.Option("--canary", metavar="FILE", help="A text a line that must not be found. May be repeated."),
    ] = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option("--trust", metavar="FILE", help="A public key (PEM) whose signature an adapter may bear."),
    ] = None,
) -> None:
    """Look for data, weights, adapters, prompts and keys in images, archives, manifests, logs and links.

    Archives and compressed layers are looked into without being unpacked. Exit 4 when anything is found that the
    boundary forbids, or when something can't be looked into. Nothing is changed, and no key is shown.

    Example: hyb boundary check link chat-image.tar --recipe recipes/quickstart
    """
    from hyb.boundary import check
    from hyb.errors import Exit
    from hyb.formats.boundary import Boundary

    found = _recipe(recipe)
    limits = (found.boundary if found else None) or Boundary()
    store = s.store if (s.store.root / "hyb.json").is_file() else None
    order = check.Order(paths, limits, store, found, canary or (), trust or ())
    if s.dry_run:
        s.show({"would_check": paths, "boundary": limits.as_dict()}, "\n".join(f"would look at {p}" for p in paths))
        return
    report = check.check(order, os.environ, s.talk)
    for note in report.notes:
        s.talk(f"note: {note}")
    if report.clean:
        s.show(report.as_dict() | {"boundary": limits.as_dict()}, f"nothing found: {report.summary()}")
        return
    error = check.refuse(report)
    if not s.json:
        raise error
    s.show({**report.as_dict(), "boundary": limits.as_dict(), **error.as_dict()}, "")
    raise typer.Exit(int(Exit.CHECK))


def _recipe(path: Path | None) -> Recipe | None:
    """The recipe that was named, or that of the current folder; None without one."""
    from hyb import recipe as recipes

    if path is None and not Path(recipes.FILE).is_file():
        return None
    return recipes.read(recipes.find(path))
