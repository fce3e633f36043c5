"""From the artifact of a link to the folders that people apply: the only place where documents meet secrets.

    OUT/            0700
      APPLY.md      what to run where
      private/      Site, Links, Connectors, and the Secret with the client certificate (0600)
      openshift/    Site, RouterAccess, Listeners, and the Secret with the server certificate (0600)
      .hyb-link.json   what hyb wrote, by digest, and of which link: a folder that differs from it has been edited, and
                       neither that nor another link's is written over

With several private hosts they are `private-<site>/`, with several namespaces `openshift-<namespace>/`. The folder is
made beside OUT and renamed, so it is whole or absent. What is written has passed the same checks that `check_folder`
makes of a folder that a person has edited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyb import certificates, credentials, fs, owned
from hyb import digest as dg
from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
from hyb.linking import routed, trust
from hyb.linking.reading import documents_in, of_private, of_public, sides_of
from hyb.progress import Say, silent
from hyb.render.dump import Document, dump
from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.store import Store

MARK = owned.Mark("hyb-link", private=True)
MARKER = MARK.file


def materialise(
    store: Store,
    artifact: Artifact,
    out: Path,
    environ: Mapping[str, str],
    *,
    renew: bool = False,
    force: bool = False,
    say: Say = silent,
    now: datetime | None = None,
    passphrase: bytes | None = None,
    authority: certificates.Pair | None = None,
) -> list[Path]:
    """Write a link's folders to `out`, with Secrets from its credentials (minted when there are none).

    `passphrase`, `authority`: see `hyb.credentials.mint`. `force`: replace a folder of hyb's that was edited or holds
    another link. Returns the files in order. The same artifact and credentials leave the folder untouched. Raises
    HybError: exit 3 when `out` holds something else, exit 4 when a check says no.
    """
    meta = _meta_of(artifact)
    now = now or datetime.now(UTC)
    place, mark = out.resolve(), replace(MARK, of=about(meta))
    recover(out)  # before anything is read off it
    with fs.explained(f"can't read `{out}`"):
        owned.check_target(place, out, mark, force=force)
        opened = [] if force else _open_keys(place)
    if opened:
        raise HybError(
            f"other users can read keys in `{out}`",
            details=[f"`{path}`" for path in opened],
            hint="`chmod 0600` closes them; where somebody may have read one, `--force --renew` makes them anew",
        )
    files = {f.path: store.read(f.blob.digest) for f in artifact.files}
    if meta["to_make"]:
        folder = credentials.link_folder(environ, meta["credentials"])
        minted = credentials.mint(folder, order_of(meta), now, renew=renew, passphrase=passphrase, authority=authority)
        for note in minted.notes:
            say(note)
        for wanted in meta["to_make"]:
            document = _secret(wanted, minted)
            files[f"{wanted['folder']}/{sk.file_name(document)}"] = dump(document).encode()
    with fs.explained(f"can't read `{out}`"):
        files = routed.keep(place, files, say)
    platforms = {site["folder"]: site["platform"] for site in meta["sites"]}
    if mistakes := mistakes_of(sides_of(files, platforms)[0], now=now):
        raise HybError("the link's documents would not work", details=mistakes, code=Exit.CHECK)
    with fs.explained(f"can't write `{out}`"):
        owned.publish(place, out, files, mark, force=force)
    return [out / path for path in sorted(files)]


def about(meta: Mapping[str, Any]) -> str:
    """How a folder says of which link it is."""
    return f"link `{meta['name']}` of `{'`, `'.join(meta['namespaces'])}`"


def order_of(meta: Mapping[str, Any]) -> credentials.Order:
    """The credentials that a link's artifact needs."""
    servers = {namespace: tuple(hosts) for namespace, hosts in meta["servers"].items()}
    return credentials.Order(
        meta["credentials"], servers if meta["way"] == "given" else {}, meta["days"], meta["ca_days"],
        tuple(site["name"] for site in meta["sites"]), issuer=meta["way"] == "issuer",
    )  # fmt: skip


def _meta_of(artifact: Artifact) -> Mapping[str, Any]:
    if artifact.kind != "link":
        raise HybError(f"`{artifact.digest}` is a {artifact.kind}, not a link", hint="give the name of a link stage")
    if "to_make" not in artifact.meta:
        raise HybError(f"the link `{artifact.meta.get('name')}` was made by an older hyb",
                       hint="make it again: `hyb run`, or `hyb link` with its service")  # fmt: skip
    return artifact.meta


