"""Writing a bundle: each part in one pass, read once, hashed while it is written; killed anywhere, it goes on.

A part is written under another name, synced and renamed. After each one a note (`.hyb-bundle.json`) says what is done:
the next run hashes these parts and keeps those that are as noted, so it writes at most one part twice. The document
comes last, and the note goes: a folder with a document holds a whole bundle.

Every item is hashed against its digest on the way, too: a store that rotted is found here and not behind the gap.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hyb import digest as dg
from hyb import fs, sealing
from hyb.artifact import INDEX, MANIFEST, REF
from hyb.bundle.gather import Gathered
from hyb.errors import HybError
from hyb.formats import bundle as form
from hyb.formats import tar
from hyb.formats.bundle import Bundle, Item, Part, Piece, Planned
from hyb.formats.oci import LAYOUT
from hyb.progress import Progress, Say
from hyb.render import bundle_readme
from hyb.store import Store

if TYPE_CHECKING:
    from hyb.signing.keys import PrivateKey

NOTE = ".hyb-bundle.json"
CHUNK = 4 << 20  # bytes read at a time
FAT_MOST = (4 << 30) - 1
_MEDIUM = re.compile(
    r"lost\+found|System Volume Information|\$RECYCLE\.BIN|\.(Trash\S*|fseventsd|Spotlight-V100|DS_Store)"
)
"""What computers put onto every medium."""


@dataclass(frozen=True)
class Made:
    """What was written: the document, bytes of parts that were new, and that were there from a run before."""

    bundle: Bundle
    written: int
    kept: int


@dataclass(frozen=True)
class How:
    """`most`: bytes of a part. `recipients`: whom it is sealed to. `key`: who signs it."""

    most: int
    recipients: tuple[str, ...] = ()
    key: PrivateKey | None = None
    python: str = ""
    platforms: tuple[str, ...] = ()


def foresee(name: str, gathered: Gathered, how: How) -> tuple[Bundle, list[Planned], dict[str, bytes]]:
    """The document without sums, the plan of the parts, and the small files that are made here: digest → bytes.

    Raises HybError (exit 3) for a name that can't travel, and for parts that are too small."""
    extra = {dg.of_bytes(d): (p, d) for p, d in _layout(gathered).items()}
    first = [Item(p, d, len(b)) for d, (p, b) in extra.items()]
    items = [*first, *(i for i in gathered.items if i.digest not in extra)]
    plan = form.plan(items, _within(how))
    identity = dg.of_json([
        form.VERSION, name, [asdict(i) for i in items], dict(gathered.files), [asdict(c) for c in gathered.contents],
        sorted(gathered.steps.items()), sorted(gathered.assumes), gathered.base, how.most, sorted(how.recipients),
        how.python, how.platforms, gathered.left_out,
    ]).removeprefix("sha256:")  # fmt: skip
    sealed = bool(how.recipients)
    parts = tuple(Part(form.part_name(name, identity, n, sealed=sealed), p.length) for n, p in enumerate(plan, 1))
    bundle = Bundle(
        name, identity, gathered.contents, {i.digest: i.size for i in items}, (), parts, gathered.files,
        gathered.assumes, gathered.steps, gathered.base, sealed, how.python, how.platforms, gathered.left_out,
    )  # fmt: skip
    try:
        form.check(bundle)
    except (ValueError, HybError) as error:  # what a load would refuse
        raise HybError(f"`{name}` can't be bundled: {error}", hint="rename it") from error
    return bundle, plan, {d: b for d, (_, b) in extra.items()}


def write(store: Store, name: str, gathered: Gathered, out: Path, how: How, say: Say) -> Made:
    """Write the bundle into `out`. Raises HybError: exit 3 when there is no room or the folder holds something else,
    exit 4 when the store is damaged."""
    bundle, plan, extra = foresee(name, gathered, how)
    with fs.explained(f"can't write the bundle to `{out}`", also="what is whole there is kept; run it again to go on"):
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            _check_folder(out, bundle)
            done = _noted(out, bundle)
            _check_document(bundle, plan)
            _check_room(out, bundle, how, done)
            job = _Job(store, out, bundle, plan, extra, how, say)
            if not (out / form.FILE).exists():
                job.note(done)
            for number in range(1, len(plan) + 1):
                if not job.keep(number, done.get(number)):
                    job.write(number)
            whole = replace(bundle, parts=tuple(job.parts), pieces=tuple(job.pieces))
            _documents(out, whole, plan, how)
    return Made(whole, job.written, job.kept)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    path = out / ".hyb-bundle.lock"
    try:
        with fs.locked(path, wait=False):
            yield
            path.unlink(missing_ok=True)
    except BlockingIOError as error:
        raise HybError(f"another hyb is writing to `{out}`", hint="wait for it") from error


