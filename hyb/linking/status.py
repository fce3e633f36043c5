"""How the site of this host stands, and what keeps a folder from becoming one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyb import engine
from hyb.errors import Exit, HybError
from hyb.linking import folder as folders
from hyb.linking import local, parts, sides
from hyb.linking import site as sites
from hyb.linking.findings import FaultError
from hyb.linking.local import Container, LinkLine
from hyb.linking.sides import Side
from hyb.linking.site import Site


@dataclass(frozen=True)
class Status:
    """What is known of a site. `why`: what could not be asked, and why."""

    site: Site
    documents: str
    """`copied`, `changed` (the folder differs from the input) or `absent`."""
    container: Container | None
    links: tuple[LinkLine, ...]
    why: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "namespace": self.site.namespace, "platform": self.site.platform, "resources": str(self.site.resources),
            "documents": self.documents, "running": bool(self.container and self.container.status == "running"),
            "container": asdict(self.container) if self.container else None, "links": [asdict(x) for x in self.links],
            "not_known": list(self.why),
        }  # fmt: skip

    def text(self) -> str:
        """For people."""
        said = {"copied": "the site has this folder's documents", "absent": "the site has no documents of hyb's",
                "changed": "this folder differs from what the site has: `hyb link reload`"}  # fmt: skip
        router = self.container.text if self.container else f"no container `{local.router_name(self.site.namespace)}`"
        links = [f"link `{x.name}` is {x.status}{f': {x.message}' if x.message else ''}" for x in self.links]
        return "\n".join([f"{self.documents:<8} {said[self.documents]}", router, *links, *self.why])


def look(side: Side, site: Site) -> Status:
    """Ask Podman and `skupper`, where they are here. Raises HybError for input that can't be read."""
    why: list[str] = []
    container: Container | None = None
    links: list[LinkLine] = []
    if site.platform != "podman":
        why.append(f"the router's container: hyb asks Podman only, not `{site.platform}`")
    elif not engine.which("podman"):
        why.append("the router's container: Podman is not installed")
    else:
        try:
            container = local.container(site.namespace)
        except HybError as error:
            why.append(f"the router's container: {error.message}")
    if engine.which("skupper"):
        try:
            links = local.link_lines(site.namespace, site.platform)
        except HybError as error:
            why.append(f"the link: {error.message}")
    else:
        why.append("the link: the `skupper` program is not installed")
    return Status(site, _documents(side, site), container, tuple(links), tuple(why))


def _documents(side: Side, site: Site) -> str:
    try:
        change = sites.planned(side, site)
    except HybError:
        return "changed"
    if change.write or change.remove:
        return "changed" if change.same or change.remove else "absent"
    return "copied"


def refuse(folder: Path, side: Side, found: Sequence[Side]) -> None:
    """Raise HybError (exit 4) when the folder's documents or certificates would not make a link."""
    if all((folder / name).is_dir() for name in ("private", "openshift")):
        mistakes = folders.check_folder(folder)
    else:
        mistakes = sides.mistakes(side, found)
        try:
            if not side.by_token:
                parts.check_certificates(side.identity(), datetime.now(UTC))
        except FaultError as fault:
            mistakes += [] if fault.warning else [f"private: {fault.seen}"]
    if mistakes:
        raise HybError(f"`{folder}` would not make a link", details=mistakes, code=Exit.CHECK,
                       hint="mend it, or write it again with `hyb link`")  # fmt: skip
