"""The Skupper site of this host: its input files, and the `skupper` program that makes a router of them.

    BASE/namespaces/NS/input/resources/   what Skupper reads: our documents beside what a person put there
        .hyb-link.json                    which of them are ours, by digest

BASE is `/var/lib/skupper` for root, else `$XDG_DATA_HOME/skupper`; it is closed to others (0700), for Skupper's own
copies of the key are readable by all. Only files that hyb wrote, and nobody has edited since, are replaced or removed.

`skupper system stop` removes the whole namespace, its input with it (2.2.1, `bootstrap/teardown.go`): so a start always
copies. Sources: `pkg/nonkube/api/environment.go`, `internal/cmd/skupper/system/nonkube`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hyb import digest as dg
from hyb import engine, fs, owned
from hyb.errors import Exit, HybError
from hyb.linking.folder import MARK, MARKER
from hyb.linking.reading import platform_of
from hyb.linking.sides import Side
from hyb.places import data_home
from hyb.progress import Say, silent

PLATFORMS = ("podman", "docker", "linux")
PATIENCE = 600.0  # seconds for `skupper system …`, which may pull an image
OLDEST = (2, 1)
AUTO = "SKUPPER_SYSTEM_RELOAD_TYPE"
"""`auto` in the environment: Skupper's controller applies what changes, and `skupper system …` refuses to."""


@dataclass(frozen=True)
class Site:
    """A site of this host."""

    base: Path
    namespace: str
    platform: str

    @property
    def home(self) -> Path:
        """The folder of its namespace."""
        return self.base / "namespaces" / self.namespace

    @property
    def resources(self) -> Path:
        """Where Skupper reads documents."""
        return self.home / "input" / "resources"

    @property
    def exists(self) -> bool:
        """Skupper has made a router of it: `start` would refuse, `reload` is right."""
        return (self.home / "runtime" / "resources").exists()


def of(side: Side, environ: Mapping[str, str], uid: int, platform: str = "") -> Site:
    """The site that a link's private side belongs to. Raises HybError for a platform that is none of this host's."""
    chosen = platform or environ.get("SKUPPER_PLATFORM") or platform_of(side.documents)
    if chosen not in PLATFORMS:
        hint = "a site in Kubernetes is applied with `kubectl`" if chosen == "kubernetes" else ""
        raise HybError(f"`{chosen}` is no platform of this host: {', '.join(PLATFORMS)}", hint=hint)
    return Site(base(environ, uid), side.namespace or "default", chosen)


def base(environ: Mapping[str, str], uid: int) -> Path:
    """Skupper's folder of a user. Raises HybError when no home is set."""
    return Path("/var/lib/skupper") if uid == 0 else data_home(environ).parent / "skupper"


# -- documents ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copy:
    """What copying would do to a site's input: names of files."""

    write: tuple[str, ...]
    remove: tuple[str, ...]
    same: tuple[str, ...]


def planned(side: Side, site: Site) -> Copy:
    """What `copy` would do. Raises HybError (exit 3) where somebody else's work is in the way; nothing is changed."""
    with fs.explained(f"can't read `{site.resources}`"):
        ours = owned.digests(site.resources, MARK)
        wanted = _files(side)
        present = {p.name: dg.of_file(p)[0] for p in _documents(site.resources)}
        others = [n for n in present if n not in wanted and n not in ours]
    edited = [n for n, digest in present.items() if n in ours and digest not in (ours[n], _digest(wanted.get(n)))]
    foreign = [n for n in wanted if n in present and n not in ours and present[n] != _digest(wanted[n])]
    details = [f"`{n}` was edited since hyb copied it" for n in edited]
    details += [f"`{n}` is there already, and not by hyb" for n in foreign]
    details += [f"`{n}` is another Site: a namespace has one" for n in others if _has_site(site.resources / n)]
    if details:
        hint = "move them away, or give the link another `private_namespace`; nothing was changed"
        raise HybError(f"`{site.resources}` holds work that is not hyb's", details=details, hint=hint)
    write = [n for n in wanted if present.get(n) != _digest(wanted[n])]
    remove = [n for n in present if n in ours and n not in wanted]
    return Copy(tuple(write), tuple(remove), tuple(n for n in wanted if n not in write))


def copy(side: Side, site: Site, environ: Mapping[str, str]) -> Copy:
    """Make a site's input hold the documents of `side`, and nothing else of hyb's. Raises HybError.

    The marker names a file before it is there, and until it is gone: killed at any moment, nothing of ours is left
    that the next call takes for somebody else's.
    """
    lock = data_home(environ) / "run" / "link-site.lock"
    with fs.explained(f"can't write `{site.resources}`"), fs.locked(lock):
        change, wanted = planned(side, site), _files(side)
        _closed(site)
        after = {name: dg.of_bytes(data) for name, data in wanted.items()}
        _mark(site.resources, {**owned.digests(site.resources, MARK), **after})
        for name, data in wanted.items():
            if name in change.write:
                fs.write_atomic(site.resources / name, data, mode=0o600)
            (site.resources / name).chmod(0o600)
        for name in change.remove:
            (site.resources / name).unlink(missing_ok=True)
        _mark(site.resources, after)
    return change


