"""link grant, accept: a link by a token of the cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from hyb.cli.session import Session, command


@command
def link_grant(
    s: Session,
    namespace: Annotated[str, typer.Option("--namespace", metavar="NAME", help="The namespace that will accept.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call the grant.")] = "hyb",
    link: Annotated[
        str, typer.Option("--link", metavar="NAME", help="What the token, and then the Link, is called.")
    ] = "link-public",
    uses: Annotated[int, typer.Option("--uses", help="How many private hosts may join with the token.")] = 1,
    window: Annotated[
        str, typer.Option("--window", metavar="TIME", help="How long the token is good: 15m, 2h.")
    ] = "15m",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")] = Path("grant.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace another file there.")] = False,
) -> None:
    """Write an AccessGrant for a namespace, and say how to get its token out of the cluster.

    The token is made by the cluster, and so can't be made here. The namespace needs a link of `way: token`: a router
    with certificates of its own would not trust the token's.

    Example: hyb link grant --namespace chat --window 30m
    """
    from hyb.errors import Exit, HybError
    from hyb.linking.grant import grant_text, take_out, write

    text = grant_text(name, namespace, link, uses, window)
    commands = take_out(name, namespace, link, str(out))
    if s.dry_run:
        s.show({"would_write": str(out), "commands": commands}, f"would write {out}")
        return
    if out.is_dir():
        raise HybError(f"`{out}` is a folder", hint="give a file with `--out`", code=Exit.USAGE)
    write(out, text, force=force)
    lines = [f"wrote {out}", "then, with rights in the namespace:", *(f"    {c}" for c in commands)]
    lines.append("on the private host: hyb link accept token.yaml --redeem")
    s.show({"written": str(out), "commands": commands}, "\n".join(lines))


@command
def link_accept(
    s: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A token; or what `skupper link generate` printed.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The link's folder.")] = Path("link"),
    site: Annotated[
        str, typer.Option("--site", metavar="NAME", help="Which private site, where there are several.")
    ] = "",
    redeem: Annotated[
        bool, typer.Option("--redeem", help="Exchange the token now for a Link; asks the cluster, once.")
    ] = False,
) -> None:
    """Check a token of the cluster and write it into a link's folder, in the form that works on its platform.

    A token is good once, and for minutes. On a host a token among the resources would be redeemed again at every reload
    and fail: so it ends in a Link, with --redeem here, or by `skupper token redeem` there. In a cluster the controller
    redeems it.

    Example: hyb link accept token.yaml --redeem --out link
    """
    from hyb import fs
    from hyb.errors import Exit, HybError
    from hyb.linking.accept import accept
    from hyb.linking.token import MINUTES, SIZE_MAX, Token, read

    with fs.explained(f"can't read `{file}`"), file.open("rb") as stream:
        data, status = stream.read(SIZE_MAX + 1), file.stat()
    given = read(data, str(file))
    if isinstance(given, Token):
        _warn(s, file, status.st_mode, time.time() - status.st_mtime, MINUTES)
        if redeem and s.offline:
            raise HybError("a token can't be redeemed offline", hint="leave `--redeem` out", code=Exit.OFFLINE)
    elif redeem:
        s.talk(f"`{file}` holds a Link already: there is nothing to redeem")
    if s.dry_run:
        what = "token" if isinstance(given, Token) else "link"
        s.show({"would_accept": what, "out": str(out)}, f"would write the {what} into {out}")
        return
    done = accept(out, given, site=site, redeem_now=redeem, say=s.talk)
    s.show(
        {"ends_in": done.ends_in, "site": done.site, "written": [str(p) for p in done.written]},
        "\n".join([*(f"wrote {p}" for p in done.written), _next(done.ends_in, done.platform, out, done.written)]),
    )


def _warn(s: Session, file: Path, mode: int, age: float, minutes: int) -> None:
    if mode & 0o077:
        s.talk(f"`{file}` can be read by others, and lets in whoever has it first; `chmod 0600` it")
    if age > minutes * 60:
        s.talk(f"`{file}` is {age / 60:.0f} minutes old; a token is good for {minutes} unless its grant says otherwise")


def _next(ends_in: str, platform: str, out: Path, written: tuple[Path, ...]) -> str:
    guide = f"next: section 2 of {out / 'APPLY.md'}"
    if ends_in == "link":
        return f"the token is used up, the Link stays; {guide}" if platform != "kubernetes" else guide
    if platform == "kubernetes":
        return f"{guide}; the controller redeems the token once"
    shown = written[0] if written else "the token"
    return f"{guide}; then on the host `skupper token redeem {shown}` and `skupper system reload`"
