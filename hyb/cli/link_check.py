"""link check: a real question through the link, and whose turn it is when there is no answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.linking.parts import Wanted
    from hyb.linking.sides import Side

FOLDER = "The folder that `hyb link` wrote, or one side's own; or the link's name in the store."


@command
def link_check(
    s: Session,
    folder: Annotated[str, typer.Argument(metavar="[DIR|NAME]", help=FOLDER)] = "",
    side: Annotated[
        str, typer.Option("--side", metavar="private|openshift|client", help="Where this runs; found out by itself.")
    ] = "",
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="The model as the chatbot sees it, as http://llm:8000/v1.")
    ] = "",
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="The API key; else the service's or HYB_API_KEY.")
    ] = None,
    model: Annotated[str, typer.Option("--model", metavar="ID", help="The model to ask; the first listed.")] = "",
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="PEM", help="The certificates to trust for an https URL.")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="The OpenShift namespace, for --side openshift.")
    ] = "",
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="The most a part may take.")] = 10.0,
) -> None:
    """Check a link part by part, up to a real completion of the model; exit 4 when it does not work.

    On the private host: documents, certificates, router, and the way to the other side over TLS up to its router, then
    the model where the Connector leads. In the namespace, or wherever the Listener is reached, with --url: its name,
    TCP and the model. With --side openshift, `oc` or `kubectl` is asked for the resources' status, too. Each part says
    who must act. Nothing is changed on either side.

    Example: hyb link check link --timeout 5
    """
    from hyb.linking import check_private, check_public

    wanted, place, found = _wanted(s, folder, side, url, key_file, model, ca, namespace, timeout)
    private = wanted.side == "private"
    if s.dry_run:
        planned = check_private.planned(place, found) if private else check_public.planned(found, wanted)
        s.show({"side": wanted.side, "would_check": planned}, "\n".join(f"would check {p}" for p in planned))
        return
    report = check_private.run(place, found, wanted) if private else check_public.run(place, found, wanted)
    s.show(report.as_dict(), report.text())
    if not report.ok:
        sys.stdout.flush()
        raise SystemExit(4)


def _wanted(
    s: Session, folder: str, side: str, url: str, key_file: Path | None, model: str, ca: Path | None, namespace: str,
    timeout: float,
) -> tuple[Wanted, Path, list[Side]]:  # fmt: skip
    """What to check, and the folder with its sides. Raises HybError."""
    from hyb.errors import Exit, HybError
    from hyb.linking import parts, sides
    from hyb.serving import client

    if side and side not in parts.SIDES:
        raise HybError(f"`{side}` is no side of a link", hint="one of " + ", ".join(parts.SIDES), code=Exit.USAGE)
    if not 0 < timeout <= 600:
        raise HybError(f"`--timeout {timeout:g}` is no time to wait", hint="seconds, up to 600", code=Exit.USAGE)
    if url:
        client.checked(url)
    place = _place(s, folder)
    needed = bool(folder) or not (url or namespace)
    found = sides.read(place) if needed or place.is_dir() else []
    if not side:
        side = "client" if url else "private" if any(x.is_private for x in found) else "openshift"
    wanted = parts.Wanted(
        side=side, seconds=timeout, url=url, key=parts.key(key_file), model=model, namespace=namespace,
        ca=str(ca or ""), offline=s.offline, environ=os.environ,
    )  # fmt: skip
    return wanted, place, found


def _place(s: Session, text: str) -> Path:
    """The folder that `DIR|NAME` means. Raises HybError for a link of the store that is not written here."""
    from hyb.errors import HybError
    from hyb.linking import sides

    place = Path(text or "link")
    if place.is_dir() or not text or ("/" in text.removesuffix("/") and place.parent.is_dir()):
        return place
    try:
        artifact = s.store.artifact(s.store.resolve(text))
    except HybError:
        return place
    if artifact.kind != "link":
        raise HybError(f"`{text}` is a {artifact.kind}, not a link", hint="give the name of a link, or a folder")
    default = Path("link")
    if default.is_dir():
        dialled = {e.host for x in sides.read(default) for e in x.endpoints()}
        if dialled & set(artifact.meta.get("hosts", ())):
            return default
    raise HybError(f"the folder of the link `{text}` is not here", hint=f"`hyb link {text} --out DIR` writes it")
