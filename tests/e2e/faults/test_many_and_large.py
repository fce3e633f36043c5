"""Ten thousand small files, and one that is larger than any memory: in time and in constant memory.

`HYB_SPARSE_GB` says how large; 50 takes some minutes, for every byte is hashed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hyb.artifact import File
from hyb.progress import silent
from hyb.store import Store
from hyb.verify import check_store
from tests.hyb import Hyb

ROOT = Path(__file__).parents[3]
GB = int(os.environ.get("HYB_SPARSE_GB", "1"))
MANY = 10_000
LARGE = """
import resource, sys
from pathlib import Path
from hyb.artifact import File
from hyb.hub import checks
from hyb.progress import silent
from hyb.store import Store
from hyb.verify import check_store
path, store = Path(sys.argv[1]), Store(Path(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
header = checks.gguf(path)
blob = store.add_file(path, how="link")
artifact = store.add_artifact("model", [File("model.gguf", blob)])
store.view(artifact)
assert check_store(store, silent) == []
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_ten_thousand_files_of_a_data_set_are_read_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for at in range(100):
        (folder / f"{at:03}").mkdir(parents=True)
    for at in range(MANY):
        row = f'{{"prompt": "question {at}?", "completion": "answer {at}"}}\n'
        (folder / f"{at % 100:03}" / f"{at}.jsonl").write_text(row)
    hyb = Hyb(tmp_path / "home")
    hyb.ok("data", str(folder), "--name", "many", "-q")
    assert f"{MANY} train" in hyb.ok("ls", "-q")
    assert hyb.json("data", str(folder), "--name", "many", "-q")["steps"][0]["cached"]


def test_an_artifact_of_ten_thousand_files_is_seen_verified_and_collected(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    files = [File(f"{at % 100}/{at}", store.add_bytes(b"%d" % at)) for at in range(MANY)]
    artifact = store.add_artifact("model", files)
    view = store.view(artifact)
    assert sum(1 for p in view.rglob("*") if p.is_file()) == MANY
    assert store.view(artifact) == view
    assert check_store(store, silent) == []
    from hyb import upkeep

    assert upkeep.gc(store)[0] >= MANY
    assert not list(store.blobs.iterdir())


def test_a_file_larger_than_memory_is_checked_stored_and_verified_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tensor = b"\x01\0\0\0\0\0\0\0t" + (1).to_bytes(4, "little") + (1024).to_bytes(8, "little") + bytes(4 + 8)
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + bytes(8) + tensor)
    os.truncate(path, GB << 30)
    command = [sys.executable, "-c", LARGE, str(path), str(tmp_path / "store")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100, f"{done.stdout} MB more"
