"""A folder that hyb owns: whole or absent, never over somebody's work."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from hyb import owned
from hyb.errors import HybError

MARK = owned.Mark("hyb-deploy", of="chat.lab")
FILES = {"a.yaml": b"a: 1\n", "deep/er/b.yaml": b"b: 2\n"}


def publish(out: Path, files: dict[str, bytes] | None = None, *, mark: owned.Mark = MARK, force: bool = False) -> None:
    owned.publish(out, out, FILES if files is None else files, mark, force=force)


def there(out: Path) -> dict[str, bytes]:
    return {p: (out / p).read_bytes() for p in owned.files_in(out) - {MARK.file}}


def test_what_is_published_is_there_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "a b" / "öut"
    publish(out)
    assert there(out) == FILES
    publish(out, {"a.yaml": b"new"})
    assert there(out) == {"a.yaml": b"new"}
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_an_equal_folder_is_left_alone(tmp_path: Path) -> None:
    publish(tmp_path / "out")
    before = (tmp_path / "out").stat().st_ino, (tmp_path / "out/a.yaml").stat().st_mtime_ns
    publish(tmp_path / "out")
    assert ((tmp_path / "out").stat().st_ino, (tmp_path / "out/a.yaml").stat().st_mtime_ns) == before


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_public_folder_is_for_all_to_read_and_a_private_one_is_not(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        publish(tmp_path / "open")
        files = {"deep/Secret-a.yaml": b"", "deep/a.yaml": b""}
        publish(tmp_path / "closed", files, mark=owned.Mark("hyb-link", private=True))
    finally:
        os.umask(before)

    def mode(path: str) -> int:
        return stat.S_IMODE((tmp_path / path).stat().st_mode)

    assert (mode("open"), mode("open/deep/er"), mode("open/a.yaml"), mode(f"open/{MARK.file}")) == (
        0o755, 0o755, 0o644, 0o644,
    )  # fmt: skip
    assert (mode("closed"), mode("closed/deep"), mode("closed/deep/Secret-a.yaml"), mode("closed/deep/a.yaml")) == (
        0o700, 0o700, 0o600, 0o644,
    )  # fmt: skip


def edit(out: Path) -> None:
    (out / "a.yaml").write_text("mine")


def add(out: Path) -> None:
    (out / "deep" / "mine.yaml").write_text("mine")


def take(out: Path) -> None:
    (out / "deep/er/b.yaml").unlink()


@pytest.mark.parametrize(("change", "said"), [(edit, "was edited"), (add, "was added"), (take, "was taken away")])
def test_an_edited_folder_is_refused_and_replaced_only_by_force(tmp_path: Path, change: object, said: str) -> None:
    out = tmp_path / "out"
    publish(out)
    change(out)  # type: ignore[operator]
    before = there(out)
    with pytest.raises(HybError) as caught:
        publish(out, {"a.yaml": b"new"})
    assert any(said in line for line in caught.value.details)
    assert there(out) == before
    publish(out, {"a.yaml": b"new"}, force=True)
    assert there(out) == {"a.yaml": b"new"}


def test_a_folder_about_something_else_is_refused_and_replaced_only_by_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(out)
    other = owned.Mark("hyb-deploy", of="other.lab")
    with pytest.raises(HybError, match=r"is about chat\.lab, not other\.lab"):
        publish(out, {}, mark=other)
    assert there(out) == FILES
    publish(out, {"c": b""}, mark=other, force=True)
    assert there(out) == {"c": b""}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["file", "strangers", "a link", "a broken marker"])
def test_what_is_not_hyb_deploys_own_is_never_replaced(tmp_path: Path, kind: str, force: bool) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "a link":
        publish(out, mark=owned.Mark("hyb-link"))
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
        if kind == "a broken marker":
            (out / MARK.file).write_text("{")
    before = out.read_bytes() if out.is_file() else there(out)
    with pytest.raises(HybError):
        publish(out, force=force)
    assert (out.read_bytes() if out.is_file() else there(out)) == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    publish(tmp_path / "out")
    assert there(tmp_path / "out") == FILES


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    publish(out)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owned.fs, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        publish(out, {"a.yaml": b"new"})
    assert there(out) == FILES
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("edited", [False, True])
def test_a_folder_that_a_killed_call_had_moved_aside_is_not_lost(tmp_path: Path, edited: bool) -> None:
    out = tmp_path / "out"
    publish(out)
    if edited:  # as when `--force` was to replace it
        edit(out)
    before = there(out)
    out.replace(tmp_path / ".out.0123456789ab.hyb-old")
    (tmp_path / ".out.ba9876543210.hyb-tmp").mkdir()
    if edited:
        with pytest.raises(HybError, match="was edited"):
            publish(out, {"a.yaml": b"new"})
        assert there(out) == before
    else:
        owned.recover(out)
        assert there(out) == before
        publish(out, {"a.yaml": b"new"})
        assert there(out) == {"a.yaml": b"new"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_path_that_leads_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HybError):
        publish(tmp_path / "out", {"../x": b""})
    assert list(tmp_path.iterdir()) == []


def test_a_marker_without_a_name_is_anybodys(tmp_path: Path) -> None:
    """As links were before they had one."""
    out = tmp_path / "out"
    publish(out, mark=owned.Mark("hyb-deploy"))
    assert "of" not in json.loads((out / MARK.file).read_text())
    publish(out)
    assert json.loads((out / MARK.file).read_text())["of"] == "chat.lab"
