"""The router of this host: what Podman and the `skupper` program say of it. Reads only."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyb import engine
from hyb.engine_podman import PODMAN
from hyb.errors import HybError
from hyb.linking.findings import FaultError, UntriedError, Walk

PATIENCE = 30.0  # seconds for a program that only tells
READY = ("ready", "ok", "operational")


def router_name(namespace: str) -> str:
    """The container of a site's router (`internal/nonkube/compat`, Skupper 2.2.1)."""
    return f"{namespace}-skupper-router"


@dataclass(frozen=True)
class Container:
    """A router's container."""

    name: str
    image: str
    digest: str
    status: str
    """Podman's word: `running`, `exited`, …"""
    since: str
    restarts: int

    @property
    def text(self) -> str:
        """For people."""
        digest = f" {self.digest[:19]}" if self.digest else ""
        again = f", restarted {self.restarts} times" if self.restarts else ""
        return f"`{self.name}` is {self.status} since {self.since[:19].replace('T', ' ')}{again}: {self.image}{digest}"


def container(namespace: str) -> Container | None:
    """The router's container; None when Podman has none. Raises HybError when Podman can't be asked."""
    done = engine.run([*PODMAN, "container", "inspect", router_name(namespace)], check=False, timeout=PATIENCE)
    if done.returncode:
        if b"no such container" in done.stderr.lower():
            return None
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise HybError("Podman can't be asked about the router", details=said[-2:])
    return parsed(done.stdout)


def parsed(data: bytes) -> Container:
    """A container from what `podman container inspect` prints. Pure; raises HybError for something else."""
    try:
        found: dict[str, Any] = json.loads(data)[0]
        state = found["State"]
        return Container(
            str(found["Name"]).lstrip("/"), str(found.get("ImageName") or ""), str(found.get("ImageDigest") or ""),
            str(state["Status"]), str(state.get("StartedAt") or ""), int(found.get("RestartCount") or 0),
        )  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise HybError("`podman container inspect` printed something unknown") from error


@dataclass(frozen=True)
class LinkLine:
    """A line of `skupper link status`."""

    name: str
    status: str
    message: str


def link_lines(namespace: str, platform: str = "podman") -> list[LinkLine]:
    """What `skupper link status` says. Raises HybError when it fails or is not installed."""
    argv = ["skupper", "link", "status", "--namespace", namespace]
    done = engine.run(argv, env={"SKUPPER_PLATFORM": platform}, timeout=PATIENCE)
    return parsed_lines(done.stdout.decode(errors="replace"))


def parsed_lines(text: str) -> list[LinkLine]:
    """The lines of the table that `skupper link status` prints (NAME STATUS COST MESSAGE). Pure."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    start = next((i for i, row in enumerate(rows) if row[:2] == ["NAME", "STATUS"]), None)
    if start is None:
        return []
    return [LinkLine(row[0], row[1], " ".join(row[3:])) for row in rows[start + 1 :] if len(row) >= 2]


def platform_of(home: Path) -> str:
    """What runs the site whose folder is `home`, as Skupper noted it; "" when it did not."""
    try:
        found = re.search(r"^platform:\s*(\w+)", (home / "internal" / "platform.yaml").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def check_router(walk: Walk, namespace: str, home: Path) -> None:
    """The parts `router` (its container runs) and `link` (`skupper link status`); `home`: the site's folder."""
    platform = platform_of(home)
    walk.step("router", lambda: _router(namespace, platform))
    walk.step("link", lambda: _link(namespace, platform or "podman"))


def _router(namespace: str, platform: str) -> tuple[None, str]:
    if platform not in ("", "podman"):
        raise UntriedError(f"the site runs on `{platform}`: hyb asks Podman only")
    if not engine.which("podman"):
        raise UntriedError("no `podman` here: a router without a container shows in `systemctl status` only")
    try:
        found = container(namespace)
    except HybError as error:
        raise UntriedError(f"{error.message}: {'; '.join(error.details)}") from error
    if found is None:
        raise FaultError("router-down", f"this user's Podman has no container `{router_name(namespace)}`")
    if found.status != "running":
        raise FaultError("router-down", found.text)
    return None, found.text


def _link(namespace: str, platform: str) -> tuple[None, str]:
    if not engine.which("skupper"):
        raise UntriedError("no `skupper` program here")
    try:
        lines = link_lines(namespace, platform)
    except HybError as error:
        raise UntriedError(f"`skupper link status`: {error.details[-1] if error.details else error.message}") from error
    if not lines:
        raise FaultError("router-down", "`skupper link status` knows no link")
    seen = ", ".join(f"`{x.name}` is {x.status}{f' ({x.message})' if x.message else ''}" for x in lines)
    if any(x.status.lower() not in READY for x in lines):
        raise FaultError("link-down", seen, do="the parts below say why; `podman logs` of the router, too")
    return None, seen
