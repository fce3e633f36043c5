"""Models from a Hugging Face hub or a mirror of one.

huggingface_hub asks (which commit is this branch, which files has it); the bytes hyb fetches itself, because the
hub's client checks sizes only and starts anew after a kill. They land in huggingface_hub's own cache, in its layout.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hyb import digest as dg
from hyb.artifact import Blob
from hyb.errors import Exit, HybError
from hyb.hub import cache, hub_errors, local, select
from hyb.hub.download import Download, Hashes, Meter, Wanted, client, parallel, patience, retried
from hyb.hub.names import HF
from hyb.hub.types import Fetched, Place
from hyb.offline import PINNED, THERE
from hyb.progress import Say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WORKERS = 8  # files at a time, as huggingface_hub has it
SMALL = (".json", ".jinja", ".txt", ".model", ".md")
DEFAULT_ENDPOINT = "https://huggingface.co"
T = TypeVar("T")


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def pin(source: HF, *, offline: bool, say: Say) -> HF:
    """The commit that a branch or tag is now. Raises HybError: exit 6 when offline, else what `hub_errors` says."""
    if source.immutable:
        return source
    if offline or _offline():
        raise HybError(
            f"`{source}` names a branch or tag, and hyb is offline",
            hint=f"{PINNED.format('commit', source)}; or write hf://{source.repo}@<commit>",
            code=Exit.OFFLINE,
        )
    say(f"asking {endpoint()} which commit `{source.revision}` of `{source.repo}` is")
    info = _asked(source, lambda api: api.model_info(source.repo, revision=source.revision, timeout=30))
    pinned = HF(source.repo, info.sha or "", source.file)
    if not pinned.immutable:
        raise HybError(
            f"{endpoint()} gave no commit for `{source}`", hint="is it a hub? see `HF_ENDPOINT`", code=Exit.BELOW
        )
    return pinned


def fetch(source: HF, place: Place, revision: str = "") -> list[Fetched]:
    """Every file of the model that a causal LM needs, here and checked.

    `revision`: the branch or tag that was pinned, to be noted in the cache. Raises HybError.
    """
    offline = place.offline or _offline()
    root = cache.usable(cache.folder(os.environ), place.work / "hub")
    with cache.explained(root):
        return _fetch(_Fetch(source, place, cache.Repo(root, source.repo), offline), revision)


def _fetch(job: _Fetch, revision: str) -> list[Fetched]:
    source, place, offline = job.source, job.place, job.offline
    listed = job.cached() if offline else job.listed()
    chosen = job.chosen(listed)
    job.meter = Meter(place.say, f"pull {source.repo}", sum(listed[p].size for p in chosen))
    small = [listed[p] for p in chosen if p.endswith(SMALL) or "." not in p]
    files = job.take(small)  # first: a model that is refused for its configuration costs no weights
    files += job.take([listed[p] for p in chosen if listed[p] not in small])
    local.check_whole(files, f"hf://{source.repo}")
    for f in files:
        job.repo.keep(source.revision, f.path, listed[f.path].etag)
    if not offline:
        job.repo.name(revision or source.revision, source.revision)
        job.repo.sweep()
    place.record("fetched_bytes", job.meter.fetched)
    return sorted(files, key=lambda f: f.path)


@dataclass
class _Fetch:
    """The files of one commit on their way."""

    source: HF
    place: Place
    repo: cache.Repo
    offline: bool
    stop: threading.Event = field(default_factory=threading.Event)
    meter: Meter = field(init=False)

    def listed(self) -> dict[str, Wanted]:
        """What the hub says the commit has."""
        from huggingface_hub.hf_api import RepoFile

        tree = _asked(self.source, lambda api: list(api.list_repo_tree(
            self.source.repo, recursive=True, revision=self.source.revision)))  # fmt: skip
        found = {}
        for entry in tree:
            if isinstance(entry, RepoFile):
                found[entry.path] = Wanted(entry.path, entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else "")
        return found

    def cached(self) -> dict[str, Wanted]:
        """What the cache has of the commit; names of blobs are their hashes. Raises HybError (exit 6) when nothing."""
        found = {}
        for path, size, name in self.repo.listed(self.source.revision):
            found[path] = Wanted(path, size, name if len(name) == 40 else "", name if len(name) == 64 else "")
        if not found:
            raise HybError(
                f"`{self.source}` is neither in the store nor in the cache `{self.repo.cache}`, and hyb is offline",
                hint=THERE.format(self.source),
                details=_wanted(self.source),
                code=Exit.OFFLINE,
            )
        return found

    def chosen(self, listed: dict[str, Wanted]) -> list[str]:
        """The files to take. Raises HybError; exit 6 when it is the cache, offline, that lacks something."""
        try:
            name = f"hf://{self.source.repo}@{self.source.revision[:12]}"
            return list(select.select(listed, name, gguf=self.source.file))
        except HybError as error:
            if not self.offline:
                raise
            raise HybError(
                f"`{self.source}` is not whole in the cache `{self.repo.cache}`, and hyb is offline",
                hint=THERE.format(self.source),
                details=[f"missing: {self.source.file or 'weights'}; the cache has: {', '.join(sorted(listed))}"],
                code=Exit.OFFLINE,
            ) from error

    def take(self, wanted: Sequence[Wanted]) -> list[Fetched]:
        """Have these files: from the store, from the cache, or from the hub, several at a time. Raises HybError."""
        here = {w.path: f for w in wanted if (f := self._here(w))}
        absent = sorted((w for w in wanted if w.path not in here), key=lambda w: -w.size)
        if absent:
            if self.offline:
                raise _incomplete(self.source, absent)
            self._room(absent)
            with client(_headers()) as http:
                tasks = [functools.partial(self._download, w, http) for w in absent]
                fetched = parallel(tasks, self.stop, WORKERS)
            here |= {f.path: f for f in fetched}
        local.check_files(list(here.values()), f"hf://{self.source.repo}")
        return list(here.values())

    def _here(self, wanted: Wanted) -> Fetched | None:
        """The file when the store or the cache has it, unharmed."""
        if wanted.sha256 and self.place.store.has_blob(blob := Blob(f"sha256:{wanted.sha256}", wanted.size)):
            self.place.store.check(blob)
            self.meter.add(wanted.size, fetched=False)
            return Fetched(wanted.path, self.place.store.blob_path(blob.digest), blob.digest)
        found = self.repo.find(self.source.revision, wanted.path, wanted.etag)
        if found is None:
            return None
        hashes = Hashes(wanted)
        with found.open("rb") as stream:
            while data := stream.read(dg.CHUNK):
                hashes.update(data)
        if hashes.right:
            self.meter.add(wanted.size, fetched=False)
            return Fetched(wanted.path, found, hashes.digest, _how(found))
        if self.offline:
            raise HybError(f"`{found}` is damaged: its content is not `{wanted.etag}`", code=Exit.CHECK,
                           hint="where there is a network, pull again; hyb replaces it")  # fmt: skip
        self.place.say(f"`{found}` is damaged: fetching `{wanted.path}` again")
        self.repo.pointer(self.source.revision, wanted.path).unlink(missing_ok=True)
        return None

    def _download(self, wanted: Wanted, http: Any) -> Fetched:
        """Fetch a file into the cache, while no other program does."""
        blob, partial = self.repo.blob(wanted.etag), self.repo.partial(wanted.etag)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with self.repo.locked(wanted.etag):
            if blob.exists() and (done := self._here(wanted)):  # another program was faster
                return done
            url = f"{endpoint()}/{self.source.repo}/resolve/{self.source.revision}/{_quoted(wanted.path)}"
            refused = hub_errors.Refused(self.source, endpoint())
            digest = Download(http, url, wanted, partial, self.meter, refused, self.stop).run()
            partial.replace(blob)
        return Fetched(wanted.path, blob, digest, _how(blob))

    def _room(self, absent: Sequence[Wanted]) -> None:
        """Raise HybError when the files can't fit on the cache's disk."""
        import shutil

        self.repo.root.mkdir(parents=True, exist_ok=True)
        partials = (self.repo.partial(w.etag) for w in absent)
        need = sum(w.size for w in absent) - sum(p.stat().st_size for p in partials if p.is_file())
        free = shutil.disk_usage(self.repo.root).free
        if need > free:
            raise HybError(
                f"`{self.source}` needs {need / 1e9:.2f} GB more in `{self.repo.cache}`; free: {free / 1e9:.2f} GB",
                hint="free some space there, or name another folder in `HF_HUB_CACHE`; nothing was written",
            )


def _how(path: Path) -> str:
    """A file of another user can be linked, but not be made read-only: copy it."""
    return "link" if path.stat().st_uid == os.geteuid() else "copy"


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path)


def _offline() -> bool:
    """True when the environment tells huggingface_hub to stay off the network."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def _headers() -> Mapping[str, str]:
    """User agent and, where there is one, the token of this user; no telemetry."""
    import huggingface_hub

    import hyb

    token = huggingface_hub.get_token()
    return {"User-Agent": f"hyb/{hyb.__version__}"} | ({"Authorization": f"Bearer {token}"} if token else {})