def _layout(gathered: Gathered) -> dict[str, bytes]:
    """`oci-layout` and an index of what lies under blobs/ with all that it names."""
    sizes = {i.digest: i.size for i in gathered.items} | dict(gathered.assumes)
    entries: list[dict[str, Any]] = []
    for content in gathered.contents:
        if content.kind != "wheels":
            entry = {"mediaType": MANIFEST, "digest": content.digest, "size": sizes[content.digest]}
            entries += [{**entry, "annotations": {REF: n}} for n in content.names] or [entry]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    return {"oci-layout": LAYOUT, "index.json": dg.canonical_json(index)}


def _check_folder(out: Path, bundle: Bundle) -> None:
    """Raise HybError unless the folder is empty or holds this very bundle, whole or begun."""
    ours = {form.FILE, form.SIGNATURE, form.SUMS, form.SUMS_SIGNATURE, form.README, NOTE, ".hyb-bundle.lock"}
    cut = [p for p in out.iterdir() if p.name.startswith(".") and p.name.endswith(".tmp")]
    found = {p.name for p in out.iterdir() if not _MEDIUM.fullmatch(p.name)} - {p.name for p in cut}
    noted = _read(out / NOTE) or _read(out / form.FILE)
    if found - {".hyb-bundle.lock"} and noted.get("id") != bundle.identity:
        what = "another bundle, or one of another state" if noted else "something else"
        raise HybError(f"`{out}` holds {what}", hint="give a folder that is empty or does not exist yet")
    names = {p.name for p in bundle.parts} | {_partial(p.name) for p in bundle.parts}
    if strange := sorted(found - ours - names):
        raise HybError(f"`{out}` holds what is not of this bundle", details=strange[:10], hint="give an empty folder")
    for path in cut:  # of a write that was killed
        path.unlink(missing_ok=True)


def _check_document(bundle: Bundle, plan: Sequence[Planned]) -> None:
    """Raise HybError when the document will be larger than a reader takes. Sums not yet known have a known length."""
    pieces = [
        Piece(item.digest, number, offset, at, size, item.digest)
        for number, part in enumerate(plan, 1)
        for (item, at, size, _), offset in zip(part.entries, part.offsets, strict=True)
    ]
    parts = [replace(p, size=p.length, sha256=f"sha256:{bundle.identity}") for p in bundle.parts]
    length = len(form.dump(replace(bundle, pieces=tuple(pieces), parts=tuple(parts))))
    if length > form.MOST - 32 * len(parts):  # a sealed part's size may have more digits
        raise HybError(f"the bundle's document would have {length:,} bytes, and {form.MOST:,} are the most",
                       hint="make few files of a data set's many small ones; nothing was written")  # fmt: skip


def _noted(out: Path, bundle: Bundle) -> dict[int, dict[str, Any]]:
    """Number → what is noted of a part that was finished: by a run that was killed, or by the whole document."""
    if whole := _read(out / form.FILE):
        try:
            known = form.parse((out / form.FILE).read_bytes(), form.FILE)
        except HybError:
            return {}
        if known.identity == bundle.identity and whole:
            return {
                n: {"size": p.size, "sha256": p.sha256, "digests": [x.digest for x in known.pieces if x.part == n]}
                for n, p in enumerate(known.parts, 1)
            }
    noted = _read(out / NOTE)
    parts = noted.get("parts", {}) if noted.get("id") == bundle.identity else {}
    return {int(n): p for n, p in parts.items()} if isinstance(parts, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _check_room(out: Path, bundle: Bundle, how: How, done: dict[int, dict[str, Any]]) -> None:
    wanted = sum(_on_disk(p.length, how) for n, p in enumerate(bundle.parts, 1) if n not in done)
    free = shutil.disk_usage(out).free
    if wanted > free:
        raise HybError(f"the bundle needs {wanted:,} bytes more in `{out}`, and {free:,} are free",
                       hint="free some space, or give another folder; nothing was written")  # fmt: skip
    largest = max((p.length for p in bundle.parts), default=0)
    if largest > FAT_MOST and _is_fat(out):
        raise HybError(f"`{out}` is a FAT file system, which holds no file of 4 GiB", hint="`--max-size 4G` fits it")


def _on_disk(length: int, how: How) -> int:
    """Bytes of a part's file at most: age adds 16 of each 64 KiB, and a header with a stanza a recipient."""
    return length + (length // 4096 + 4096 * (1 + len(how.recipients)) if how.recipients else 0)


def _within(how: How) -> int:
    """Bytes of a part's tar, so that its file has `how.most` at most."""
    if not how.recipients:
        return how.most
    most = (how.most - 4096 * (1 + len(how.recipients))) * 4096 // 4097
    if most < form.SMALLEST // 2 + 4096:
        raise HybError(f"parts of {how.most:,} bytes are too small for {len(how.recipients)} recipients",
                       hint="a larger `--max-size`")  # fmt: skip
    return most


def _is_fat(out: Path) -> bool:
    best, kind = "", ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
            _, place, found, *_ = line.split()
            place = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), place)
            if out.resolve().is_relative_to(place) and len(place) >= len(best):
                best, kind = place, found
    return kind in ("vfat", "msdos")


