"""A bundle that came from somewhere: its document, its signature, its parts. Nothing in it is believed.

Of a part only the bytes are read that the document names, at the place that it names; the tar's own headers are never
looked at. A part is good when its sha256 is the document's, and each piece in it has its own digest: both are checked
in one pass.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hyb import fs, sealing
from hyb.errors import Exit, HybError
from hyb.formats import bundle as form
from hyb.formats.bundle import Bundle, Part, Piece
from hyb.progress import Progress, Say

if TYPE_CHECKING:
    from hyb.signing.keys import PublicKey

CHUNK = 4 << 20  # bytes read at a time


@dataclass(frozen=True)
class Opened:
    """A bundle's document, its bytes, and the folders in which its parts may lie."""

    bundle: Bundle
    document: bytes
    folders: tuple[Path, ...]
    signature: bytes = b""

    def part(self, part: Part) -> Path | None:
        """Where a part lies; None where no folder has it."""
        return next((f / part.name for f in self.folders if (f / part.name).is_file()), None)

    def pieces(self, number: int) -> list[Piece]:
        """The pieces of part `number`, in their order."""
        return [p for p in self.bundle.pieces if p.part == number]


class Sink(Protocol):
    """Takes the pieces of a part, in their order."""

    def begin(self, piece: Piece) -> None: ...
    def data(self, piece: Piece, data: memoryview) -> None: ...
    def end(self, piece: Piece) -> None: ...


class Nowhere:
    """A sink that keeps nothing."""

    def begin(self, piece: Piece) -> None:
        """Nothing."""

    def data(self, piece: Piece, data: memoryview) -> None:
        """Nothing."""

    def end(self, piece: Piece) -> None:
        """Nothing."""


def open_bundle(folders: Sequence[Path]) -> Opened:
    """Read the document; it lies in one of the folders (a bundle's own, or media that each hold some of its parts).

    Raises HybError: exit 3 where there is none or its version is newer, exit 4 where it is damaged.
    """
    if absent := [f for f in folders if not f.exists()]:
        raise HybError(f"`{absent[0]}` is not there")
    places = [f.parent if f.is_file() and f.name == form.FILE else f for f in folders]
    for place in places:
        path = place / form.FILE
        with fs.explained(f"can't read `{path}`"):
            if not path.is_file():
                continue
            document = fs.read_bounded(path, form.MOST)
            signature = place / form.SIGNATURE
            signed = fs.read_bounded(signature, 2 * form.MOST) if signature.is_file() else b""
        return Opened(form.parse(document, str(path)), document, tuple(places), signed)
    begun = any((p / ".hyb-bundle.json").is_file() for p in places)
    raise HybError(
        f"`{places[0]}` holds no bundle: there is no `{form.FILE}`",
        hint="`hyb bundle create` was cut off there; run it again" if begun else "give the folder with that file",
    )


def signer(opened: Opened, keys: Sequence[PublicKey]) -> str:
    """The id of the key that signed the document. Raises HybError (exit 4) when none of `keys` did."""
    from hyb.signing import dsse

    if not opened.signature:
        raise HybError(
            f"the bundle `{opened.bundle.name}` is not signed",
            code=Exit.CHECK,
            hint="ask whoever made it for one that is, with `hyb bundle create --sign-key`",
        )
    found = dsse.verify(opened.signature, form.PAYLOAD, keys)
    if found.payload != opened.document:
        raise HybError(
            f"the signature of the bundle `{opened.bundle.name}` is over another document",
            code=Exit.CHECK,
            hint=f"`{form.FILE}` was changed; copy both from the medium again",
        )
    return found.key_id


