"""Files sealed to recipients in the age format, by the library pyrage; `age` and `rage` open them, too.

A stream at a time: memory does not grow with the file. age authenticates chunk by chunk, so a damaged file gives some
right bytes before it gives an error: whoever unseals checks the end, and names nothing before it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from hyb import fs
from hyb.errors import Exit, HybError

SUFFIX = ".age"
NO_KEY = "o matching keys"
"""Stands in the error of somebody else's private key."""
_MOST = 1 << 16  # bytes of a file of keys
_HINT = "an age key (`age1…`), an SSH public key, or a file with such, one a line"


def recipients(texts: Sequence[str]) -> list[Any]:
    """The recipients that are meant: each text is a public key or a file of them.

    Raises HybError (exit 3) with every text that is none; a private key among them is said so.
    """
    found, wrong = [], []
    for text in texts:
        path = Path(text).expanduser()
        lines = [text]
        if not text.startswith(("age1", "ssh-")):
            with (
                fs.explained(f"can't read the recipients `{text}`"),
                path.open(encoding="utf-8", errors="replace") as f,
            ):
                lines = [x.strip() for x in f.read(_MOST).splitlines() if x.strip() and not x.startswith("#")]
        if any("AGE-SECRET-KEY-" in x or "PRIVATE KEY" in x for x in lines):
            raise HybError(f"`{path}` is a private key; to seal, its public half is wanted",
                           hint=f"`age-keygen -y {path}` prints it; keep the private one to its owner")  # fmt: skip
        got = [(line, _recipient(line)) for line in lines]
        wrong += [f"`{line[:80]}`" for line, key in got if key is None]
        found += [key for _, key in got if key is not None]
        wrong += [] if lines else [f"`{path}` is empty"]
    if wrong:
        raise HybError("there are recipients that are none", details=wrong, hint=_HINT)
    return found


def _recipient(line: str) -> Any:
    import pyrage

    for kind in (pyrage.x25519, pyrage.tagpq, pyrage.tag, pyrage.ssh):
        try:
            return kind.Recipient.from_str(line)
        except (pyrage.RecipientError, ValueError):
            continue
    return None


def identities(path: Path) -> list[Any]:
    """The private keys of a file that only its owner can read (age's own, or one SSH key). Raises HybError (exit 3)."""
    import pyrage

    with fs.explained(f"can't read the identity `{path}`"):
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise HybError(f"others can read the private key `{path}`", hint=f"`chmod 600 {path}`")
        data = path.read_bytes()[:_MOST]
    found: list[Any] = []
    try:
        if b"PRIVATE KEY" in data:
            found.append(pyrage.ssh.Identity.from_buffer(data))
        else:
            lines = [x.strip() for x in data.decode().splitlines() if x.strip() and not x.startswith("#")]
            found += [pyrage.x25519.Identity.from_str(x) for x in lines]
    except (pyrage.IdentityError, ValueError) as error:
        raise HybError(
            f"`{path}` holds no private key that can be used", hint="`age-keygen -o FILE` makes one"
        ) from error
    if not found:
        raise HybError(f"`{path}` holds no private key", hint="`age-keygen -o FILE` makes one")
    return found


def seal(source: BinaryIO, target: Path, recipients: Sequence[str]) -> None:
    """Write `source`, sealed to `recipients` (see `recipients`), to `target`, whole or not at all. Raises HybError."""
    partial = target.with_name(f".{target.name}.partial")
    with fs.explained(f"can't write `{target}`"):
        try:
            with partial.open("wb") as out:
                seal_stream(source, out, globals()["recipients"](recipients))
                out.flush()
                os.fsync(out.fileno())
            partial.replace(target)
            fs.sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)


def unseal(source: Path, target: Path, identity: Path) -> None:
    """Write what `source` holds, opened with the private key in `identity`, to `target` (0600), whole or not at all.

    Raises HybError: exit 4 when it is damaged or for somebody else.
    """
    partial = target.with_name(f".{target.name}.partial")
    with fs.explained(f"can't write `{target}`"):
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with source.open("rb") as stream, os.fdopen(descriptor, "wb") as out:
                unseal_stream(stream, out, identities(identity), str(source))
                out.flush()
                os.fsync(out.fileno())
            partial.replace(target)
            fs.sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)


def seal_stream(source: Any, out: Any, keys: Sequence[Any]) -> None:
    """Seal a stream into another (objects with `read` and `write`). Raises what these raise."""
    import pyrage

    kept = _Kept(source, out)
    try:
        pyrage.encrypt_io(kept, kept, list(keys))
    except (pyrage.EncryptError, OSError):
        if kept.error:
            raise kept.error from None
        raise


def unseal_stream(source: Any, out: Any, keys: Sequence[Any], what: str) -> None:
    """Open a sealed stream into another. Raises HybError (exit 4), and what the streams raise; some of `out` may be
    written by then."""
    import pyrage

    kept = _Kept(source, out)
    try:
        pyrage.decrypt_io(kept, kept, list(keys))
    except (pyrage.DecryptError, OSError) as error:
        if kept.error:
            raise kept.error from None
        text = str(error)
        hint = "give the private key of one of its recipients" if NO_KEY in text else "copy it again"
        raise HybError(f"`{what}` can't be opened: {text[:1].lower()}{text[1:]}", hint=hint, code=Exit.CHECK) from error


class _Kept:
    """Two streams, and what went wrong with them: the library tells only the text of it."""

    def __init__(self, source: Any, out: Any) -> None:
        self.source, self.out = source, out
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self.source.read(size))
        except (OSError, HybError) as error:
            self.error = error
            raise

    def write(self, data: bytes) -> int:
        try:
            self.out.write(data)
        except (OSError, HybError) as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing: whoever opened the file does it."""


class Reader:
    """A stream's bytes for pyrage; `seen` is told of each chunk."""

    def __init__(self, chunks: Any, seen: Callable[[bytes], None] = lambda _: None) -> None:
        self.chunks, self.seen, self.rest = chunks, seen, b""

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; b"" at the end."""
        while not self.rest:
            chunk = next(self.chunks, None)
            if chunk is None:
                return b""
            self.seen(chunk)
            self.rest = chunk
        if size < 0:
            size = len(self.rest)
        data, self.rest = self.rest[:size], self.rest[size:]
        return bytes(data)
