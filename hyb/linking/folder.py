"""From the artifact of a link to two folders that a person applies: the only place where documents meet secrets.

    OUT/            0700
      APPLY.md      what to run where
      private/      Site, Link, Connector, and the Secret with the client certificate (0600)
      openshift/    Site, RouterAccess, Listener, and the Secret with the server certificate (0600)
      .hyb-link.json   what hyb wrote, by digest: a folder that differs from it has been edited and is not overwritten

The folder is made beside OUT and renamed, so it is whole or absent. What is written has passed the same checks that
`check_folder` makes of a folder that a person has edited.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from hyb import certificates, credentials, fs, owned
from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
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
    say: Say = silent,
    now: datetime | None = None,
    passphrase: bytes | None = None,
    authority: certificates.Pair | None = None,
) -> list[Path]:
    """Write a link's folders to `out`, with Secrets from its credentials (minted when there are none).

    `passphrase`, `authority`: see `hyb.credentials.mint`. Returns the files in order. The same artifact and credentials
    leave the folder untouched. Raises HybError: exit 3 when `out` holds something that hyb did not write or that was
    edited since, exit 4 when a check says no.
    """
    if artifact.kind != "link":
        raise HybError(f"`{artifact.digest}` is a {artifact.kind}, not a link", hint="give the name of a link stage")
    now = now or datetime.now(UTC)
    place = out.resolve()
    with fs.explained(f"can't read `{out}`"):
        owned.check_target(place, out, MARK)
    meta = artifact.meta
    folder = credentials.link_folder(environ, meta["credentials"])
    order = credentials.Order(
        meta["credentials"], {meta["namespace"]: tuple(meta["hosts"])}, meta["days"], meta["ca_days"],
        (meta["client"].removeprefix("link-"),),
    )  # fmt: skip
    minted = credentials.mint(folder, order, now, renew=renew, passphrase=passphrase, authority=authority)
    for note in minted.notes:
        say(note)
    files = {f.path: store.read(f.blob.digest) for f in artifact.files}
    for side, data in (("private", minted.client_data()), ("openshift", minted.server_data())):
        document = sk.secret(meta["secrets"][side]["name"], meta["secrets"][side]["namespace"], data)
        if side == "openshift" and minted.annotations:
            document["metadata"]["annotations"] = dict(minted.annotations)
        files[f"{side}/{sk.file_name(document)}"] = dump(document).encode()
    if mistakes := check_documents(*(_parsed(files, side) for side in skupper_check.SIDES), now=now):
        raise HybError("the link's documents would not work", details=mistakes, code=Exit.CHECK)
    with fs.explained(f"can't write `{out}`"):
        owned.publish(place, out, files, MARK)
    return [out / path for path in sorted(files)]


# -- checking ------------------------------------------------------------------------------------------------------


def check_documents(
    private: Sequence[Document], openshift: Sequence[Document], *, now: datetime, namespace: str = ""
) -> list[str]:
    """All mistakes of both sides, documents and certificates; empty when there are none. Pure."""
    mistakes = skupper_check.check(private, openshift, namespace=namespace)
    client, server = _tls_data(private, "Link"), _tls_data(openshift, "RouterAccess")
    if client and server:
        mistakes += certificates.mistakes(client, server, skupper_check.endpoint_hosts(private), now)
    return mistakes


def check_folder(folder: Path, *, namespace: str = "", now: datetime | None = None) -> list[str]:
    """All mistakes of a folder with `private/` and `openshift/`, edited by hand or not; also keys that others can read.

    `namespace`: the one that `oc apply -n` will be given, where the documents name none. Raises HybError when the
    folder can't be read.
    """
    mistakes: list[str] = []
    sides: list[list[Any]] = []
    for side in skupper_check.SIDES:
        documents: list[Any] = []
        with fs.explained(f"can't read `{folder / side}`"):
            for path in sorted(p for p in (folder / side).iterdir() if p.suffix in (".yaml", ".yml")):
                found, fault = _load(path.read_bytes())
                documents += found
                mistakes += [f"{side}/{path.name}: {fault}"] if fault else []
                if any(d.get("kind") == "Secret" for d in found if isinstance(d, dict)) and path.stat().st_mode & 0o077:
                    mistakes.append(f"{side}/{path.name}: other users can read this key; `chmod 0600` it")
        sides.append(documents)
    private, openshift = sides
    return mistakes + check_documents(private, openshift, now=now or datetime.now(UTC), namespace=namespace)


def _load(data: bytes) -> tuple[list[Any], str]:
    """The documents of a YAML text, and what is wrong with it."""
    try:
        return [d for d in yaml.safe_load_all(data.decode()) if d is not None], ""
    except UnicodeDecodeError:
        return [], "is not UTF-8"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        return [], f"is no YAML{f' (line {mark.line + 1})' if mark else ''}"


def _parsed(files: Mapping[str, bytes], side: str) -> list[Any]:
    return [d for path, data in files.items() if path.startswith(f"{side}/") for d in _load(data)[0]]


def _tls_data(documents: Sequence[Document], kind: str) -> dict[str, bytes]:
    """The decoded data of the Secret that the first `kind` names; empty when it has not the right shape."""
    whole = [d for d in documents if isinstance(d, Mapping)]
    wanted = [str(skupper_check.spec_of(d).get("tlsCredentials")) for d in whole if d.get("kind") == kind]
    for document in whole:
        if document.get("kind") == "Secret" and skupper_check.name_of(document) in wanted[:1]:
            try:
                return {k: base64.b64decode(document["data"][k], validate=True) for k in skupper_check.KEYS}
            except (KeyError, TypeError, ValueError, binascii.Error):
                return {}
    return {}