def vouched(
    opened: Opened, keys: Sequence[PublicKey], environ: Mapping[str, str], say: Say, *, allow_unsigned: bool = False
) -> str:
    """The id of the key that vouches for a bundle, or "" where none is asked for.

    `keys`: one of these must. Else the trust policy in force decides about the name `bundle/NAME`. Raises HybError
    (exit 4) when a signature is wanted and not there; `allow_unsigned` passes over the policy and says so.
    """
    if keys:
        return signer(opened, keys)
    from hyb.signing import policy as policies

    policy, name = policies.in_force(environ), f"bundle/{opened.bundle.name}"
    found = ""
    for rule in policy.trust.rules_for([name]) if policy else ():
        if rule.mode == "off":
            continue
        assert policy
        try:
            found = signer(opened, policy.usable(rule.keys))
        except HybError as error:
            if rule.mode == "enforce" and not allow_unsigned:
                raise HybError(
                    f"the trust policy refuses `{name}`: {error.message}",
                    code=Exit.CHECK,
                    hint=f"rule `{rule.pattern}` of `{policy.path}`; `--allow-unsigned` takes it all the same,"
                    " and that is recorded",
                ) from error
            say(f"trust: `{name}`: {error.message}" + ("; taken all the same" if allow_unsigned else ""))
    if not found:
        say(
            "nobody vouches for this bundle: its sums tell damage, not who made it"
            + (" (it is signed; `--key PUB` checks that)" if opened.signature else "")
        )
    return found


def verify(opened: Opened, identity: Path | None, say: Say) -> list[str]:
    """What is wrong with a bundle's parts, a line each: missing, damaged, exchanged. Reads every byte once.

    A sealed bundle without `identity` is checked part by part, without looking into them.
    """
    wrong: list[str] = []
    keys = sealing.identities(identity) if identity else []
    meter = Meter(say, f"verify {opened.bundle.name}", opened.bundle.size)
    for number in range(1, len(opened.bundle.parts) + 1):
        try:
            check_part(opened, number, Nowhere(), keys, meter.add)
        except HybError as error:
            wrong.append(error.message)
            meter.to(sum(p.size for p in opened.bundle.parts[:number]))
    return wrong


def papers(opened: Opened, keys: Sequence[PublicKey]) -> list[str]:
    """What is wrong with the papers for who has no hyb, a line each: README.txt with its commands, the sums, and their
    signature when `keys` are given. hyb itself believes none of them; what is absent is not judged."""
    place = next(f for f in opened.folders if (f / form.FILE).is_file())
    names = (form.README, form.SUMS, form.SUMS_SIGNATURE)
    with fs.explained(f"can't read what lies in `{place}`"):
        found = {n: fs.read_bounded(place / n, form.MOST) for n in names if (place / n).is_file()}
    if form.SUMS not in found:
        return []
    sums, wrong = found[form.SUMS], list[str]()
    readme = found.get(form.README)
    if readme is not None and form.sum_line(form.README, readme) not in sums.decode(errors="replace").splitlines():
        wrong.append(f"`{form.README}` is not the one that `{form.SUMS}` names: do nothing of what it says")
    others = [(form.FILE, opened.document), (form.SIGNATURE, opened.signature)]
    lines = form.sums(opened.bundle, [o for o in others if o[1]]).splitlines()
    if not set(lines) <= set(sums.splitlines()):
        wrong.append(f"`{form.SUMS}` is damaged, or of another bundle")
    elif keys and not any(k.verifies(found.get(form.SUMS_SIGNATURE, b""), sums) for k in keys):
        wrong.append(f"`{form.SUMS}` is not signed by any of the keys")
    return wrong


