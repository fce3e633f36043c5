"""An artifact of the store into a registry: digests preserved, layers in parallel, nothing sent that is there.

A blob that the repository has is skipped; one that another repository of the same registry has (hyb remembers what it
pushed and pulled) is mounted; any other is uploaded in parts of CHUNK. What an upload has reached is asked of the
registry, never guessed: after a stumble, and in the next process, since the sessions are noted in the store.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyb import digest as dg
from hyb import fs
from hyb.artifact import INDEX, MANIFEST, Artifact, Blob, blobs_of
from hyb.errors import Exit, HybError
from hyb.formats.oci import SIMPLE_SIGNING as SIMPLE
from hyb.hub.download import TRIES, Meter, StoppedError, parallel
from hyb.hub.names import OCI
from hyb.hub.registry import Answer, LaterError, Registry
from hyb.progress import Say
from hyb.store import Store

if TYPE_CHECKING:
    pass

WORKERS = 4  # blobs at a time
SIGNATURE = "signature"  # the kind of artifact
CHUNK = 32 << 20  # bytes a request; a registry that loses a cut request whole (as Docker's 2.8 does) loses this much
BINARY = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True)
class Pushed:
    """What a push did: the source that pulls it, and bytes sent, mounted and found there."""

    source: str
    digest: str
    sent: int
    mounted: int
    there: int
    referrers: int = 0


def push(store: Store, artifact: Artifact, target: OCI, *, say: Say, reports: bool = False) -> Pushed:
    """Put `artifact` (its signatures, and, with `reports`, all that speaks of it) into a registry under `target`'s tag.

    Raises HybError: exit 3 and 5 as `Registry` says, exit 4 for a blob of the store that is damaged.
    """
    host, _, repository = target.where.partition("/")
    known = Places(store.root / "registries.json", host)
    speaking = speaking_of(store, artifact, target, reports=reports)
    blobs = {b.digest: b for a in (artifact, *speaking) for b in blobs_of(a)}
    for blob in blobs.values():
        store.check(blob)
    others = known.repositories(blobs, repository)
    key, full = dg.of_json(["push", target.where]), fs.room(f"can't note the push in the store `{store.root}`")
    with (
        full,
        store.locked_step(key),
        Registry(target.where, push=True, mount_from=sorted(set(others.values()))) as registry,
    ):
        meter = Meter(say, f"push to {target.where}", sum(b.size for b in blobs.values()))
        job = _Push(store, registry, Sessions(store.work(key) / "sessions.json"), others, meter)
        ordered = sorted(blobs.values(), key=lambda b: -b.size)
        parallel([functools.partial(job.blob, b) for b in ordered], job.stop, WORKERS)
        _put_manifests(registry, artifact, speaking, target.ref, store)
    store.sweep(key)
    known.add(repository, blobs)
    source = str(OCI(target.where, digest=artifact.digest, remote=True))
    return Pushed(source, artifact.digest, job.sent, job.mounted, job.there, len(speaking))


def _put_manifests(
    registry: Registry, artifact: Artifact, speaking: Sequence[Artifact], tag: str, store: Store
) -> None:
    data = store.read(artifact.digest)
    for reference in filter(None, (artifact.digest, tag)):
        registry.put_manifest(reference, data)
    for each in speaking:
        if _is_cosign(each):
            _put_cosign(registry, artifact.digest, each)
        elif not registry.put_manifest(each.digest, store.read(each.digest)):
            _note_referrer(registry, str(each.subject), each, store)


def speaking_of(store: Store, artifact: Artifact, target: OCI, *, reports: bool) -> list[Artifact]:
    """What goes with an artifact: its signatures (of cosign's form only those for this repository); with `reports`
    its reports and receipts, too, and their signatures."""
    found = [a for a in store.referrers(artifact.digest) if reports or a.kind == SIGNATURE]
    found += [s for a in found if a.kind != SIGNATURE for s in store.referrers(a.digest) if s.kind == SIGNATURE]
    return [a for a in found if not _is_cosign(a) or _for(a) == target.where]


def _is_cosign(artifact: Artifact) -> bool:
    return artifact.kind == SIGNATURE and any(f.media_type == SIMPLE for f in artifact.files)


def _for(artifact: Artifact) -> str:
    return str(artifact.meta.get("for", "")).removeprefix("oci://").rpartition(":")[0]


def _put_cosign(registry: Registry, subject: str, signature: Artifact) -> None:
    """Put an image's signature under cosign's tag; signatures by others that are there stay."""
    tag = subject.replace(":", "-") + ".sig"
    found = registry.ask("GET", registry.url("manifests", tag), f"`{tag}`", ok=(200, 404), headers={"Accept": MANIFEST})
    there: list[Any] = []
    if found.status_code == 200:
        try:
            there = [x for x in json.loads(found.content)["layers"] if x["mediaType"] == SIMPLE]
        except (ValueError, KeyError, TypeError) as error:
            raise HybError(f"`{tag}` in `{registry.repository}` holds no signatures", code=Exit.BELOW) from error
    ours = [x for x in signature.manifest["layers"] if x not in there]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": signature.manifest["config"],
                "layers": [*there, *ours]}  # fmt: skip
    if ours:
        registry.put_manifest(tag, dg.canonical_json(manifest))


def _note_referrer(registry: Registry, subject: str, artifact: Artifact, store: Store) -> None:
    """For registries without the referrers API: the index under the tag that the specification gives."""
    tag = subject.replace(":", "-")
    found = registry.ask("GET", registry.url("manifests", tag), f"`{tag}`", ok=(200, 404), headers={"Accept": INDEX})
    try:
        entries: list[Any] = list(json.loads(found.content)["manifests"]) if found.status_code == 200 else []
        if any(e["digest"] == artifact.digest for e in entries):
            return
    except (ValueError, KeyError, TypeError) as error:
        raise HybError(f"`{tag}` in `{registry.repository}` is no index of referrers", code=Exit.BELOW) from error
    data = store.read(artifact.digest)
    kind = artifact.manifest.get("artifactType") or artifact.manifest["config"]["mediaType"]
    entries.append({"mediaType": MANIFEST, "digest": artifact.digest, "size": len(data), "artifactType": kind,
                    "annotations": dict(artifact.manifest.get("annotations", {}))})  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    registry.put_manifest(tag, dg.canonical_json(index), INDEX)


@dataclass
class _Push:
    """The blobs of one push on their way."""

    store: Store
    registry: Registry
    sessions: Sessions
    others: Mapping[str, str]
    meter: Meter
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    sent: int = 0
    mounted: int = 0
    there: int = 0

    def blob(self, blob: Blob) -> None:
        """Have the registry have one blob. Raises HybError."""
        if self.stop.is_set():
            raise StoppedError
        if self.registry.has_blob(blob.digest):
            self.meter.add(blob.size, fetched=False)
            self._count("there", blob.size)
            return
        _Upload(self, blob, self.store.blob_path(blob.digest)).run()
        self.sessions.forget(blob.digest)

    def _count(self, what: str, size: int) -> None:
        with self.lock:
            setattr(self, what, getattr(self, what) + size)


@dataclass
class _Upload:
    """One blob on its way. `offset`: bytes that the registry said it has. `location`: its session, or ""."""

    push: _Push
    blob: Blob
    path: Path
    location: str = ""
    offset: int = 0
    told: int = 0
    least: int = 0

    def run(self) -> None:
        """Upload from where we are until the registry has it, with rests between tries that brought nothing."""
        import httpx2

        registry, failures, restarts = self.push.registry, 0, 0
        self.location = self.push.sessions.get(self.blob.digest)
        while True:
            before = self.offset
            try:
                if self._open() or self._finished():
                    return
                restarts += 1
                if restarts > 2:
                    raise HybError(f"`{registry.host}` took blob `{self.blob.digest}` for another", code=Exit.CHECK)
                self.push.store.check(self.blob, thorough=True)  # ours may be damaged
            except (httpx2.TransportError, LaterError) as error:
                failures = 1 if self.offset > before else failures + 1
                if failures >= TRIES:
                    raise registry.gave_up(error, f"blob `{self.blob.digest}`") from error
                if self.push.stop.wait(registry.pause(error, failures)):
                    raise StoppedError from error

    def _open(self) -> bool:
        """Find out where the session is, or begin one. True when a mount made it needless."""
        registry, digest = self.push.registry, self.blob.digest
        if self.location:
            answer = registry.send("GET", self.location)
            if answer.status_code in (200, 204) and (end := _end(answer)) is not None and end <= self.blob.size:
                self._moved(answer, end)
                return False
            if answer.status_code >= 500 or answer.status_code == 429:
                raise registry.refused(answer, f"the upload of `{digest}`")
        other = self.push.others.get(digest, "")
        query = {"mount": digest, "from": other} if other else {}
        answer = registry.send("POST", registry.url("blobs", "uploads/"), params=query, headers={"Content-Length": "0"})
        if answer.status_code == 201 and other:
            self.push.meter.add(self.blob.size, fetched=False)
            self.push._count("mounted", self.blob.size)
            return True
        if answer.status_code != 202:
            raise registry.refused(answer, f"a push to `{registry.repository}`")
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        self.least = int(least) if least.isdigit() else 0
        self._moved(answer, 0)
        return False

    def _finished(self) -> bool:
        """Send what is missing and close the session. False when the registry says that the digest is another."""
        registry, size = self.push.registry, self.blob.size
        step = max(CHUNK, self.least)
        while size - self.offset > step:
            part = self._part(step)
            headers = {
                **BINARY,
                "Content-Length": str(step),
                "Content-Range": f"{self.offset}-{self.offset + step - 1}",
            }
            answer = registry.send("PATCH", self.location, content=part, headers=headers)
            if answer.status_code not in (201, 202, 204):
                raise self._lost(answer)
            self._moved(answer, self.offset + step if (end := _end(answer)) is None else end)
        rest = size - self.offset
        headers = {**BINARY, "Content-Length": str(rest)}
        if self.offset:
            headers["Content-Range"] = f"{self.offset}-{size - 1}"
        url = registry.client.build_request("PUT", self.location).url.copy_merge_params({"digest": self.blob.digest})
        answer = registry.send("PUT", url, content=self._part(rest), headers=headers)
        if answer.status_code == 201:
            self._confirm(size)
            return True
        if answer.status_code == 400 and b"DIGEST_INVALID" in answer.content:
            self._forget()
            return False
        raise self._lost(answer)

    def _lost(self, answer: Answer) -> Exception:
        """A session that the registry no longer knows is begun anew; anything else is a refusal."""
        if answer.status_code in (400, 404, 416) and self.offset:
            self._forget()
            return LaterError(answer.status_code, 0.0)
        return self.push.registry.refused(answer, f"the upload of `{self.blob.digest}`")

    def _moved(self, answer: Answer, offset: int) -> None:
        """Note the session's new place and what the registry has of the blob."""
        place = answer.headers.get("Location", "")
        if not (place or self.location):
            raise HybError(f"`{self.push.registry.host}` began an upload and did not say where", code=Exit.BELOW)
        if place:
            self.location = str(answer.url.join(place))
            self.push.sessions.put(self.blob.digest, self.location)
        self._confirm(offset)

    def _confirm(self, offset: int) -> None:
        self.push.meter.add(offset - self.told, fetched=False)
        self.offset = self.told = offset

    def _forget(self) -> None:
        self.location = ""
        self.push.sessions.forget(self.blob.digest)
        self._confirm(0)

    def _part(self, size: int) -> _Part:
        return _Part(self, self.offset, size)


@dataclass
class _Part:
    """Bytes of a file as a request's body; it can be read again, when a request must be signed anew."""

    upload: _Upload
    start: int
    size: int

    def __iter__(self) -> Iterator[bytes]:
        upload, left = self.upload, self.size
        with upload.path.open("rb") as stream:
            stream.seek(self.start)
            while left and (data := stream.read(min(dg.CHUNK, left))):
                if upload.push.stop.is_set():
                    raise StoppedError
                left -= len(data)
                upload.told += len(data)
                upload.push.meter.add(len(data))
                upload.push._count("sent", len(data))
                yield data


def _end(answer: Answer) -> int | None:
    """Bytes that a session has, from its `Range: 0-N`; None when it doesn't say. `0-0` of an empty one is zero."""
    first, dash, last = answer.headers.get("Range", "").removeprefix("bytes=").partition("-")
    if first != "0" or not dash or not last.isdigit():
        return None
    return int(last) + 1 if int(last) else 0


class Sessions:
    """Uploads that were begun: digest → address, on the disk so that the next process goes on with them."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self.known = _json(path)

    def get(self, digest: str) -> str:
        """The session of a blob, or ""."""
        return str(self.known.get(digest, ""))

    def put(self, digest: str, location: str) -> None:
        """Note where a blob's session is."""
        with self.lock:
            self.known[digest] = location
            fs.write_atomic(self.path, json.dumps(self.known).encode(), mode=0o600)

    def forget(self, digest: str) -> None:
        """The blob is there, or its session is of no use."""
        with self.lock:
            if self.known.pop(digest, None) is not None:
                fs.write_atomic(self.path, json.dumps(self.known).encode(), mode=0o600)


class Places:
    """Which repositories of a registry have which blobs, as far as hyb knows: where to mount from. A hint only."""

    def __init__(self, path: Path, host: str) -> None:
        self.path, self.host = path, host

    def repositories(self, blobs: Mapping[str, Blob], but: str) -> dict[str, str]:
        """Digest → another repository of the registry that should have it."""
        known = _json(self.path).get(self.host, {})
        found = {d: [r for r, has in known.items() if r != but and d in has] for d in blobs}
        return {d: repositories[0] for d, repositories in found.items() if repositories}

    def add(self, repository: str, blobs: Mapping[str, Blob]) -> None:
        """Remember; a store that can't be written forgets."""
        with contextlib.suppress(OSError), fs.locked(self.path.parent / "locks" / "registries"):
            known = _json(self.path)
            here = known.setdefault(self.host, {})
            here[repository] = sorted({*here.get(repository, []), *blobs})
            fs.write_atomic(self.path, dg.canonical_json(known))


def _json(path: Path) -> dict[str, Any]:
    """A note of hyb's own; one that is absent or damaged is empty."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
