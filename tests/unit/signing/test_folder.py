"""A plain folder and its signature: every entry counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hyb.errors import Exit, HybError
from hyb.progress import silent
from hyb.signing import folder, keys


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path, keys.PrivateKey]:
    """A folder, its signature, the key."""
    root = tmp_path / "m"
    (root / "sub").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "sub" / "model.safetensors").write_bytes(b"weights")
    key = keys.load_private(keys.generate(tmp_path / "keys").private)
    (tmp_path / "m.sig").write_bytes(folder.sign(root, key, silent))
    return root, tmp_path / "m.sig", key


def renamed(root: Path) -> None:
    (root / "config.json").rename(root / "config2.json")


def linked(root: Path) -> None:
    (root / "config.json").rename(root.parent / "elsewhere")
    (root / "config.json").symlink_to(root.parent / "elsewhere")


def replaced_folder(root: Path) -> None:
    (root / "sub").rename(root.parent / "sub")
    (root / "sub").symlink_to(root.parent / "sub", target_is_directory=True)


def git(root: Path) -> None:
    (root / ".git" / "hooks").mkdir(parents=True)
    (root / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (lambda r: (r / "sub/model.safetensors").write_bytes(b"weighty"), "is not what was signed"),
    "another file": (lambda r: (r / "extra").touch(), "`extra` is not signed"),
    "a hidden file": (lambda r: (r / ".hidden").touch(), "`.hidden` is not signed"),
    "one file less": (lambda r: (r / "config.json").unlink(), "was signed and is missing"),
    "another name": (renamed, "`config2.json` is not signed"),
    "a link": (linked, "is a link or a device"),
    "a folder behind a link": (replaced_folder, "is a link or a device"),
    "a pipe": (lambda r: os.mkfifo(r / "pipe"), "is a link or a device"),
    "an empty folder": (lambda r: (r / "empty").mkdir(), "is an empty folder"),
    "a planted .git": (git, "`.git` is what other verifiers pass over"),
    "a .gitattributes": (lambda r: (r / "sub/.gitattributes").touch(), "pass over"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_folder_that_was_changed_is_not_what_was_signed(
    signed: tuple[Path, Path, keys.PrivateKey], name: str
) -> None:
    root, signature, key = signed
    assert folder.verify(root, signature, [key.public], silent) == (key.public.key_id, 2)
    change, words = CHANGES[name]
    change(root)
    with pytest.raises(HybError) as caught:
        folder.verify(root, signature, [key.public], silent)
    assert caught.value.code is Exit.CHECK
    assert any(words in line for line in caught.value.details), caught.value.details


@pytest.mark.parametrize("name", ["a link", "a pipe", "an empty folder", "a planted .git", "a .gitattributes"])
def test_what_cannot_be_checked_is_not_signed(signed: tuple[Path, Path, keys.PrivateKey], name: str) -> None:
    root, _, key = signed
    change, words = CHANGES[name]
    change(root)
    with pytest.raises(HybError, match="can't be signed") as caught:
        folder.sign(root, key, silent)
    assert any(words in line for line in caught.value.details)


def test_a_signature_within_the_folder_counts_for_nothing(signed: tuple[Path, Path, keys.PrivateKey]) -> None:
    root, signature, key = signed
    inside = root / "model.sig"
    inside.write_bytes(folder.sign(root, key, silent, inside))
    assert folder.verify(root, inside, [key.public], silent)[1] == 2
    with pytest.raises(HybError) as caught:
        folder.verify(root, signature, [key.public], silent)
    assert caught.value.details == ("`model.sig` is not signed",)


def test_a_folder_that_is_none_is_said_to_be_none(signed: tuple[Path, Path, keys.PrivateKey], tmp_path: Path) -> None:
    _, signature, key = signed
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", signature, tmp_path / "empty"):
        with pytest.raises(HybError):
            folder.sign(path, key, silent)
