"""A link's folder after its credentials changed: the same documents, their Secrets anew.

Only Secrets are touched, so that what was changed in the folder since it was made (traffic moved to another host, say)
stays. Which certificate a Secret holds is read off that certificate; which link the folder is of, off the CAs that its
Secrets trust.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from hyb import certificates, fs, owned
from hyb.credentials import Change, Credentials, kept
from hyb.credentials.order import CUT, client_name
from hyb.errors import Exit, HybError
from hyb.linking.folder import MARK
from hyb.render.dump import dump


@dataclass(frozen=True)
class Refreshed:
    """A change of credentials, and what was written of it."""

    change: Change
    written: tuple[Path, ...]
    gone: tuple[Path, ...]
    """Files of a revoked site."""


def change_in(
    folder: Path, out: Path, change: Callable[[], Change], *, given: bool, now: datetime | None = None
) -> Refreshed:
    """Make a change of the credentials in `folder`, and write the folder `out` anew where it is of the same link.

    `given`: `out` was asked for by name, so that it must be. Raises HybError before anything is changed when it is not,
    or was edited by hand.
    """
    authorities = kept.read_authorities(folder)
    place = out.resolve()
    ours = authorities is not None and _is_of(place, authorities.trusted)
    if given and not ours:
        raise HybError(f"`{out}` is no folder of the link `{folder.name}`",
                       hint="leave `--out` out, and write it later with `hyb link`; nothing was changed")  # fmt: skip
    if ours:
        with fs.explained(f"can't read `{out}`"):
            owned.check_target(place, out, MARK)
    made = change()
    if not ours:
        return Refreshed(made, (), ())
    with fs.explained(f"can't write `{out}`"):
        before = owned.written(place, MARK)
        after = renewed(before, made.credentials, now or datetime.now(UTC))
        owned.publish(place, out, after, owned.about(place, MARK))
    written = tuple(out / path for path in sorted(after) if after[path] != before.get(path))
    return Refreshed(made, written, tuple(out / path for path in sorted(set(before) - set(after))))


def renewed(files: Mapping[str, bytes], made: Credentials, now: datetime) -> dict[str, bytes]:
    """The files of a link's folder (path → text) with the Secrets of `made`. Pure.

    The folder of a site that has no certificate any more is left out. Raises HybError (exit 4) when the Secrets would
    not fit together.
    """
    after, gone = dict(files), set()
    sites = {client_name(site): site for site in made.clients}
    clients, servers = [], []
    for path, text in files.items():
        document = _secret(path, text)
        if document is None:
            continue
        leaf = certificates.load(_decoded(document)["tls.crt"])[0]
        words: Mapping[str, str] = {}
        if certificates.is_ca(leaf):
            data = made.issuer_data()
        elif hosts := certificates.dns_names(leaf):
            data, words = _server(made, str(document["metadata"].get("namespace", "")), hosts), made.annotations
            servers.append(data)
        elif site := sites.get(certificates.common_name(leaf)):
            data = made.client_data(site)
            clients.append(data)
        else:
            gone.add(PurePosixPath(path).parent)
            continue
        after[path] = dump(_filled(document, data, words)).encode()
    for server, client in itertools.product(servers, clients):
        hosts = certificates.dns_names(certificates.load(server["tls.crt"])[0])
        if found := certificates.mistakes(client, server, hosts, now):
            raise HybError("the new certificates would not work", details=found, code=Exit.CHECK)
    return {path: text for path, text in after.items() if PurePosixPath(path).parent not in gone}


def _server(made: Credentials, namespace: str, hosts: tuple[str, ...]) -> dict[str, bytes]:
    """The server's data for a namespace, or for the same hosts. Raises HybError when there is none."""
    if namespace in made.servers:
        return made.server_data(namespace)
    for name, pair in made.servers.items():
        if set(certificates.dns_names(certificates.load(pair.certificate)[0])) == set(hosts):
            return made.server_data(name)
    raise HybError(f"there is no server certificate for the namespace `{namespace}`",
                   hint="the credentials were changed; write the folder again with `hyb link`")  # fmt: skip


def _filled(document: dict[str, Any], data: Mapping[str, bytes], annotations: Mapping[str, str]) -> dict[str, Any]:
    kept_ones = {k: v for k, v in (document["metadata"].get("annotations") or {}).items() if k not in CUT}
    metadata = {k: v for k, v in document["metadata"].items() if k != "annotations"}
    if words := {**kept_ones, **annotations}:
        metadata["annotations"] = words
    encoded = {key: base64.b64encode(value).decode("ascii") for key, value in data.items()}
    return {**document, "metadata": metadata, "data": encoded}


def _is_of(out: Path, trusted: bytes) -> bool:
    """True when a Secret in hyb's folder `out` trusts one of the CAs in `trusted`."""
    ours = certificates.load(trusted)
    try:
        documents = [d for path, text in owned.written(out, MARK).items() if (d := _secret(path, text))]
    except OSError:
        return False
    return any(ca in ours for d in documents for ca in _authorities(d))


def _authorities(document: Mapping[str, Any]) -> list[Any]:
    data = _decoded(document)
    try:
        return certificates.load(data.get("ca.crt") or data["tls.crt"])
    except ValueError:
        return []


def _secret(path: str, text: bytes) -> dict[str, Any] | None:
    """The document of a file that holds one Secret with a certificate; None for any other."""
    if not path.endswith((".yaml", ".yml")) or b"Secret" not in text:
        return None
    try:
        document = yaml.safe_load(text)
        if document["kind"] == "Secret" and "PRIVATE KEY" in str(_decoded(document)["tls.key"]):
            certificates.load(_decoded(document)["tls.crt"])
            return {**document, "metadata": dict(document["metadata"])}
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        return None
    return None


def _decoded(document: Mapping[str, Any]) -> dict[str, bytes]:
    return {key: base64.b64decode(value, validate=True) for key, value in document["data"].items()}