def _asked(source: HF, question: Callable[[HfApi], T]) -> T:
    """Ask the hub's API, again when it stumbles, and turn its errors into ours."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import httpx2
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are silent: ours are told
    huggingface_hub.set_client_factory(lambda: client({}, answers=True))  # its own has no time limit
    api = huggingface_hub.HfApi(endpoint=endpoint(), token=huggingface_hub.get_token() or False, library_name="hyb")
    kinds = (HfHubHTTPError, httpx2.HTTPError, ValueError)
    end = time.monotonic() + 3 * patience()  # its own retries within each of ours would take half an hour

    def failed(error: Exception) -> float | None:
        return hub_errors.wait_for(error) if time.monotonic() < end else None

    try:
        return retried(lambda: question(api), failed, kinds)
    except kinds as error:
        raise hub_errors.explained(error, source, endpoint()) from error


def _incomplete(source: HF, absent: Sequence[Wanted]) -> HybError:
    return HybError(
        f"`{source}` is not whole in the cache, and hyb is offline",
        hint=THERE.format(source),
        details=[f"missing: {w.path} ({_digest(w)}, {w.size} bytes)" for w in absent],
        code=Exit.OFFLINE,
    )


def _digest(wanted: Wanted) -> str:
    return f"sha256:{wanted.sha256}" if wanted.sha256 else f"git blob {wanted.etag}"


def _wanted(source: HF) -> list[str]:
    """What is missing when not even the list of files is here."""
    return [f"missing: {source.file or 'all of its files'}, of the commit {source.revision}"]
