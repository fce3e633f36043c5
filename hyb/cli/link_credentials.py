"""link list, renew, revoke, passphrase: the credentials of links."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.output import columns
from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.certificates import Pair
    from hyb.linking.refresh import Refreshed

PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-passphrase-file", metavar="FILE", envvar="HYB_LINK_CA_PASSPHRASE_FILE", show_default=False,
        help="A file of mode 0600 whose first line keeps the CA's key encrypted.",
    ),
]  # fmt: skip
AuthorityOption = Annotated[
    Path | None,
    typer.Option(
        "--ca", metavar="FILE", show_default=False, help="A CA of your own, PEM; with its key, or see --ca-key."
    ),
]
AuthorityKeyOption = Annotated[
    Path | None, typer.Option("--ca-key", metavar="FILE", show_default=False, help="The key of that CA, mode 0600.")
]
NameArgument = Annotated[
    str,
    typer.Argument(metavar="[NAME]", help="Of the credentials, or a link in the store; needed when there are several."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", show_default=False, help="The link's folder to write anew; `link` if it is one."
    ),
]


def secrets_given(passphrase: Path | None, ca: Path | None, ca_key: Path | None) -> tuple[bytes | None, Pair | None]:
    """What the files of the three options above hold. Raises HybError."""
    from hyb.credentials import read_authority, read_passphrase
    from hyb.errors import Exit, HybError

    if ca_key and not ca:
        raise HybError("`--ca-key` needs `--ca`", code=Exit.USAGE)
    words = read_passphrase(passphrase) if passphrase else None
    return words, read_authority(ca, ca_key, datetime.now(UTC), passphrase=words) if ca else None


@command
def link_list(s: Session) -> None:
    """List the credentials of all links: CA, servers, clients, and until when each is good.

    States: ok, soon (30 days or less), expired, not yet (a clock is wrong), damaged, not of this CA. The exit code is 0
    whatever it finds. No key is opened and nothing is changed.

    Example: hyb link list --json
    """
    from hyb.credentials import survey

    found = survey(os.environ, datetime.now(UTC))
    rows = [
        (one.name, c.what, c.name or "-", f"{c.ends:%Y-%m-%d}" if c.ends else "-",
         "-" if c.days is None else c.days, c.state)
        for one in found for c in one.certificates
    ]  # fmt: skip
    lines = [columns(rows, ("LINK", "WHAT", "FOR", "UNTIL", "DAYS", "STATE"))] if rows else []
    for one in found:
        lines += [f"{one.name}: {text}" for text in (*_standing(one), *one.problems)]
    s.show([_as_json(one) for one in found], "\n".join(lines) if found else "no credentials of a link")


@command
def link_renew(
    s: Session,
    name: NameArgument = "",
    new_ca: Annotated[
        bool, typer.Option("--new-ca", help="Change the CA, too, in three steps without an outage.")
    ] = False,
    applied: Annotated[
        bool, typer.Option("--applied", help="Both sides have what the last step made: take the next one.")
    ] = False,
    days: Annotated[
        int | None, typer.Option("--days", min=1, max=3650, show_default=False, help="How long certificates last.")
    ] = None,
    ca_days: Annotated[
        int | None, typer.Option("--ca-days", min=1, max=36500, show_default=False, help="How long a new CA lasts.")
    ] = None,
    out: OutOption = None,
    ca: AuthorityOption = None,
    ca_key: AuthorityKeyOption = None,
    ca_passphrase_file: PassphraseOption = None,
) -> None:
    """Make new certificates for a link, without an outage.

    Of the same CA, they can be applied on either side at any time. A new CA (--new-ca, or --ca with one of your own; or
    when the old one ends too soon) takes three steps: both CAs are trusted, then the new one signs, then the old one is
    dropped. Apply all sides after each step, then call again with --applied.

    Example: hyb link renew link-public.chat --new-ca
    """
    from dataclasses import replace

    from hyb.credentials import renew
    from hyb.errors import Exit, HybError

    if applied and (new_ca or ca):
        raise HybError("`--applied` takes the next step of a change that has begun: leave `--new-ca` and `--ca` out",
                       code=Exit.USAGE)  # fmt: skip
    passphrase, authority = secrets_given(ca_passphrase_file, ca, ca_key)
    folder = _folder(s, name)
    if s.dry_run:
        step = "take the next step, if a change of the CA has begun" if applied else "make new certificates"
        _would(s, "renew", folder, "begin a change of the CA" if new_ca or ca else step)
        return
    now = datetime.now(UTC)
    _changed(s, folder, out, lambda: renew(
        folder, folder.name, now, passphrase=passphrase, change_ca=new_ca, authority=authority, applied=applied,
        changed=lambda order: replace(order, days=days or order.days, ca_days=ca_days or order.ca_days),
    ))  # fmt: skip


@command
def link_revoke(
    s: Session,
    name: NameArgument = "",
    site: Annotated[
        str, typer.Option("--site", metavar="SITE", help="The private site whose certificate is to be worth nothing.")
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Let a revoked site be given a new certificate.")] = False,
    out: OutOption = None,
    ca: AuthorityOption = None,
    ca_key: AuthorityKeyOption = None,
    ca_passphrase_file: PassphraseOption = None,
) -> None:
    """Make certificates worthless: a site's, or without --site all that were ever made.

    The router knows no list of revoked certificates, so everybody else gets new ones of a new CA. What is printed says
    in which order to apply them: the OpenShift side locks the old ones out, and honest sites are down only until each
    has reloaded.

    Example: hyb link revoke link-public.chat --site private-2
    """
    from hyb.credentials import readmit, revoke
    from hyb.errors import Exit, HybError

    if undo and not site:
        raise HybError("`--undo` needs `--site`", code=Exit.USAGE)
    if not (name or site):
        raise HybError("without `--site` all certificates of a link become worthless: say which link", code=Exit.USAGE,
                       hint="`hyb link list` shows the names")  # fmt: skip
    passphrase, authority = secrets_given(ca_passphrase_file, ca, ca_key)
    folder = _folder(s, name)
    if s.dry_run:
        what = f"the site `{site}`" if site else "all certificates"
        _would(s, "revoke", folder, f"let {what} in again" if undo else f"revoke {what}, and make a new CA")
        return
    if undo:
        readmit(folder, folder.name, site)
        s.show({"link": folder.name, "readmitted": site},
               f"`{site}` may have a certificate again: `hyb link` makes one; the old one stays worthless")  # fmt: skip
        return
    now = datetime.now(UTC)
    _changed(s, folder, out, lambda: revoke(
        folder, folder.name, now, site=site, passphrase=passphrase, authority=authority
    ))  # fmt: skip


@command
def link_passphrase(
    s: Session,
    name: NameArgument = "",
    new: Annotated[
        Path | None,
        typer.Option("--new", metavar="FILE", show_default=False, help="A file of mode 0600 with the new passphrase."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Keep the key open, in a file of mode 0600.")] = False,
    ca_passphrase_file: PassphraseOption = None,
) -> None:
    """Encrypt the CA's key of a link, change its passphrase, or take it away.

    Nothing else changes, and nothing is to be applied.

    Example: hyb link passphrase link-public.chat --new ca.pass
    """
    from hyb.credentials import change_passphrase, read_passphrase
    from hyb.errors import Exit, HybError

    if remove == bool(new):
        raise HybError("give either `--new FILE` or `--remove`", code=Exit.USAGE)
    old = read_passphrase(ca_passphrase_file) if ca_passphrase_file else None
    words, folder = read_passphrase(new) if new else None, _folder(s, name)
    if s.dry_run:
        _would(s, "passphrase", folder, "encrypt the CA's key" if new else "leave the CA's key open")
        return
    change_passphrase(folder, folder.name, old, words)
    s.show({"link": folder.name, "encrypted": bool(words)},
           f"the CA's key of `{folder.name}` is {'encrypted' if words else 'open (mode 0600)'} now")  # fmt: skip


# -- what they share -----------------------------------------------------------------------------------------------


def _folder(s: Session, name: str) -> Path:
    """The folder of the credentials that a person means. Raises HybError."""
    from hyb.credentials import known, link_folder
    from hyb.errors import Exit, HybError

    names = known(os.environ)
    if not name and len(names) == 1:
        return link_folder(os.environ, names[0])
    if not name:
        there = f"one of {', '.join(f'`{one}`' for one in names)}" if names else "`hyb link NAME` makes the first"
        raise HybError("which link?" if names else "no link has credentials yet", hint=there,
                       code=Exit.USAGE if names else Exit.INPUT)  # fmt: skip
    if name not in names:
        name = _credentials_of(s, name, names)
    return link_folder(os.environ, name)


def _credentials_of(s: Session, name: str, names: list[str]) -> str:
    """The credentials of a link in the store."""
    from hyb.errors import HybError

    hint = f"there are {', '.join(f'`{one}`' for one in names)}" if names else "no link has any yet"
    error = HybError(f"no link `{name}` has credentials", hint=hint)
    if not s.store.root.exists():
        raise error
    try:
        artifact = s.store.artifact(s.store.resolve(name))
    except HybError:
        raise error from None
    found = artifact.meta.get("credentials", "") if artifact.kind == "link" else ""
    if found not in names:
        raise error
    return str(found)


def _would(s: Session, verb: str, folder: Path, text: str) -> None:
    s.show({"link": folder.name, f"would_{verb}": text}, f"{folder.name}: would {text}")


def _changed(s: Session, folder: Path, out: Path | None, change: Any) -> None:
    """Make a change, write the link's folder anew if it is here, and say what a person does now."""
    from hyb.linking.refresh import change_in

    done = change_in(folder, out or Path("link"), change, given=out is not None)
    made = done.change
    for note in made.credentials.notes:
        s.talk(note)
    value = {
        "link": folder.name, "phase": made.phase, "done": made.done, "steps": list(made.steps), "then": made.then,
        "written": [str(p) for p in done.written], "removed": [str(p) for p in done.gone],
        "notes": list(made.credentials.notes),
    }  # fmt: skip
    s.show(value, "\n".join(_told(folder.name, done)))


