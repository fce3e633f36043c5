"""An HTTP/1.1 answer from bytes as they come, for a client that counts microseconds. Pure. Source: RFC 9112."""

from __future__ import annotations

MOST = 1 << 16  # bytes of a head, or of a line between two chunks


class BadAnswerError(ValueError):
    """What came is no HTTP/1.1 answer, or it broke off."""


class Response:
    """One answer: fed with bytes, gives those of its body. `done` when it is whole."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.done = False
        self.keep = False
        """The server keeps the connection."""
        self._held = b""
        self._left = 0
        """Bytes of the body, or of the chunk with its end of line; -1: all up to the end of the connection."""
        self._chunked = False
        self._trailer = False

    def push(self, data: bytes) -> bytes:
        """The bytes of the body in `data`. Raises BadAnswerError."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not self.status:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._hold(head)
                return b""
            self._head(head)
        if self._chunked:
            return self._chunks(data)
        if self._left < 0:
            return data
        self._left -= len(data)
        self.done = self._left <= 0
        if self._left < 0:
            raise BadAnswerError("more bytes than were announced")
        return data

    def end(self) -> None:
        """The connection has ended. Raises BadAnswerError when that is too early."""
        if self.status and self._left < 0 and not self._chunked:
            self.done = True
        if not self.done:
            raise BadAnswerError("it broke off" if self.status else "the connection was closed without an answer")

    def _hold(self, data: bytes) -> None:
        if len(data) > MOST:
            raise BadAnswerError("a head or line without end")
        self._held = data

    def _head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        version, _, rest = first.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise BadAnswerError("this is no HTTP/1.1")
        self.status = int(rest[:3])
        pairs = (line.decode("latin-1").partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.keep = version == b"HTTP/1.1" and self.headers.get("connection", "").lower() != "close"
        self._chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length", "")
        if not self._chunked:
            self._left = int(length) if length.isdigit() else -1
            self.done = self._left == 0
            self.keep = self.keep and self._left >= 0

    def _chunks(self, data: bytes) -> bytes:
        body, at = [], 0
        while at < len(data) and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                past = max(0, 2 - self._left)  # of the two bytes that end the chunk
                body.append(piece[: len(piece) - min(past, len(piece))] if past else piece)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._hold(data[at:])
                break
            line, at = data[at:end], end + 2
            if self._trailer:
                self.done = not line  # fields after the last chunk are nothing to us
                continue
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                raise BadAnswerError("a chunk without its size") from None
            self._left = size + 2 if size else 0
            self._trailer = not size
        return body[0] if len(body) == 1 else b"".join(body)
