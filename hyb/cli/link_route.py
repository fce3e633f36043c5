"""link route: which of several services a link's traffic goes to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyb.cli.output import columns
from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyb.linking.route import Done
    from hyb.linking.routes import Service


@command
def link_route(
    s: Session,
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The link's folder.")] = Path("link"),
    service: Annotated[
        str, typer.Argument(metavar="[SERVICE]", help="Where all traffic is to go: a name of --show, or of hyb ps.")
    ] = "",
    weights: Annotated[
        str, typer.Option("--weights", metavar="A=90,B=10", help="Shares instead, by a MultiKeyListener.")
    ] = "",
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="NAME=HOST:PORT", help="A service that neither the link nor hyb ps knows."),
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Undo the last move.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show where the traffic goes, and change nothing.")] = False,
    routing_key: Annotated[
        str, typer.Option("--routing-key", metavar="KEY", help="Which Listener, where the link has several.")
    ] = "",
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="The service's API key; else HYB_API_KEY.")
    ] = None,
    model: Annotated[str, typer.Option("--model", metavar="ID", help="The model to ask; else the first.")] = "",
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Do not ask the service first.")] = False,
    no_reload: Annotated[bool, typer.Option("--no-reload", help="Write the folder only; the router waits.")] = False,
) -> None:
    """Move the traffic of a link between two served models of one routing key: blue and green.

    The service that is to get it answers a real question first. On one private host the Connector of the active one is
    there, and that of the idle one kept aside; with several, the costs of their Links say who is preferred; --weights
    makes it a matter of the namespace alone. The router of this host takes the change at once; what is left to run
    elsewhere is said. --dry-run shows the change as a diff.

    Example: hyb link route link green
    """
    from hyb.errors import Exit, HybError
    from hyb.linking import route

    if sum((bool(service), bool(weights), back, show)) != 1:
        raise HybError(
            "give one of SERVICE, `--weights`, `--back` and `--show`", hint="`hyb link route --help` explains",
            code=Exit.USAGE,
        )  # fmt: skip
    if show:
        found = route.board(folder, routing_key)
        value = {"strategy": found.strategy, "services": [route.service_dict(x) for x in found.services]}
        s.show(value, services_text(found.services))
        return
    asked = route.Request(
        folder, service, weights_of(weights), back, dict(map(place_of, at or ())), routing_key, unchecked,
        not no_reload, key_file, model,
    )  # fmt: skip
    done = route.route(asked, s.store, os.environ, s.talk, dry_run=s.dry_run, offline=s.offline)
    s.show({**done.as_dict(), "dry_run": s.dry_run}, done_text(done, s.dry_run))


def services_text(services: Sequence[Service]) -> str:
    """The services behind a Listener, for people."""
    rows = [
        (
            x.name, x.connector.folder, f"{x.address[0] or x.selector}:{x.address[1]}", x.key,
            f"{x.share:g} %" if x.active else "aside",
        )
        for x in services
    ]  # fmt: skip
    return columns(rows, ("SERVICE", "SITE", "ADDRESS", "ROUTING KEY", "SHARE"))


def done_text(done: Done, dry_run: bool) -> str:
    """What was moved, for people."""
    if not done.changed:
        return "\n".join([services_text(done.services), "the traffic goes so already: nothing to do"])
    lines = [done.diff()] if dry_run else [services_text(done.services)]
    if done.reloaded:
        lines.append("this host's router has taken it")
    lines += [f"{'would be left to run' if dry_run else 'run'}: {line}" for line in done.todo]
    lines += done.notes
    return "\n".join([*lines, *([] if dry_run else [f"then: hyb link check {done.folder}; `--back` undoes it"])])


def weights_of(text: str) -> dict[str, int]:
    """`blue=90,green=10` → name → number. Raises HybError (exit 2)."""
    from hyb.errors import Exit, HybError

    found: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, number = part.partition("=")
        if not name or not number.isascii() or not number.isdigit() or name in found or int(number) > 1_000_000:
            raise HybError(f"`{part}` is no weight", hint="write `blue=90,green=10`, each once", code=Exit.USAGE)
        found[name] = int(number)
    return found


def place_of(text: str) -> tuple[str, tuple[str, int]]:
    """`green=127.0.0.1:8001` → name, (host, port). Raises HybError (exit 2)."""
    from hyb.errors import Exit, HybError

    name, _, place = text.partition("=")
    host, _, number = place.rpartition(":")
    if not name or not host or not number.isascii() or not number.isdigit() or not 0 < int(number[:6]) < 65536:
        raise HybError(f"`{text}` is no service", hint="write `green=127.0.0.1:8001`", code=Exit.USAGE)
    return name, (host.strip("[]"), int(number))
