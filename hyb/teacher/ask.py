"""Many requests to a teacher at once. Each answer is a file of the cache, named by what was asked: a run that was
killed, or is made again with other filters, asks only what was never answered.

A teacher that is slow, full (429, 503) or broken is asked again, later each time; one that stays so ends the run when
nothing has come from it, and costs its requests only where others were answered.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyb import digest as dg
from hyb import fs
from hyb.errors import Exit, HybError
from hyb.serving.client import Address, Client

TRIES = 3
PAUSE = 1.0  # seconds before the second try; twice that before the third
GIVE_UP = 8  # requests that fail from the first on: then the teacher is not there


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
    """An answer to each request, in order. `told`: how many are there so far.

    Raises HybError (exit 5) when the first `GIVE_UP` requests that are sent all fail.
    """
    answers: list[Answer | None] = [_kept(cache / _name(r)) for r in requests]
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(requests)):
        if answers[number] is None:
            todo.put(number)
    state = _State(len(requests) - todo.qsize())
    told(state.done)

    def work() -> None:
        with Client(address, timeout=timeout) as client:
            while not state.over:
                try:
                    number = todo.get_nowait()
                except queue.Empty:
                    return
                found = _answered(client, requests[number])
                if not found.error:
                    fs.write_atomic(cache / _name(requests[number]), json.dumps({"text": found.text}).encode())
                answers[number] = found
                state.note(found.error)

    cache.mkdir(parents=True, exist_ok=True)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(parallel, todo.qsize()))]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):  # so that ^C is heard
        threads[0].join(0.2) if threads[0].is_alive() else time.sleep(0.05)
        told(state.done)
        if state.over:
            raise HybError(f"the teacher at `{address.url}` does not answer", hint=state.errors[0], code=Exit.BELOW)
    return [a if a is not None else Answer(error="was not asked") for a in answers]


class _State:
    """What the threads share."""

    def __init__(self, done: int) -> None:
        self.done, self.good, self.errors = done, 0, list[str]()
        self.over = False
        self._lock = threading.Lock()

    def note(self, error: str) -> None:
        with self._lock:
            self.done += 1
            if error:
                self.errors.append(error)
            else:
                self.good += 1
            self.over = not self.good and len(self.errors) >= GIVE_UP


def _answered(client: Client, request: Request) -> Answer:
    error = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * attempt)
        try:
            return Answer(_text(client.json("POST", "chat/completions", request.whole)))
        except HybError as problem:
            error = problem.message
        except (KeyError, IndexError, TypeError):
            error = "answered with something that is no chat completion"
    return Answer(error=error)


def _text(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"] or "")


def _name(request: Request) -> str:
    return request.digest.removeprefix("sha256:") + ".json"


def _kept(path: Path) -> Answer | None:
    """An answer of an earlier run; None where there is none, or half of one."""
    try:
        return Answer(str(json.loads(path.read_bytes())["text"]), cached=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
