"""A refusal as the page and an API's client read it. `code` is what a program looks at, the page has its own words."""

from __future__ import annotations

import math
from typing import Any

MESSAGES = {
    "bad_request": "the request is wrong",
    "not_found": "there is no such page",
    "method": "this can't be done here",
    "too_large": "the request is too large",
    "too_many_messages": "the conversation has too many messages",
    "too_long": "the conversation is too long for this model",
    "too_slow": "the request came too slowly",
    "not_json": "the request must be JSON (`Content-Type: application/json`)",
    "cross_site": "this page may not ask here",
    "host": "this name is not served here",
    "sign_in": "an access code is needed",
    "wrong_code": "the access code is wrong",
    "limited": "too many requests; wait a little",
    "busy": "there are answers under way already",
    "full": "too many people are waiting just now",
    "waited": "the wait was too long",
    "unavailable": "the model is not available just now",
    "cut": "the answer broke off",
    "late": "the answer took too long",
    "stopping": "this server is being restarted",
}
STATUS = {
    "not_found": 404, "method": 405, "too_large": 413, "too_many_messages": 413, "too_long": 400, "too_slow": 408,
    "not_json": 415, "cross_site": 403, "host": 421, "sign_in": 401, "wrong_code": 401, "limited": 429, "busy": 429,
    "full": 503, "waited": 503, "unavailable": 503, "cut": 502, "late": 504, "stopping": 503,
}  # fmt: skip


class ChatError(Exception):
    """`code` of MESSAGES, more words in `detail`, `retry_after` in seconds (0: not told)."""

    def __init__(self, code: str, detail: str = "", *, retry_after: float = 0) -> None:
        super().__init__(detail or MESSAGES[code])
        self.code, self.retry_after = code, retry_after

    @property
    def status(self) -> int:
        """HTTP status."""
        return STATUS.get(self.code, 400)

    def body(self) -> dict[str, Any]:
        """The JSON, in the shape of OpenAI's API."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error: dict[str, Any] = {"message": str(self), "type": kind, "code": self.code}
        if self.retry_after:
            error["retry_after"] = math.ceil(self.retry_after)
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """What belongs into the answer's head."""
        return {"Retry-After": str(math.ceil(self.retry_after))} if self.retry_after else {}
