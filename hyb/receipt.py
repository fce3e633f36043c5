"""What a step did: an in-toto Statement v1 with SLSA provenance v1, kept as an artifact that refers to the output.

A receipt says what came in (sources and artifacts by digest), what came out (the artifact and each of its files), with
which parameters, and which programs ran. It may hold times and, where the user allows it, facts of this machine; it is
therefore in no lock. What identifies the machine is left out unless it is asked for: an absolute path is cut to its
last part. It is written and signed on one host: SLSA's levels 1 and 2 in spirit, not its isolated builder of level 3.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyb import __version__
from hyb import digest as dg
from hyb.artifact import MANIFEST, Artifact, File, short
from hyb.errors import Exit, HybError
from hyb.formats import intoto
from hyb.formats.intoto import MEDIA_TYPE, PREDICATE, STATEMENT
from hyb.store import Store

__all__ = [
    "FILE",
    "HOST",
    "MEDIA_TYPE",
    "PREDICATE",
    "STATEMENT",
    "add",
    "host",
    "materials",
    "now",
    "read",
    "statement",
]

FILE = "statement.json"
MOST = 16 << 20  # bytes of a statement
HOST: Mapping[str, Callable[[], str]] = {
    "os": lambda: f"{platform.system()} {platform.release()} {platform.machine()}",
    "cpu": lambda: f"{os.cpu_count()} × {_processor()}",
    "memory": lambda: f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')} bytes",
    "hostname": platform.node,
    "user": getpass.getuser,
}
"""Fact of this machine → how it is found. None is written unless a recipe or HYB_RECEIPT_HOST names it."""


def statement(
    *,
    name: str,
    stage: str,
    key: str,
    spec: Mapping[str, Any],
    pins: Mapping[str, str],
    inputs: Mapping[str, str],
    output: Artifact,
    started: datetime,
    ended: datetime,
    facts: Mapping[str, Any],
    revision: int | None = None,
    folders: Mapping[str, Mapping[str, str]] | None = None,
    programs: Mapping[str, str] | None = None,
    about_host: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The statement: `spec` as written, `pins` of its sources, `inputs` by name, `facts` measured in the run.

    `revision` of the stage's code, `folders`: source → digests of its files (`materials`), `programs`: package URL →
    version of what ran, `about_host`: see `host`.
    """
    written = {k: intoto.portable(v) if isinstance(v, str) and v in pins else v for k, v in spec.items()}
    made_of = [intoto.resource(name=n, digest=intoto.sha256(d), media_type=MANIFEST) for n, d in sorted(inputs.items())]
    sources = [r for s, pinned in sorted(pins.items()) for r in intoto.source(s, pinned, (folders or {}).get(s))]
    within: dict[str, Any] = {"key": key} | ({} if revision is None else {"revision": revision})
    ran = [intoto.program(n, v) for n, v in sorted((programs or {}).items()) if n != "pkg:pypi/hyb"]
    builder = {"id": "urn:hyb", "version": {"hyb": __version__, "python": platform.python_version()}}
    files = [intoto.resource(name=f.path, digest=intoto.sha256(f.blob.digest)) for f in output.files]
    return {
        "_type": STATEMENT,
        "subject": [intoto.resource(name=name, digest=intoto.sha256(output.digest), media_type=MANIFEST), *files],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": f"{intoto.STAGE}{stage}",
                "externalParameters": written,
                "internalParameters": within | ({"host": dict(about_host)} if about_host else {}),
                "resolvedDependencies": [*made_of, *sources],
            },
            "runDetails": {
                "builder": builder | ({"builderDependencies": ran} if ran else {}),
                "metadata": {
                    "invocationId": key,
                    "startedOn": started.isoformat(timespec="seconds"),
                    "finishedOn": ended.isoformat(timespec="seconds"),
                },
                "byproducts": [intoto.fact(n, v) for n, v in sorted(facts.items())],
            },
        },
    }


def materials(pins: Mapping[str, str], folder: Path) -> dict[str, dict[str, str]]:
    """The files, by digest, of each source that is a folder; of a model's folder none, for its artifact names them.

    `folder`: where relative sources start. Raises HybError (exit 4) when a folder has changed since it was pinned.
    """
    found: dict[str, dict[str, str]] = {}
    for source, pinned in pins.items():
        path = folder / Path(source.removeprefix("file:")).expanduser()
        if not path.is_dir() or not (dg.is_digest(pinned) or pinned.startswith("file:")):
            continue
        found[source] = dg.files_of(path) if dg.is_digest(pinned) else {}
        if dg.is_digest(pinned) and dg.of_json(found[source]) != pinned:
            raise HybError(f"`{path}` changed while it was read", hint="run again", code=Exit.CHECK)
    return found


def host(allowed: Iterable[str]) -> dict[str, str]:
    """The facts of this machine that may be written. Raises HybError (exit 3) for one that is not known."""
    wanted = [w for w in allowed if w]
    if unknown := [w for w in wanted if w not in HOST]:
        raise HybError(f"`{unknown[0]}` is no fact of a host", hint=f"there are {', '.join(HOST)}")
    return {w: HOST[w]() for w in wanted}


def _processor() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def add(store: Store, document: Mapping[str, Any], output: Artifact) -> Artifact:
    """Put a statement into the store as a referrer of `output`."""
    blob = store.add_bytes(dg.canonical_json(document))
    meta = {
        "name": document["subject"][0]["name"],
        "stage": intoto.stage(document),
        "finished": intoto.metadata(document, "finishedOn"),
        "started": intoto.metadata(document, "startedOn"),
    }
    return store.add_artifact("receipt", [File(FILE, blob, MEDIA_TYPE)], meta=meta, subject=output)


def read(store: Store, receipt: Artifact) -> dict[str, Any]:
    """The statement of a receipt, its bytes checked. Raises HybError (exit 4): missing, damaged, no statement, or one
    of another artifact than that which the receipt refers to."""
    of = f"receipt `{short(receipt.digest)}`"
    blob = receipt.file(FILE).blob
    if blob.size > MOST:
        raise HybError(f"{of}: {blob.size} bytes are no statement", code=Exit.CHECK)
    try:
        found = json.loads(store.read(blob.digest))
    except (ValueError, RecursionError) as error:
        raise HybError(f"{of} is no JSON: {error}", code=Exit.CHECK) from error
    wrong = intoto.mistakes(found)
    if not wrong and intoto.subjects(found)[0] != receipt.subject:
        wrong = [f"it speaks of `{short(intoto.subjects(found)[0])}`, not of the artifact that it is attached to"]
    if wrong:
        raise HybError(f"{of} is not valid: {wrong[0]}", details=wrong[1:], code=Exit.CHECK)
    return dict(found)


def now() -> datetime:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