def _files(side: Side) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in _documents(side.path)}


def _documents(folder: Path) -> list[Path]:
    """The files that Skupper would read there."""
    return sorted(p for p in folder.glob("*.y*ml") if p.suffix in (".yaml", ".yml")) if folder.is_dir() else []


def _digest(data: bytes | None) -> str:
    return "" if data is None else dg.of_bytes(data)


def _has_site(path: Path) -> bool:
    try:
        return any(isinstance(d, dict) and d.get("kind") == "Site" for d in yaml.safe_load_all(path.read_text()))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False


def _mark(resources: Path, files: Mapping[str, str]) -> None:
    data = json.dumps({MARK.kind: 1, "files": dict(files)}, sort_keys=True, indent=1).encode()
    fs.write_atomic(resources / MARKER, data, mode=0o600)


def _closed(site: Site) -> None:
    """The folders, made where absent; BASE and the input are closed to others."""
    site.resources.mkdir(parents=True, exist_ok=True)
    for folder in (site.base, site.resources):
        folder.chmod(0o700)


# -- the program -------------------------------------------------------------------------------------------------------


def require(site: Site) -> None:
    """Raise HybError (exit 3) when `skupper` is not here or is too old, saying what would do instead."""
    if not engine.which("skupper"):
        details = [
            "where it is: `skupper system generate-bundle NAME --type tarball --input DIR`, DIR being this side",
            "then here: unpack it and run `./install.sh`, which needs Podman, Python and no `skupper`",
        ]
        hint = f"install it: {engine.INSTALL['skupper']}"
        if site.platform == "podman" and not engine.which("podman"):
            details.insert(0, f"Podman is not here, either: {engine.INSTALL['podman']}")
        raise HybError("the `skupper` program is not installed", details=details, hint=hint)
    if (version := _version()) and version < OLDEST:
        shown = ".".join(map(str, version))
        raise HybError(f"`skupper` is {shown} here; the link needs 2.1 or newer", hint=engine.INSTALL["skupper"])


def _version() -> tuple[int, ...]:
    """Major and minor of the program, () when it does not say."""
    done = engine.run(["skupper", "version"], env={"SKUPPER_PLATFORM": "podman"}, check=False, timeout=60)
    found = re.search(r"^(?:cli|client version)\s+v?(\d+)\.(\d+)", done.stdout.decode(errors="replace"), re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else ()


def system(site: Site, verb: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """`skupper system VERB`; what it printed. Raises HybError (exit 5) with its words when it fails."""
    scope = [] if verb == "install" else ["--namespace", site.namespace]
    argv = ["skupper", "system", verb, *arguments, *scope]
    done = engine.run(argv, env={"SKUPPER_PLATFORM": site.platform, **(env or {})}, check=False, timeout=PATIENCE)
    said = (done.stdout + b"\n" + done.stderr).decode(errors="replace").strip()
    if done.returncode:
        fault = f"`skupper system {verb}` failed with status {done.returncode}"
        details = [line for line in said.splitlines() if line.strip()][-5:]
        raise HybError(fault, details=details, hint=_hint(said), code=Exit.BELOW)
    return said


_HINTS = (
    (r"automatic reloading is configured", f"unset `{AUTO}`, or only copy: the controller applies what changes"),
    (r"namespace already exists", "`hyb link reload`"),
    (
        r"podman\.sock|container client|docker\.sock",
        "`hyb link start --install` makes the socket, once a user",
    ),
    (r"pull|registry", "with the image at hand: `hyb link start --offline`"),
)


def _hint(said: str) -> str:
    return next((hint for pattern, hint in _HINTS if re.search(pattern, said)), "")


@dataclass(frozen=True)
class Done:
    """What was done to a site."""

    site: Site
    copied: Copy
    image: str
    said: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "namespace": self.site.namespace, "platform": self.site.platform, "resources": str(self.site.resources),
            "written": list(self.copied.write), "removed": list(self.copied.remove), "router_image": self.image,
            "skupper": list(self.said),
        }  # fmt: skip


def apply(side: Side, site: Site, verb: str, image: str, environ: Mapping[str, str], say: Say = silent) -> Done:
    """Copy, then `skupper system start` or `reload` (`verb`) with the router's image. Raises HybError.

    `image`: "" leaves it to Skupper. The registry is asked, even for an image that is here: so it is in Skupper.
    """
    copied = copy(side, site, environ)
    if environ.get(AUTO) == "auto":
        return Done(site, copied, image, ("Skupper's controller applies what changed (automatic reloading)",))
    say(f"skupper system {verb}")
    env = {"SKUPPER_ROUTER_IMAGE": image} if image else {}
    said = system(site, verb, env=env)
    return Done(site, copied, image, tuple(said.splitlines()))
