"""A folder that hyb writes and a person works with: whole or absent, and never written over somebody's work.

A marker inside says by digest what hyb wrote. A folder that differs from its marker has been edited; one without a
marker is somebody else's. The folder is made beside its place and renamed.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hyb import digest as dg
from hyb import fs
from hyb.artifact import safe_path
from hyb.errors import HybError

_FORMAT = 1
_TEMPORARY, _OLD = "hyb-tmp", "hyb-old"


@dataclass(frozen=True)
class Mark:
    """What kind of folder it is, and whose. `kind` "hyb-link" has the marker `.hyb-link.json`."""

    kind: str
    of: str = ""
    """What the folder is about; one that is about something else isn't written over. "": not told."""
    private: bool = False
    """Folders are 0700, and so 0600 the marker and files called `Secret-…` or `AccessToken-…`; else what is written is
    for all to read."""

    @property
    def file(self) -> str:
        """The marker's name."""
        return f".{self.kind}.json"


def check_target(out: Path, shown: Path, mark: Mark, *, force: bool = False) -> None:
    """Raises HybError when `out` (as the user wrote it: `shown`) is not free, not empty and not as hyb left it.

    `force`: an edited folder, or one about something else, may be replaced, but it must be one of hyb's.
    """
    if not out.exists():
        return
    hint = "give another folder, or move this one away; nothing was changed"
    if not out.is_dir():
        raise HybError(f"`{shown}` is a file", hint=hint)
    present = files_in(out)
    if not present and not any(out.iterdir()):
        return
    of, written = _read(out / mark.file, mark)
    if written is None:
        raise HybError(f"`{shown}` is not empty and was not written by hyb", hint=hint)
    if force:
        return
    if mark.of and of and of != mark.of:
        raise HybError(f"`{shown}` is about {of}, not {mark.of}", hint=f"{hint}; `--force` replaces it")
    changed = [f"`{p}` was added" for p in sorted(present - {mark.file, *written})]
    changed += [f"`{p}` was taken away" for p in sorted(set(written) - present)]
    changed += [f"`{p}` was edited" for p in sorted(present & set(written)) if dg.of_file(out / p)[0] != written[p]]
    if changed:
        forced = f"{hint}; `--force` replaces it"
        raise HybError(f"`{shown}` was edited since hyb wrote it", details=changed, hint=forced)


def about(folder: Path, mark: Mark) -> Mark:
    """The same mark, about what the folder's marker says; as it is where there is no marker."""
    of, written = _read(folder / mark.file, mark)
    return mark if written is None else replace(mark, of=of)


def digests(folder: Path, mark: Mark) -> dict[str, str]:
    """Path → digest of what hyb wrote into a folder; empty when it wrote nothing there."""
    return _read(folder / mark.file, mark)[1] or {}


def recover(out: Path) -> None:
    """Put a folder back that a killed process had moved aside and not replaced yet; remove what else it left.

    `publish` does this itself. Raises OSError.
    """
    if not out.parent.is_dir():
        return
    with _locked_folder(out.parent):
        _recover(out)


def _recover(out: Path) -> None:
    """What a killed process has left beside `out` may hold keys, or be the only copy of what a person edited."""
    for aside in sorted(out.parent.glob(f".{glob.escape(out.name)}.*.{_OLD}")):
        if out.exists():
            shutil.rmtree(aside)
        else:
            aside.replace(out)
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.{_TEMPORARY}"):
        shutil.rmtree(left)


def files_in(folder: Path) -> set[str]:
    """Everything below a folder that is no folder, by relative path."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def written(folder: Path, mark: Mark) -> dict[str, bytes]:
    """Path → content of what hyb wrote into a folder; empty when it wrote nothing there. Raises OSError."""
    _, files = _read(folder / mark.file, mark)
    return {path: (folder / safe_path(path)).read_bytes() for path in files or {}}


def _read(path: Path, mark: Mark) -> tuple[str, dict[str, str] | None]:
    """(what the folder is about, its files' digests); None without a marker that can be read."""
    try:
        marker = json.loads(path.read_bytes())
        written = marker["files"]
        if marker[mark.kind] != _FORMAT or not isinstance(written, dict):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        return "", None
    return str(marker.get("of", "")), written


def publish(out: Path, shown: Path, files: Mapping[str, bytes], mark: Mark, *, force: bool = False) -> None:
    """Make `out` hold exactly `files`, in one rename; an equal folder only has its modes set right."""
    digests = {path: dg.of_bytes(data) for path, data in files.items()}
    told = {"of": mark.of} if mark.of else {}
    marker = json.dumps({mark.kind: _FORMAT, **told, "files": digests}, sort_keys=True, indent=1).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked_folder(out.parent):
        _recover(out)
        check_target(out, shown, mark, force=force)  # again, now that nobody else of us writes here
        if out.is_dir() and not force and (out / mark.file).is_file() and (out / mark.file).read_bytes() == marker:
            _set_modes(out, mark)
            return
        temporary, old = (out.with_name(f".{out.name}.{secrets.token_hex(6)}.{s}") for s in (_TEMPORARY, _OLD))
        try:
            _fill(temporary, {**files, mark.file: marker}, mark)
            if out.exists():
                out.replace(old)
            temporary.replace(out)
            fs.sync_folder(out.parent)
        except OSError:
            if old.exists() and not out.exists():
                old.replace(out)
            raise
        finally:
            for left in (temporary, old):
                shutil.rmtree(left, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, bytes], mark: Mark) -> None:
    folder.mkdir(mode=0o700)
    for path, data in files.items():
        place = folder / safe_path(path)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fs.write_atomic(place, data, mode=0o600)
    _set_modes(folder, mark)
    fs.sync_folder(folder)


def _set_modes(folder: Path, mark: Mark) -> None:
    """The modes that the mark asks for, whatever the umask."""
    for path in (folder, *folder.rglob("*")):
        is_secret = mark.private and path.name.startswith((mark.file, "Secret-", "AccessToken-"))
        mode = (0o700 if mark.private else 0o755) if path.is_dir() else 0o600 if is_secret else 0o644
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """An advisory lock on a folder itself: no lock file left among the user's files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
