"""An HTTP client of OpenAI-compatible servers, with the standard library alone. Proxies are not used.

A `Client` keeps its connection from request to request. A server may close a connection that it kept (llama.cpp does
after each stream): a request that finds a kept connection closed is sent once more, on a new one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import socket
import ssl
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from hyb.errors import Exit, HybError
from hyb.serving.sse import DONE, Events

CONNECT = 10.0  # seconds
PIECE = 1 << 16  # bytes of an answer read at once
MOST = 64 << 20  # bytes of a whole answer
_CLOSED = (http.client.RemoteDisconnected, http.client.CannotSendRequest, BrokenPipeError, ConnectionResetError)


@dataclass(frozen=True)
class Address:
    """A server, and what it wants to see."""

    url: str
    """The base URL, as `http://127.0.0.1:8000/v1`."""
    key: str = field(default="", repr=False)
    ca: str = ""
    """A file with the certificates to trust in place of the system's."""
    socket: str = ""
    """A Unix socket to talk through; the URL's host and port are then only a name."""


class Client:
    """One connection to a server, opened when needed. Not for several threads at once.

    Every method raises HybError: exit 3 for an address that is none, exit 5 when there is no answer, it takes longer
    than `timeout` seconds between two pieces of a stream, or to the end of a whole answer once it has begun (or
    `within` seconds for all of it), the server says no, or what it says is more than `MOST` bytes or not what it
    should be.
    """

    def __init__(self, address: Address, *, timeout: float = 600, within: float = math.inf) -> None:
        self.address = address
        self.timeout = timeout
        self.within = within
        self._parts = checked(address.url)
        if not address.key.isascii() or any(c.isspace() for c in address.key):
            raise HybError("the API key is not one word of ASCII letters, digits and signs")
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. A server stops an answer that nobody reads."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def models(self) -> list[str]:
        """The ids of the models that can be asked."""
        listed = self.json("GET", "models").get("data")
        return [str(m["id"]) for m in listed or () if isinstance(m, dict) and m.get("id")]

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """One request; the JSON object of its answer."""
        status, data = self.request(method, path, None if body is None else json.dumps(body).encode())
        return parsed(self.address.url, status, data)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request; the status and the bytes of its answer, whatever they are."""
        return self.reply(method, path, body)[:2]

    def reply(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, http.client.HTTPMessage]:
        """As `request`, with the answer's headers."""
        end = time.monotonic() + self.within
        with self._explained():
            response = self._send(method, path, body)
            return response.status, self._whole(response, end), response.headers

    def _whole(self, response: http.client.HTTPResponse, end: float = math.inf) -> bytes:
        """The rest of an answer: it ends in size and time, whatever the server sends; at `end` at the latest."""
        data, end, left = bytearray(), min(end, time.monotonic() + self.timeout), response.length
        with response:  # read to its end, its connection can be used again
            while left is None or len(data) < left:
                piece = response.read1(PIECE if left is None else min(PIECE, left - len(data)))
                data += piece
                if not piece and left is not None:
                    raise http.client.IncompleteRead(bytes(data))
                if not piece:
                    break
                if len(data) > MOST:
                    self.close()
                    raise HybError(f"`{self.address.url}` says more than {MOST >> 20} MiB at once", code=Exit.BELOW)
                if time.monotonic() > end:
                    raise TimeoutError
        return bytes(data)

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[Mapping[str, Any]]:
        """POST and give the events of the answer as they come. Closing the iterator early closes the connection.

        An `error` event, and an end without the server's word that it is one, raise HybError.
        """
        whole = False
        try:
            with self._explained():
                response = self._send("POST", path, json.dumps({**body, "stream": True}).encode())
                if response.status != http.client.OK:
                    parsed(self.address.url, response.status, self._whole(response))
            ended = False
            for data in self._events(response):
                event = {} if data == DONE else _event(self.address.url, data)
                ended = ended or data == DONE or _ends(event)
                if event:
                    yield event
            if not ended:
                raise HybError(f"`{self.address.url}` broke off in the middle of the answer", code=Exit.BELOW)
            whole = True
        finally:
            if not whole:  # what is left of it would be read as the next answer
                self.close()

    def _events(self, response: http.client.HTTPResponse) -> Iterator[str]:
        events = Events()
        while True:
            with self._explained(midway=True):
                data = response.read1(PIECE)
                found = events.push(data)
            if not data:
                return
            yield from found

    def _send(self, method: str, path: str, body: bytes | None) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self.address.key:
            headers["Authorization"] = f"Bearer {self.address.key}"
        target = f"{self._parts.path.rstrip('/')}/{path}"
        kept = self._connection is not None and self._connection.sock is not None
        try:
            return self._try(method, target, body, headers)
        except _CLOSED:
            self.close()
            if not kept:
                raise
        return self._try(method, target, body, headers)

    def _try(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = _connection(self._parts, self.address)
        if self._connection.sock is None:
            self._connection.connect()
        self._connection.sock.settimeout(self.timeout)
        self._connection.request(method, target, body, dict(headers))
        return self._connection.getresponse()

    @contextlib.contextmanager
    def _explained(self, midway: bool = False) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise _unanswered(self.address, error, midway) from error


def checked(url: str) -> SplitResult:
    """The parts of a URL that can be asked. Raises HybError: no http URL, or one with a secret in it."""
    hint = "give one like `http://127.0.0.1:8000/v1`"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that does not close
        raise HybError(f"`{url}` is no http URL", hint=hint) from None
    if parts.username or parts.password or parts.query:
        raise HybError(
            "a key has no place in a URL: programs log URLs",
            hint="give the key's file with `--key-file`, or set `HYB_API_KEY`",
        )
    if not usable or any(c.isspace() for c in url):
        raise HybError(f"`{url}` is no http URL", hint=hint)
    return parts


def _connection(parts: SplitResult, address: Address) -> http.client.HTTPConnection:
    if address.socket:
        return _UnixConnection(address.socket)
    assert parts.hostname
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=CONNECT)
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=CONNECT, context=trust(address.ca))


