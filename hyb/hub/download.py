"""One file over HTTP: hashed while it arrives, resumed where a process died, retried when the server stumbles.

A file is known before it is asked for: its size and its sha256 (or git's sha1 of it) come from the hub's listing of
a commit. So a resume needs no `If-Range`: storage behind a hub gives other entity tags than the hub, and the hash of
the whole file is the judge. A file that was resumed and came out wrong is fetched once more from its start.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from hyb.digest import CHUNK
from hyb.errors import Exit, HybError
from hyb.hub.checks import is_html
from hyb.progress import Progress, Say

if TYPE_CHECKING:
    import httpx2

TRIES = 5  # in a row without a byte of progress
FIRST_WAIT = 0.5  # seconds before the second try; doubles
LONGEST_WAIT = 60.0  # seconds; a server that asks for more by Retry-After is told to the user instead
T = TypeVar("T")
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
CONNECT_TIMEOUT, READ_TIMEOUT = 15.0, 60.0  # seconds; `HYB_HUB_TIMEOUT` gives another READ_TIMEOUT
SLOWEST = 512  # bytes a second, over READ_TIMEOUT seconds: a server that sends less is as good as silent
LARGEST_ANSWER = 64 << 20  # bytes of an answer that is no file: a listing of 100 000 files is half of it


@dataclass(frozen=True)
class Wanted:
    """A file as the hub lists it: path, size in bytes, and hex digits of git's sha1 and, for large files, of sha256."""

    path: str
    size: int
    git: str
    sha256: str = ""

    @property
    def etag(self) -> str:
        """Its name in the cache of huggingface_hub."""
        return self.sha256 or self.git


class StoppedError(Exception):
    """Another download failed, or ^C: this one ends where it is."""


class Hashes:
    """sha256, and git's blob sha1 for a file that the hub knows by that alone."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._git = None if wanted.sha256 else hashlib.sha1(b"blob %d\0" % wanted.size, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(data)
        if self._git:
            self._git.update(data)
        self.size += len(data)

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of all bytes."""
        return "sha256:" + self._sha256.hexdigest()

    @property
    def found(self) -> str:
        """Hex digits to be compared with `wanted.etag`."""
        return self._git.hexdigest() if self._git else self._sha256.hexdigest()

    @property
    def right(self) -> bool:
        """True when the bytes are those that were wanted."""
        return self.size == self.wanted.size and self.found == self.wanted.etag


class Meter:
    """Adds up the bytes of several threads and says so ten times a second at most."""

    def __init__(self, say: Say, task: str, total: int) -> None:
        self._say, self._task, self._total = say, task, total
        self._done, self._fetched, self._last = 0, 0, 0.0
        self._lock = threading.Lock()

    def add(self, count: int, *, fetched: bool = True) -> None:
        """`count` more bytes are there (fewer, when negative); `fetched` False: they were there already."""
        with self._lock:
            self._done += count
            self._fetched += count if fetched else 0
            now = time.monotonic()
            if now - self._last >= 0.1 or self._done == self._total:
                self._last = now
                self._say(Progress(self._task, self._done, self._total, "B"))

    @property
    def fetched(self) -> int:
        """Bytes that came over the network."""
        return self._fetched


class Refused(Protocol):
    """Makes the error for a status that no retry will cure."""

    def __call__(self, status: int, headers: Mapping[str, str], wanted: Wanted) -> HybError: ...


def patience() -> float:
    """Seconds of silence after which a server is given up: READ_TIMEOUT, or what `HYB_HUB_TIMEOUT` says (1 to 3600)."""
    text = os.environ.get("HYB_HUB_TIMEOUT", "")
    return float(text) if re.fullmatch(r"\d{1,4}", text) and 1 <= int(text) <= 3600 else READ_TIMEOUT


def client(headers: Mapping[str, str], *, answers: bool = False) -> httpx2.Client:
    """An HTTP client: proxies and certificates from the environment; other hosts are followed to without the token.

    `answers`: what it asks for is no file; an answer without an end, in bytes or in time, is cut off.
    """
    import httpx2

    def cut(response: httpx2.Response) -> None:
        response.stream = _limited(response.stream, 3 * patience())  # type: ignore[arg-type]

    return httpx2.Client(
        headers={**headers, "Accept-Encoding": "identity"},
        follow_redirects=True,
        timeout=httpx2.Timeout(patience(), connect=min(CONNECT_TIMEOUT, patience())),
        event_hooks={"response": [cut]} if answers else {},
    )


