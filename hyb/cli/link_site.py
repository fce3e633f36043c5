"""link status, start, reload, stop: the private router, by the `skupper` program and Podman."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.linking.sides import Side
    from hyb.linking.site import Site

FolderArgument = Annotated[Path, typer.Argument(metavar="[DIR]", help="The link's folder, or its private side's own.")]
PlatformOption = Annotated[
    str, typer.Option("--platform", metavar="podman|docker|linux", help="What runs the router; SKUPPER_PLATFORM.")
]
ImageOption = Annotated[
    str, typer.Option("--router-image", metavar="IMAGE", help="The router's image; SKUPPER_ROUTER_IMAGE.")
]


@command
def link_status(s: Session, folder: FolderArgument = Path("link"), platform: PlatformOption = "") -> None:
    """Show the private router: its container as Podman sees it, its documents, and `skupper link status`.

    Nothing is asked over the network; `hyb link check` is for that.

    Example: hyb link status link
    """
    from hyb.linking import status

    site, side, _ = _site(folder, platform)
    found = status.look(side, site)
    s.show(found.as_dict(), found.text())


@command
def link_start(
    s: Session, folder: FolderArgument = Path("link"), platform: PlatformOption = "", router_image: ImageOption = "",
    install: Annotated[bool, typer.Option("--install", help="`skupper system install` first: once a user.")] = False,
) -> None:  # fmt: skip
    """Copy the link's private documents to Skupper's input and start the router with them.

    The router's image is taken by digest. With --offline nothing is pulled: the image must be in Podman's storage or in
    the store, and the site is installed as a bundle, since `skupper system start` asks the registry in any case.

    Example: hyb link start link
    """
    _apply(s, folder, platform, router_image, "start", install=install)


@command
def link_reload(
    s: Session, folder: FolderArgument = Path("link"), platform: PlatformOption = "", router_image: ImageOption = ""
) -> None:
    """Copy the link's private documents anew, and make the router take them. Skupper goes back when that fails.

    With --offline the site is removed and installed again: the link is down for some seconds.

    Example: hyb link reload link
    """
    _apply(s, folder, platform, router_image, "reload")


@command
def link_stop(s: Session, folder: FolderArgument = Path("link"), platform: PlatformOption = "") -> None:
    """Stop the router and remove its site, as `skupper system stop` does; the link's own folder stays.

    `hyb link start` brings it back.

    Example: hyb link stop link
    """
    from hyb.errors import HybError
    from hyb.linking import site as sites

    site, _, _ = _site(folder, platform)
    if s.dry_run:
        s.show({"would_run": f"skupper system stop --namespace {site.namespace}"}, f"would stop `{site.namespace}`")
        return
    sites.require(site)
    if not site.exists:
        raise HybError(f"no site runs in Skupper's namespace `{site.namespace}`", hint="`hyb link status` shows it")
    said = sites.system(site, "stop")
    s.show({"stopped": site.namespace, "skupper": said.splitlines()}, f"stopped `{site.namespace}`")


def _site(folder: Path, platform: str) -> tuple[Site, Side, list[Side]]:
    from hyb.linking import sides
    from hyb.linking import site as sites

    found = sides.read(folder)
    side = sides.private(found, folder)
    return sites.of(side, os.environ, os.geteuid(), platform), side, found


def _apply(s: Session, folder: Path, platform: str, image: str, verb: str, *, install: bool = False) -> None:
    from hyb.errors import HybError
    from hyb.linking import bundle, status
    from hyb.linking import site as sites

    site, side, found = _site(folder, platform)
    status.refuse(folder, side, found)
    change = sites.planned(side, site)
    if s.dry_run:
        _show_plan(s, site, verb, change)
        return
    sites.require(site)
    if site.exists != (verb == "reload"):
        other = "reload" if verb == "start" else "start"
        there = "is there already" if site.exists else "is not there"
        raise HybError(f"the site `{site.namespace}` {there}", hint=f"`hyb link {other} {folder}`")
    pinned = _image(s, site, image)
    if install and not s.offline:
        s.talk(sites.system(site, "install"))
    if s.offline and site.platform != "linux":
        done = bundle.apply(side, site, pinned, os.environ, s.talk)
    else:
        done = sites.apply(side, site, verb, pinned, os.environ, s.talk)
    lines = [*(f"wrote {n}" for n in done.copied.write), *(f"removed {n}" for n in done.copied.remove), *done.said]
    s.show(done.as_dict(), "\n".join([*lines, f"next: hyb link check {folder}"]))


def _image(s: Session, site: Site, given: str) -> str:
    """The router's image by digest; "" where Skupper alone knows it (Linux has none, Docker is not asked)."""
    from hyb.linking import router_image

    wanted = given or os.environ.get(router_image.VARIABLE, "")
    if site.platform != "podman":
        return wanted
    return router_image.pinned(wanted or router_image.DEFAULT, s.store, offline=s.offline)


def _show_plan(s: Session, site: Site, verb: str, change: Any) -> None:
    run = f"skupper system {'generate-bundle, then its install.sh' if s.offline else verb}"
    value = {
        "namespace": site.namespace, "resources": str(site.resources), "would_write": list(change.write),
        "would_remove": list(change.remove), "would_run": run,
    }  # fmt: skip
    lines = [f"would write {site.resources / n}" for n in change.write]
    lines += [f"would remove {site.resources / n}" for n in change.remove]
    s.show(value, "\n".join([*lines, f"would run {run}"]))