def trust(ca: str) -> ssl.SSLContext:
    """TLS that trusts the system's certificates, or those of the file `ca` alone. Raises HybError."""
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if ca:
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a server's own certificate will do, too
        return context
    except OSError as error:  # ssl.SSLError is one, too
        why = error.strerror.lower() if error.strerror and error.filename else "no certificate in it"
        raise HybError(f"can't read the certificates of `{ca}`: {why}", hint="`--ca` takes a PEM file") from error


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _unanswered(address: Address, error: Exception, midway: bool) -> HybError:
    where = f"`{address.socket or address.url}`"
    hint = "" if address.socket else "`hyb ps` lists what is being served"
    if isinstance(error, socket.timeout):
        why = "no answer in time"
    elif isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted: {error.verify_message}"
        hint = "`--ca FILE` names the certificate to trust"
    elif isinstance(error, ssl.SSLError):
        why = f"no TLS there ({error.reason or 'it closed the connection'})".lower()
    elif isinstance(error, http.client.IncompleteRead):
        why = "it broke off"
    elif isinstance(error, OSError) and error.strerror:
        why = error.strerror.lower()
    else:
        why = (str(error) or type(error).__name__).lower()
    if midway:
        return HybError(f"{where} broke off in the middle of the answer: {why}", code=Exit.BELOW)
    return HybError(f"no answer from {where}: {why}", hint=hint, code=Exit.BELOW)


def parsed(url: str, status: int, data: bytes) -> Mapping[str, Any]:
    """The JSON object of an answer. Raises HybError (exit 5) with the server's own words when it says no."""
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        what = "an empty page" if not data else "something that is no JSON"
        hint = "is it the base URL of an API, ending in `/v1`?" if status != http.client.OK else ""
        raise HybError(f"`{url}` answered with {what} (status {status})", hint=hint, code=Exit.BELOW) from error
    if status != http.client.OK:
        hints = {
            http.client.UNAUTHORIZED: "the key is in the file that `hyb ps` names",
            http.client.NOT_FOUND: "is it the base URL of an API, ending in `/v1`?",
        }
        raise HybError(f"`{url}` said {status}: {words(answer)}", hint=hints.get(status, ""), code=Exit.BELOW)
    if not isinstance(answer, dict):
        raise HybError(f"`{url}` answered with something that is no JSON object", code=Exit.BELOW)
    return answer


def words(answer: Any) -> str:
    """What an error in any of the usual shapes says."""
    said = answer.get("error") or answer.get("detail") or answer if isinstance(answer, dict) else answer
    return str(said.get("message", said) if isinstance(said, dict) else said)


def _event(url: str, data: str) -> Mapping[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise HybError(f"`{url}` sent an event that is no JSON object", code=Exit.BELOW)
    if event.get("error"):
        raise HybError(f"`{url}` said: {words(event)}", code=Exit.BELOW)
    return event


def _ends(event: Mapping[str, Any]) -> bool:
    choices = event.get("choices")
    return bool(isinstance(choices, list) and choices and choices[0].get("finish_reason"))


# -- one question, one connection ------------------------------------------------------------------------------------


def ask(
    address: Address, question: str, *, model: str = "", max_tokens: int = 256, temperature: float | None = None
) -> str:
    """The answer to one question.

    Raises HybError (exit 5) when the server can't be reached, says no, or answers with something else.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
    }
    if temperature is not None:
        body["temperature"] = temperature
    with Client(address) as client:
        answer = client.json("POST", "chat/completions", body)
    try:
        return str(answer["choices"][0]["message"]["content"] or "").strip()
    except (KeyError, IndexError, TypeError) as error:
        raise HybError(
            f"`{address.url}` answered with something that is no chat completion", code=Exit.BELOW
        ) from error


def request(method: str, url: str, path: str, key: str, body: bytes | None, timeout: float) -> tuple[int, bytes]:
    """One HTTP request under the base URL. Raises HybError: exit 3 for a URL that is none, exit 5 for no answer."""
    with Client(Address(url, key), timeout=timeout) as client:
        return client.request(method, path, body)


def over_socket(
    path: str, method: str, target: str, body: bytes | None = None, *, timeout: float = 5
) -> tuple[int, bytes]:
    """One HTTP request through a Unix socket, as a service's admin socket is. Raises HybError (exit 5)."""
    with Client(Address("http://localhost", socket=path), timeout=timeout) as client:
        return client.request(method, target.lstrip("/"), body)
