"""Refusals in the shape of the API that the client speaks. Pure.

OpenAI: `{"error": {"message", "type", "param", "code"}}`. Ollama: `{"error": "message"}`. What an engine says is put
into the same shape, so that a client need not know which engine answers.
"""

from __future__ import annotations

import json
from typing import Any

from hyb.serving.gateway.types import EngineDrainingError, EngineLostError, UnknownModelError
from hyb.serving.openai import ApiError

KINDS = {401: "authentication_error", 403: "permission_error", 408: "timeout_error", 429: "rate_limit_error"}
RESTART = 5  # seconds after which a client may try again when the engine is not there
LONG = 2000  # letters of an engine's message that a client sees


class GatewayError(ApiError):
    """A refusal. `retry_after`: seconds, for the header of that name; `allow`: methods, for a 405."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        allow: str = "",
    ) -> None:
        super().__init__(status, message, param=param, code=code)
        self.retry_after, self.allow = retry_after, allow

    def body(self) -> dict[str, Any]:
        """The JSON of the answer, in OpenAI's shape."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What goes with the status."""
        found = []
        if self.retry_after is not None:
            found.append((b"retry-after", str(max(1, round(self.retry_after))).encode()))
        if self.status == 401:
            found.append((b"www-authenticate", b"Bearer"))
        if self.allow:
            found.append((b"allow", self.allow.encode()))
        if self.status in (408, 413):  # the rest of the body is not wanted
            found.append((b"connection", b"close"))
        return found


def shaped(error: ApiError, ollama: bool) -> dict[str, Any]:
    """The JSON of a refusal."""
    return {"error": str(error)} if ollama else error.body()


def refusal(error: Exception) -> ApiError | None:
    """What a client is told of an error below; None for a bug."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UnknownModelError):
        known = ", ".join(f"`{name}`" for name in error.known)
        return GatewayError(404, f"{error}; there are: {known}", param="model", code="model_not_found")
    if isinstance(error, EngineDrainingError):
        return GatewayError(503, str(error), code="draining", retry_after=RESTART)
    if isinstance(error, EngineLostError):
        return GatewayError(503, str(error), code="engine_lost", retry_after=RESTART)
    return None


def from_engine(status: int, data: bytes) -> GatewayError:
    """What an engine's refusal is for a client. `data`: its body, or the JSON in an event of a stream."""
    said = _said(data)
    message = str(said.get("message") or "the engine gave no reason")[:LONG]
    kind = str(said.get("type") or "")
    if status == 503:
        return GatewayError(503, message, code="engine_busy", retry_after=RESTART)
    if status in (404, 405, 501) or kind == "not_supported_error":  # 400: a client must not try again
        return GatewayError(400, message, code="unsupported_by_engine")
    if status in (401, 403):
        return GatewayError(502, "the engine does not know its gateway", code="engine_error")
    if kind == "exceed_context_size_error" or "maximum context length" in message:
        return GatewayError(400, message, param="messages", code="context_length_exceeded")
    if 400 <= status < 500:
        param = said.get("param")
        return GatewayError(status, message, param=param if isinstance(param, str) else None, code="invalid_value")
    return GatewayError(502, message, code="engine_error")


def _said(data: bytes) -> dict[str, Any]:
    """The error object in an engine's answer: llama.cpp's and vLLM's shape, or starlette's `detail`."""
    try:
        answer = json.loads(data)
    except ValueError:
        return {"message": data[:LONG].decode(errors="replace").strip()}
    if not isinstance(answer, dict):
        return {}
    inner = answer.get("error", answer)
    if isinstance(inner, dict):
        return inner if "message" in inner else {"message": inner.get("detail", "")}
    return {"message": str(inner)}
