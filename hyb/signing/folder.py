"""A plain folder of a model and a signature beside it: what `model_signing` signs and verifies, by its format.

Every entry counts. A link, a device, an empty folder is refused; so is what model-signing would pass over by itself
(`.git`, `.gitattributes`, `.github`, `.gitignore`): something could hide there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hyb import digest as dg
from hyb import fs
from hyb.artifact import safe_path
from hyb.errors import Exit, HybError
from hyb.progress import Progress, Say
from hyb.signing import dsse, model
from hyb.signing.keys import PrivateKey, PublicKey

PASSED_OVER = frozenset({".git", ".gitattributes", ".github", ".gitignore"})
WORKERS = 4  # files hashed at a time; hashing lets other threads run


def sign(folder: Path, key: PrivateKey, say: Say, signature: Path | None = None) -> bytes:
    """The bundle over all files of `folder` but `signature` itself. Raises HybError (exit 3): all that is no file."""
    files, wrong = look(folder, say, signature)
    if wrong or not files:
        raise HybError(f"`{folder}` can't be signed", details=wrong or ["there is no file in it"],
                       hint="sign a folder that holds the model's files and nothing else")  # fmt: skip
    name = folder.resolve().name or "model"
    return dsse.sign(model.statement(name, files), dsse.IN_TOTO, key)


def verify(folder: Path, signature: Path, keys: Sequence[PublicKey], say: Say) -> tuple[str, int]:
    """(id of the key, number of files) when one of `keys` signed exactly what is in `folder`.

    Raises HybError: exit 3 for files that can't be read, exit 4 for every difference, all of them together.
    """
    with fs.explained(f"can't read the signature `{signature}`"):
        bundle = fs.read_bounded(signature, dsse.MOST)
    found = dsse.verify(bundle, dsse.IN_TOTO, keys)
    signed = model.read(found.payload)
    here, wrong = look(folder, say, signature)
    wrong += model.compare(signed.files, here)
    if wrong:
        raise HybError(f"`{folder}` is not what was signed", details=wrong[:100], code=Exit.CHECK,
                       hint="take it anew from where it was signed")  # fmt: skip
    return found.key_id, len(here)


def look(folder: Path, say: Say, signature: Path | None = None) -> tuple[dict[str, str], list[str]]:
    """(path → digest of all regular files but `signature`, what else is there). Raises HybError."""
    own = signature.absolute() if signature else None
    with fs.explained(f"can't read `{folder}`"):
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise HybError(f"`{folder}` is no folder")
        entries = [(p, w) for p, w in _walk(folder) if p.absolute() != own]
        paths = [p for p, wrong in entries if not wrong]
        total, done = sum(p.lstat().st_size for p in paths), 0
        files = {}
        with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
            for path, (digest, size) in zip(paths, pool.map(_hashed, paths), strict=True):
                files[safe_path(path.relative_to(folder).as_posix())] = digest
                done += size
                say(Progress("hash", done, total, "B"))
    return files, [f"`{p.relative_to(folder)}` {wrong}" for p, wrong in entries if wrong]


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every entry that counts, and why it is refused ("" for a plain file). Links are not followed."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda e: e.name)
    if not entries:
        yield folder, "is an empty folder"
    for entry in entries:
        path, mode = Path(entry.path), entry.stat(follow_symlinks=False).st_mode
        if entry.name in PASSED_OVER:
            yield path, "is what other verifiers pass over: remove it"
        elif stat.S_ISDIR(mode):
            yield from _walk(path)
        else:
            yield path, "" if stat.S_ISREG(mode) else "is a link or a device, no plain file"


def _hashed(path: Path) -> tuple[str, int]:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
        return dg.of_stream(stream)
