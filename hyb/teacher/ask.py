"""Many requests to a teacher at once. Each answer is a file of the cache, named by what was asked: a run that was
killed, or is made again with other filters, asks only what was never answered.

A teacher that is slow, full (429, 503) or broken is asked again, later each time, or when it says so (`Retry-After`);
one that says no (400, 401) is not. A request that nothing comes of is lost, and the others go on; many of them in a
row, or all, end the run: whoever comes again asks the rest alone, for what was answered is kept.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import fs
from hyb.errors import Exit, HybError
from hyb.serving.client import Address, Client, parsed

TRIES = 3
PAUSE = 1.0  # seconds before the second try; twice that before the third
GIVE_UP = 8  # requests in a row that fail: then the teacher is not there
WHOLE = 4  # times the longest silence: an answer that trickles on for longer is given up


@dataclass(frozen=True)
class Request:
    """A chat completion. `body`: without the messages."""

    prompt: str
    body: dict[str, Any]

    @property
    def whole(self) -> dict[str, Any]:
        """What is sent."""
        return {**self.body, "messages": [{"role": "user", "content": self.prompt}]}

    @property
    def digest(self) -> str:
        """Of what is sent."""
        return dg.of_json(self.whole)


@dataclass(frozen=True)
class Answer:
    """What came of a request: `text`, or the reason why nothing did."""

    text: str = ""
    error: str = ""
    cached: bool = False


def ask(
    address: Address,
    requests: Sequence[Request],
    cache: Path,
    *,
    parallel: int,
    timeout: float,
    told: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """An answer to each request, in order. `timeout`: seconds of silence, and of waiting for a teacher that is full.
    `told`: how many are there so far.

    Raises HybError: exit 5 when `GIVE_UP` requests in a row, or all that there are, fail; exit 3 when an answer can't
    be kept.
    """
    answers: list[Answer | None] = [_kept(cache / _name(r)) for r in requests]
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(requests)):
        if answers[number] is None:
            todo.put(number)
    state = _State(len(requests) - todo.qsize(), len(requests))
    told(state.done)

    def work() -> None:
        with Client(address, timeout=timeout, within=WHOLE * timeout) as client:
            while not state.over:
                try:
                    number = todo.get_nowait()
                except queue.Empty:
                    return
                found = _answered(client, requests[number], lambda: state.over)
                try:
                    if not found.error:
                        _keep(cache / _name(requests[number]), found)
                except HybError as problem:
                    state.broken = problem
                    return
                answers[number] = found
                state.note(found.error)

    cache.mkdir(parents=True, exist_ok=True)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(parallel, todo.qsize()))]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):  # so that ^C is heard
        threads[0].join(0.2) if threads[0].is_alive() else time.sleep(0.05)
        told(state.done)
        if state.broken:
            raise state.broken
        if state.over:
            hint = "what it answered is kept; run again when it is back" if len(state.errors) < state.done else ""
            raise HybError(
                f"the teacher at `{address.url}` does not answer: {state.errors[-1]}", hint=hint, code=Exit.BELOW
            )
    return [a if a is not None else Answer(error="was not asked") for a in answers]


class _State:
    """What the threads share. `broken`: why no answer can be kept."""

    def __init__(self, done: int, wanted: int) -> None:
        self.done, self.wanted, self.errors = done, wanted, list[str]()
        self.broken: HybError | None = None
        self._row = 0
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether there is no use in asking on."""
        return self.broken is not None or self._row >= GIVE_UP or len(self.errors) == self.wanted

    def note(self, error: str) -> None:
        with self._lock:
            self.done += 1
            self._row = self._row + 1 if error else 0
            self.errors += [error] if error else []


def _answered(client: Client, request: Request, over: Callable[[], bool]) -> Answer:
    """What comes of a request. `over`: whether there is no use in waiting."""
    body = json.dumps(request.whole).encode()
    failed, waited = 0, 0.0
    while True:
        status, told = 0, 0.0
        try:
            status, data, headers = client.reply("POST", "chat/completions", body)
            told = _told_to_wait(headers) if status in _FULL else 0.0
            return Answer(_text(parsed(client.address.url, status, data)))
        except HybError as problem:
            error = problem.message
        except (KeyError, IndexError, TypeError):
            error = "answered with something that is no chat completion"
        failed += not told
        pause = told or PAUSE * failed
        waited += pause
        if failed >= TRIES or waited > client.timeout or (400 <= status < 500 and status not in _AGAIN):
            return Answer(error=error)
        end = time.monotonic() + pause
        while not over() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))


_FULL = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_AGAIN = (*_FULL, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY)


def _told_to_wait(headers: Message) -> float:
    """Seconds that the server asks to wait, by `Retry-After`; 0 where it does not say, or nothing sensible."""
    said = (headers.get("Retry-After") or "").strip()
    try:
        return max(0.0, float(said) if said[:1].isdigit() else parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _text(answer: Any) -> str:
    text = str(answer["choices"][0]["message"]["content"] or "")
    return text.encode(errors="replace").decode()  # JSON may have half a character (`\ud800`)


def _keep(path: Path, answer: Answer) -> None:
    with fs.explained(f"can't keep the teacher's answer as `{path}`"):
        fs.write_atomic(path, json.dumps({"text": answer.text}).encode())


def _name(request: Request) -> str:
    return request.digest.removeprefix("sha256:") + ".json"


def _kept(path: Path) -> Answer | None:
    """An answer of an earlier run; None where there is none, or half of one."""
    try:
        return Answer(str(json.loads(path.read_bytes())["text"]), cached=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
