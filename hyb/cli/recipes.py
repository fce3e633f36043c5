"""init, plan, run, verify: what is done with a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.output import columns, duration, size
from hyb.cli.session import Session, command
from hyb.cli.signing import SignerOption, TrustOption, stored, trusting, verify_signature

if TYPE_CHECKING:
    from hyb.plan import Step
    from hyb.run import Result

RecipeArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[RECIPE]", help="A recipe's folder or file; the current folder when not given."),
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="STAGE", help="Only this stage and what it needs.")]
InOption = Annotated[
    str, typer.Option("--in", metavar="podman", help="Tune in a container without a network.", show_default=False)
]
UpdateOption = Annotated[bool, typer.Option("--update", help="Pin moving sources anew.")]


@command
def run(
    s: Session,
    recipe: RecipeArgument = None,
    to: ToOption = None,
    update: UpdateOption = False,
    inside: InOption = "",
    image: Annotated[str, typer.Option("--image", metavar="IMAGE", help="The tuner's image, with --in podman.")] = "",
    trust: TrustOption = None,
) -> None:
    """Run what is not done yet, and write hyb.lock.

    A stage whose inputs have not changed is taken from the store. Killed at any moment, the next run goes on.

    Example: hyb run recipes/quickstart --to bot
    """
    from hyb import lock
    from hyb import recipe as recipes
    from hyb.cli import tuning
    from hyb.run import run as run_recipe

    container, _ = tuning.options(inside, image, None)
    trusting(trust)
    path = recipes.find(recipe)
    whole = recipes.read(path)
    if container:
        tuning.require(whole)
    options = s.options(path.with_name(lock.FILE), update=update, container=container)
    if s.dry_run:
        _show_plan(s, whole.upto(to), options)
        return
    results = run_recipe(whole.upto(to), s.store, options, s.talk)
    s.show({"recipe": whole.name, "steps": [_result(r) for r in results]}, results_text(results))


@command
def plan(s: Session, recipe: RecipeArgument = None, to: ToOption = None, update: UpdateOption = False) -> None:
    """Show what a run would do: what is read, made, run and opened, and what it costs. Writes nothing.

    A source that no lock pins is looked up, which needs the network; with --offline it is shown as not pinned.

    Example: hyb plan recipes/deepseek-r1
    """
    from hyb import lock
    from hyb import recipe as recipes

    path = recipes.find(recipe)
    _show_plan(s, recipes.read(path).upto(to), s.options(path.with_name(lock.FILE), update=update))


@command
def verify(
    s: Session,
    what: Annotated[
        str,
        typer.Argument(
            metavar="[RECIPE|NAME|DIR]", help="A recipe; or with --key, --signature or --trust what was signed."
        ),
    ] = "",
    repair: Annotated[bool, typer.Option("--repair", help="Mend first what is wrong, as `hyb repair` does.")] = False,
    key: SignerOption = None,
    signature: Annotated[
        Path | None,
        typer.Option("--signature", metavar="FILE", help="Of a plain folder: its signature.", show_default=False),
    ] = None,
    trust: TrustOption = None,
    running: Annotated[
        str, typer.Option("--running", metavar="URL|NAME", help="Is what this server serves what the lock names?")
    ] = "",
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="The server's API key; or HYB_API_KEY.", show_default=False),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="PEM", help="Certificates to trust for --running.", show_default=False),
    ] = None,
) -> None:
    """Check every byte of the store, and the lock against recipe, store and receipts. Exit 4 when anything is wrong.

    With --key (or a trust policy: --trust) it checks the signature of an artifact, or with --signature of a folder;
    with --running, that a live server's model is the one in the recipe's lock.

    Example: hyb verify recipes/quickstart
    """
    trusting(trust)
    if running:
        _verify_running(s, what, running, key_file, ca)
    elif key or signature or (what and (trust or stored(s, what))):
        verify_signature(s, what, key or [], signature)
    else:
        _verify_store(s, Path(what) if what else None, repair)


def _verify_store(s: Session, recipe: Path | None, repair: bool) -> None:
    from hyb import recipe as recipes
    from hyb import verify as checks
    from hyb.errors import Exit, HybError

    lines, left = _mended(s, recipe) if repair else ([], [])
    found = [*left, *checks.check_store(s.store, s.talk)]
    if recipe is not None or Path(recipes.FILE).is_file():
        found += checks.check_recipe(recipes.find(recipe), s.store, s.talk)
    if found:
        raise HybError(
            f"{len(found)} thing{'s' if len(found) > 1 else ''} wrong", details=[*lines, *found],
            hint="`hyb repair` fetches or makes again what is broken, and nothing else", code=Exit.CHECK,
        )  # fmt: skip
    s.show({"wrong": [], "repaired": lines}, "\n".join([*lines, "all whole"]))


def _verify_running(s: Session, recipe: str, server: str, key_file: Path | None, ca: Path | None) -> None:
    from hyb import recipe as recipes
    from hyb.artifact import short
    from hyb.running import check
    from hyb.serving import endpoint

    found = endpoint.find(server, os.environ, key_file=key_file, ca=ca, offline=s.offline)
    told = check(found, recipes.find(Path(recipe) if recipe else None), s.store, os.environ, s.talk)
    proof = f"{told['files_hashed']} files hashed" if told["files_hashed"] else "as the server says"
    text = f"{found.name} serves {short(told['model'])}, stage `{told['stage']}` of the lock of `{told['recipe']}`"
    s.show(told, f"{text} ({proof})")


@command
def repair(s: Session, recipe: RecipeArgument = None) -> None:
    """Fetch or make again what is damaged or missing, and nothing else. Exit 4 when something can't be mended.

    Damaged files go to the store's folder `damaged`. Each lost output is made by the step that its receipt tells, from
    the same inputs; with a recipe, its data is at hand and its lock is mended, too.

    Example: hyb repair recipes/quickstart
    """
    from hyb.errors import Exit, HybError

    done, left = _mended(s, recipe)
    if left:
        raise HybError(
            f"{len(left)} thing{'s' if len(left) > 1 else ''} could not be mended", details=[*done, *left],
            hint="give the recipe: `hyb repair RECIPE`; or bring what is missing here, then try again", code=Exit.CHECK,
        )  # fmt: skip
    s.show({"done": done, "dry_run": s.dry_run}, "\n".join(done or ["all whole"]))


def _mended(s: Session, recipe: Path | None) -> tuple[list[str], list[str]]:
    """What was mended, and what could not be; a dry run says what would be."""
    from hyb import recipe as recipes
    from hyb import repair as mending

    path = recipes.find(recipe) if recipe is not None or Path(recipes.FILE).is_file() else None
    if s.dry_run:
        return mending.found(s.store, s.talk), []
    report = mending.repair(s.store, s.talk, recipe=path, offline=s.offline)
    return report.done, report.left


@command
def init(
    s: Session,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    model: Annotated[str, typer.Option("--model", metavar="SOURCE", help="The model to start from.")] = "smollm2-135m",
) -> None:
    """Make a recipe's folder: hyb.yaml, a data set to replace, a Makefile whose targets are one-liners.

    Example: hyb init recipes/mine --model deepseek-r1-1.5b
    """
    from hyb.scaffold import scaffold

    made = scaffold(folder, model, dry_run=s.dry_run)
    text = "\n".join([*(f"{'would make' if s.dry_run else 'made'} {p}" for p in made), f"next: hyb run {folder}"])
    s.show({"made": [str(p) for p in made], "dry_run": s.dry_run}, text)


def _show_plan(s: Session, recipe: Any, options: Any) -> None:
    from hyb.run import prepare

    pins, _, steps = prepare(recipe, s.store, options, s.talk, lenient=True)
    s.show({"recipe": recipe.name, "pins": pins, "steps": [step_dict(x) for x in steps]}, plan_text(steps))


def step_dict(step: Step) -> dict[str, Any]:
    """A step as JSON."""
    p = step.plan
    return {
        "name": step.entry.name, "stage": step.entry.stage, "done": step.done, "key": step.key, "output": step.output,
        "inputs": dict(step.inputs), "makes": p.makes, "reads": list(p.reads), "runs": list(p.runs),
        "opens": list(p.opens), "disk": p.disk, "memory": p.memory, "seconds": p.seconds,
        "tokens_per_second": p.rate, "notes": list(p.notes),
    }  # fmt: skip


def plan_text(steps: list[Step]) -> str:
    """A plan for people."""
    lines = []
    for step in steps:
        p = step.plan
        lines.append(f"{step.entry.name}  {step.entry.stage}  {'done' if step.done else 'to do'}  makes {p.makes}")
        for word, items in (("reads", p.reads), ("runs", p.runs), ("opens", p.opens)):
            lines += [f"    {word:<6}{item}" for item in items]
        cost = [
            f"{size(p.disk)} on disk" if p.disk else "",
            f"{size(p.memory)} of memory" if p.memory else "",
            f"about {duration(p.seconds)}" if p.seconds else "",
            f"{p.rate:.0f} tokens/s" if p.rate else "",
        ]
        if any(cost) and not step.done:
            lines.append("    costs " + ", ".join(c for c in cost if c))
        lines += [] if step.done else [f"    note  {note}" for note in p.notes]
    todo = sum(not x.done for x in steps)
    return "\n".join([*lines, f"{todo} of {len(steps)} steps to do" if todo else "nothing to do"])


def _result(r: Result) -> dict[str, Any]:
    return {
        "name": r.name, "stage": r.stage, "digest": r.artifact.digest, "kind": r.artifact.kind, "cached": r.cached,
        "seconds": round(r.seconds, 3), "meta": dict(r.artifact.meta),
    }  # fmt: skip


def results_text(results: list[Result]) -> str:
    """What a run did, a line a step."""
    from hyb.artifact import short
    from hyb.cli.storage import about

    rows = [
        (
            r.name,
            r.stage,
            "in the store" if r.cached else duration(r.seconds),
            short(r.artifact.digest),
            about(r.artifact),
        )
        for r in results
    ]
    return columns(rows, ("NAME", "STAGE", "TOOK", "DIGEST", "WHAT"))
