"""attest, sbom, report: what an artifact was made from, for people, programs and auditors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.output import columns
from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.attest.trace import Row
    from hyb.formats.lineage import Lineage

ArtifactArgument = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="A name, or the digest (its first 8 digits will do).")
]
OutOption = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write it to this file, not to stdout.")
]
FORMATS = ("text", "json", "svg", "dot", "intoto")


@command
def attest(
    s: Session,
    artifacts: Annotated[
        list[str], typer.Argument(metavar="ARTIFACT...", help="Names or digests, as `hyb ls` shows them.")
    ],
) -> None:
    """Check that receipts lead from an artifact back to its sources. Exit 4 when a link is damaged or missing.

    Each artifact must have a valid receipt, and all that a receipt names must be here with one of its own.

    Example: hyb attest quickstart/van
    """
    from hyb.attest.trace import trace
    from hyb.formats.lineage import as_dict

    found = trace(s.store, [s.store.resolve(a) for a in artifacts], rows=False)
    _whole(found)
    steps = len(found.nodes)
    s.show(as_dict(found), f"{steps} artifacts, each with its receipt; every link is whole")


@command
def attest_show(
    s: Session,
    artifact: ArtifactArgument,
    form: Annotated[
        str, typer.Option("--format", metavar="|".join(FORMATS), help="intoto: the statements, one a line.")
    ] = "text",
    row: Annotated[
        str | None,
        typer.Option("--row", metavar="TEXT", help="Show the rows of data behind it: FILE:LINE, an id, or words."),
    ] = None,
    out: OutOption = None,
) -> None:
    """Show what an artifact was made from, back to the data line and the hub commit. Exit 4 when a link is broken.

    Example: hyb attest show quickstart/van --format svg -o lineage.svg
    """
    from hyb.attest.trace import find_rows, trace
    from hyb.errors import Exit, HybError
    from hyb.formats import lineage, lineage_chart

    if form not in FORMATS:
        raise HybError(f"`{form}` is no format", hint=f"there are {', '.join(FORMATS)}", code=Exit.USAGE)
    found = trace(s.store, [s.store.resolve(artifact)])
    if row is not None:
        if not row.strip():
            raise HybError("`--row` is empty", hint="give FILE:LINE, an id, or words", code=Exit.USAGE)
        _rows(s, find_rows(s.store, found, row.strip()), artifact, row)
        return
    value = lineage.as_dict(found)
    if form == "intoto":
        _emit(s, value, _statements(s, found), out)
    elif form == "svg":
        _emit(s, value, lineage_chart.svg(found, f"What {lineage.clean(artifact)} was made from"), out)
    elif form == "json":
        _emit(s, value, _json(value), out)
    else:
        _emit(s, value, lineage.dot(found) if form == "dot" else lineage.text(found) + "\n", out)
    if found.problems:
        raise typer.Exit(int(Exit.CHECK))


@command
def sbom(
    s: Session,
    what: Annotated[
        str, typer.Argument(metavar="ARTIFACT|RECIPE", help="A name or digest of the store, or a recipe's folder.")
    ],
    out: OutOption = None,
) -> None:
    """Write a bill of materials (CycloneDX 1.6 JSON): model cards, data sets, licences, layers, packages that ran.

    Example: hyb sbom quickstart/image -o image.cdx.json
    """
    from hyb.attest import sbom as materials
    from hyb.attest.audit import outputs
    from hyb.attest.trace import trace

    recipe = _recipe(what, s)
    if recipe:
        found, name = trace(s.store, outputs(recipe).values()), recipe.name
    else:
        found, name = trace(s.store, [s.store.resolve(what)]), what
    document = materials.bom(s.store, found, name)
    _emit(s, document, materials.dump(document), out)


@command
def report(
    s: Session,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe's folder or file; the current folder else.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page to write; it is replaced.")] = Path(
        "report.html"
    ),
) -> None:
    """Write one HTML page for the auditor: lineage, licences, scores, digests, signatures, receipts, SBOM, checks.

    It needs no network and no script, and holds no row of data. Exit 4 when a link of the chain is broken.

    Example: hyb report recipes/quickstart -o report.html
    """
    from hyb import recipe as recipes
    from hyb.attest import audit
    from hyb.errors import Exit
    from hyb.formats import audit_page

    facts = audit.gather(recipes.read(recipes.find(recipe)), s.store)
    page = audit_page.render(facts)
    if not s.dry_run:
        _write(out, page)
    value = {"page": str(out), "missing": list(facts.missing), "problems": list(facts.problems), "dry_run": s.dry_run}
    lines = [f"{'would write' if s.dry_run else 'wrote'} {out}"]
    lines += [f"not run yet: {', '.join(facts.missing)}"] if facts.missing else []
    lines += [f"broken: {problem}" for problem in facts.problems]
    s.show(value, "\n".join(lines))
    if facts.problems:
        raise typer.Exit(int(Exit.CHECK))


def _whole(found: Lineage) -> None:
    """Raise HybError (exit 4) naming every broken link."""
    from hyb.errors import Exit, HybError

    if found.problems:
        count = len(found.problems)
        raise HybError(
            f"{count} link{'s' if count > 1 else ''} of the chain broken", details=found.problems,
            hint="`hyb attest show` shows where; `hyb run` makes what is missing, and its receipt", code=Exit.CHECK,
        )  # fmt: skip


def _emit(s: Session, value: Any, text: str, out: Path | None) -> None:
    """A document: to its file, or to stdout as it is."""
    if out is None:
        s.show(value, text.rstrip("\n"))
        return
    if not s.dry_run:
        _write(out, text)
    s.show({"file": str(out), "dry_run": s.dry_run}, f"{'would write' if s.dry_run else 'wrote'} {out}")


def _write(out: Path, text: str) -> None:
    from hyb import fs

    with fs.explained(f"can't write `{out}`"):
        fs.write_atomic(out, text.encode())


def _json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _statements(s: Session, found: Lineage) -> str:
    """Each statement in the bytes that its digest is of, a line each."""
    digests = [n.statement for n in found.nodes.values() if n.statement]
    return "".join(s.store.read(d).decode() + "\n" for d in digests)


def _recipe(what: str, s: Session) -> Any:
    """The recipe that is meant, or None for an artifact: a name of the store comes first."""
    from hyb import recipe as recipes

    path = Path(what).expanduser()
    if what in s.store.tags() or not (path.is_file() or (path / recipes.FILE).is_file()):
        return None
    return recipes.read(recipes.find(path))


def _rows(s: Session, rows: list[Row], artifact: str, wanted: str) -> None:
    from dataclasses import asdict

    from hyb.errors import HybError
    from hyb.formats.lineage import clean

    if not rows:
        raise HybError(f"no row of data behind `{artifact}` is `{clean(wanted)}` or says so")
    lines = [(f"{r.source}:{r.line}", r.part, r.id, r.text) for r in rows]
    s.show([asdict(r) for r in rows], columns(lines, ("FILE:LINE", "PART", "ID", "SAYS")))
