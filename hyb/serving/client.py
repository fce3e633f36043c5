"""A question to an OpenAI-compatible server, with the standard library alone; proxies are not used."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from hyb.errors import Exit, HybError


def ask(
    url: str,
    key: str,
    question: str,
    *,
    model: str = "",
    max_tokens: int = 256,
    temperature: float | None = None,
    timeout: float = 600,
) -> str:
    """The answer to one question. `url` is the base URL (`http://127.0.0.1:8000/v1`), `timeout` in seconds.

    Raises HybError (exit 5) when the server can't be reached, says no, or answers with something else.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
    }
    if temperature is not None:
        body["temperature"] = temperature
    answer = chat(url, key, body, timeout=timeout)
    try:
        return str(answer["choices"][0]["message"]["content"] or "").strip()
    except (KeyError, IndexError, TypeError) as error:
        raise HybError(f"`{url}` answered with something that is no chat completion", code=Exit.BELOW) from error


def chat(url: str, key: str, body: Mapping[str, Any], *, timeout: float = 600) -> Mapping[str, Any]:
    """POST a chat completion and return the answer's JSON. Raises HybError (exit 5)."""
    status, data = request("POST", url, "chat/completions", key, json.dumps(body).encode(), timeout)
    try:
        answer = json.loads(data)
    except ValueError as error:
        raise HybError(f"`{url}` answered with something that is no JSON (status {status})", code=Exit.BELOW) from error
    if status != http.client.OK:
        said = answer.get("error", answer) if isinstance(answer, dict) else answer
        text = said.get("message", said) if isinstance(said, dict) else said
        hint = "the key is in the file that `hyb ps` names" if status == http.client.UNAUTHORIZED else ""
        raise HybError(f"`{url}` said {status}: {text}", hint=hint, code=Exit.BELOW)
    if not isinstance(answer, dict):
        raise HybError(f"`{url}` answered with something that is no chat completion", code=Exit.BELOW)
    return answer


def health(host: str, port: int, *, timeout: float = 5) -> int:
    """The status of `GET /health`; 0 when nothing answers. llama.cpp says 503 while it loads."""
    try:
        return request("GET", f"http://{host}:{port}", "health", "", None, timeout)[0]
    except HybError:
        return 0


def request(method: str, url: str, path: str, key: str, body: bytes | None, timeout: float) -> tuple[int, bytes]:
    """One HTTP request under the base URL. Raises HybError: exit 3 for a URL that is none, exit 5 for no answer."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HybError(f"`{url}` is no http URL", hint="give one like `http://127.0.0.1:8000/v1`")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=timeout)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection.request(method, f"{parts.path.rstrip('/')}/{path}", body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        why = "no answer in time" if isinstance(error, socket.timeout) else (str(error) or type(error).__name__).lower()
        hint = "`hyb ps` lists what is being served"
        raise HybError(f"no answer from `{url}`: {why}", hint=hint, code=Exit.BELOW) from error
    finally:
        connection.close()
