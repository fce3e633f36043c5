"""Server-sent events: read from a model's stream, in pieces cut anywhere, and written. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

LONGEST = 1 << 20  # bytes of one event
BEAT = b": \n\n"  # a comment: keeps a proxy from closing a connection that waits


_written = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def event(data: Any) -> bytes:
    """One event as bytes. Half a character, which JSON lets through and UTF-8 does not, becomes a question mark."""
    return b"data: " + _written(data).encode("utf-8", "replace") + b"\n\n"


class Reader:
    """Bytes in, the data of whole events out. Raises ValueError when one is too long."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of each event that is whole by now, several data lines joined as the standard says."""
        if len(self.rest) + len(chunk) > LONGEST:
            raise ValueError("an event of the model's stream is too long")
        parts = (self.rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        self.rest = parts.pop()
        for part in parts:
            lines = [line[5:].removeprefix(b" ") for line in part.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)


class Thoughts:
    """Parts a model's text into thought and answer, for engines that leave `<think>…</think>` in the content.

    `feed` gives (kind, text): kind `text`, `thought`, or `was_thought` (no text: all of `text` so far was thought; a
    template that opens the thought itself leaves only its end in the answer).
    """

    def __init__(self) -> None:
        self.kind = "text"
        self.held = ""  # may be the beginning of a mark
        self.started = self.done = False
        self.fresh = False  # white space at the beginning of a thought, and behind it, is not worth a line

    def feed(self, text: str) -> Iterator[tuple[str, str]]:
        """The parts that are sure by now."""
        if self.fresh:
            text = text.lstrip()
            self.fresh = not text
        if self.done:
            if text:
                yield "text", text
            return
        self.held += text
        if not self.started:
            stripped = self.held.lstrip()
            if "<think>".startswith(stripped):  # the empty text, too
                return
            self.started = True
            if stripped.startswith("<think>"):
                self.kind, self.held = "thought", stripped[7:].lstrip()
                self.fresh = not self.held
        before, mark, after = self.held.partition("</think>")
        if mark:
            if self.kind == "text":
                yield "text", before
                yield "was_thought", ""
            elif before:
                yield "thought", before
            self.done, self.kind, self.held = True, "text", ""
            self.fresh = not after.strip()
            if not self.fresh:
                yield "text", after.lstrip()
            return
        keep = next((n for n in range(min(7, len(before)), 0, -1) if "</think>".startswith(before[-n:])), 0)
        sure, self.held = before[: len(before) - keep], before[len(before) - keep :]
        if sure:
            yield self.kind, sure

    def end(self) -> Iterator[tuple[str, str]]:
        """What was held back."""
        if self.held.strip() or (self.started and self.held):
            yield self.kind, self.held
        self.held = ""


def deltas(data: bytes) -> tuple[str, str, str, dict[str, int] | None, str]:
    """(thought, text, finish, usage, error) of one chunk of OpenAI's stream. Raises ValueError for anything else."""
    body = json.loads(data)
    if not isinstance(body, dict):
        raise ValueError("a chunk of the model's stream is no object")
    if error := body.get("error"):
        return "", "", "", None, str(error.get("message") if isinstance(error, dict) else error)[:300] or "error"
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else None
    choices = body.get("choices") or []
    choice = _object(choices[0] if isinstance(choices, list) and choices else None)
    delta = _object(choice.get("delta"))
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    text, finish = delta.get("content") or "", choice.get("finish_reason") or ""
    return str(thought), str(text), str(finish), usage, ""


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
