"""A site without a network: Skupper's own bundle, made and installed here, with the router's image that is here.

`skupper system generate-bundle` opens no connection, and the `install.sh` of its tarball runs the router by
`podman run`, which pulls nothing that is here. A site that is there already is removed in between, and its link is down
for as long as that takes. The bundle holds the key: it lies in a closed folder and is gone afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from hyb import engine, fs
from hyb.errors import Exit, HybError
from hyb.linking import site as sites
from hyb.linking.sides import Side
from hyb.linking.site import Copy, Done, Site
from hyb.progress import Say, silent


def apply(side: Side, site: Site, image: str, environ: Mapping[str, str], say: Say = silent) -> Done:
    """Install `side` as a site whose router is `image`, in place of the one that is there. Raises HybError."""
    name = f"hyb-{site.namespace}"
    tarball = site.base / "bundles" / f"{name}.tar.gz"
    copied, source = Copy((), (), ()), ["--input", str(side.path.resolve())]
    if sites.planned(side, site) and any(site.resources.glob("*.y*ml")):
        copied, source = sites.copy(side, site, environ), []  # with input of its own, a namespace takes no other
    env = {"SKUPPER_ROUTER_IMAGE": image} if image else {}
    say("skupper system generate-bundle")
    with fs.explained(f"can't write `{site.base}`"):
        site.base.mkdir(parents=True, exist_ok=True)
        site.base.chmod(0o700)
        tarball.unlink(missing_ok=True)
    try:
        said = [sites.system(site, "generate-bundle", name, "--type", "tarball", *source, env=env)]
        if not tarball.is_file():
            raise HybError(f"`skupper system generate-bundle` made no `{tarball}`", details=said, code=Exit.BELOW)
        if site.exists:
            say("skupper system stop")
            said.append(sites.system(site, "stop"))
        say("./install.sh")
        said.append(_install(tarball, site))
    finally:
        tarball.unlink(missing_ok=True)
    return Done(site, copied, image, tuple(line for text in said for line in text.splitlines()))


def _install(tarball: Path, site: Site) -> str:
    with tempfile.TemporaryDirectory(prefix="hyb-link-") as folder:
        engine.run(["tar", "-xzf", str(tarball), "-C", folder])
        argv = ["sh", "./install.sh", "-p", site.platform, "-n", site.namespace]
        done = engine.run(argv, cwd=Path(folder), check=False, timeout=sites.PATIENCE)
    said = (done.stdout + b"\n" + done.stderr).decode(errors="replace").strip()
    if done.returncode:
        fault = f"the bundle's `install.sh` failed with status {done.returncode}"
        hint = "mend that, then `hyb link start --offline` again"
        raise HybError(fault, details=said.splitlines()[-5:], hint=hint, code=Exit.BELOW)
    return said
