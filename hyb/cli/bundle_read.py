"""bundle, bundle verify, ls, diff, inventory: looking at bundles; only `inventory --out` writes anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.bundle import FoldersArgument, IdentityOption, KeyOption
from hyb.cli.output import columns, size
from hyb.cli.session import Session, command
from hyb.cli.signing import TrustOption, trusting

if TYPE_CHECKING:
    from hyb.formats.bundle import Bundle

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The bundle's folder.")]


@command
def bundle(s: Session, folder: FolderArgument) -> None:
    """Carry a recipe and all that it needs to where there is no network. Alone it lists a bundle, as `bundle ls` does.

    Example: hyb bundle /media/usb
    """
    _list(s, folder)


@command
def bundle_ls(s: Session, folder: FolderArgument) -> None:
    """List what a bundle holds: artifacts, images, files, parts.

    Example: hyb bundle ls /media/usb --json
    """
    _list(s, folder)


@command
def bundle_verify(
    s: Session,
    folders: FoldersArgument,
    key: KeyOption = None,
    identity: IdentityOption = None,
    trust: TrustOption = None,
) -> None:
    """Check a bundle: the signature, every byte of every part, README.txt and SHA256SUMS. Exit 4 names what must be
    copied again.

    A sealed bundle is looked into with --identity; without it, its parts are checked as they are.

    Example: hyb bundle verify /media/usb --key lab.pub
    """
    from hyb.bundle import read
    from hyb.errors import Exit, HybError
    from hyb.signing.keys import load_public

    trusting(trust)
    opened = read.open_bundle(folders)
    keys = [load_public(k) for k in key or ()]
    by = read.vouched(opened, keys, os.environ, s.talk)
    wrong, papers = read.verify(opened, identity, s.talk), read.papers(opened, keys)
    if wrong or papers:
        parts = f"{len(wrong)} of {len(opened.bundle.parts)} parts" if wrong else "papers"
        raise HybError(
            f"{parts} of `{opened.bundle.name}` are not good",
            details=wrong + papers,
            hint="copy these again; the others need not be",
            code=Exit.CHECK,
        )
    value: dict[str, Any] = {
        "bundle": opened.bundle.identity,
        "parts": len(opened.bundle.parts),
        "size": opened.bundle.size,
        "signed_by": by or None,
    }
    signed = f", signed by {by}" if by else ""
    s.show(
        value,
        f"{opened.bundle.name}: all {len(opened.bundle.parts)} parts are good, {size(opened.bundle.size)}{signed}",
    )


@command
def bundle_diff(
    s: Session,
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A bundle's folder or document, or an inventory.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A bundle's folder or document.")],
) -> None:
    """Say what a bundle brings that another, or an inventory, has not: names, files and bytes.

    Example: hyb bundle diff /media/old /media/new
    """
    from hyb.bundle.read import open_bundle
    from hyb.cli.bundle import since

    before = open_bundle([old]).bundle if _is_bundle(old) else None
    have, _ = since(old)
    after = open_bundle([new]).bundle
    fresh = {d: n for d, n in after.sizes().items() if d not in have}
    gone = {d: n for d, n in have.items() if d not in after.sizes()} if before else {}
    changes = _changes(before, after, have)
    value = {
        "new_blobs": len(fresh),
        "new_bytes": sum(fresh.values()),
        "gone_blobs": len(gone),
        "gone_bytes": sum(gone.values()),
        "changes": [{"change": c, "name": n} for c, n in changes],
    }
    lines = [f"{len(fresh)} new blobs, {size(sum(fresh.values()))}"]
    lines += [f"{len(gone)} blobs are in the old one alone, {size(sum(gone.values()))}"] if gone else []
    s.show(value, "\n".join([*lines, *(f"{c:<8} {n}" for c, n in changes)]))


@command
def bundle_inventory(
    s: Session,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write it there; default: stdout.", show_default=False),
    ] = None,
) -> None:
    """Say which blobs the store has, so that the other side makes a delta against it with `create --since`.

    Example: hyb bundle inventory -o have.json
    """
    from hyb import fs
    from hyb.bundle.load import inventory
    from hyb.formats import bundle as form

    found = inventory(s.store)
    data = form.dump_inventory(found)
    if out is None:
        s.show({"hyb-inventory": form.INVENTORY_VERSION, "blobs": found}, data.decode().rstrip())
        return
    if not s.dry_run:
        with fs.explained(f"can't write `{out}`"):
            fs.write_atomic(out, data)
    s.show(
        {"out": str(out), "blobs": len(found), "size": sum(found.values())},
        f"{'would write' if s.dry_run else 'wrote'} {out}: {len(found)} blobs, {size(sum(found.values()))}",
    )


def _list(s: Session, folder: Path) -> None:
    from hyb.bundle.read import open_bundle

    opened = open_bundle([folder])
    b = opened.bundle
    rows = [(c.kind, ", ".join(c.names) or "-", c.digest.removeprefix("sha256:")[:12]) for c in b.contents]
    text = columns(rows, ("KIND", "NAME", "DIGEST")) if rows else ""
    files = columns(
        [(p, size(b.sizes()[d])) for p, d in b.files.items() if not p.startswith("docs/")], ("FILE", "SIZE")
    )
    parts = columns(
        [(p.name, size(p.size), "" if opened.part(p) else "missing") for p in b.parts], ("PART", "SIZE", "")
    )
    notes = [f"left out: {line}" for line in b.left_out]
    notes += (
        [f"holds what is new since {b.base[:8] or 'an inventory'}; assumes {len(b.assumes)} blobs"] if b.assumes else []
    )
    notes += ["sealed (age)"] if b.sealed else []
    notes += ["not signed"] if not opened.signature else ["signed; `hyb bundle verify --key PUB` checks it"]
    value = {
        "bundle": b.identity,
        "name": b.name,
        "base": b.base or None,
        "sealed": b.sealed,
        "signed": bool(opened.signature),
        "size": b.size,
        "contents": [{"kind": c.kind, "names": list(c.names), "digest": c.digest} for c in b.contents],
        "files": {p: b.sizes()[d] for p, d in b.files.items()},
        "assumes": len(b.assumes),
        "left_out": list(b.left_out),
        "parts": [
            {"name": p.name, "size": p.size, "sha256": p.sha256, "here": opened.part(p) is not None} for p in b.parts
        ],
    }
    s.show(value, "\n\n".join(filter(None, [text, files, parts, "\n".join(notes)])))


def _is_bundle(path: Path) -> bool:
    import json

    if path.is_dir():
        return True
    try:
        return "hyb-bundle" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _changes(before: Bundle | None, after: Bundle, have: dict[str, int]) -> list[tuple[str, str]]:
    """(new, changed or gone; the name or file)."""
    new = {n: c.digest for c in after.contents for n in c.names} | dict(after.files)
    if before is None:
        return [("new", n) for n, d in new.items() if d not in have]
    old = {n: c.digest for c in before.contents for n in c.names} | dict(before.files)
    found = [("new" if n not in old else "changed", n) for n, d in new.items() if old.get(n) != d]
    return sorted(found + [("gone", n) for n in old if n not in new])
