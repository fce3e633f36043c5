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
import fcntl
import glob
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from hyb import certificates, credentials, fs
from hyb import digest as dg
from hyb.artifact import Artifact, safe_path
from hyb.errors import Exit, HybError
from hyb.linking import routed
from hyb.progress import Say, silent
from hyb.render.dump import Document, dump
from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.store import Store

MARKER = ".hyb-link.json"
_FORMAT = 1
_TEMPORARY, _OLD = "hyb-tmp", "hyb-old"


def materialise(
    store: Store,
    artifact: Artifact,
    out: Path,
    environ: Mapping[str, str],
    *,
    renew: bool = False,
    say: Say = silent,
    now: datetime | None = None,
) -> list[Path]:
    """Write a link's folders to `out`, with Secrets from its credentials (minted when there are none).

    Returns the files in order. The same artifact and credentials leave the folder untouched. Raises HybError: exit 3
    when `out` holds something that hyb did not write or that was edited since, exit 4 when a check says no.
    """
    if artifact.kind != "link":
        raise HybError(f"`{artifact.digest}` is a {artifact.kind}, not a link", hint="give the name of a link stage")
    now = now or datetime.now(UTC)
    place = out.resolve()
    with fs.explained(f"can't read `{out}`"):
        _check_target(place, out)
    meta = artifact.meta
    folder = credentials.link_folder(environ, meta["credentials"])
    order = credentials.Order(meta["credentials"], tuple(meta["hosts"]), meta["days"], meta["ca_days"], meta["client"])
    minted = credentials.mint(folder, order, now, renew=renew)
    for note in minted.notes:
        say(note)
    files = {f.path: store.read(f.blob.digest) for f in artifact.files}
    for side, data in (("private", minted.client_data()), ("openshift", minted.server_data())):
        document = sk.secret(meta["secrets"][side]["name"], meta["secrets"][side]["namespace"], data)
        files[f"{side}/{sk.file_name(document)}"] = dump(document).encode()
    with fs.explained(f"can't read `{out}`"):
        files = routed.keep(place, files, say)
    if mistakes := check_documents(*(_parsed(files, side) for side in skupper_check.SIDES), now=now):
        raise HybError("the link's documents would not work", details=mistakes, code=Exit.CHECK)
    with fs.explained(f"can't write `{out}`"):
        _publish(place, out, files)
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


def recover(out: Path) -> None:
    """Put a folder back that a killed process had moved aside and not replaced yet. Raises HybError."""
    place = out.resolve()
    if place.exists() or not place.parent.is_dir():
        return
    with fs.explained(f"can't put `{out}` back"), _locked_folder(place.parent):
        aside = sorted(place.parent.glob(f".{glob.escape(place.name)}.*.{_OLD}"))
        if aside and not place.exists():
            aside[0].replace(place)


def holds(folder: Path, artifact: Artifact) -> bool:
    """True when a folder was written from this link: every document of it is there as it was rendered, or lies
    under a route (`hyb.linking.routed`)."""
    written = _marked(folder)
    under = {p: dg.of_bytes(text.encode()) for p, text in routed.read(folder).base.items() if text is not None}
    return bool(written) and all({**written, **under}.get(f.path) == f.blob.digest for f in artifact.files)


def read(folder: Path) -> dict[str, bytes]:
    """What hyb wrote into a link's folder, by path. Raises HybError (exit 3) for another folder, or an edited one."""
    with fs.explained(f"can't read `{folder}`"):
        if not folder.is_dir() or not any(folder.iterdir()):
            raise HybError(f"no link in `{folder}`", hint="`hyb link` writes one; or give its folder")
        check_target(folder)
        return {path: (folder / path).read_bytes() for path in _marked(folder)}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a link's folder hold exactly `files`, in one rename. Raises HybError (exit 3) when it was edited."""
    with fs.explained(f"can't write `{folder}`"):
        _publish(folder.resolve(), folder, files)


def check_target(out: Path) -> None:
    """Raises HybError (exit 3) when `out` is not free, not empty and not as hyb left it."""
    with fs.explained(f"can't read `{out}`"):
        _check_target(out.resolve(), out)


def _marked(folder: Path) -> dict[str, str]:
    """Path → digest of what hyb wrote into a folder; empty when it wrote nothing there."""
    try:
        marker = json.loads((folder / MARKER).read_bytes())
        written = marker["files"]
        return written if marker["hyb-link"] == _FORMAT and isinstance(written, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


# -- the folder ----------------------------------------------------------------------------------------------------


def _check_target(out: Path, shown: Path) -> None:
    """Raises HybError when `out` (as the user wrote it: `shown`) is not free, not empty and not as hyb left it."""
    if not out.exists():
        return
    hint = "give another folder, or move this one away; nothing was changed"
    if not out.is_dir():
        raise HybError(f"`{shown}` is a file", hint=hint)
    present = {p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir()}
    if not present and not any(out.iterdir()):
        return
    if not (written := _marked(out)):
        raise HybError(f"`{shown}` is not empty and was not written by hyb", hint=hint)
    changed = [f"`{p}` was added" for p in sorted(present - {MARKER, *written})]
    changed += [f"`{p}` was taken away" for p in sorted(set(written) - present)]
    changed += [f"`{p}` was edited" for p in sorted(present & set(written)) if dg.of_file(out / p)[0] != written[p]]
    if changed:
        raise HybError(f"`{shown}` was edited since hyb wrote it", details=changed, hint=hint)


def _publish(out: Path, shown: Path, files: Mapping[str, bytes]) -> None:
    """Make `out` hold exactly `files`, in one rename; an equal folder only has its modes set right."""
    digests = {path: dg.of_bytes(data) for path, data in files.items()}
    marker = json.dumps({"hyb-link": _FORMAT, "files": digests}, sort_keys=True, indent=1).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked_folder(out.parent):
        for suffix in (_TEMPORARY, _OLD):  # of a process that was killed: they hold keys
            for left in out.parent.glob(f".{glob.escape(out.name)}.*.{suffix}"):
                shutil.rmtree(left)
        _check_target(out, shown)  # again, now that nobody else of us writes here
        if out.is_dir() and (out / MARKER).is_file() and (out / MARKER).read_bytes() == marker:
            _set_modes(out)
            return
        temporary, old = (out.with_name(f".{out.name}.{secrets.token_hex(6)}.{s}") for s in (_TEMPORARY, _OLD))
        try:
            _fill(temporary, {**files, MARKER: marker})
            if out.exists():
                out.replace(old)
            temporary.replace(out)
            fs.sync_folder(out.parent)
        except OSError:
            if old.exists() and not out.exists():
                old.replace(out)
            raise
        finally:
            for left in (temporary, old):
                shutil.rmtree(left, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(mode=0o700)
    for path, data in files.items():
        place = folder / safe_path(path)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        fs.write_atomic(place, data, mode=0o600)
    _set_modes(folder)
    fs.sync_folder(folder)


def _set_modes(folder: Path) -> None:
    """Folders 0700, whatever the umask; Secrets 0600, the rest 0644 (inside folders that are closed)."""
    for path in (folder, *folder.rglob("*")):
        is_secret = path.name.startswith((".hyb-", "Secret-"))
        mode = 0o700 if path.is_dir() else 0o600 if is_secret else 0o644
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """An advisory lock on a folder itself: no lock file left among the user's files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
