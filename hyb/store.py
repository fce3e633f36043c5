"""The artifact store: an OCI image layout in plain files, which skopeo and podman read as it is.

    STORE/
      oci-layout  index.json  blobs/sha256/<hex>    the OCI image layout (image-spec v1.1)
      hyb.json                                      {"store": 1}: the format, so that an older hyb can refuse
      steps/<hex of key>.json                       step key → digests of its outputs
      views/<hex>/                                  an artifact as a folder of hard links to blobs, made when asked for
      work/<hex of key>/                            what a step that is running (or was killed) keeps for itself
      locks/  tmp/

One artifact = one OCI manifest; its digest is the artifact's. One file of a model = one raw layer with its path in
the annotation `org.cncf.model.filepath` (CNCF ModelPack 0.0.7). hyb's own facts are JSON in the annotation
`io.hyb.meta`.

A blob is written once, read-only, with a fixed modification time: whoever changes it moves that time, so that a
later use sees in O(1) that it must be hashed again. `hyb verify` hashes always.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from hyb import digest as dg
from hyb import fs
from hyb.errors import Exit, HybError

FORMAT = 1
ANOTHER = "or give another store with `--store DIR`"
BLOB_MTIME = 1  # seconds: see the module's docstring
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
REF = "org.opencontainers.image.ref.name"
FILEPATH = "org.cncf.model.filepath"
KIND = "io.hyb.kind"
META = "io.hyb.meta"
NEEDS = "io.hyb.needs"
MODEL_ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
RAW = "application/vnd.hyb.file.v1.raw"


@dataclass(frozen=True)
class Blob:
    """Bytes in the store: `digest` and `size` in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class File:
    """A file of an artifact: its relative POSIX path, its bytes, its OCI media type."""

    path: str
    blob: Blob
    media_type: str = RAW


