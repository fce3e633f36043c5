"""A real question to a model over a connection that is already there, and what each way to fail means.

Through a Skupper Listener the two main shapes are (seen on the real router): the link is down, then the Listener
refuses the connection; the model's server is down behind a live link, then the connection is taken and closed without
an answer. The answer is bounded in time and size; nothing is sent a second time.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from hyb.errors import HybError
from hyb.linking import reach
from hyb.linking.causes import NETWORK, OPENSHIFT
from hyb.linking.findings import FaultError
from hyb.serving import client

QUESTION = "Answer with one word: which colour has the sky on a clear day?"
TOKENS = 32
ANSWER_MAX = 1 << 20  # bytes of an answer that are read


@dataclass(frozen=True)
class Answered:
    """A model's real answer."""

    model: str
    text: str
    """What it said, or thought where it got no further; not empty."""
    date: datetime | None
    """The server's clock, from the `Date` of its answer."""


class Asker:
    """Asks one server; each request has a connection of its own. `seconds` bounds each request."""

    def __init__(self, address: client.Address, seconds: float, behind: str = "") -> None:
        self.address, self.seconds, self.behind = address, seconds, behind
        self.parts = client.checked(address.url)
        self.host = self.parts.hostname or ""
        self.port = self.parts.port or (443 if self.parts.scheme == "https" else 80)
        self.date: datetime | None = None

    def secured(self, connection: socket.socket, clock: reach.Clock) -> socket.socket:
        """TLS on a connection when the URL is https. Raises FaultError."""
        if self.parts.scheme != "https":
            return connection
        try:
            connection.settimeout(clock.left)
            return client.trust(self.address.ca).wrap_socket(connection, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            do = "`--ca FILE` names the certificate to trust; a Route's is the cluster's own"
            seen = f"its certificate is not trusted: {error.verify_message}"
            raise FaultError("wrong-certificate", seen, do=do) from error
        except TimeoutError as error:
            raise FaultError("timeout", f"TLS does not answer within {self.seconds:g} s") from error
        except OSError as error:
            raise FaultError(
                "tls", f"no TLS there: {getattr(error, 'reason', '') or error.strerror or error!s}"
            ) from error

    def models(self, connection: socket.socket) -> list[str]:
        """The ids of the models that the server lists. Raises FaultError."""
        answer = self._json(connection, "GET", "models", None)
        listed = answer.get("data")
        ids = [str(m["id"]) for m in listed if isinstance(m, dict) and m.get("id")] if isinstance(listed, list) else []
        if not ids:
            raise FaultError("no-model", "it lists no model")
        return ids

    def complete(self, connection: socket.socket, model: str) -> Answered:
        """One chat completion. Raises FaultError; an empty one is a failure, too."""
        body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS,
                "temperature": 0, "stream": False}  # fmt: skip
        answer = self._json(connection, "POST", "chat/completions", body)
        try:
            message = answer["choices"][0]["message"]
            said = [message.get(k) for k in ("content", "reasoning_content", "reasoning")]
        except (KeyError, IndexError, TypeError, AttributeError):
            raise FaultError("no-model", "its answer is no chat completion") from None
        text = next((t.strip() for t in said if isinstance(t, str) and t.strip()), "")
        if not text:
            raise FaultError("empty-answer", f"`{model}` answers with an empty completion")
        return Answered(str(answer.get("model") or model), text, self.date)

    def _json(
        self, connection: socket.socket, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        clock = reach.Clock(self.seconds)
        with connection, reach.cut_off(connection, self.seconds):
            connection.settimeout(clock.left)
            secured = self.secured(connection, clock)
            with secured:
                try:
                    status, headers, data = self._exchange(secured, method, path, body)
                except FaultError:
                    raise
                except (OSError, http.client.HTTPException) as error:
                    raise _shape(error, clock, self.behind) from error
        if clock.over:
            raise _slow(clock)
        self.date = _date(headers)
        return _judged(self.address.url, status, headers, data)

    def _exchange(
        self, connection: socket.socket, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        if self.address.key:
            headers["Authorization"] = f"Bearer {self.address.key}"
        asking = http.client.HTTPConnection(self.host, self.port)
        asking.sock = connection
        try:
            target = f"{self.parts.path.rstrip('/')}/{path}"
            asking.request(method, target, None if body is None else json.dumps(body).encode(), headers)
            response = asking.getresponse()
            data = response.read(ANSWER_MAX + 1)
        finally:
            asking.close()
        if len(data) > ANSWER_MAX:
            raise FaultError("no-model", f"an answer of more than {ANSWER_MAX >> 20} MiB")
        return response.status, response.headers, data


def _shape(error: Exception, clock: reach.Clock, behind: str) -> FaultError:
    """What it means that a connection was taken and then gave no answer; `behind`: what that says of the link."""
    if isinstance(error, socket.timeout) or clock.over:
        return _slow(clock)
    if isinstance(error, http.client.RemoteDisconnected):
        return FaultError("model-down", f"the connection is taken and closed without an answer{behind}")
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return FaultError("model-down", f"the connection is taken and reset without an answer{behind}")
    if isinstance(error, http.client.IncompleteRead | ConnectionError):
        return FaultError("model-down", f"the answer breaks off{behind}")
    return FaultError("no-model", f"its answer is no HTTP ({str(error)[:60] or type(error).__name__})")


def _slow(clock: reach.Clock) -> FaultError:
    return FaultError("slow", f"the connection is taken, no answer within {clock.seconds:g} s")


def _judged(url: str, status: int, headers: http.client.HTTPMessage, data: bytes) -> Mapping[str, Any]:
    """The JSON object of a good answer. Raises FaultError for every other."""
    if status == http.client.SERVICE_UNAVAILABLE and b"Application is not available" in data:
        raise FaultError(
            "no-route", "the 503 page of OpenShift's router: no Route has this host, or no pod is behind it"
        )
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        raise FaultError("key-refused", f"status {status}: {_words(data)}")
    if status in (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE):
        raise FaultError("busy", f"status {status}: {_words(data)}{_again(headers)}")
    if status in (http.client.BAD_GATEWAY, http.client.GATEWAY_TIMEOUT):
        do = "what answers is a proxy before the Listener: look at what is behind it"
        raise FaultError("model-down", f"status {status}: {_words(data)}", side=OPENSHIFT, do=do)
    if status >= 500:
        raise FaultError("model-error", f"status {status}: {_words(data)}")
    if status == http.client.PROXY_AUTHENTICATION_REQUIRED or 300 <= status < 400:
        raise FaultError("no-model", f"status {status}: something else answers than the model", side=NETWORK)
    try:
        return client.parsed(url, status, data)
    except HybError as error:
        raise FaultError("no-model", error.message) from error


def _words(data: bytes) -> str:
    try:
        said = client.words(json.loads(data))
    except ValueError:
        said = data.decode(errors="replace")
    return " ".join(said.split())[:120] or "no word"


def _again(headers: http.client.HTTPMessage) -> str:
    after = headers.get("Retry-After", "")
    return f" (again after {after[:40]} s)" if after else ""


def _date(headers: http.client.HTTPMessage) -> datetime | None:
    try:
        found = parsedate_to_datetime(headers.get("Date", ""))
    except (ValueError, TypeError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