def check_part(
    opened: Opened, number: int, sink: Sink, keys: Sequence[Any], tell: Callable[[int], None] = lambda _: None
) -> None:
    """Read one part and give its pieces to `sink`; `end` is called for those alone that have their digest.

    `keys`: age identities; without any, a sealed part is hashed and not opened. Raises HybError: exit 3 when the part
    is missing, exit 4 when it is not what the document says.
    """
    part = opened.bundle.parts[number - 1]
    path = opened.part(part)
    if path is None:
        raise HybError(f"part {number} `{part.name}` is missing")
    with fs.explained(f"part {number}: can't read `{path}`"):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != part.size:
            raise _bad(opened, number, f"it has {status.st_size:,} bytes, not {part.size:,}")
        with path.open("rb", buffering=0) as stream, ThreadPoolExecutor(2) as pool:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            hasher = hashlib.sha256()
            chunks = _hashed(stream, hasher, pool, tell)
            inner: HybError | None = None
            try:
                if not opened.bundle.sealed:
                    cutter = _Cutter(opened.pieces(number), sink, pool)
                    for chunk in chunks:
                        cutter.write(chunk)
                elif keys:
                    cutter = _Cutter(opened.pieces(number), sink, pool)
                    sealing.unseal_stream(sealing.Reader(chunks), cutter, keys, part.name)
            except HybError as error:  # a wrong digest of the whole part says more
                if error.code is not Exit.CHECK or sealing.NO_KEY in error.message:
                    raise
                inner = error
            for _ in chunks:
                pass
        found = "sha256:" + hasher.hexdigest()
        if found != part.sha256:
            raise _bad(opened, number, _which(opened.bundle, found))
        if inner:
            raise _bad(opened, number, f"it is as its maker wrote it, and wrong: {inner.message}")


def _hashed(stream: Any, hasher: Any, pool: ThreadPoolExecutor, tell: Callable[[int], None]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        hashing = pool.submit(hasher.update, chunk)
        yield chunk
        hashing.result()
        tell(len(chunk))


def _which(bundle: Bundle, found: str) -> str:
    """What a part is that has the size and not the content."""
    for number, part in enumerate(bundle.parts, 1):
        if part.sha256 == found:
            return f"it holds part {number}"
    return "it is damaged, or of another bundle"


def _bad(opened: Opened, number: int, why: str) -> HybError:
    part = opened.bundle.parts[number - 1]
    return HybError(
        f"part {number} `{part.name}`: {why}", code=Exit.CHECK, hint="copy this part again; the others need not be"
    )


class _Cutter:
    """Cuts the pieces out of a part's stream by their places, and checks the digest of each."""

    def __init__(self, pieces: Sequence[Piece], sink: Sink, pool: ThreadPoolExecutor) -> None:
        self.left, self.sink, self.pool, self.at = list(reversed(pieces)), sink, pool, 0
        self.hasher = hashlib.sha256()
        self.begun = False

    def write(self, data: bytes) -> None:
        """The next bytes of the stream."""
        view, begin = memoryview(data), self.at
        self.at += len(data)
        while self.left:
            piece = self.left[-1]
            if piece.offset > self.at or (piece.offset == self.at and piece.size):
                return
            if not self.begun:
                self.sink.begin(piece)
                self.hasher, self.begun = hashlib.sha256(), True
            end = piece.offset + piece.size
            mine = view[max(0, piece.offset - begin) : max(0, end - begin)]
            if len(mine) > CHUNK // 8:
                hashing = self.pool.submit(self.hasher.update, mine)
                self.sink.data(piece, mine)
                hashing.result()
            else:
                self.hasher.update(mine)
                self.sink.data(piece, mine)
            if end > self.at:
                return
            if "sha256:" + self.hasher.hexdigest() != piece.digest:
                raise HybError(f"`{piece.item}` has other bytes in it", code=Exit.CHECK)
            self.sink.end(piece)
            self.left.pop()
            self.begun = False


class Meter:
    """Bytes of a whole, told to somebody."""

    def __init__(self, say: Say, task: str, total: int) -> None:
        self.say, self.task, self.total, self.done = say, task, total, 0

    def add(self, count: int) -> None:
        """So many more."""
        self.to(self.done + count)

    def to(self, done: int) -> None:
        """So many in all."""
        self.done = done
        self.say(Progress(self.task, done, self.total, "B"))
