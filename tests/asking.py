"""One question to a served model, by hyb's own client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyb.errors import HybError
from hyb.serving import client
from hyb.serving.client import Address, Client


def ask(url: str, key: str, question: str, **options: Any) -> str:
    """The answer's text."""
    return client.ask(Address(url, key), question, **options)


def chat(url: str, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer's JSON."""
    with Client(Address(url, key)) as asked:
        return asked.json("POST", "chat/completions", body)


def health(host: str, port: int) -> int:
    """The status of `GET /health`; 0 when nothing answers."""
    try:
        return client.request("GET", f"http://{host}:{port}", "health", "", None, 5)[0]
    except HybError:
        return 0
