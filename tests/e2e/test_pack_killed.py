"""A pack that is killed in the middle of a layer, for real, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from hyb.artifact import Artifact
from hyb.formats import modelpack
from hyb.stages import pack
from hyb.stages.base import Context
from hyb.store import Store

# Packs, and is killed by itself (no handler runs) when 60 % of all bytes are through: in the second of two layers.
CHILD = """
import os, signal, sys
from pathlib import Path
from hyb.progress import Progress
from hyb.stages import pack
from hyb.stages.base import Context
from hyb.store import Store
store = Store(Path(sys.argv[1]))
def say(said):
    if isinstance(said, Progress) and said.done > 0.6 * said.total:
        os.kill(os.getpid(), signal.SIGKILL)
model = store.artifact(sys.argv[2])
pack.run(pack.Spec(model="m"), {"m": model}, Context(store, store.work("sha256:1"), say=say))
"""
WEIGHTS = [os.urandom(8 << 20), os.urandom(8 << 20)]


def a_model(store: Store) -> Artifact:
    files = [modelpack.file(f"model-{n}.safetensors", store.add_bytes(data)) for n, data in enumerate(WEIGHTS)]
    return store.add_artifact("model", files, meta={"name": "Tiny"})


def test_a_pack_killed_in_a_layer_goes_on_with_that_layer_and_leaves_nothing(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "store"), Store(tmp_path / "never killed")
    model = a_model(store)
    done = subprocess.run([sys.executable, "-c", CHILD, str(store.root), model.digest], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not [a for a in store.artifacts() if a.kind == "image"]
    before = {p.name: p.stat().st_ino for p in store.blobs.iterdir()}
    image = pack.run(pack.Spec(model="m"), {"m": model}, Context(store, store.work("sha256:1")))
    first = image.manifest["layers"][0]["digest"].removeprefix("sha256:")
    assert store.blob_path(image.manifest["layers"][0]["digest"]).stat().st_ino == before[first]
    assert image.digest == pack.run(pack.Spec(model="m"), {"m": a_model(other)}, Context(other, other.work("k"))).digest
    for file in image.files:
        store.check(file.blob, thorough=True)
    assert not list((store.root / "tmp").iterdir())
    assert [p.name for p in store.work("sha256:1").iterdir()] == ["layers.json"]
