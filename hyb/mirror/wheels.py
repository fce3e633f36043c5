"""Wheels and source archives as a package index tells of them: names (PEP 427, 503, 625) and metadata (PEP 658)."""

from __future__ import annotations

import email.parser
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hyb.artifact import Blob

METADATA_BYTES = 1 << 20  # of a METADATA file; a longer one is not believed
_WHEEL = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._]*)-([A-Za-z0-9.!+_]+)(-\d[A-Za-z0-9_.]*)?-[\w.]+-[\w.]+-[\w.]+\.whl", re.ASCII
)
_ARCHIVE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)-(\d[A-Za-z0-9.!+_]*)\.(?:tar\.gz|zip)", re.ASCII)


@dataclass(frozen=True)
class Wheel:
    """A file of the index. `project`: its normal name."""

    name: str
    project: str
    version: str
    blob: Blob


def normal(project: str) -> str:
    """A project's normal name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", project).lower()


def wheel(name: str, blob: Blob) -> Wheel | None:
    """The wheel or source archive that a file's name tells of; None for any other file."""
    found = _WHEEL.fullmatch(name) or _ARCHIVE.fullmatch(name)
    return Wheel(name, normal(found[1]), found[2], blob) if found else None


def metadata(path: Path) -> bytes:
    """The METADATA of the wheel at `path`; empty when it has none that can be believed."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
            if len(names) != 1:
                return b""
            with archive.open(names[0]) as stream:
                data = stream.read(METADATA_BYTES + 1)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, EOFError):
        return b""
    return data if len(data) <= METADATA_BYTES else b""


def requires_python(data: bytes) -> str:
    """What METADATA says of Python; "" when nothing."""
    return str(email.parser.BytesHeaderParser().parsebytes(data).get("Requires-Python") or "")