def _limited(stream: httpx2.SyncByteStream, seconds: float) -> httpx2.SyncByteStream:
    """A stream that ends with an error after LARGEST_ANSWER bytes or `seconds`."""
    import httpx2

    class Limited(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            size, end = 0, time.monotonic() + seconds
            for chunk in stream:
                size += len(chunk)
                if size > LARGEST_ANSWER:
                    raise httpx2.ReadError(f"its answer has more than {LARGEST_ANSWER >> 20} MiB and no end")
                if time.monotonic() > end:
                    raise httpx2.ReadTimeout(f"its answer is not there after {seconds:g} s")
                yield chunk

        def close(self) -> None:
            stream.close()

    return Limited()


class Pace:
    """Notices a body that comes so slowly that it would never be there."""

    def __init__(self) -> None:
        self._window, self._since, self._size = patience(), time.monotonic(), 0

    def slow(self, count: int) -> bool:
        """`count` more bytes have come; True when a window has passed with fewer than SLOWEST bytes a second."""
        self._size += count
        now = time.monotonic()
        if now - self._since < self._window:
            return False
        too_slow = self._size < SLOWEST * (now - self._since)
        self._since, self._size = now, 0
        return too_slow


@dataclass
class Download:
    """One file on its way into `partial`. `run` gives its digest."""

    client: httpx2.Client
    url: str
    wanted: Wanted
    partial: Path
    meter: Meter
    refused: Refused
    stop: threading.Event
    restarts: int = 0

    def run(self) -> str:
        """Fetch what is missing of the file and return `sha256:<hex>`.

        Raises HybError: exit 3 for a web page instead of the file and what `refused` makes, exit 4 for wrong bytes,
        exit 5 when the server can't be reached or fails again and again; what has arrived stays in `partial` then.
        """
        for attempt in range(2):
            with self.partial.open("a+b") as out:
                hashes, resumed = self._present(out)
                hashes = self._go_on(out, hashes)
            if hashes.right:
                return hashes.digest
            self._forget(hashes.size)
            if attempt == 1 or not (resumed or hashes.size > self.wanted.size):
                break
        raise HybError(
            f"`{self.wanted.path}` arrived with other bytes than the hub lists",
            hint="a proxy or mirror on the way changed it, or holds a damaged copy; nothing of it was kept",
            details=[f"expected {self.wanted.etag}", f"got      {hashes.found}", f"from {self.url}"],
            code=Exit.CHECK,
        )

    def _present(self, out: BinaryIO) -> tuple[Hashes, bool]:
        """Hash what an earlier process left; too long is as good as nothing."""
        hashes = Hashes(self.wanted)
        out.seek(0)
        while data := out.read(CHUNK):
            hashes.update(data)
            self._check_stop()
        self.meter.add(hashes.size, fetched=False)
        return (hashes, True) if 0 < hashes.size <= self.wanted.size else (self._restart(out, hashes), False)

    def _go_on(self, out: BinaryIO, hashes: Hashes) -> Hashes:
        """Ask from where we are until the file is whole, with rests between tries that brought nothing."""
        import httpx2

        failures = 0
        while hashes.size < self.wanted.size:
            before, wait, slow = hashes.size, 0.0, False
            try:
                hashes, wait = self._once(out, hashes)
                why = (
                    f"it stopped at byte {hashes.size} of {self.wanted.size}"
                    if not wait
                    else "it asks to be asked later"
                )
            except httpx2.TransportError as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise _certificate(self.url, error) from error
                why = str(error) or type(error).__name__
                slow = isinstance(error, httpx2.ReadTimeout)
            failures = 1 if hashes.size > before and not slow else failures + 1
            if hashes.size < self.wanted.size:
                if failures >= TRIES:
                    raise self._gave_up(why)
                self._rest(wait or backoff(failures))
        return hashes

    def _once(self, out: BinaryIO, hashes: Hashes) -> tuple[Hashes, float]:
        """One request. Returns the hashes and, when the server asked for a rest, its seconds."""
        asked = {"Range": f"bytes={hashes.size}-"} if hashes.size else {}
        with self.client.stream("GET", self.url, headers=asked) as response:
            if response.status_code in RETRIED:
                return hashes, retry_after(response.headers) or backoff(1)
            if response.status_code == 416 or (
                response.status_code == 206 and not _fits(response.headers, hashes.size)
            ):
                return self._restart(out, hashes), 0.0
            if response.status_code not in (200, 206):
                raise self.refused(response.status_code, response.headers, self.wanted)
            if response.status_code == 200 and hashes.size:  # the server does not know Range
                hashes = self._restart(out, hashes)
            self._receive(response, out, hashes)
        return hashes, 0.0

    def _receive(self, response: httpx2.Response, out: BinaryIO, hashes: Hashes) -> None:
        """Write, hash and count what comes; stop when it is more than was wanted."""
        html = response.headers.get("Content-Type", "").startswith("text/html")
        chunks: Iterator[bytes] = response.iter_bytes()
        pace = Pace()
        for chunk in chunks:
            if hashes.size == 0 and (html or (is_html(chunk) and not self.wanted.path.endswith(".md"))):
                raise _web_page(self.url, self.wanted.path)
            out.write(chunk)
            hashes.update(chunk)
            self.meter.add(len(chunk))
            self._check_stop()
            if hashes.size > self.wanted.size:
                break
            if hashes.size < self.wanted.size and pace.slow(len(chunk)):
                raise _too_slow()

    def _restart(self, out: BinaryIO, hashes: Hashes) -> Hashes:
        self.restarts += hashes.size > 0
        if self.restarts > TRIES:
            raise self._gave_up("it can't be resumed and never comes whole")
        out.truncate(0)  # opened for appending: the next write starts the file
        self.meter.add(-hashes.size, fetched=False)
        return Hashes(self.wanted)

    def _forget(self, size: int) -> None:
        self.partial.unlink(missing_ok=True)
        self.meter.add(-size, fetched=False)

    def _rest(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise StoppedError

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise StoppedError

    def _gave_up(self, why: str) -> HybError:
        return HybError(
            f"`{self.url}` failed {TRIES} times: {why}",
            hint="what has arrived is kept: the same command goes on from there",
            code=Exit.BELOW,
        )


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asked us to wait, 0 when it did not. Raises HybError (exit 5) when it asks for too many."""
    text = headers.get("Retry-After", "").strip()
    seconds = float(text) if re.fullmatch(r"\d{1,9}", text) else 0.0
    if seconds > LONGEST_WAIT:
        raise HybError(
            f"the hub asks to wait {seconds:.0f} s before it is asked again",
            hint="you are over its rate limit; a token (`HF_TOKEN`) has a higher one",
            code=Exit.BELOW,
        )
    return seconds


def parallel(tasks: Sequence[Callable[[], T]], stop: threading.Event, workers: int) -> list[T]:
    """Run all, `workers` at a time; the first failure, or ^C, sets `stop` and ends the others where they are."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(t) for t in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if any(not f.done() or f.exception() for f in futures):
                stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    failures = [e for f in futures if not f.cancelled() and (e := f.exception()) and not isinstance(e, StoppedError)]
    if failures:
        raise failures[0]
    return [f.result() for f in futures]


def retried(
    attempt: Callable[[], T], failed: Callable[[Exception], float | None], kinds: tuple[type[Exception], ...]
) -> T:
    """Call until it works, TRIES times at most. `failed` gives the seconds to wait, or None to raise at once."""
    for number in range(1, TRIES + 1):
        try:
            return attempt()
        except kinds as error:
            wait = failed(error)
            if wait is None or number == TRIES:
                raise
            time.sleep(wait or backoff(number))
    raise AssertionError("not reached")


def backoff(failures: int) -> float:
    """Seconds to rest after so many failures in a row; a little random, so that many clients don't come at once."""
    return float(min(FIRST_WAIT * 2 ** (failures - 1), LONGEST_WAIT)) * random.uniform(0.75, 1.25)


def _too_slow() -> Exception:
    import httpx2

    return httpx2.ReadTimeout(f"it sends fewer than {SLOWEST} bytes a second")


def _fits(headers: Mapping[str, str], start: int) -> bool:
    """True when a 206 begins where we asked."""
    m = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return m is not None and int(m[1]) == start


def _web_page(url: str, path: str) -> HybError:
    return HybError(
        f"`{url}` answered with a web page instead of `{path}`: a login or captive portal page",
        hint="open the address in a browser and log in, or check the proxy settings and `HF_ENDPOINT`",
    )


def _certificate(url: str, error: Exception) -> HybError:
    return HybError(
        f"the certificate of `{url}` is not trusted: {error}",
        hint="when your network has a certificate authority of its own, name its file in `SSL_CERT_FILE`",
    )
