"""What a step did: an in-toto Statement v1 with SLSA provenance v1, kept as an artifact that refers to the output.

A receipt may hold times and facts of this machine; it is therefore in no lock.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hyb import __version__
from hyb import digest as dg
from hyb.artifact import Artifact, File
from hyb.store import Store

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
MEDIA_TYPE = "application/vnd.in-toto+json"


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
) -> dict[str, Any]:
    """The statement: `spec` as written, `pins` of its sources, `inputs` by name, `facts` measured in the run."""
    sources = [{"uri": source, "annotations": {"pinned": pinned}} for source, pinned in sorted(pins.items())]
    made_of = [{"name": n, "digest": {"sha256": d.removeprefix("sha256:")}} for n, d in sorted(inputs.items())]
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": output.digest.removeprefix("sha256:")}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": f"urn:hyb:stage:{stage}",
                "externalParameters": dict(spec),
                "internalParameters": {"key": key},
                "resolvedDependencies": [*made_of, *sources],
            },
            "runDetails": {
                "builder": {"id": "urn:hyb", "version": {"hyb": __version__, "python": platform.python_version()}},
                "metadata": {
                    "invocationId": key,
                    "startedOn": started.isoformat(timespec="seconds"),
                    "finishedOn": ended.isoformat(timespec="seconds"),
                },
                "byproducts": [{"name": n, "content": v} for n, v in sorted(facts.items())],
            },
        },
    }


def add(store: Store, document: Mapping[str, Any], output: Artifact) -> Artifact:
    """Put a statement into the store as a referrer of `output`."""
    blob = store.add_bytes(dg.canonical_json(document))
    details = document["predicate"]["runDetails"]["metadata"]
    definition = document["predicate"]["buildDefinition"]
    meta = {
        "name": document["subject"][0]["name"],
        "stage": definition["buildType"].rpartition(":")[2],
        "finished": details["finishedOn"],
        "started": details["startedOn"],
    }
    return store.add_artifact("receipt", [File("statement.json", blob, MEDIA_TYPE)], meta=meta, subject=output)


def now() -> datetime:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
