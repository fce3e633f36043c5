"""Where what was sealed may lie in the clear, and how it goes away.

    on disk       DATA/run/hyb-unsealed/NAME-xxxxxxxx/         its owner's alone
    in memory     TMPFS/hyb-unsealed-UID-xxxxxxxx/NAME-xxxxxxxx/   the same, below $XDG_RUNTIME_DIR or /dev/shm

Whoever uses such a folder holds a shared lock on the file `lock` in it; the kernel frees it when the last of them dies,
however it dies. The gateway removes its folder when it ends. What a kill has left, whoever starts, lists or stops a
service next removes: a folder whose lock is free.

In memory means: on no disk. So memory may not go to one either: swap must be off, or encrypted, or in memory (zram
without a backing device). Core dumps are switched off.
"""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from hyb import digest as dg
from hyb import fs
from hyb.errors import HybError
from hyb.places import data_home

FOLDER = "hyb-unsealed"
LOCK = "lock"
SLACK = 64 << 20  # bytes beside the image: small files, the end of a layer
RUNNING = 1 << 30  # bytes that an engine takes beside its model, at least
IN_MEMORY = ("tmpfs", "ramfs")
SWAPS, MOUNTS, MEMORY, BLOCK = (
    Path("/proc/swaps"),
    Path("/proc/self/mountinfo"),
    Path("/proc/meminfo"),
    Path("/sys/block"),
)


@contextlib.contextmanager
def place(name: str, size: int, environ: Mapping[str, str], *, memory_only: bool) -> Iterator[Path]:
    """A new private folder with room for `size` bytes. It stays when the block ends well (its user has it locked by
    then), and is removed when the block fails.

    Raises HybError (exit 3): with `memory_only` for swap that is on a disk, for no tmpfs, for too little memory.
    """
    root = in_memory(size, environ) if memory_only else _private(data_home(environ) / "run" / FOLDER)
    using = contextlib.ExitStack()
    with fs.explained(f"can't make a folder in `{root}`"), fs.locked(root / LOCK):
        found = root / f"{name[:40]}-{secrets.token_hex(4)}"
        found.mkdir(mode=0o700)
        using.enter_context(fs.locked(found / LOCK, shared=True))
    with using:
        try:
            yield found
        except BaseException:
            remove(found)
            raise


@contextlib.contextmanager
def held(found: Path) -> Iterator[None]:
    """Use a folder that `place` made, and remove it at the end. Raises FileNotFoundError when it is gone."""
    found.stat()
    with fs.locked(found / LOCK, shared=True):
        try:
            yield
        finally:
            remove(found)


def remove(found: Path) -> None:
    """Remove a folder that `place` has made; no other."""
    if found.parent.name.startswith(FOLDER):
        shutil.rmtree(found, ignore_errors=True)


def sweep(environ: Mapping[str, str]) -> int:
    """Remove what nobody uses any more; how many folders that were."""
    gone = 0
    for root in _roots(environ):
        with contextlib.suppress(OSError), fs.locked(root / LOCK):
            for found in root.iterdir():
                if found.is_dir() and not found.is_symlink():
                    with contextlib.suppress(OSError), fs.locked(found / LOCK, wait=False):
                        remove(found)
                        gone += not found.exists()
    return gone


def in_memory(size: int, environ: Mapping[str, str]) -> Path:
    """The folder for private ones on a tmpfs with room. Raises HybError (exit 3), see `place`."""
    if on_disk := unsafe_swaps(SWAPS.read_text() if SWAPS.exists() else "", BLOCK):
        raise HybError(
            f"memory may be written to a disk here: swap `{on_disk[0]}` is on, and not encrypted",
            hint=f"`swapoff {on_disk[0]}`, or put the swap on dm-crypt with a random key; or leave `--memory-only` out",
        )
    free = available(MEMORY.read_text())
    if free < size + RUNNING:
        raise HybError(
            f"`--memory-only` needs {_mb(size + RUNNING)} for the model and its engine; {_mb(free)} of memory are free",
            hint="end something else, take a smaller model, or leave `--memory-only` out",
        )
    rooms = {path: shutil.disk_usage(path).free for path in _tmpfs(environ)}
    if not rooms:
        raise HybError(
            "there is no tmpfs here to decrypt into: neither `$XDG_RUNTIME_DIR` nor `/dev/shm` is one",
            hint="`mount -t tmpfs -o mode=1777 tmpfs /dev/shm`",
        )
    big = [path for path, room in rooms.items() if room >= size + SLACK]
    if not big:
        raise HybError(
            f"no tmpfs has room for {_mb(size + SLACK)}: " + ", ".join(f"`{p}` has {_mb(r)}" for p, r in rooms.items()),
            hint="`mount -o remount,size=… /dev/shm` gives it more",
        )
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    return _private(big[0] / _memory_name(environ))


def unsafe_swaps(swaps: str, block: Path) -> list[str]:
    """The swap areas in the text of /proc/swaps that can put memory on a disk in the clear. `block`: /sys/block."""
    found = []
    for line in swaps.splitlines()[1:]:
        path = line.split()[0] if line.split() else ""
        device = Path(os.path.realpath(path)).name
        uuid, backing = block / device / "dm" / "uuid", block / device / "backing_dev"
        encrypted = uuid.exists() and uuid.read_text().startswith("CRYPT-")
        only_memory = device.startswith("zram") and (not backing.exists() or backing.read_text().strip() == "none")
        if path and not encrypted and not only_memory:
            found.append(path)
    return found


def available(meminfo: str) -> int:
    """Bytes of memory that are free for new use, of the text of /proc/meminfo."""
    lines = (line.split() for line in meminfo.splitlines())
    return next((int(words[1]) << 10 for words in lines if words[0] == "MemAvailable:"), 0)


def file_systems(mountinfo: str) -> dict[str, str]:
    """Mount point → type, of the text of /proc/self/mountinfo (proc_pid_mountinfo(5)); of a place the last mount."""
    found = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        found[before.split()[4].encode().decode("unicode_escape")] = after.split()[0]
    return found


def _tmpfs(environ: Mapping[str, str]) -> list[Path]:
    """The usual folders that are in memory, and that we may write to."""
    mounts = file_systems(MOUNTS.read_text())
    usual = [Path(p).resolve() for p in (environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm") if p]
    return [p for p in usual if _type(p, mounts) in IN_MEMORY and os.access(p, os.W_OK | os.X_OK)]


def _type(path: Path, mounts: Mapping[str, str]) -> str:
    """The type of the file system that a real path lies on."""
    return next((mounts[str(p)] for p in (path, *path.parents) if str(p) in mounts), "")


def _roots(environ: Mapping[str, str]) -> list[Path]:
    usual = [data_home(environ) / "run" / FOLDER, *(p / _memory_name(environ) for p in _tmpfs(environ))]
    return [p for p in usual if p.is_dir() and p.lstat().st_uid == os.getuid()]


def _memory_name(environ: Mapping[str, str]) -> str:
    """Of the folder on a tmpfs that all share: a user's, and a folder of data's, own."""
    return f"{FOLDER}-{os.getuid()}-{dg.of_bytes(os.fsencode(data_home(environ).resolve()))[7:15]}"


def _private(folder: Path) -> Path:
    """The folder, made when absent. Raises HybError when it is another's, a link, or open to others."""
    with fs.explained(f"can't make `{folder}`"):
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HybError(f"`{folder}` is not a folder of yours alone", hint="remove it; hyb makes it anew")
    return folder


def _mb(size: int) -> str:
    return f"{-(-size // 1_000_000):,} MB"
