"""hyb.lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyb import digest, lock
from hyb.errors import Exit, HybError

D = [digest.of_bytes(bytes([i])) for i in range(3)]
LOCK = lock.Lock({"b": "p", "a": "q"}, {"bot": lock.Locked("tune", D[0], {"base": D[1]}, D[2])})


def test_a_lock_reads_back_what_was_written(tmp_path: Path) -> None:
    assert lock.write(tmp_path / "hyb.lock", LOCK)
    assert lock.read(tmp_path / "hyb.lock") == LOCK


def test_a_lock_that_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "hyb.lock"
    lock.write(path, LOCK)
    before = path.stat().st_ino
    assert not lock.write(path, LOCK)
    assert path.stat().st_ino == before


def test_the_bytes_do_not_depend_on_the_order_of_keys() -> None:
    turned = lock.Lock(dict(reversed(LOCK.pins.items())), LOCK.stages)
    assert lock.dump(turned) == lock.dump(LOCK)


def test_no_lock_is_an_empty_one(tmp_path: Path) -> None:
    assert lock.read(tmp_path / "none") == lock.Lock()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t[: len(t) // 2],
        lambda t: t.replace(D[2], "sha256:abc"),
        lambda t: t.replace('"key"', '"kee"'),
        lambda t: "[]",
        lambda t: t.replace('"stages": {', '"stages": [1], "x": {'),
    ],
)
def test_a_spoilt_lock_is_refused_with_exit_4(tmp_path: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "hyb.lock"
    path.write_text(spoil(lock.dump(LOCK).decode()))
    with pytest.raises(HybError, match="is damaged") as caught:
        lock.read(path)
    assert caught.value.code is Exit.CHECK


def test_a_lock_of_a_newer_hyb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hyb.lock"
    path.write_text('{"hyb": 2}')
    with pytest.raises(HybError, match="version 2"):
        lock.read(path)
