"""A bundle into the store: checked first, bytes next, names last.

Before a byte is written: the document, the signature, what a delta assumes, the room. Then part by part: a blob is
written under a temporary name, has its digest checked, is synced and renamed into the store; nobody names it yet. What
is split over parts grows in the step's folder, with a note of the pieces that are in it. Only when every blob is there
do artifacts get their names, all in one write. So a load that was killed, or that lacks a part, goes on with what is
missing; parts whose blobs are all in the store are not read again, and need not be there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hyb import digest as dg
from hyb import fs, receipt, sealing
from hyb.artifact import MANIFEST, REF, Blob, File, blobs_of, parse, safe_path
from hyb.bundle import read
from hyb.bundle.read import Opened
from hyb.errors import Exit, HybError
from hyb.formats import bundle as form
from hyb.formats.bundle import Bundle, Piece
from hyb.progress import Say
from hyb.signing import gate
from hyb.store import Store

MARGIN = 64 << 20  # bytes that stay free
RECORDS = "bundles"
"""Folder of the store: what was loaded, and who vouched for it."""


@dataclass(frozen=True)
class Loaded:
    """What a load did: bytes of blobs that were new, parts that were read, names that artifacts have now."""

    new: int
    read: int
    names: tuple[str, ...]
    files: tuple[str, ...]


def missing(opened: Opened, store: Store) -> list[tuple[str, int]]:
    """What a delta assumes and the store has not: (digest, size)."""
    return [(d, s) for d, s in sorted(opened.bundle.assumes.items()) if not store.has_blob(Blob(d, s))]


def load(
    opened: Opened,
    store: Store,
    out: Path,
    say: Say,
    *,
    identity: Path | None = None,
    signed_by: str = "",
    allow_unsigned: bool = False,
) -> Loaded:
    """Take a bundle into the store, and its recipe, documents, keys and wheels into the folder `out`.

    Raises HybError: exit 3 for missing parts or room, or a base that is not here (then nothing was changed); exit 4
    for parts that are damaged, and for what the trust policy refuses. Good parts stay loaded.
    """
    bundle = opened.bundle
    if lacks := missing(opened, store):
        base = f"bundle `{bundle.name}-{bundle.base[:8]}`" if bundle.base else "what the inventory said"
        raise HybError(
            f"this bundle holds only what is new since {base}, and {len(lacks)} of that are not here",
            details=[f"{d} ({s:,} bytes)" for d, s in lacks],
            hint="load the earlier bundle first; nothing was changed",
        )
    if bundle.sealed and not identity:
        raise HybError(
            f"the bundle `{bundle.name}` is sealed", hint="`--identity FILE` names the private key that opens it"
        )
    keys = sealing.identities(identity) if identity and bundle.sealed else []
    _check_out(out, bundle)
    with store.in_use(), fs.room(f"can't write to the store `{store.root}`"):
        _check_room(bundle, store, out)
        key = dg.of_json(["bundle", bundle.identity])
        with store.locked_step(key, lambda: say("another hyb is loading this bundle; waiting")):
            new, count = _parts(opened, store, store.work(key), keys, say)
            _whole(bundle, store)
            _list(bundle, store)
            if not allow_unsigned:
                _trusted(bundle, store, say)
            _name(bundle, store)
            files = _files(bundle, store, out)
            _record(opened, store, signed_by, allow_unsigned=allow_unsigned)
            shutil.rmtree(store.work(key), ignore_errors=True)
    names = [n for c in bundle.contents for n in c.names]
    return Loaded(new, count, tuple(names), tuple(files))


def _parts(opened: Opened, store: Store, work: Path, keys: Sequence[Any], say: Say) -> tuple[int, int]:
    """Read the parts that hold something new. Raises HybError naming every part that is missing or bad."""
    sink = _IntoStore(opened.bundle, store, work)
    wanted = [n for n in range(1, len(opened.bundle.parts) + 1) if any(sink.wants(p) for p in opened.pieces(n))]
    meter = read.Meter(say, f"load {opened.bundle.name}", sum(opened.bundle.parts[n - 1].size for n in wanted))
    wrong: list[HybError] = []
    for at, number in enumerate(wanted, 1):
        try:
            read.check_part(opened, number, sink, keys, meter.add)
        except HybError as error:
            if sealing.NO_KEY in error.message:
                raise
            wrong.append(error)
        finally:
            sink.drop()
        meter.to(sum(opened.bundle.parts[n - 1].size for n in wanted[:at]))
    if wrong:
        bad = any(e.code is Exit.CHECK for e in wrong)
        raise HybError(
            f"{len(wrong)} of {len(opened.bundle.parts)} parts of `{opened.bundle.name}` can't be loaded",
            details=[e.message for e in wrong],
            hint="copy these again and run it once more; the others are in the store, and nothing has a name yet",
            code=Exit.CHECK if bad else Exit.INPUT,
        )
    return sink.new, len(wanted)


class _IntoStore:
    """Pieces into blobs. The last piece of a split one is not noted: with all noted, none would publish."""

    def __init__(self, bundle: Bundle, store: Store, work: Path) -> None:
        self.bundle, self.store, self.work = bundle, store, work
        self.out: BinaryIO | None = None
        self.path = Path()
        self.new = 0
        self.have = {d for d, s in bundle.items.items() if _good(store, Blob(d, s))}
        self.noted = self._notes()

    def wants(self, piece: Piece) -> bool:
        """True for what is not in the store yet."""
        return piece.item not in self.have and piece.at not in self.noted.get(piece.item, ())

    def begin(self, piece: Piece) -> None:
        """Open the file that the piece goes into."""
        if not self.wants(piece):
            return
        name = piece.item.removeprefix("sha256:")
        self.path = self.work / name
        if self._is_whole(piece) or not self.path.exists():
            self.out = self.path.open("wb", buffering=0)
        else:
            self.out = self.path.open("r+b", buffering=0)
        self.out.seek(piece.at)

    def data(self, _piece: Piece, data: memoryview) -> None:
        """Write."""
        while self.out and data:
            data = data[self.out.write(data) :]

    def end(self, piece: Piece) -> None:
        """The piece is good: publish its blob, or note the piece and publish when it was the last one."""
        if not self.out:
            return
        os.fdatasync(self.out.fileno())
        self.drop()
        size = self.bundle.items[piece.item]
        if not self._is_whole(piece):
            noted = self.noted.setdefault(piece.item, [])
            if len(noted) + 1 < sum(p.item == piece.item for p in self.bundle.pieces):
                noted.append(piece.at)
                fs.write_atomic(self.work / "pieces.json", json.dumps(self.noted).encode())
                return
            if dg.of_file(self.path)[0] != piece.item:
                self.noted.pop(piece.item)
                self.path.unlink()
                raise HybError(f"`{piece.item}`: its pieces do not make it", code=Exit.CHECK)
        elif piece.digest != piece.item:
            raise HybError(f"`{piece.item}` is another file in the document than in the part", code=Exit.CHECK)
        self.store.add_file(self.path, how="move", trusted=piece.item)
        self.have.add(piece.item)
        self.new += size

    def drop(self) -> None:
        """Close what is open."""
        if self.out:
            self.out.close()
            self.out = None

    def _is_whole(self, piece: Piece) -> bool:
        return piece.at == 0 and piece.size == self.bundle.items[piece.item]

    def _notes(self) -> dict[str, list[int]]:
        """The pieces that an earlier run has in the step's folder."""
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            found = json.loads((self.work / "pieces.json").read_bytes())
            return {
                d: list(map(int, at)) for d, at in found.items() if (self.work / d.removeprefix("sha256:")).is_file()
            }
        return {}


