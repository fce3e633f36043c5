"""One commit of the store, as a run makes it after each step: what a crash point is walked through.

`python commit.py STORE`: bytes, a file that is moved in, a manifest, a name, a view, a receipt, the step's record, a
lock. A HybError is its message and its exit code, as at the command line.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from hyb import lock, receipt
from hyb.artifact import File
from hyb.errors import HybError
from hyb.store import Store

KEY = "sha256:" + "5" * 64
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def prepare(root: Path) -> Path:
    """The place, with the file that is to be moved in."""
    root.mkdir(exist_ok=True)
    (root / "incoming").write_bytes(b"weights" * 10_000)
    return root


def commit(root: Path) -> str:
    """Do it, and return the artifact's digest. `root` is prepared. Done twice, the second time changes nothing."""
    store = Store(root / "store")
    files = [
        File("config.json", store.add_bytes(b'{"a": 1}')),
        File("sub/weights", store.add_file(root / "incoming", how="move")),
    ]
    artifact = store.add_artifact("model", files, meta={"name": "m"})
    store.tag("r/m", artifact.digest)
    store.view(artifact)
    statement = receipt.statement(
        name="r/m", stage="pull", key=KEY, spec={}, pins={}, inputs={}, output=artifact, started=WHEN, ended=WHEN,
        facts={},
    )  # fmt: skip
    receipt.add(store, statement, artifact)
    store.record_step(KEY, "pull", artifact.digest)
    lock.write(root / "hyb.lock", lock.Lock({}, {"m": lock.Locked("pull", KEY, {}, artifact.digest)}))
    return artifact.digest


if __name__ == "__main__":
    try:
        commit(Path(sys.argv[1]))
    except HybError as error:
        sys.stderr.write(error.message)
        sys.exit(int(error.code))