def _secret(wanted: Mapping[str, str], minted: credentials.Credentials) -> dict[str, Any]:
    """One of the Secrets that the artifact only names."""
    make = {
        "client": lambda: minted.client_data(wanted["for"]),
        "server": lambda: minted.server_data(wanted["for"]),
        "issuer": minted.issuer_data,
    }
    document = sk.secret(wanted["name"], wanted["namespace"], make[wanted["of"]]())
    if wanted["of"] != "client" and minted.annotations:
        document["metadata"]["annotations"] = dict(minted.annotations)
    return document


# -- a folder that is there ------------------------------------------------------------------------------------------


def recover(out: Path) -> None:
    """Put a folder back that a killed process had moved aside and not replaced yet. Raises HybError."""
    with fs.explained(f"can't put `{out}` back"):
        owned.recover(out.resolve())


def check_target(out: Path) -> None:
    """Raises HybError (exit 3) when `out` is not free, not empty and not as hyb left it."""
    with fs.explained(f"can't read `{out}`"):
        owned.check_target(out.resolve(), out, MARK)


def _open_keys(folder: Path) -> list[str]:
    """Keys of a link's folder that others than its owner can read or write, by relative path."""
    keys = [p for name in ("Secret-*", "AccessToken-*") for p in folder.glob(f"*/{name}")]
    return sorted(p.relative_to(folder).as_posix() for p in keys if p.stat().st_mode & 0o077)


def holds(folder: Path, artifact: Artifact) -> bool:
    """True when a folder was written from this link: every document of it is there as it was rendered, or lies
    under a route (`hyb.linking.routed`)."""
    written = owned.digests(folder, MARK)
    under = {p: dg.of_bytes(text.encode()) for p, text in routed.read(folder).base.items() if text is not None}
    return bool(written) and all({**written, **under}.get(f.path) == f.blob.digest for f in artifact.files)


def read(folder: Path) -> dict[str, bytes]:
    """What hyb wrote into a link's folder, by path. Raises HybError (exit 3) for another folder, or an edited one."""
    with fs.explained(f"can't read `{folder}`"):
        if not folder.is_dir() or not any(folder.iterdir()):
            raise HybError(f"no link in `{folder}`", hint="`hyb link` writes one; or give its folder")
        check_target(folder)
        return owned.written(folder, MARK)


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a link's folder hold exactly `files`, in one rename. Raises HybError (exit 3) when it was edited."""
    place = folder.resolve()
    with fs.explained(f"can't write `{folder}`"):
        owned.publish(place, folder, files, owned.about(place, MARK))


# -- checking ------------------------------------------------------------------------------------------------------


def check_documents(
    private: Sequence[Document], openshift: Sequence[Document], *, now: datetime, namespace: str = ""
) -> list[str]:
    """All mistakes of one host and one namespace, documents and certificates; empty when there are none. Pure."""
    sides = (skupper_check.Side("private", private, False), skupper_check.Side("openshift", openshift, True))
    return mistakes_of(sides, now=now, namespace=namespace)


def mistakes_of(sides: Sequence[skupper_check.Side], *, now: datetime, namespace: str = "") -> list[str]:
    """The same for any number of sides."""
    return skupper_check.check_sides(sides, namespace=namespace) + trust.mistakes(sides, now, namespace)


def check_folder(folder: Path, *, namespace: str = "", now: datetime | None = None) -> list[str]:
    """All mistakes of a link's folder, edited by hand or not; also keys that others can read.

    `namespace`: the one that `oc apply -n` will be given, where the documents name none. Raises HybError when the
    folder can't be read.
    """
    with fs.explained(f"can't read `{folder}`"):
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and (of_private(p.name) or of_public(p.name)))
        files = {f"{name}/{p.name}": p.read_bytes() for name in names for p in sorted((folder / name).iterdir())
                 if p.is_file()}  # fmt: skip
        opened = [path for path in files if (folder / path).stat().st_mode & 0o077]
    if not any(map(of_public, names)):
        raise HybError(f"can't read `{folder / 'openshift'}`: no such file or directory")
    sides, mistakes = sides_of(files)
    for path in opened:
        if any(d.get("kind") in ("Secret", "AccessToken") for d in documents_in(files[path]) if isinstance(d, dict)):
            mistakes.append(f"{path}: other users can read this key; `chmod 0600` it")
    if not any(map(of_private, names)) and not _may_wait(sides):
        raise HybError(f"can't read `{folder / 'private'}`: no such file or directory")
    return mistakes + mistakes_of(sides, now=now or datetime.now(UTC), namespace=namespace)


def _may_wait(sides: Sequence[skupper_check.Side]) -> bool:
    """The private side is not written yet: the router's address is not known."""
    accesses = [d for side in sides for d in side.whole if d["kind"] == "RouterAccess"]
    kinds = {skupper_check.spec_of(d).get("accessType") for d in accesses}
    return kinds <= {"loadbalancer", "nodeport", "local"}
