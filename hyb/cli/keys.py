"""key: the API keys of a service's clients."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from hyb.cli.output import columns
from hyb.cli.session import Session, command

ACTIONS = ("add", "list", "revoke")


@command
def key(
    s: Session,
    action: Annotated[str, typer.Argument(metavar="add|list|revoke", help="What to do.")],
    service: Annotated[str, typer.Argument(metavar="NAME", help="The service's name; `list` takes none, too.")] = "",
    which: Annotated[str, typer.Argument(metavar="ID", help="For `revoke`: a key's id or label.")] = "",
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="Who will use the key.")] = "",
    rpm: Annotated[int, typer.Option("--rpm", help="Requests a minute; 0: no limit.")] = 0,
    tokens_per_day: Annotated[
        int, typer.Option("--tokens-per-day", help="Tokens of prompts and answers a day (UTC); 0: no limit.")
    ] = 0,
) -> None:
    """Make a key for one client of a service, list the keys, or revoke one.

    A new key is printed once, and only its hash is kept. A service that runs sees the change at once.

    Example: hyb key add quickstart --label open-webui --rpm 60 --tokens-per-day 200000
    """
    from hyb.errors import Exit, HybError

    if action not in ACTIONS:
        raise HybError(f"`{action}` is none of {', '.join(ACTIONS)}", hint="`hyb key --help` explains", code=Exit.USAGE)
    if action == "list":
        _list(s, service)
        return
    _check(service)
    if action == "add":
        _add(s, service, label, rpm, tokens_per_day)
    else:
        _revoke(s, service, which)


def _check(service: str) -> None:
    from hyb.errors import Exit, HybError
    from hyb.render.names import label_problem

    if not service:
        raise HybError("which service?", hint="give its name, as in `hyb key list`", code=Exit.USAGE)
    if wrong := label_problem(service):
        raise HybError(f"name {wrong}")


def _add(s: Session, service: str, label: str, rpm: int, tokens_per_day: int) -> None:
    from hyb.serving import keys

    if s.dry_run:
        s.show({"would_add": label, "service": service}, f"would add a key `{label}` to `{service}`")
        return
    made, plain = keys.add(os.environ, service, label=label, rpm=rpm, tokens_per_day=tokens_per_day)
    s.talk("the key is shown this once; only its hash is kept")
    s.show({"service": service, "id": made.id, "label": made.label, "key": plain}, plain)


def _list(s: Session, service: str) -> None:
    from hyb.serving import keys

    names = [service] if service else keys.services(os.environ)
    found = []
    for name in names:
        path = keys.keys_path(os.environ, name)
        used = keys.usage(keys.usage_path(path))
        found += [(name, k, used.get(k.id, 0)) for k in keys.read(path)]
    rows = [
        (name, k.id, k.label, k.rpm or "-", k.tokens_per_day or "-", used, k.revoked or "-") for name, k, used in found
    ]
    header = ("SERVICE", "ID", "LABEL", "RPM", "TOKENS/DAY", "TODAY", "REVOKED")
    value = [
        {"service": name, "id": k.id, "label": k.label, "rpm": k.rpm, "tokens_per_day": k.tokens_per_day,
         "tokens_today": used, "created": k.created, "revoked": k.revoked}
        for name, k, used in found
    ]  # fmt: skip
    s.show(value, columns(rows, header) if rows else "no keys but the services' own")


def _revoke(s: Session, service: str, which: str) -> None:
    from hyb.errors import Exit, HybError
    from hyb.serving import keys

    if not which:
        raise HybError("which key?", hint=f"`hyb key list {service}` shows ids and labels", code=Exit.USAGE)
    if s.dry_run:
        s.show({"would_revoke": which, "service": service}, f"would revoke `{which}` of `{service}`")
        return
    ended = keys.revoke(os.environ, service, which)
    s.show({"service": service, "revoked": ended.id, "label": ended.label}, f"revoked {ended.id} ({ended.label})")
