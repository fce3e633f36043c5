"""`hyb link accept`: a token, or the Link that it stands for, becomes part of a link's folder.

A host outside a cluster redeems a token among its resources at every reload, and a token is good once. So there it ends
in a Link where it can: redeemed here, or by `skupper token redeem` on the host; until then it lies beside the folders.
In a cluster the controller redeems it once, and it lies with the documents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hyb import fs, owned
from hyb.errors import Exit, HybError
from hyb.linking.folder import MARK, mistakes_of
from hyb.linking.reading import sides_of
from hyb.linking.redeem import redeem
from hyb.linking.token import LinkGiven, Token
from hyb.progress import Say, silent
from hyb.render.dump import dump
from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.render.skupper.fields import as_map, name_of, namespace_of, of, spec_of


@dataclass(frozen=True)
class Accepted:
    """What became of it: "link" or "token", and which files are new."""

    ends_in: str
    site: str
    platform: str
    written: tuple[Path, ...]


def accept(
    out: Path, given: Token | LinkGiven, *, site: str = "", redeem_now: bool = False, say: Say = silent,
    now: datetime | None = None,
) -> Accepted:  # fmt: skip
    """Write the folder `out` anew with what was given. `site`: the private site, where there are several.

    Raises HybError: exit 3 when `out` is no link's folder as hyb left it, exit 4 when the result would not work.
    """
    place = out.resolve()
    with fs.explained(f"can't read `{out}`"):
        if not place.exists():
            raise HybError(f"`{out}` is not there", hint="write the link first: `hyb link … --way token`")
        owned.check_target(place, out, MARK)
        before = owned.written(place, MARK)
    side = _side(before, site, out)
    if isinstance(given, Token) and redeem_now:
        say("the token is being redeemed; it is good once")
        given = redeem(given, name_of(of(side.whole, "Site")[0]))
    stale = _stale(given, side.name)
    after = {path: text for path, text in before.items() if not stale.fullmatch(path)} | _files(given, side)
    if mistakes := mistakes_of(sides_of(after)[0], now=now or datetime.now(UTC)):
        raise HybError("the link's documents would not work", details=mistakes, code=Exit.CHECK)
    with fs.explained(f"can't write `{out}`"):
        owned.publish(place, out, after, owned.about(place, MARK))
    written = tuple(out / path for path in sorted(after) if after[path] != before.get(path))
    name = name_of(of(side.whole, "Site")[0])
    return Accepted("token" if isinstance(given, Token) else "link", name, side.platform, written)


def _side(files: Mapping[str, bytes], site: str, out: Path) -> skupper_check.Side:
    """The private side that is meant. Raises HybError."""
    sides, _ = sides_of(files)
    private = {name_of(s): side for side in sides if not side.public for s in of(side.whole, "Site")}
    if not private:
        raise HybError(f"`{out}` holds no private side that could take it",
                       hint="with `way: cli`, give the file to the script in its private folder")  # fmt: skip
    if not site and len(private) > 1:
        raise HybError(f"`{out}` is of several private sites: {', '.join(f'`{n}`' for n in private)}",
                       hint="say which with `--site`", code=Exit.USAGE)  # fmt: skip
    if site and site not in private:
        raise HybError(f"`{out}` has no private site `{site}`: {', '.join(f'`{n}`' for n in private)}")
    for access in (d for side in sides if side.public for d in of(side.whole, "RouterAccess")):
        spec = spec_of(access)
        if spec.get("generateTlsCredentials") is not True or spec.get("issuer"):
            raise HybError(f"`{out}` is of a link with certificates of its own: its router would not trust a token's",
                           hint="write it with `hyb link … --way token`")  # fmt: skip
    return private[site] if site else next(iter(private.values()))


def _stale(given: Token | LinkGiven, folder: str) -> re.Pattern[str]:
    """Paths of what an earlier token of the same name became."""
    name = given.name if isinstance(given, Token) else given.secret
    inside = f"{folder}/(Link-{name}(-[0-9]+)?|Secret-{name}|AccessToken-{name})\\.yaml"
    return re.compile(f"{inside}|{re.escape(beside(name, folder))}")


def _files(given: Token | LinkGiven, side: skupper_check.Side) -> dict[str, bytes]:
    site = of(side.whole, "Site")[0]
    namespace = namespace_of(site) or "default"
    told = str(as_map(as_map(site.get("metadata")).get("annotations")).get(sk.COST) or "")
    cost = int(told) if told.isascii() and told.isdigit() and int(told) else getattr(given, "cost", 1)
    if isinstance(given, LinkGiven):
        return {f"{side.name}/{sk.file_name(d)}": dump(d).encode() for d in given.documents(namespace, cost)}
    document = given.document(namespace, cost)
    if side.platform == "kubernetes":
        return {f"{side.name}/{sk.file_name(document)}": dump(document).encode()}
    return {beside(given.name, side.name): dump(document).encode()}


def beside(link: str, folder: str) -> str:
    """Where a token lies that must not be among the resources."""
    return f"AccessToken-{link}{folder.removeprefix('private')}.yaml"