def _good(store: Store, blob: Blob) -> bool:
    """True when the store has it, untouched; a damaged one is loaded again."""
    try:
        store.check(blob)
    except HybError:
        return False
    return True


def _check_room(bundle: Bundle, store: Store, out: Path) -> None:
    """Raise HybError unless store and `out`, which may share a disk, have room for what is not there yet."""
    sizes, known = bundle.sizes(), _written(out)
    blobs = sum(s for d, s in bundle.items.items() if not store.has_blob(Blob(d, s)))
    copies = sum(sizes[d] for path, d in bundle.files.items() if known.get(path) != d)
    needs: dict[int, tuple[Path, int]] = {}
    for place, wanted in ((store.root, blobs + MARGIN), (out, copies)):
        there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        first, before = needs.get(there.stat().st_dev, (there, 0))
        needs[there.stat().st_dev] = first, before + wanted
    for place, wanted in needs.values():
        if wanted > (free := shutil.disk_usage(place).free):
            raise HybError(
                f"the bundle needs {wanted:,} bytes in `{place}`, and {free:,} are free",
                hint="free some space, or give other places with `--store DIR` and `--out DIR`; nothing was changed",
            )


def _whole(bundle: Bundle, store: Store) -> None:
    """Raise HybError (exit 4) unless each artifact that the bundle names is there with all its blobs."""
    wrong = []
    for content in bundle.contents:
        try:
            artifact = parse(content.digest, json.loads(store.read(content.digest)))
            lost = [b.digest for b in blobs_of(artifact) if not store.has_blob(b)]
            wrong += [f"{artifact.kind} `{content.digest}` lacks blob `{d}`" for d in lost]
            if content.kind != artifact.kind:
                wrong.append(f"`{content.digest}` is said to be of kind `{content.kind}`, and is `{artifact.kind}`")
        except (HybError, ValueError, KeyError, TypeError, AttributeError) as error:
            wrong.append(f"`{content.digest}` is no artifact: {error}")
    if wrong:
        raise HybError(
            f"the bundle `{bundle.name}` is not whole",
            details=wrong,
            code=Exit.CHECK,
            hint="it was made so; nothing has a name yet",
        )


