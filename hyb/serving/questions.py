"""Many questions to an OpenAI-compatible endpoint, a few at once, greedily, each on its own.

An endpoint that is full (429, 503) is asked again, later each time. Any other error ends it: half an exam is none.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hyb.errors import Exit, HybError
from hyb.serving.client import Client, parsed
from hyb.serving.endpoint import Endpoint

PARALLEL = 4
TIMEOUT = 300.0  # seconds of silence
TRIES = 6
_FULL = (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE)
Told = Callable[[int], None]
"""How many questions are answered."""


def ask(
    found: Endpoint,
    asked: Sequence[Sequence[Mapping[str, str]]],
    *,
    model: str,
    max_tokens: int,
    told: Told,
    pause: float = 1.0,
) -> tuple[str, list[dict[str, Any]]]:
    """(the model's id, {"text", "thinking", "tokens", "ended"} for each conversation).

    `pause`: seconds before a second try; twice that before the third, and so on. Raises HybError (exit 5) when the
    endpoint can't be asked or answers with something else.
    """
    with Client(found.address, timeout=TIMEOUT) as client:
        served = found.model(client, model)
    body = {"model": served, "max_tokens": max_tokens, "temperature": 0, "seed": 0}
    done = 0

    def one(messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        with Client(found.address, timeout=TIMEOUT) as client:
            return _said(client, {**body, "messages": list(messages)}, pause)

    said = []
    pool = ThreadPoolExecutor(PARALLEL)
    try:
        for answer in pool.map(one, asked):
            done += 1
            told(done)
            said.append(answer)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return served, said


def _said(client: Client, body: Mapping[str, Any], pause: float) -> dict[str, Any]:
    data = json.dumps(body).encode()
    for attempt in range(1, TRIES + 1):
        status, reply = client.request("POST", "chat/completions", data)
        if status not in _FULL or attempt == TRIES:
            break
        time.sleep(pause * attempt)
    answer = parsed(client.address.url, status, reply)
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        text, reasoning = str(message.get("content") or ""), str(message.get("reasoning_content") or "")
        tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
        ended = choice.get("finish_reason") == "stop"
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"`{client.address.url}` answered with something that is no chat completion"
        raise HybError(what, code=Exit.BELOW) from error
    if reasoning:
        text = f"<think>{reasoning}</think>{text}"
    return {"text": text, "thinking": False, "tokens": tokens, "ended": ended}
