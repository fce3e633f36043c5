"""What a person brings: the file with the passphrase of the CA's key, and a CA of their own.

A passphrase is never an argument: other users see those. Files that others can read are refused and not closed, as
they are the user's.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from hyb import fs
from hyb.certificates import Pair, authority_mistakes, decrypted, encrypted, is_encrypted, split_pem
from hyb.credentials import kept
from hyb.credentials.rotate import refuse_unfinished
from hyb.errors import HybError

_LONGEST = 1023  # bytes of a passphrase that OpenSSL takes


def read_passphrase(path: Path) -> bytes:
    """The first line of a file of mode 0600 (or of a pipe). Raises HybError when it is empty, too long or open."""
    data = fs.read_private(path, "the passphrase file")
    line = data.partition(b"\n")[0].removesuffix(b"\r")
    if not line.strip():
        raise HybError(f"the first line of the passphrase file `{path}` is empty",
                       hint=f"`(umask 077; openssl rand -base64 32 > {path})` writes a good one")  # fmt: skip
    if len(line) > _LONGEST:
        raise HybError(f"the passphrase in `{path}` has {len(line)} bytes; {_LONGEST} are the most")
    return line


def read_authority(
    certificate: Path, key: Path | None, now: datetime, *, passphrase: bytes | None = None, for_skupper: bool = False
) -> Pair:
    """A user's own CA, its key open: from one PEM file with both, or from two. Raises HybError: all that is wrong."""
    with fs.explained(f"can't read `{certificate}`"):
        found = split_pem(fs.read_bounded(certificate))
    if key is not None or found.key:
        fs.refuse_open(key or certificate, "the key of the CA")
    if key is not None:
        second = split_pem(fs.read_private(key, "the key of the CA"))
        found = Pair(found.certificate, found.key + second.key)
    mistakes = []
    if is_encrypted(found.key):
        if passphrase is None:
            mistakes = ["its key is encrypted: give `--ca-passphrase-file FILE`"]
        else:
            try:
                found = decrypted(found, passphrase)
            except ValueError as error:
                mistakes = [f"its key {error}"]
    mistakes = mistakes or authority_mistakes(found, now, for_skupper=for_skupper)
    if mistakes:
        raise HybError(f"`{certificate}` can't be the CA of a link", details=mistakes,
                       hint="leave it out, and hyb makes one; docs/credentials.md says what a CA needs")  # fmt: skip
    return decrypted(found, None)


def change_passphrase(folder: Path, name: str, old: bytes | None, new: bytes | None) -> None:
    """Encrypt the CA's key with `new`, or leave it open when that is None; `old` opens it now.

    Raises HybError when `old` is missing or wrong; nothing is changed then. A call that was killed between two keys
    is ended by the same call again.
    """
    with kept.opened(folder), fs.explained(f"can't keep credentials in `{folder}`"):
        refuse_unfinished(name, kept.read_state(folder))
        found = {path: pair for path in (folder / kept.CA, folder / kept.COMING) if (pair := kept.read(path))}
        if not found:
            raise kept.no_credentials(name)
        opened = {path: _opened(name, pair, [old, new]) for path, pair in found.items()}
        for path, pair in opened.items():
            kept.write(path, encrypted(pair, new) if new else pair)


def _opened(name: str, pair: Pair, passphrases: list[bytes | None]) -> Pair:
    if not is_encrypted(pair.key):
        return decrypted(pair, None)
    for passphrase in filter(None, passphrases):
        try:
            return decrypted(pair, passphrase)
        except ValueError:
            continue
    what = "does not open the key" if passphrases[0] else "is needed to open the key"
    raise HybError(f"the passphrase {what} of the CA of `{name}`",
                   hint="nothing was changed; `--ca-passphrase-file FILE` is what it was encrypted with")  # fmt: skip
