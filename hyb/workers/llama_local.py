"""llama.cpp's own server inside this process, on a Unix socket in the current folder: no port, no network."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xllamacpp

from hyb.workers.protocol import Failed, progress
from hyb.workers.weights import threads

_SOCKET = "llama.sock"
Post = Callable[[str, dict[str, Any]], dict[str, Any]]
"""(path, question) → answer, both JSON."""


@contextlib.contextmanager
def server(gguf: Path, context: int, lora: Path | None = None) -> Iterator[Post]:
    """The model in `gguf`, with room for `context` tokens, an adapter on it or none, loaded while this is open.

    The working folder changes meanwhile: a socket's path may have no more than 107 bytes, so it is used by its name.
    Raises Failed (exit 4) when llama.cpp can't load it.
    """
    gguf, lora = gguf.absolute(), lora.absolute() if lora else None
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        loaded = _load(gguf, lora, context)
        try:
            yield _post
        finally:
            del loaded  # it ends with its object
            os.chdir(before)


def _load(gguf: Path, lora: Path | None, context: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    if lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
    params.hostnames = [_SOCKET]
    params.n_ctx = max(512, context + 8)
    params.n_parallel = 1
    params.n_gpu_layers = 0  # the CPU everywhere, so that the answers do not hang on a driver
    params.cpuparams.n_threads = threads()
    params.warmup = params.fit_params = params.ui = False
    progress("loading in llama.cpp", 0, 1)
    try:
        return xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        raise Failed(f"llama.cpp can't load the GGUF: {error}", hint="its log has the reason", code=4) from error


class _Local(http.client.HTTPConnection):
    """HTTP over the Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(_SOCKET)


def _post(path: str, question: dict[str, Any]) -> dict[str, Any]:
    connection = _Local("localhost")
    try:
        connection.request("POST", path, json.dumps(question), {"Content-Type": "application/json"})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()