def _told(name: str, done: Refreshed) -> list[str]:
    made = done.change
    lines = [f"{name}: {made.done}", *(f"wrote {p}" for p in done.written), *(f"removed {p}" for p in done.gone)]
    if made.steps and not done.written:
        lines.append("first write the link's folder again: `hyb link …` as the first time, or give `--out DIR` here")
    lines += [f"{number}. {step}" for number, step in enumerate(made.steps, 1)]
    return [*lines, made.then] if made.then else lines


def _standing(one: Any) -> list[str]:
    """What `hyb link list` says of a link besides its certificates."""
    from hyb.credentials.kept import PHASES

    said = [f"the CA is being changed, step {PHASES[one.phase]} of 3"] if one.phase != "steady" else []
    if one.revoked:
        said.append(f"revoked: {', '.join(one.revoked)}")
    return [*said, *(["the CA's key is encrypted"] if one.encrypted else [])]


def _as_json(one: Any) -> dict[str, Any]:
    return {
        "name": one.name, "folder": str(one.folder), "encrypted": one.encrypted, "phase": one.phase,
        "revoked": list(one.revoked), "problems": list(one.problems),
        "certificates": [
            {
                "what": c.what, "for": c.name, "hosts": list(c.hosts), "state": c.state, "days": c.days,
                "not_before": c.begins.isoformat() if c.begins else None,
                "not_after": c.ends.isoformat() if c.ends else None,
            }
            for c in one.certificates
        ],
    }  # fmt: skip