@dataclass(frozen=True)
class Artifact:
    """One manifest of the store. `meta` is what its stage wrote about it; `needs` the artifacts it can't do without."""

    digest: str
    kind: str
    files: tuple[File, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    subject: str | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(f.blob.size for f in self.files)

    def file(self, path: str) -> File:
        """The file at `path`. Raises HybError when the artifact has none."""
        for f in self.files:
            if f.path == path:
                return f
        raise HybError(f"{self.kind} `{short(self.digest)}` has no file `{path}`")


def short(digest: str) -> str:
    """The first 12 hex digits, for people."""
    return digest.removeprefix("sha256:")[:12]


class Store:
    """The store at `root`. Opening it writes nothing; the first write lays it out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self._check_format()

    # -- blobs ---------------------------------------------------------------------------------------------------

    def blob_path(self, digest: str) -> Path:
        """Where a blob lies, whether or not it is there."""
        return self.blobs / digest.removeprefix("sha256:")

    def has_blob(self, blob: Blob) -> bool:
        """True when the blob is there with its size (its content is not read)."""
        try:
            return self.blob_path(blob.digest).stat().st_size == blob.size
        except OSError:
            return False

    def add_bytes(self, data: bytes) -> Blob:
        """Put bytes into the store; nothing is written when they are there."""
        blob = Blob(dg.of_bytes(data), len(data))
        if not self._untouched(blob):
            with self.writing(), self._incoming() as temporary:
                temporary.write_bytes(data)
                self._publish(temporary, blob)
        return blob

    def add_stream(
        self, stream: BinaryIO, *, expected: str | None = None, progress: Callable[[int], None] | None = None
    ) -> Blob:
        """Put a stream's bytes into the store, hashed while they are written (one pass).

        Raises HybError (exit 4) when `expected` is given and the digest is another; nothing is kept then.
        """
        with self.writing(), self._incoming() as temporary:
            with temporary.open("wb") as out:
                digest, size = dg.of_stream(_Tee(stream, out), progress)  # type: ignore[arg-type]
            _expect(expected, digest, "the stream")
            blob = Blob(digest, size)
            self._publish(temporary, blob)
        return blob

    def add_file(
        self,
        path: Path,
        *,
        how: str = "copy",
        expected: str | None = None,
        trusted: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Blob:
        """Put a file into the store.

        `how`: "copy" (one pass), "link" (a hard link where the file system can: no bytes written) or "move".
        `expected`: refuse another digest (exit 4). `trusted`: the digest, just computed by the caller.
        """
        if how == "copy":
            with path.open("rb") as stream:
                return self.add_stream(stream, expected=expected, progress=progress)
        digest, size = (trusted, path.stat().st_size) if trusted else dg.of_file(path, progress)
        _expect(expected, digest, f"`{path}`")
        blob = Blob(digest, size)
        if self._untouched(blob):
            if how == "move":
                path.unlink()
            return blob
        with self.writing(), self._incoming() as temporary:
            try:
                if how == "link":
                    temporary.hardlink_to(path)
                else:
                    path.replace(temporary)
            except OSError:  # another file system, or one without links: copy
                shutil.copyfile(path, temporary)
                if how == "move":
                    path.unlink()
            self._publish(temporary, blob)
        return blob

    def read(self, digest: str) -> bytes:
        """A small blob's bytes, checked. Raises HybError (exit 4) when it is missing or damaged."""
        try:
            data = self.blob_path(digest).read_bytes()
        except FileNotFoundError as error:
            raise self._missing(digest) from error
        if dg.of_bytes(data) != digest:
            raise self._damaged(digest)
        return data

    def check(self, blob: Blob, *, thorough: bool = False, progress: Callable[[int], None] | None = None) -> None:
        """Raise HybError (exit 4) when a blob is missing or damaged; hashed only when touched, or `thorough`."""
        path = self.blob_path(blob.digest)
        try:
            stat = path.stat()
        except FileNotFoundError as error:
            raise self._missing(blob.digest) from error
        if stat.st_size != blob.size:
            raise self._damaged(blob.digest)
        if stat.st_mtime == BLOB_MTIME and not thorough:
            return
        if dg.of_file(path, progress)[0] != blob.digest:
            raise self._damaged(blob.digest)
        with contextlib.suppress(OSError):  # a read-only store: it will be hashed again next time
            os.utime(path, (BLOB_MTIME, BLOB_MTIME))

    # -- artifacts -----------------------------------------------------------------------------------------------

    def add_artifact(
        self,
        kind: str,
        files: Iterable[File],
        *,
        meta: Mapping[str, Any] | None = None,
        needs: Iterable[str] = (),
        subject: Artifact | None = None,
        config: tuple[str, Mapping[str, Any]] | None = None,
    ) -> Artifact:
        """Write a manifest over files that are in the store, and list it in the index.

        `config`: (media type, JSON) of the OCI config; default the empty config. Models and adapters give
        (MODEL_CONFIG, …), see hyb.formats.modelpack. `subject`: the artifact that this one speaks of (OCI referrer).
        """
        ordered = sorted(files, key=lambda f: f.path)
        config_type, config_data = config or (EMPTY, {})
        config_blob = self.add_bytes(dg.canonical_json(config_data))
        annotations = {KIND: kind, META: dg.canonical_json(dict(meta or {})).decode()}
        if needed := sorted(set(needs)):
            annotations[NEEDS] = ",".join(needed)
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": MODEL_ARTIFACT if config_type == MODEL_CONFIG else f"application/vnd.hyb.{kind}.v1+json",
            "config": {"mediaType": config_type, "digest": config_blob.digest, "size": config_blob.size},
            "layers": [
                {
                    "mediaType": f.media_type,
                    "digest": f.blob.digest,
                    "size": f.blob.size,
                    "annotations": {FILEPATH: f.path},
                }
                for f in ordered
            ],
            "annotations": annotations,
        }
        if subject:
            manifest["subject"] = {
                "mediaType": MANIFEST,
                "digest": subject.digest,
                "size": self._size_of(subject.digest),
            }
        return self.add_manifest(manifest)

    def add_manifest(self, manifest: Mapping[str, Any]) -> Artifact:
        """Write any OCI image manifest whose blobs are in the store, and list it in the index."""
        data = dg.canonical_json(manifest)
        blob = self.add_bytes(data)
        with self.index() as entries:
            if not any(e["digest"] == blob.digest for e in entries):
                entries.append({"mediaType": MANIFEST, "digest": blob.digest, "size": blob.size})
        return _artifact(blob.digest, json.loads(data))

    def artifact(self, digest: str) -> Artifact:
        """The artifact with this manifest digest. Raises HybError (exit 4) when it is missing or damaged."""
        return _artifact(digest, json.loads(self.read(digest)))

    def has(self, digest: str) -> bool:
        """True when the manifest and all its blobs are there with their sizes."""
        if not self.blob_path(digest).exists():
            return False
        artifact = self.artifact(digest)
        return all(self.has_blob(b) for b in blobs_of(artifact))

    def artifacts(self) -> list[Artifact]:
        """All artifacts that the index lists, in its order, once each."""
        return [self.artifact(d) for d in self.digests()]

    def digests(self) -> list[str]:
        """The manifest digests that the index lists, in its order, once each."""
        return list(dict.fromkeys(e["digest"] for e in self.entries()))

    def referrers(self, digest: str) -> list[Artifact]:
        """Artifacts whose subject is `digest`: receipts and reports."""
        return [a for a in self.artifacts() if a.subject == digest]

    def view(self, artifact: Artifact) -> Path:
        """The artifact as a folder of hard links to its blobs: no copy. Do not write to it.

        Every blob is checked first (hashed only when it was touched). Raises HybError (exit 4).
        """
        for f in artifact.files:
            self.check(f.blob)
        target = self.root / "views" / artifact.digest.removeprefix("sha256:")
        if target.is_dir() and all((target / f.path).is_file() for f in artifact.files):
            return target
        with self.writing(), self._incoming() as temporary:
            temporary.mkdir()
            for f in artifact.files:
                place = temporary / safe_path(f.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(self.blob_path(f.blob.digest), place)
            target.parent.mkdir(exist_ok=True)
            with fs.locked(self.root / "locks" / "views"):
                if target.is_dir():
                    shutil.rmtree(target)
                temporary.replace(target)
        return target

    # -- names ---------------------------------------------------------------------------------------------------

    def tags(self) -> dict[str, str]:
        """Name → manifest digest."""
        return {e["annotations"][REF]: e["digest"] for e in self.entries() if REF in e.get("annotations", {})}

    def tag(self, name: str, digest: str) -> None:
        """Give an artifact a name; the name moves if another artifact had it."""
        if self.tags().get(name) == digest:
            return
        size = self._size_of(digest)
        with self.index() as entries:
            entries[:] = [e for e in entries if e.get("annotations", {}).get(REF) != name]
            if not any(e["digest"] == digest and REF not in e.get("annotations", {}) for e in entries):
                entries.append({"mediaType": MANIFEST, "digest": digest, "size": size})
            entries.append({"mediaType": MANIFEST, "digest": digest, "size": size, "annotations": {REF: name}})

    def untag(self, name: str) -> str:
        """Take a name away and return the digest it stood for; the artifact stays until `gc`. Raises HybError."""
        digest = self.tags().get(name)
        if digest is None:
            raise unknown_name(name, self.tags())
        with self.index() as entries:
            entries[:] = [e for e in entries if e.get("annotations", {}).get(REF) != name]
        return str(digest)

    def resolve(self, name: str) -> str:
        """A tag, a full digest, the start of one (8 digits or more), or the last part of `recipe/stage`, to a digest.

        Raises HybError when nothing or more than one thing has that name.
        """
        tags = self.tags()
        if name in tags:
            return tags[name]
        digests = set(self.digests())
        prefix = name.removeprefix("sha256:")
        hits = {d for d in digests if len(prefix) >= 8 and d.startswith("sha256:" + prefix)}
        hits |= {d for t, d in tags.items() if t.endswith("/" + name)}
        if len(hits) == 1:
            return hits.pop()
        if hits:
            names = ", ".join(sorted(t for t in tags if t.endswith("/" + name))) or ", ".join(sorted(map(short, hits)))
            raise HybError(
                f"`{name}` is the name of several artifacts: {names}", hint="give the whole name or the digest"
            )
        raise unknown_name(name, tags)

    # -- steps ---------------------------------------------------------------------------------------------------

    def outputs(self, key: str) -> list[str]:
        """The outputs that a step key gave here, newest first: more than one where a step is not bit-exact.

        A damaged record counts as none.
        """
        try:
            found = json.loads(self._step_path(key).read_bytes())["outputs"]
            return [d for d in found if isinstance(d, str) and dg.is_digest(d)]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def record_step(self, key: str, stage: str, output: str) -> None:
        """Remember that a step key gave `output`."""
        outputs = list(dict.fromkeys([output, *self.outputs(key)]))
        with self.writing():
            fs.write_atomic(self._step_path(key), dg.canonical_json({"stage": stage, "outputs": outputs}))

    def work(self, key: str) -> Path:
        """The folder that a step keeps until it is done; it outlives a kill."""
        folder = self.root / "work" / key.removeprefix("sha256:")
        with self.writing():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def locked_step(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold a step, so that two processes never do the same one; `waiting` is called when another has it."""
        path = self.root / "locks" / key.removeprefix("sha256:")
        with self.writing():
            pass
        try:
            with fs.locked(path, wait=False):
                yield
                return
        except BlockingIOError:
            if waiting:
                waiting()
        with fs.locked(path):
            yield

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Held (shared) by whoever reads or adds, so that `gc` never takes what a run is about to name."""
        if not os.access(self.root / "locks", os.W_OK) and (self.root / "hyb.json").exists():
            yield  # read-only: nobody can collect here, and nothing will be added
            return
        with self.writing():
            pass
        with fs.locked(self.root / "locks" / "store", shared=True):
            yield

    # -- inside --------------------------------------------------------------------------------------------------

    def _check_format(self) -> None:
        path = self.root / "hyb.json"
        try:
            found = json.loads(path.read_bytes())["store"]
        except FileNotFoundError:
            return
        except NotADirectoryError as error:
            raise HybError(f"the store `{self.root}` is a file", hint="give a folder with `--store DIR`") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HybError(f"`{path}` can't be read: {error}", hint="give another store with `--store DIR`") from error
        if found != FORMAT:
            raise HybError(
                f"the store `{self.root}` has format {found}; this hyb knows format {FORMAT}",
                hint="use the hyb that wrote it, or give another store with `--store DIR`; nothing was changed",
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Around every write: lays the store out first, and says what is wrong in words."""
        with fs.explained(f"can't write to the store `{self.root}`", also=ANOTHER):
            if not (self.root / "hyb.json").exists():
                for name in ("blobs/sha256", "steps", "views", "work", "locks", "tmp"):
                    (self.root / name).mkdir(parents=True, exist_ok=True)
                with fs.locked(self.root / "locks" / "index"):
                    if not (self.root / "index.json").exists():
                        self.write_index([])
                    fs.write_atomic(self.root / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
                    fs.write_atomic(self.root / "hyb.json", dg.canonical_json({"store": FORMAT}))
            yield

    @contextlib.contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A name in tmp/ that is gone afterwards, unless it was published."""
        path = self.root / "tmp" / secrets.token_hex(8)
        try:
            yield path
        finally:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _untouched(self, blob: Blob) -> bool:
        """True when the blob is there as it was written; one that was changed since is written anew."""
        try:
            stat = self.blob_path(blob.digest).stat()
        except OSError:
            return False
        return stat.st_size == blob.size and stat.st_mtime == BLOB_MTIME

    def _publish(self, temporary: Path, blob: Blob) -> None:
        target = self.blob_path(blob.digest)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o444)
        os.utime(temporary, (BLOB_MTIME, BLOB_MTIME))
        temporary.replace(target)  # over a damaged one of that name, too
        fs.sync_folder(self.blobs)

    def entries(self) -> list[dict[str, Any]]:
        """The descriptors of index.json. Raises HybError (exit 4) when it is damaged."""
        path = self.root / "index.json"
        try:
            entries = json.loads(path.read_bytes())["manifests"]
            if not all(dg.is_digest(e["digest"]) for e in entries):
                raise ValueError("an entry has no digest")
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise HybError(
                f"`{path}` is damaged: {error}",
                hint="`hyb verify --repair` writes it anew from the blobs; names come back with the next `hyb run`",
                code=Exit.CHECK,
            ) from error
        return list(entries)

    @contextlib.contextmanager
    def index(self) -> Iterator[list[dict[str, Any]]]:
        """The index's entries, to be changed in place; written back if they were."""
        with self.writing(), fs.locked(self.root / "locks" / "index"):
            entries = self.entries()
            before = list(entries)
            yield entries
            if entries != before:
                self.write_index(entries)

    def write_index(self, entries: list[dict[str, Any]]) -> None:
        """Write index.json; the caller holds its lock."""
        data = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        fs.write_atomic(self.root / "index.json", json.dumps(data, indent=1).encode())

    def _step_path(self, key: str) -> Path:
        return self.root / "steps" / (key.removeprefix("sha256:") + ".json")

    def _size_of(self, digest: str) -> int:
        try:
            return self.blob_path(digest).stat().st_size
        except FileNotFoundError as error:
            raise self._missing(digest) from error

    def _missing(self, digest: str) -> HybError:
        hint = "`hyb verify` lists all that is missing; `hyb run` makes it again"
        return HybError(f"blob `{digest}` is not in the store `{self.root}`", hint=hint, code=Exit.CHECK)

    def _damaged(self, digest: str) -> HybError:
        return HybError(
            f"blob `{self.blob_path(digest)}` is damaged: its content is not `{digest}`",
            hint="`hyb verify --repair` sets it aside; the next `hyb run` makes or fetches it again",
            code=Exit.CHECK,
        )


class _Tee:
    """Reads from one stream and writes what it read to another."""

    def __init__(self, source: BinaryIO, out: BinaryIO) -> None:
        self.source, self.out = source, out

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        self.out.write(data)
        return data


def default_root(environ: Mapping[str, str]) -> Path:
    """`$HYB_STORE`, or `$XDG_DATA_HOME/hyb/store`, or `~/.local/share/hyb/store`.

    Raises HybError when none of these and no home is set.
    """
    if given := environ.get("HYB_STORE"):
        return Path(given)
    return data_home(environ) / "store"


def data_home(environ: Mapping[str, str]) -> Path:
    """hyb's own folder of data: `$XDG_DATA_HOME/hyb` or `~/.local/share/hyb`. Raises HybError when no home is set."""
    base = environ.get("XDG_DATA_HOME")
    if not base and not environ.get("HOME"):
        raise HybError("neither `HOME` nor `HYB_STORE` is set", hint="set `HYB_STORE` or give `--store DIR`")
    return Path(base or Path(environ["HOME"], ".local/share")) / "hyb"


def safe_path(path: str) -> str:
    """A relative POSIX path that stays inside its folder. Raises HybError (exit 4) for any other."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or "\0" in path or any(p in ("", ".", "..") for p in parts):
        raise HybError(f"unsafe path `{path!r}` in an artifact", code=Exit.CHECK)
    return path


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system can't link."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def blobs_of(artifact: Artifact) -> list[Blob]:
    """Config and layers of an artifact."""
    config = artifact.manifest["config"]
    return [Blob(config["digest"], config["size"]), *(f.blob for f in artifact.files)]


def unknown_name(name: str, tags: Iterable[str]) -> HybError:
    """The error for a name that the store doesn't know, with the nearest one it does."""
    import difflib

    near = difflib.get_close_matches(name, list(tags), n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? `hyb ls` lists all" if near else "`hyb ls` lists what is there"
    return HybError(f"nothing in the store is called `{name}`", hint=hint)


def _artifact(digest: str, manifest: dict[str, Any]) -> Artifact:
    notes = manifest.get("annotations", {})
    files = tuple(
        File(
            layer.get("annotations", {}).get(FILEPATH, layer["digest"]),
            Blob(layer["digest"], layer["size"]),
            layer["mediaType"],
        )
        for layer in manifest.get("layers", [])
    )
    needs = tuple(d for d in notes.get(NEEDS, "").split(",") if d)
    meta = MappingProxyType(json.loads(notes.get(META, "{}")))
    subject = manifest.get("subject", {}).get("digest")
    return Artifact(digest, notes.get(KIND, "image"), files, meta, needs, subject, manifest)


def _expect(expected: str | None, digest: str, what: str) -> None:
    if expected and expected != digest:
        raise HybError(
            f"{what} has digest `{digest}`, expected `{expected}`",
            hint="it was changed or damaged on the way; fetch it again",
            code=Exit.CHECK,
        )
