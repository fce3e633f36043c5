"""data lint: InstructLab's qna.yaml files, by every rule of its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyb.cli.session import Session, command


@command
def data_lint(
    s: Session,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A taxonomy's folder, or one qna.yaml.")],
) -> None:
    """Check an InstructLab taxonomy as InstructLab itself would: every mistake of every file, with its line.

    `hyb data` takes what it can use of such files and warns of the rest; here every finding counts, and exit is 4.

    Example: hyb data lint taxonomy/
    """
    from hyb.errors import Exit, HybError
    from hyb.formats import taxonomy_files

    found = taxonomy_files.lint(path.expanduser())
    said = [line for one in found for line in one.said()]
    if said:
        mistakes = "1 mistake" if len(said) == 1 else f"{len(said)} mistakes"
        raise HybError(f"`{path}` has {mistakes} in {len(found)} file(s)", details=said, code=Exit.CHECK)
    value = [
        {"file": one.file.name, "kind": one.leaf.kind, "version": one.leaf.version, "examples": len(one.leaf.examples)}
        for one in found
        if one.leaf
    ]
    s.show(value, "\n".join(f"{v['file']}: {v['kind']}, {v['examples']} questions" for v in value))