def _partial(name: str) -> str:
    return f".{name}.partial"


class _Job:
    """The parts of one bundle on their way."""

    def __init__(
        self,
        store: Store,
        out: Path,
        bundle: Bundle,
        plan: Sequence[Planned],
        extra: dict[str, bytes],
        how: How,
        say: Say,
    ) -> None:
        self.store, self.out, self.bundle, self.plan, self.extra, self.how, self.say = (
            store, out, bundle, plan, extra, how, say,
        )  # fmt: skip
        self.parts: list[Part] = []
        self.pieces: list[Piece] = []
        self.notes: dict[int, dict[str, Any]] = {}
        self.total, self.done = sum(p.length for p in bundle.parts), 0
        self.written = self.kept = 0
        self.split: dict[str, Any] = {}
        self.keys = sealing.recipients(how.recipients) if how.recipients else []

    def keep(self, number: int, noted: dict[str, Any] | None) -> bool:
        """True when this part is there as a run before noted it."""
        part = self.bundle.parts[number - 1]
        path = self.out / part.name
        try:
            if not noted or path.stat().st_size != noted["size"]:
                return False
            if dg.of_file(path, self._tell)[0] != noted["sha256"]:
                self.done = sum(p.length for p in self.bundle.parts[: number - 1])
                return False
            digests = [str(d) for d in noted["digests"]]
        except (OSError, KeyError, TypeError):
            return False
        if len(digests) != len(self.plan[number - 1].entries):
            return False
        for item, at, size, path_in_tar in self.plan[number - 1].entries:
            if path_in_tar != item.path:
                self._feed(item, at, size)
        self._finish(number, noted["size"], noted["sha256"], digests)
        self.kept += noted["size"]
        return True

    def write(self, number: int) -> None:
        """Write one part."""
        part, planned = self.bundle.parts[number - 1], self.plan[number - 1]
        partial, digests = self.out / _partial(part.name), list[str]()
        with partial.open("wb", buffering=0) as raw, ThreadPoolExecutor(2) as pool:
            hashed = _Hashed(raw, pool)
            chunks = self._chunks(planned, digests, pool)
            if self.keys:
                sealing.seal_stream(sealing.Reader(chunks), hashed, self.keys)
            else:
                for chunk in chunks:
                    hashed.write(chunk)
            os.fsync(raw.fileno())
        partial.replace(self.out / part.name)
        fs.sync_folder(self.out)
        self._finish(number, hashed.size, hashed.digest, digests)
        self.written += hashed.size
        self.notes[number] = {"size": hashed.size, "sha256": hashed.digest, "digests": digests}
        self.note(self.notes)

    def _finish(self, number: int, size: int, sha256: str, digests: Sequence[str]) -> None:
        part, planned = self.bundle.parts[number - 1], self.plan[number - 1]
        self.parts.append(replace(part, size=size, sha256=sha256))
        self.notes[number] = {"size": size, "sha256": sha256, "digests": list(digests)}
        for (item, at, length, _), offset, digest in zip(planned.entries, planned.offsets, digests, strict=True):
            self.pieces.append(Piece(item.digest, number, offset, at, length, digest))

    def note(self, parts: Mapping[int, Mapping[str, Any]]) -> None:
        """Note whose folder this is, and what is done."""
        fs.write_atomic(self.out / NOTE, json.dumps({"id": self.bundle.identity, "parts": parts}).encode())

    def _chunks(self, planned: Planned, digests: list[str], pool: ThreadPoolExecutor) -> Iterator[bytes]:
        """The tar of a part; the digest of each piece is added to `digests`. Hashing goes on beside the writing."""
        at = 0
        for (item, start, size, path), offset in zip(planned.entries, planned.offsets, strict=True):
            head = tar.header(tar.Entry(path, size, _never), at)
            assert at + len(head) == offset
            yield head
            hasher = hashlib.sha256()
            whole = self.split.setdefault(item.digest, hashlib.sha256()) if path != item.path else None
            for chunk in self._content(item, start, size):
                own = _hash(pool, hasher, chunk)
                if whole:
                    whole.update(chunk)
                yield chunk
                if own:
                    own.result()
                self._tell(len(chunk))
            digests.append("sha256:" + hasher.hexdigest())
            if start + size == item.size:
                found = "sha256:" + (whole or hasher).hexdigest()
                self.split.pop(item.digest, None)
                if found != item.digest:
                    raise self.store._damaged(item.digest)
            if padding := -size % tar.BLOCK:
                yield bytes(padding)
            at = offset + size + padding
        yield tar.END

    def _feed(self, item: Item, start: int, size: int) -> None:
        """A piece that is kept counts for the hash of the whole."""
        whole = self.split.setdefault(item.digest, hashlib.sha256())
        for chunk in self._content(item, start, size):
            whole.update(chunk)
        if start + size == item.size:
            self.split.pop(item.digest)

    def _content(self, item: Item, start: int, size: int) -> Iterator[bytes]:
        stream: BinaryIO
        if item.digest in self.extra:
            stream = io.BytesIO(self.extra[item.digest])
        else:
            stream = self.store.blob_path(item.digest).open("rb", buffering=0)
        with stream:
            stream.seek(start)
            left = size
            while left:
                chunk = stream.read(min(CHUNK, left))
                if not chunk:
                    raise self.store._damaged(item.digest)
                left -= len(chunk)
                yield chunk

    def _tell(self, count: int) -> None:
        self.done += count
        self.say(Progress(f"bundle {self.bundle.name}", min(self.done, self.total), self.total, "B"))


