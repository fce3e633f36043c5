"""The layout of huggingface_hub's cache."""

from pathlib import Path

import pytest

from hyb import fs
from hyb.errors import HybError
from hyb.hub import cache

COMMIT = "1" * 40


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h", "HOME": "/u"}, "/c"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x", "HOME": "/u"}, "/h/hub"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/u"}, "/x/huggingface/hub"),
        ({"HOME": "/u"}, "/u/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_environment_says(environ: dict[str, str], where: str) -> None:
    assert cache.folder(environ) == Path(where)


def test_no_home_means_no_cache_and_the_work_folder_instead(tmp_path: Path) -> None:
    assert cache.folder({}) is None
    assert cache.usable(None, tmp_path) == tmp_path


def test_a_sweep_takes_what_nobody_holds_and_leaves_what_somebody_does(tmp_path: Path) -> None:
    repo = cache.Repo(tmp_path, "o/n")
    for name in ("dead", "alive"):
        repo.partial(name).parent.mkdir(parents=True, exist_ok=True)
        repo.partial(name).write_bytes(b"12345")
    repo.blob("whole").write_bytes(b"kept")
    with repo.locked("alive"):
        assert repo.sweep() == 5
    assert not repo.partial("dead").exists() and repo.partial("alive").exists() and repo.blob("whole").exists()


def test_the_lock_is_that_of_huggingface_hub(tmp_path: Path) -> None:
    theirs = fs.locked(tmp_path / ".locks/models--o--n/abc.lock", wait=False)
    with cache.Repo(tmp_path, "o/n").locked("abc"), pytest.raises(BlockingIOError), theirs:
        pass


def test_a_branch_leads_to_the_commit_unless_it_leads_to_another_that_is_there(tmp_path: Path) -> None:
    repo = cache.Repo(tmp_path, "o/n")
    ref = repo.root / "refs/main"
    repo.name("main", COMMIT)
    assert ref.read_text() == COMMIT
    repo.name("main", "2" * 40)
    assert ref.read_text() == "2" * 40, "the first one has no snapshot"
    (repo.root / "snapshots" / ("2" * 40)).mkdir(parents=True)
    repo.name("main", COMMIT)
    assert ref.read_text() == "2" * 40


def test_a_commit_is_no_branch(tmp_path: Path) -> None:
    repo = cache.Repo(tmp_path, "o/n")
    repo.name(COMMIT, COMMIT)
    assert not repo.root.exists()


@pytest.mark.parametrize("path", ["../evil", "/evil", "a/../../evil"])
def test_a_listing_can_not_write_outside_its_snapshot(path: str, tmp_path: Path) -> None:
    with pytest.raises(HybError, match="unsafe path"):
        cache.Repo(tmp_path, "o/n").pointer(COMMIT, path)


def test_what_a_snapshot_has_is_known_by_the_names_of_its_blobs(tmp_path: Path) -> None:
    repo = cache.Repo(tmp_path, "o/n")
    repo.blob("b" * 64).parent.mkdir(parents=True)
    repo.blob("b" * 64).write_bytes(b"123")
    repo.keep(COMMIT, "sub/model.safetensors", "b" * 64)
    repo.keep(COMMIT, "gone.json", "c" * 40)
    assert list(repo.listed(COMMIT)) == [("sub/model.safetensors", 3, "b" * 64)]
    assert repo.pointer(COMMIT, "sub/model.safetensors").read_bytes() == b"123"
