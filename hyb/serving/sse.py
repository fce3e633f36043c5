"""Server-sent events: from bytes as they come to the `data` of whole events. Pure.

Source: the HTML standard, 9.2 "Server-sent events". Of the fields only `data` matters to an OpenAI client; a comment
(a line that begins with a colon: a server's sign of life) is nothing.
"""

from __future__ import annotations

DONE = "[DONE]"
"""The data of an OpenAI stream's last event."""
MOST = 16 << 20  # bytes of one event; a server that never ends a line must not fill the memory


class Events:
    """Fed with bytes in any cut; gives the data of the events that they complete."""

    def __init__(self) -> None:
        self._held = b""
        self._data: list[str] = []

    def push(self, data: bytes) -> list[str]:
        """The data of each event that is whole now. Raises ValueError for an event larger than `MOST`."""
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > MOST:
            raise ValueError("an event that never ends")
        found = []
        for line in lines:
            text = line.removesuffix(b"\r")
            if text.startswith(b"data:"):
                self._data.append(text[5:].removeprefix(b" ").decode("utf-8", "replace"))
            elif not text and self._data:
                found.append("\n".join(self._data))
                self._data = []
        return found
