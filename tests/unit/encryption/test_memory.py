"""Where clear files may lie: swap, room, private folders, and what is swept away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hyb import fs
from hyb.encryption import memory
from hyb.errors import Exit, HybError

HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}


def block(root: Path, device: str, **files: str) -> Path:
    for name, text in files.items():
        path = root / device / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_no_swap_is_safe(tmp_path: Path) -> None:
    assert memory.unsafe_swaps("", tmp_path) == memory.unsafe_swaps(HEAD, tmp_path) == []


def test_a_swap_file_and_a_plain_partition_are_not(tmp_path: Path) -> None:
    text = f"{HEAD}/swap.img file 8388604 0 -2\n/dev/sda2 partition 100 0 -3\n"
    assert memory.unsafe_swaps(text, tmp_path) == ["/swap.img", "/dev/sda2"]


def test_swap_on_dm_crypt_is_safe_and_on_plain_lvm_not(tmp_path: Path) -> None:
    root = block(tmp_path, "dm-0", dm__uuid="CRYPT-PLAIN-swap\n")
    block(root, "dm-1", dm__uuid="LVM-abcdef\n")
    assert memory.unsafe_swaps(f"{HEAD}/dev/dm-0 partition 1 0 -2\n/dev/dm-1 partition 1 0 -3\n", root) == ["/dev/dm-1"]


def test_zram_is_memory_unless_it_writes_back_to_a_disk(tmp_path: Path) -> None:
    root = block(tmp_path, "zram0", backing_dev="none\n")
    block(root, "zram1", backing_dev="/dev/sda3\n")
    text = f"{HEAD}/dev/zram0 partition 1 0 100\n/dev/zram1 partition 1 0 99\n"
    assert memory.unsafe_swaps(text, root) == ["/dev/zram1"]


def test_memory_only_is_refused_while_swap_is_on(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swaps").write_text(f"{HEAD}/swap.img file 8388604 0 -2\n")
    monkeypatch.setattr(memory, "SWAPS", tmp_path / "swaps")
    with pytest.raises(HybError, match=r"swap `/swap.img` is on") as caught:
        memory.in_memory(1, environ)
    assert caught.value.code is Exit.INPUT
    assert "swapoff" in caught.value.hint


def test_memory_only_says_how_much_memory_lacks(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SWAPS", tmp_path / "none")
    (tmp_path / "meminfo").write_text("MemTotal: 4000000 kB\nMemAvailable:    2000000 kB\n")
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    with pytest.raises(HybError, match="needs 2,074 MB for the model and its engine; 2,048 MB of memory are free"):
        memory.in_memory(1_000_000_000, environ)


def test_memory_only_wants_a_tmpfs(tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SWAPS", tmp_path / "none")
    (tmp_path / "mounts").write_text("22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n")
    monkeypatch.setattr(memory, "MOUNTS", tmp_path / "mounts")
    with pytest.raises(HybError, match="there is no tmpfs here"):
        memory.in_memory(1, environ)


def test_mounts_are_read_with_their_blanks_and_optional_fields() -> None:
    text = "1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / /my\\040shm rw,nosuid shared:5 master:1 - tmpfs tmpfs rw\n"
    assert memory.file_systems(text) == {"/": "ext4", "/my shm": "tmpfs"}


def test_a_place_is_private_and_goes_when_the_block_fails(environ: dict[str, str]) -> None:
    with pytest.raises(RuntimeError), memory.place("bot", 1, environ, memory_only=False) as found:
        assert found.stat().st_mode & 0o777 == 0o700
        assert found.parent.stat().st_mode & 0o777 == 0o700
        raise RuntimeError
    assert not found.exists()


def test_a_place_in_use_is_not_swept_and_one_that_was_left_is(environ: dict[str, str]) -> None:
    with memory.place("used", 1, environ, memory_only=False) as used:
        with memory.place("left", 1, environ, memory_only=False) as left:
            (left / "model.gguf").write_bytes(b"plain")
        assert memory.sweep(environ) == 1
        assert used.exists()
        assert not left.exists()


def test_who_holds_a_place_removes_it_at_the_end(environ: dict[str, str]) -> None:
    with memory.place("bot", 1, environ, memory_only=False) as found:
        pass
    with memory.held(found):
        with pytest.raises(BlockingIOError), fs.locked(found / memory.LOCK, wait=False):
            pass
        assert memory.sweep(environ) == 0
    assert not found.exists()


def test_only_what_hyb_made_is_removed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    memory.remove(tmp_path / "home")
    assert (tmp_path / "home").exists()


def test_a_folder_that_somebody_laid_in_wait_is_not_used(tmp_path: Path, environ: dict[str, str]) -> None:
    run = tmp_path / "data" / "hyb" / "run"
    run.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (run / memory.FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HybError, match="not a folder of yours alone"), memory.place("b", 1, environ, memory_only=False):
        pass
    (run / memory.FOLDER).unlink()
    (run / memory.FOLDER).mkdir()
    os.chmod(run / memory.FOLDER, 0o755)  # noqa: PTH101
    with pytest.raises(HybError, match="not a folder of yours alone"), memory.place("b", 1, environ, memory_only=False):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []
