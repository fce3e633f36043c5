"""When the certificates of this host's links end, for Prometheus: text for node_exporter's textfile collector.

The private host has all of them: CA, server's, clients'. Only certificates are read, not the keys beside them.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography import x509

from hyb import fs
from hyb.credentials import link_folder
from hyb.errors import Exit, HybError

EXPIRY = "hyb_link_certificate_expiry_timestamp_seconds"


def ends(environ: Mapping[str, str]) -> dict[tuple[str, str], int]:
    """(link, certificate) → when it ends, in seconds since 1970; of several certificates in one file, the first end.

    Raises HybError (exit 4) for a file that holds no certificate.
    """
    folder = link_folder(environ, "x").parent
    found: dict[tuple[str, str], int] = {}
    with fs.explained(f"can't read the credentials in `{folder}`"):
        for path in sorted(folder.glob("*/*.pem")) if folder.is_dir() else []:
            found[path.parent.name, path.stem] = _first_end(path)
    return found


def text(found: Mapping[tuple[str, str], int]) -> str:
    """The metric in Prometheus' text format."""
    lines = [f"# HELP {EXPIRY} When a certificate of a link ends.", f"# TYPE {EXPIRY} gauge"]
    for (link, certificate), end in found.items():
        lines.append(f'{EXPIRY}{{link="{_escaped(link)}",certificate="{_escaped(certificate)}"}} {end}')
    return "\n".join(lines) + "\n"


def _first_end(path: Path) -> int:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise HybError(f"`{path}` holds no certificate", hint="`hyb link list` says what is wrong with it",
                       code=Exit.CHECK) from error  # fmt: skip
    return min(int(c.not_valid_after_utc.timestamp()) for c in certificates)


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
