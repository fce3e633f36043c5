"""`hyb boundary check`: from paths to a report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyb import engine
from hyb.boundary import signed, targets
from hyb.boundary.report import Report, Violation
from hyb.boundary.walk import Walker
from hyb.boundary.watch import Watcher
from hyb.errors import Exit, HybError
from hyb.formats.boundary import Boundary
from hyb.progress import Say, silent
from hyb.recipe import Recipe
from hyb.store import Store

CONTAINERS = "containers-storage:"
_TRANSPORTS = ("oci:", "oci-archive:", "docker-archive:", "dir:")
"""Prefixes of skopeo that name a file or a folder."""


@dataclass(frozen=True)
class Order:
    """What is to be checked, against what."""

    paths: Sequence[str]
    boundary: Boundary
    store: Store | None = None
    recipe: Recipe | None = None
    canaries: Sequence[Path] = ()
    trusted: Sequence[Path] = ()


def check(order: Order, environ: Mapping[str, str], say: Say = silent) -> Report:
    """Look at everything; what was found is in the report. Raises HybError for what can't be read at all."""
    paths = _paths(order.paths)
    signatures = signed.Signed(signed.trusted(order.trusted))
    found = targets.gather(order.store, order.recipe, environ, list(order.canaries))
    walker = Walker(Watcher(found), order.boundary, signatures, say)
    for text, path in paths:
        if path is None:
            _image(walker, text)
        else:
            walker.path(path, text)
    report = walker.report
    report.looked_for = found.counts
    report.notes += found.notes
    if report.links:
        report.notes.append(f"symbolic links and special files, which were not followed: {report.links:,}")
    if not (order.store or order.recipe):
        report.notes.append(
            "no store and no recipe: weights and keys were known by their shape, rows of data not at all"
        )
    _signed(walker, report)
    _authorities(walker, report)
    return report


def _paths(texts: Sequence[str]) -> list[tuple[str, Path | None]]:
    """(text, path), the path None for an image in Podman's storage. Raises HybError for those that are not there."""
    found: list[tuple[str, Path | None]] = []
    for text in texts:
        prefix = next((p for p in _TRANSPORTS if text.startswith(p)), "")
        plain = text.removeprefix(prefix)
        if prefix and not Path(plain).exists():
            plain = plain.rpartition(":")[0] or plain  # `oci:FOLDER:TAG`
        found.append((text, None) if text.startswith(CONTAINERS) else (plain, Path(plain)))
    if absent := [text for text, path in found if path is not None and not path.exists()]:
        hint = f"files, folders, or `{CONTAINERS}IMAGE` for an image that Podman has"
        raise HybError(
            f"{', '.join(f'`{t}`' for t in absent)} {'is' if len(absent) == 1 else 'are'} not there", hint=hint
        )
    return found


def _image(walker: Walker, text: str) -> None:
    """An image in Podman's storage, copied beside for the time of the check."""
    with tempfile.TemporaryDirectory(prefix="hyb-boundary-") as folder:
        target = Path(folder, "image")
        copied = engine.run(["skopeo", "copy", "--quiet", "--insecure-policy", text, f"dir:{target}"], check=False)
        if copied.returncode:
            said = copied.stderr.decode(errors="replace").strip()
            if "does not resolve to an image" in said:
                raise HybError(f"Podman does not have the image `{text}`", hint="`podman images` lists what it has")
            raise HybError(f"`skopeo copy` can't read `{text}`", details=said.splitlines()[-5:], code=Exit.BELOW)
        walker.path(target, text)


def _signed(walker: Walker, report: Report) -> None:
    """Adapters that may leave with a signature: those without one are violations."""
    count = 0
    for digest, violation in walker.adapters:
        if digest and walker.signatures.has(digest):
            count += 1
        elif walker.signatures.keys:
            report.add(Violation("adapter", f"{violation.what}, without a signature by a trusted key", violation.place))
        else:
            what = f"{violation.what}, and no key to check a signature with (`--trust KEY.pem`)"
            report.add(Violation("adapter", what, violation.place))
    if count:
        report.notes.append(f"{count} adapter{'' if count == 1 else 's'} with a signature by a trusted key")


def _authorities(walker: Walker, report: Report) -> None:
    """Private keys of CAs: not even in a Secret, but where the cluster is meant to sign."""
    for place, issuer in walker.keys.signing():
        if issuer:
            report.notes.append(f"{place}: the private key of a CA, which a RouterAccess names as its issuer")
        else:
            report.add(Violation("credential", "the private key of a CA", place))


def refuse(report: Report) -> HybError:
    """The error that a report with violations is."""
    count = len(report.violations)
    kinds = sorted({v.kind for v in report.violations})
    return HybError(
        f"{count} violation{'' if count == 1 else 's'} of the boundary ({', '.join(kinds)})", details=report.details,
        hint=f"{report.summary()}; `hyb boundary` says what each class covers", code=Exit.CHECK,
    )  # fmt: skip
