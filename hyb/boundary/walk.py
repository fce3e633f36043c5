"""Files, folders, and archives within archives: each content is a stream, and each stream is watched.

Nothing is unpacked to disk, but a zip within another archive: a zip is read from its end (what is spooled has no name).
Links are not followed: what they point to is looked at where it lies, if it is to be looked at at all.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from hyb.boundary import documents, signed, targets
from hyb.boundary.report import Place, Report, Violation
from hyb.boundary.streams import CHUNK, BrokenError, Budget, Decompressed, SpentError
from hyb.boundary.watch import Hit, Watch, Watcher
from hyb.errors import HybError
from hyb.formats import manifest_fields, prompts, recognise, tar_read
from hyb.formats.boundary import Boundary
from hyb.formats.tar_read import Reader
from hyb.progress import Progress, Say, silent

DEPTH = 10
"""Archives within archives."""
SPOOLED = 1 << 30
"""Bytes of a zip within another archive."""
_COMPRESSED = ("gzip", "zstd", "bzip2", "xz")
_ENDINGS = (".gz", ".tgz", ".zst", ".bz2", ".xz")
_TORCH = ("data.pkl",)


@dataclass(frozen=True)
class Where:
    """What is known of a stream before it is read. `tars`: how many of the archives around it are tars; two of them
    are an image. `secret`: it stands in the data of a Secret."""

    place: Place
    name: str
    depth: int = 0
    tars: int = 0
    image: bool = False
    secret: bool = False

    def inside(self, member: str, **more: bool) -> Where:
        """Where a member of this archive stands."""
        return replace(self, place=self.place.within(member), name=member, depth=self.depth + 1, **more)


class _Headed:
    """A stream whose first bytes were read already, counted and watched as it goes by."""

    def __init__(self, head: bytes, source: Reader, watch: Watch | None) -> None:
        self.head, self.source, self.watch = head, source, watch

    def read(self, size: int, /) -> bytes:
        if self.head:
            data, self.head = self.head[:size], self.head[size:]
        else:
            data = self.source.read(size)
        if data and self.watch:
            self.watch.feed(data)
        return data


class Walker:
    """Looks at everything below the paths that it is given, into one report."""

    def __init__(self, watcher: Watcher, boundary: Boundary, signatures: signed.Signed, say: Say = silent) -> None:
        self.watcher, self.boundary, self.signatures, self.say = watcher, boundary, signatures, say
        self.report = Report()
        self.keys = documents.Keys(authorities=dict(watcher.targets.authorities))
        self.adapters: list[tuple[str, Violation]] = []
        self.budget = Budget(0)

    def path(self, path: Path, shown: str) -> None:
        """A file, or all files of a folder. Raises HybError (exit 3) for what can't be read or is neither."""
        if path.is_dir():
            for file in _files(path):
                if stat.S_ISREG(file.lstat().st_mode):
                    self.file(file, str(Path(shown) / file.relative_to(path)), image=_in_image(file, path))
                else:
                    self.report.links += 1
        else:
            self.file(path, shown, image=False)

    def file(self, path: Path, shown: str, *, image: bool) -> None:
        """One file."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise HybError(f"`{shown}` can't be read: {os.strerror(error.errno or 0).lower()}") from error
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise HybError(f"`{shown}` is no file", hint="give files and folders")
            self.report.files += 1
            self.budget = Budget(status.st_size)
            self.say(Progress("boundary", self.report.bytes, None, "B", note=shown))
            try:
                self.stream(stream, Where(Place(shown), path.name, image=image), status.st_size, stream)
            except SpentError as error:
                self.report.add(Violation("unreadable", str(error), Place(shown)))
            except OSError as error:
                raise HybError(f"`{shown}` can't be read: {os.strerror(error.errno or 0).lower()}") from error

    def stream(self, source: Reader, where: Where, size: int | None = None, file: BinaryIO | None = None) -> None:
        """One stream to its end. `size`: its bytes, where they are known. `file`: the open file that it is, if any.

        Raises BrokenError or TarError when `source` itself ends too early.
        """
        head = _first(source)
        kind = recognise.container(head)
        known = recognise.weights(head)
        hashed = (
            size is None
            or size in self.watcher.targets.sizes
            or (known is not None and known[0] == recognise.ADAPTER)
            or (size <= signed.MOST and _is_json(head))
        )
        hits: list[Hit] = []
        watch = Watch(
            self.watcher, hits.append, text=recognise.is_text(head[:4096]), hashed=hashed,
            log=prompts.is_log(_plain(where.name), head[:8192]),
        )  # fmt: skip
        try:
            if kind:
                self._container(kind, _Headed(head, source, None if kind == "tar" else watch), where, file)
            else:
                self._leaf(_Headed(head, source, watch), watch, file)
        finally:  # what was seen before a stream broke off counts
            self.report.bytes += watch.seen
            self._judge(where, watch, hits, known)

    # -- what a stream is --------------------------------------------------------------------------------------------

    def _leaf(self, source: _Headed, watch: Watch, file: BinaryIO | None) -> None:
        """Read to the end; the holes of a sparse file are passed over, unless the whole is to be hashed."""
        while source.read(CHUNK):
            if file and not watch.hasher:
                at = file.tell()
                try:
                    data = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    data = os.fstat(file.fileno()).st_size  # nothing but a hole to the end
                if data > at and not source.head:
                    watch.skip(data - at)
                file.seek(max(data, at))

    def _container(self, kind: str, source: _Headed, where: Where, file: BinaryIO | None) -> None:
        if where.depth >= DEPTH:
            self._unreadable(where, f"archives within archives, {DEPTH} deep: not looked into further")
        else:
            try:
                if kind in _COMPRESSED:
                    self._compressed(kind, source, where)
                elif kind == "zip":
                    self._zip(source, where, file)
                else:
                    self._tar(source, where)
            except (BrokenError, tar_read.TarError, zipfile.BadZipFile) as error:
                self._unreadable(where, f"{kind}: {error}")
        with contextlib.suppress(BrokenError):  # told already
            while source.read(CHUNK):  # what nobody has read is watched all the same
                pass

    def _compressed(self, kind: str, source: _Headed, where: Where) -> None:
        content = Decompressed(source, kind, self.budget)
        inner = replace(where, name=_plain(where.name), depth=where.depth + 1)
        self.stream(content, inner)

    def _tar(self, source: Reader, where: Where) -> None:
        image = where.image or where.tars > 0
        for member in tar_read.members(source):
            inner = replace(where.inside(member.name), tars=where.tars + 1, image=image)
            if member.kind in "12345" or member.name.endswith("/"):
                continue
            self.report.members += 1
            self.stream(member.content, inner, member.size)

    def _zip(self, source: _Headed, where: Where, file: BinaryIO | None) -> None:
        """A zip is read from its end: a file on disk as it is, any other one spooled first."""
        with tempfile.SpooledTemporaryFile(CHUNK * 8) as spool:
            if file is None:
                while data := source.read(CHUNK):
                    spool.write(data)
                    if spool.tell() > SPOOLED:
                        raise BrokenError(f"a zip within an archive, of more than {SPOOLED >> 30} GiB: not looked into")
            else:
                at = file.tell()
            with zipfile.ZipFile(spool if file is None else file) as archive:
                for info in archive.infolist():
                    self._zip_member(archive, info, where)
            if file is not None:
                file.seek(at)

    def _zip_member(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: Where) -> None:
        if info.is_dir():
            return
        inner = where.inside(info.filename)
        self.report.members += 1
        if info.filename.split("/")[-1] in _TORCH:
            self._found("weights", "a PyTorch checkpoint", inner.place, "")
        try:
            with archive.open(info) as content:
                self.stream(_Spent(content, self.budget), inner, info.file_size)
        except (
            RuntimeError,
            NotImplementedError,
            EOFError,
            zlib.error,
            zipfile.BadZipFile,
        ) as error:  # encrypted; a method of its own
            self._unreadable(inner, str(error).lower() or "it is cut off")

    # -- what was found ----------------------------------------------------------------------------------------------

    def _judge(self, where: Where, watch: Watch, hits: list[Hit], known: tuple[str, str] | None) -> None:
        place = where.place
        by_digest = self.watcher.targets.digests.get(watch.digest) if watch.hasher else None
        if by_digest:
            self._found(by_digest[0], f"{by_digest[1]}, by its digest", place, watch.digest)
        elif known:
            self._found(known[0], known[1], place, watch.digest)
        if watch.kept is not None:
            self.signatures.look(bytes(watch.kept), watch.digest)
        hits = [h for h in hits if not (known and h.offset == 0 and h.kind in ("weights", "adapter"))]
        hits = self._one_part(hits, told=bool(known or by_digest))
        sheet = self._sheet(where, watch)
        if sheet:
            self.report.documents += len(sheet.documents)
            self._document(sheet, where, hits)
            return
        text = bytes(watch.kept or b"")
        for authority in targets.authorities(text):
            self.keys.authorities.setdefault(authority, str(place))
        for at, content in recognise.encoded(text):
            self.stream(io.BytesIO(content), where.inside(f"base64 at byte {at}"))
        for hit in hits:
            if hit.kind == "credential" and where.secret:
                documents.note(self.keys, hit.value, place)
            else:
                line = hit.line if watch.text and not where.secret else None
                self._found(hit.kind, hit.what, place.at(line=line or place.line, offset=hit.offset), "")

    def _one_part(self, hits: list[Hit], *, told: bool) -> list[Hit]:
        """Of the pieces of one model the first, and none where it's told already that this is a model."""
        parts = self.watcher.targets.parts
        others = [h for h in hits if h.what not in parts]
        told = told or any(h.kind == "weights" for h in others)
        return others if told else [*(h for h in hits if h.what in parts)][:1] + others

    def _sheet(self, where: Where, watch: Watch) -> documents.Sheet | None:
        if watch.kept is None or where.secret or not manifest_fields.looks_like_one(bytes(watch.kept)):
            return None
        return documents.read(bytes(watch.kept), where.place, secret_allowed=not where.image)

    def _document(self, sheet: documents.Sheet, where: Where, raw: list[Hit]) -> None:
        for hit, place in sheet.judge(raw, self._hits, self.keys):
            self._found(hit.kind, hit.what, place, "")
        sheet.note_keys(self.keys)

        def look(content: Reader, place: Place, secret: bool) -> None:
            self.stream(content, replace(where, place=place, name="", depth=where.depth + 1, secret=secret))

        for kind, what, place in sheet.more(look):
            self._found(kind, what, place, "")

    def _hits(self, value: bytes) -> list[Hit]:
        found: list[Hit] = []
        Watch(self.watcher, found.append, text=True, log=False, hashed=False).feed(value)
        return found

    def _found(self, kind: str, what: str, place: Place, digest: str) -> None:
        violation = Violation(kind, what, place)
        if kind == "adapter" and self.boundary.adapter == "signed":
            self.adapters.append((digest, violation))
        elif self.boundary.forbids(kind):
            self.report.add(violation)

    def _unreadable(self, where: Where, why: str) -> None:
        self.report.add(Violation("unreadable", why, where.place))


