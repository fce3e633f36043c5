"""Many questions to an OpenAI-compatible endpoint, a few at once, greedily, each on its own.

An endpoint that is full (429, 503), whose gateway lost it (502, 504), or that drops the connection is asked again,
later each time. What it does not take of a request (`seed`; `max_tokens` under its old name) is put otherwise. Any
other error ends it at once: half an exam is none.
"""

from __future__ import annotations

import http.client
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyb.errors import Exit, HybError
from hyb.serving.client import Client, parsed
from hyb.serving.endpoint import Endpoint

PARALLEL = 4
TIMEOUT = 300.0  # seconds of silence, and one more for each token that an answer may have
TRIES = 6
_FULL = (
    http.client.TOO_MANY_REQUESTS,
    http.client.SERVICE_UNAVAILABLE,
    http.client.BAD_GATEWAY,
    http.client.GATEWAY_TIMEOUT,
)
_NOT_TAKEN = (http.client.BAD_REQUEST, http.client.UNPROCESSABLE_ENTITY)
_OTHERWISE = {"seed": "", "max_tokens": "max_completion_tokens"}
"""What some servers refuse → what their refusal says to take; empty: left out."""
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
    said: dict[int, dict[str, Any]] = {}
    errors: list[HybError] = []
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(asked)):
        todo.put(number)

    def work() -> None:
        with Client(found.address, timeout=TIMEOUT + max_tokens) as client:
            while not errors:
                try:
                    number = todo.get_nowait()
                    said[number] = _said(client, body, asked[number], pause)
                except queue.Empty:
                    return
                except HybError as error:
                    errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(PARALLEL, len(asked)))]
    for thread in threads:
        thread.start()
    count = 0
    while any(t.is_alive() for t in threads) and not errors:  # none is waited for when one fails, or at ^C
        next((t for t in threads if t.is_alive()), threads[0]).join(0.05)
        if len(said) > count:
            told(count := len(said))
    if errors:
        raise errors[0]
    if len(said) > count:
        told(len(said))
    return served, [said[number] for number in range(len(asked))]


def _said(client: Client, body: dict[str, Any], messages: Sequence[Mapping[str, str]], pause: float) -> dict[str, Any]:
    """The answer to one conversation. `body` is changed for all when the endpoint does not take it."""
    status, reply = 0, b""
    for attempt in range(1, TRIES + 1):
        try:
            status, reply = _sent(client, body, messages)
        except HybError as error:
            dropped = isinstance(error.__cause__, (ConnectionError, http.client.HTTPException))
            if not dropped or attempt == TRIES:
                raise
        else:
            if status not in _FULL:
                break
        if attempt < TRIES:
            time.sleep(pause * attempt)
    answer = parsed(client.address.url, status, reply)
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        text = _text(message.get("content"))
        reasoning = _text(message.get("reasoning_content") or message.get("reasoning"))
        tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
        ended = choice.get("finish_reason") != "length"  # servers have many words for an end, and one for a cut
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"`{client.address.url}` answered with something that is no chat completion"
        raise HybError(what, code=Exit.BELOW) from error
    if reasoning:
        text = f"<think>{reasoning}</think>{text}"
    return {"text": text, "thinking": False, "tokens": tokens, "ended": ended}


def _sent(client: Client, body: dict[str, Any], messages: Sequence[Mapping[str, str]]) -> tuple[int, bytes]:
    """Status and reply; what the endpoint says that it does not take is put otherwise, and it is asked again."""
    while True:
        given = dict(body)
        data = json.dumps({**given, "messages": list(messages)}).encode()
        status, reply = client.request("POST", "chat/completions", data)
        refused = [
            name for name, instead in _OTHERWISE.items()
            if name in given and name.encode() in reply and instead.encode() in reply
        ]  # fmt: skip
        if status not in _NOT_TAKEN or not refused:
            return status, reply
        for name in refused:
            value = body.pop(name, None)
            if value is not None and _OTHERWISE[name]:
                body[_OTHERWISE[name]] = value


def _text(content: Any) -> str:
    """The text of a message, whole or in parts; half of a character, as an answer that was cut may end in, is none."""
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