class _Hashed:
    """A file that is written from its start; the hash is computed in a thread while the disk takes the bytes."""

    def __init__(self, raw: Any, pool: ThreadPoolExecutor) -> None:
        self.raw, self.pool, self.hasher, self.size = raw, pool, hashlib.sha256(), 0

    @property
    def digest(self) -> str:
        return "sha256:" + self.hasher.hexdigest()

    def write(self, data: bytes) -> None:
        """Write all of `data`."""
        data = bytes(data)
        hashing = _hash(self.pool, self.hasher, data)
        view = memoryview(data)
        while view:
            view = view[self.raw.write(view) :]
        if hashing:
            hashing.result()
        self.size += len(data)


def _hash(pool: ThreadPoolExecutor, hasher: Any, data: bytes) -> Future[None] | None:
    """Hash a large piece in a thread, a small one at once."""
    if len(data) > CHUNK // 4:
        return pool.submit(hasher.update, data)
    hasher.update(data)
    return None


def _never() -> BinaryIO:
    raise AssertionError("contents are written from the store")


def _documents(out: Path, bundle: Bundle, plan: Sequence[Planned], how: How) -> None:
    """Sums, README, signatures, and last the document, which says that all is there."""
    document = form.dump(bundle)
    readme = bundle_readme.text(bundle, plan, signed=how.key.public.kind if how.key else "")
    signature = b""
    if how.key:
        from hyb.signing import dsse

        signature = dsse.sign(document, form.PAYLOAD, how.key)
    others = [(form.FILE, document), (form.README, readme), *([(form.SIGNATURE, signature)] if signature else [])]
    sums = form.sums(bundle, others)
    for name, data in [(form.README, readme), (form.SUMS, sums)]:
        fs.write_atomic(out / name, data)
    if how.key:
        fs.write_atomic(out / form.SIGNATURE, signature)
        fs.write_atomic(out / form.SUMS_SIGNATURE, how.key.sign(sums))
    else:
        (out / form.SIGNATURE).unlink(missing_ok=True)
        (out / form.SUMS_SIGNATURE).unlink(missing_ok=True)
    fs.write_atomic(out / form.FILE, document)
    (out / NOTE).unlink(missing_ok=True)
    for part in bundle.parts:
        (out / _partial(part.name)).unlink(missing_ok=True)