class _Spent:
    """A zip's member, counted against the budget."""

    def __init__(self, source: Reader, budget: Budget) -> None:
        self.source, self.budget = source, budget

    def read(self, size: int, /) -> bytes:
        data = self.source.read(size)
        self.budget.spend(len(data))
        return data


def _first(source: Reader) -> bytes:
    """The first bytes of a stream, enough to know what it is; fewer at its end."""
    parts, size = [], 0
    while size < recognise.HEAD and (data := source.read(recognise.HEAD - size)):
        parts.append(data)
        size += len(data)
    return b"".join(parts)


def _is_json(head: bytes) -> bool:
    return head.lstrip()[:1] == b"{"


def _plain(name: str) -> str:
    """A name without the ending of its compression."""
    for ending in _ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _files(folder: Path) -> Iterator[Path]:
    """All but the folders below a folder, in order. Raises HybError for a folder that is closed."""

    def failed(error: OSError) -> None:
        raise HybError(f"`{error.filename}` can't be read: {os.strerror(error.errno or 0).lower()}") from error

    for parent, folders, names in os.walk(folder, onerror=failed):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        yield from (Path(parent, name) for name in sorted(names + links))


def _in_image(file: Path, top: Path) -> bool:
    """True for a file of an OCI layout, or of what `skopeo copy … dir:` writes."""
    for folder in file.parents:
        if (folder / "oci-layout").is_file() or (
            (folder / "manifest.json").is_file() and (folder / "version").is_file()
        ):
            return True
        if folder == top:
            break
    return False
