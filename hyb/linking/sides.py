"""A link's folder, read: which of its folders is which side is told by what they hold, not by their names.

A folder with a `Link` (or the AccessToken that becomes one) is a private side; one with a `RouterAccess`, an
`AccessGrant` or a `Listener` is the cluster's. A side's own folder can be given, too: on the private host there may be
nothing else.
"""

from __future__ import annotations

import base64
import binascii
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hyb import fs
from hyb.errors import HybError
from hyb.linking.tls import Identity
from hyb.render.dump import Document
from hyb.render.skupper.check import check
from hyb.render.skupper.fields import name_of, spec_of

FILE_MAX = 1 << 20  # bytes of one document file
_PRIVATE, _PUBLIC = ("Link", "AccessToken"), ("RouterAccess", "AccessGrant", "Listener", "MultiKeyListener")


@dataclass(frozen=True)
class Endpoint:
    """Where a Link dials. `role`: `inter-router` or `edge`."""

    role: str
    host: str
    port: int


@dataclass(frozen=True)
class Target:
    """Where a Connector or a Listener leads. `host`: an address, or the name of a Service."""

    name: str
    routing_key: str
    host: str
    port: int


@dataclass(frozen=True)
class Side:
    """One side's folder and its documents."""

    path: Path
    documents: tuple[Document, ...]
    open_files: tuple[str, ...] = ()
    """Files with a Secret that others can read."""

    def of(self, kind: str) -> list[Document]:
        """The documents of a kind."""
        return [d for d in self.documents if d.get("kind") == kind]

    @property
    def is_private(self) -> bool:
        """It dials out."""
        return any(self.of(kind) for kind in _PRIVATE)

    @property
    def by_token(self) -> bool:
        """It has no Link of its own: Skupper makes one when it redeems the AccessToken."""
        return bool(self.of("AccessToken")) and not self.of("Link")

    @property
    def is_public(self) -> bool:
        """It is dialled."""
        return not self.is_private and any(self.of(kind) for kind in _PUBLIC)

    @property
    def namespace(self) -> str:
        """The namespace that the documents name, or ""."""
        found = (d.get("metadata") for d in self.documents)
        return next((str(m["namespace"]) for m in found if isinstance(m, dict) and m.get("namespace")), "")

    @property
    def edge(self) -> bool:
        """The site is an edge site: it uses the endpoint of that role."""
        return any(spec_of(d).get("edge") is True for d in self.of("Site"))

    def endpoints(self) -> list[Endpoint]:
        """Endpoints of all Links, the role that this site uses first."""
        used = "edge" if self.edge else "inter-router"
        lists = [spec_of(d).get("endpoints") for d in self.of("Link")]
        entries = [e for found in lists if isinstance(found, list) for e in found if isinstance(e, dict)]
        made = [_endpoint(e) for e in entries]
        return sorted((e for e in dict.fromkeys(made) if e), key=lambda e: e.role != used)

    def targets(self, kind: str) -> list[Target]:
        """What the Connectors or Listeners (`kind`) say."""
        specs = [(name_of(d), spec_of(d)) for d in self.of(kind)]
        return [
            Target(name, str(s.get("routingKey") or ""), str(s["host"]), s["port"])
            for name, s in specs
            if s.get("host") and isinstance(s.get("port"), int)
        ]

    def identity(self, kind: str = "Link") -> Identity | None:
        """The certificates of the Secret that the first `kind` names; None when it has not the right shape."""
        wanted = next((str(spec_of(d).get("tlsCredentials")) for d in self.of(kind)), "")
        for document in self.of("Secret"):
            data = document.get("data")
            if name_of(document) == wanted and isinstance(data, dict):
                try:
                    parts = [base64.b64decode(data[k], validate=True) for k in ("ca.crt", "tls.crt", "tls.key")]
                except (KeyError, TypeError, ValueError, binascii.Error):
                    return None
                return Identity(*parts)
        return None


def _endpoint(entry: dict[str, Any]) -> Endpoint | None:
    port = str(entry.get("port") or "")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536 and entry.get("host")):
        return None
    return Endpoint(str(entry.get("name") or ""), str(entry["host"]), int(port))


def read(folder: Path) -> list[Side]:
    """The sides in `folder` or its own subfolders, or `folder` itself. Raises HybError when there is none."""
    with fs.explained(f"can't read `{folder}`"):
        if not folder.is_dir():
            raise HybError(f"no folder `{folder}`", hint="`hyb link` writes one; or give the folder of a link")
        below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        sides = _sides(below) or _sides([folder])  # beside the folders may lie a token, which belongs to no side
    if not sides:
        raise HybError(
            f"`{folder}` is no folder of a link: no Link, Listener or RouterAccess in it or below",
            hint="`hyb link` writes one, with a folder for each side",
        )
    return sides


def _sides(places: Sequence[Path]) -> list[Side]:
    return [side for place in places if (side := _side(place)) and (side.is_private or side.is_public)]


def private(sides: Sequence[Side], folder: Path) -> Side:
    """The one private side. Raises HybError when there is none or several."""
    found = [s for s in sides if s.is_private]
    if len(found) == 1:
        return found[0]
    if not found:
        token = next((p for p in folder.glob("AccessToken-*.yaml")), None)
        hint = (
            f"make a Link of the token: `hyb link accept {token} --redeem`"
            if token
            else "copy the private folder here, too"
        )
        raise HybError(f"`{folder}` has no private side: no Link in it", hint=hint)
    names = ", ".join(f"`{s.path}`" for s in found)
    raise HybError(f"`{folder}` has several private sides: {names}", hint="name the folder of this host's")


def public(sides: Sequence[Side], namespace: str = "") -> Side | None:
    """The cluster's side, of `namespace` where that is given; None when there is none. Raises HybError for several."""
    found = [s for s in sides if s.is_public and (not namespace or s.namespace in ("", namespace))]
    if len(found) > 1:
        names = ", ".join(f"`{s.path}`" for s in found)
        raise HybError(f"several namespaces: {names}", hint="name one folder, or `--namespace`")
    return found[0] if found else None


def mistakes(side: Side, found: Sequence[Side]) -> list[str]:
    """What is wrong with the documents of a private side, and with those of the cluster's where its folder is here.

    Certificates are another matter (`hyb.linking.parts.check_certificates`).
    """
    wrong = [f"{name}: other users can read this key; `chmod 0600` it" for name in side.open_files]
    publics = [s for s in found if s.is_public]
    if len(found) == 2 and len(publics) == 1:
        wrong += check(side.documents, publics[0].documents)
    else:
        wrong += [text for text in check(side.documents, ()) if text.startswith("private: ")]
    return wrong if side.endpoints() or side.by_token or wrong else ["no endpoint to dial"]


def _side(folder: Path) -> Side | None:
    documents: list[Document] = []
    readable: list[str] = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file()):
        state = path.stat()
        if state.st_size > FILE_MAX:
            raise HybError(f"`{path}` has {state.st_size} bytes: no document of a link is so big")
        try:
            found = [d for d in yaml.safe_load_all(path.read_text()) if isinstance(d, dict)]
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f" (line {mark.line + 1})" if mark else ""
            raise HybError(f"`{path}` is no YAML{where}", hint="mend it, or write the folder again") from error
        documents += found
        if any(d.get("kind") == "Secret" for d in found) and stat.S_IMODE(state.st_mode) & 0o077:
            readable.append(path.name)
    return Side(folder, tuple(documents), tuple(readable)) if documents else None