def _list(bundle: Bundle, store: Store) -> None:
    """List the artifacts in the index, signatures among them; without a name they are not in the way."""
    sizes = bundle.sizes()
    with store.index() as entries:
        listed = {e["digest"] for e in entries if REF not in e.get("annotations", {})}
        entries += [
            {"mediaType": MANIFEST, "digest": c.digest, "size": sizes[c.digest]}
            for c in bundle.contents
            if c.digest not in listed
        ]


def _trusted(bundle: Bundle, store: Store, say: Say) -> None:
    """Raise HybError (exit 4) when the trust policy in force refuses an artifact; nothing has a name yet."""
    for content in bundle.contents:
        if content.names:
            gate.check(store, store.artifact(content.digest), "load", os.environ, say=say, names=content.names)


def _name(bundle: Bundle, store: Store) -> None:
    """Remember the steps and give the names: this makes the load visible."""
    sizes = bundle.sizes()
    for key, (stage, output) in bundle.steps.items():
        if store.outputs(key)[:1] != [output]:
            store.record_step(key, stage, output)
    names = {n: c.digest for c in bundle.contents for n in c.names}
    if bundle.files:  # so that `gc` keeps what the next delta builds on
        files = [File(path, Blob(digest, sizes[digest])) for path, digest in bundle.files.items()]
        names[f"bundle/{bundle.name}"] = store.add_artifact("bundle", files, meta={"id": bundle.identity}).digest
    store.move_names(names)


def _check_out(out: Path, bundle: Bundle) -> None:
    """Raise HybError when a file there was changed by hand, or is none of a load's: it would be lost."""
    known = _written(out)
    wrong = [f"`{out}` is no folder"] if out.exists() and not out.is_dir() else []
    for path, digest in bundle.files.items():
        place = out / safe_path(path)
        if place.is_symlink() or any(p.is_symlink() for p in place.parents if p.is_relative_to(out) and p != out):
            wrong.append(f"`{place}` is a link, or lies behind one")
        elif place.exists() and not (place.is_file() and dg.of_file(place)[0] in (digest, known.get(path))):
            wrong.append(f"`{place}` is another file")
    if wrong:
        raise HybError(
            f"`{out}` holds files that are not of a bundle, or were changed since",
            details=wrong,
            hint="give another folder with `--out DIR`; nothing was changed",
        )


def _files(bundle: Bundle, store: Store, out: Path) -> list[str]:
    """The plain files into `out`: copies, which may be edited. What an earlier bundle had and this has not, goes."""
    known, done = _written(out), []
    with fs.explained(f"can't write to `{out}`"):
        out.mkdir(parents=True, exist_ok=True)
        for path, digest in bundle.files.items():
            place = out / safe_path(path)
            if not place.exists() or known.get(path) != digest or dg.of_file(place)[0] != digest:
                place.parent.mkdir(parents=True, exist_ok=True)
                partial = out / PARTIAL
                partial.unlink(missing_ok=True)
                fs.copy_new(store.blob_path(digest), partial)
                with partial.open("rb") as stream:
                    os.fsync(stream.fileno())
                partial.replace(place)
                done.append(path)
        for path in known.keys() - bundle.files.keys():
            place = out / safe_path(path)
            if place.is_file() and dg.of_file(place)[0] == known[path]:
                place.unlink()
        if bundle.files:
            fs.write_atomic(out / WRITTEN, dg.canonical_json(dict(bundle.files)))
    return done


PARTIAL = ".hyb-bundle.partial"
WRITTEN = ".hyb-bundle-files.json"
"""In the folder that a load wrote: path → digest of what it wrote there."""


def _written(out: Path) -> Mapping[str, str]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((out / WRITTEN).read_bytes())
        if isinstance(found, dict) and all(isinstance(v, str) for v in found.values()):
            return found
    return {}


def _record(opened: Opened, store: Store, signed_by: str, *, allow_unsigned: bool) -> None:
    """What was loaded, when, and who vouched for it."""
    folder = store.root / RECORDS
    folder.mkdir(exist_ok=True)
    value = {
        "bundle": opened.bundle.identity,
        "name": opened.bundle.name,
        "document": dg.of_bytes(opened.document),
        "base": opened.bundle.base or None,
        "loaded": receipt.now().isoformat(),
        "signed_by": signed_by or None,
        "unsigned_allowed": bool(allow_unsigned and not signed_by),
    }
    fs.write_atomic(folder / f"{opened.bundle.identity[:16]}.json", form.strict_json_text(value))


def inventory(store: Store) -> dict[str, int]:
    """All blobs of the store that its artifacts are made of, and that are whole: digest → size."""
    found: dict[str, int] = {}
    for artifact in store.artifacts():
        for blob in blobs_of(artifact):
            if store.has_blob(blob):
                found[blob.digest] = blob.size
        found[artifact.digest] = store.blob_path(artifact.digest).stat().st_size
    return dict(sorted(found.items()))
