"""mirror: the store as a hub, a registry and a package index for the rest of a lab."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyb.cli.output import columns
from hyb.cli.session import Session, command

if TYPE_CHECKING:
    from hyb.mirror.catalog import Catalog

WheelsOption = Annotated[
    Path | None, typer.Option("--wheels", metavar="DIR", help="A folder of wheels for the package index, too.")
]
EverythingOption = Annotated[
    bool, typer.Option("--everything", help="Show data sets, reports, services and links, too: they may be private.")
]


@command
def mirror(s: Session, wheels: WheelsOption = None, everything: EverythingOption = False) -> None:
    """List what a mirror shows of the store, and under which names.

    Example: hyb mirror
    """
    from hyb.mirror import catalog

    _checked(wheels)
    found = catalog.read(s.store, everything=everything, wheels=catalog.folder(wheels) if wheels else ())
    _show(s, found)


@command
def mirror_serve(
    s: Session,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0: any that is free.")] = 8090,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    read_key_file: Annotated[
        Path | None, typer.Option("--read-key-file", metavar="FILE", help="The key that readers must show (mode 0600).")
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open-to-all", help="Beyond loopback without a key: whoever reaches the port may read.")
    ] = False,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", metavar="PEM", help="A certificate, for TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="PEM", help="Its private key.")] = None,
    wheels: WheelsOption = None,
    everything: EverythingOption = False,
) -> None:
    """Serve the store, read-only, to the clients of a Hugging Face hub, a registry and a package index.

    A client finds it by `HF_ENDPOINT=URL`, `podman pull HOST:PORT/NAME`, `pip install --index-url URL/simple/`. What is
    added to the store meanwhile is served at once.

    Example: hyb mirror serve --port 8090
    """
    from hyb import engine
    from hyb.errors import Exit, HybError

    engine.require(("httptools",), "mirror", "mirror serve")
    from hyb.mirror import server

    if bool(tls_cert) != bool(tls_key):
        raise HybError("`--tls-cert` and `--tls-key` go together", code=Exit.USAGE)
    if host not in server.LOOPBACK and not read_key_file and not open_to_all:
        hint = "ask for a key with `--read-key-file FILE`, or say `--open-to-all`"
        raise HybError(f"whoever reaches {host} could read the store", hint=hint, code=Exit.USAGE)
    _checked(wheels)
    key = server.read_key(read_key_file) if read_key_file else ""
    settings = server.Settings(host, port, key, tls_cert, tls_key, wheels, everything)
    made = server.Mirror(s.store, settings, s.talk)
    if s.dry_run:
        _show(s, made.summary())
        return
    listener = server.listen(settings)
    if key and not tls_cert and host not in server.LOOPBACK:
        s.talk("the key goes over the network in clear: give `--tls-cert` and `--tls-key`")

    def ready(url: str) -> None:
        name = url.partition("://")[2]
        told = {"url": url, "hub": url, "registry": name, "index": f"{url}/simple/"}
        text = f"HF_ENDPOINT={url}\nregistry: {name}\npip install --index-url {url}/simple/"
        s.show(told, text)
        sys.stdout.flush()  # a script waits for it
        s.talk("^C ends it")

    server.run(made, listener, ready)


def _checked(wheels: Path | None) -> None:
    from hyb.errors import HybError

    if wheels and not wheels.is_dir():
        raise HybError(f"`{wheels}` is no folder", hint="give a folder of wheels, as `pip download -d` makes one")


def _show(s: Session, found: Catalog) -> None:
    rows: list[tuple[Any, ...]] = []
    for kind, repos in (("model", found.models), ("dataset", found.datasets)):
        rows += [(kind, r.id, c, ",".join(sorted(n for n, x in r.refs.items() if x == c)), len(f))
                 for r in repos.values() for c, f in r.commits.items()]  # fmt: skip
    rows += [("image", n, d, t, "") for n, tags in found.images.items() for t, d in tags.items()]
    rows += [("package", p, w.version, w.name, "") for p, files in found.projects.items() for w in files.values()]
    keys = ("kind", "name", "revision", "refs", "files")
    short = [(k, n, r.removeprefix("sha256:")[:12], refs, f) for k, n, r, refs, f in rows]
    text = (
        columns(short, ("KIND", "NAME", "REVISION", "REFS", "FILES")) if rows else "nothing to show: the store is empty"
    )
    s.show([dict(zip(keys, row, strict=True)) for row in rows], text)
