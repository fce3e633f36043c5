"""Engine transformers: OpenAI's chat API over a safetensors folder, with PEFT adapters beside it, on a Unix socket.

`python -m hyb.serving.hf JOB.json`. One request at a time, the others wait in the order they came; a client that goes
away ends its generation. `/v1/chat/completions` (whole and streamed), `/v1/models`, `/health`. A request names an
adapter as its model. Nothing of a prompt or an answer is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hyb.serving import child, openai
from hyb.serving.openai import ApiError, ChatRequest

BODY = 8 << 20  # bytes of a request that are read at most
WATCH = 0.1  # seconds between two looks whether the client is still there


@dataclass
class Engine:
    """The model, and the one thread that it works in."""

    name: str
    model: Any
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    started: int = field(default_factory=lambda: int(time.time()))

    def head(self) -> dict[str, Any]:
        """id, created and model of an answer."""
        return {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": self.name}


def app(engine: Engine) -> Starlette:
    """The web application."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(_: Request) -> Response:
        ids = (engine.name, *engine.model.adapters)
        entries = [{"id": i, "object": "model", "created": engine.started, "owned_by": "hyb"} for i in ids]
        return JSONResponse({"object": "list", "data": entries})

    async def chat(request: Request) -> Response:
        asked = openai.parse(await _body(request))
        prompt = engine.model.prompt(asked)
        parts = _answer(engine, asked, prompt, request)
        if asked.stream:
            return StreamingResponse(_events(engine, asked, prompt, parts), media_type="text/event-stream")
        return JSONResponse(await _whole(engine, prompt, parts))

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        ApiError: _refused,
        HTTPException: _no_such,
        ClientDisconnect: _gone,
        Exception: _broken,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


async def _refused(_: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status)


async def _no_such(request: Request, error: HTTPException) -> Response:
    return await _refused(request, ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))


async def _gone(_: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=499)


async def _broken(request: Request, error: Exception) -> Response:
    return await _refused(request, ApiError(500, f"the engine failed: {type(error).__name__}"))


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > BODY:
            raise ApiError(413, f"the request has more than {BODY >> 20} MiB")
    return bytes(data)


async def _answer(engine: Engine, asked: ChatRequest, prompt: Any, request: Request) -> AsyncIterator[Any]:
    """(kind, text) as they come, then the Answer. The engine's one thread makes the queue."""
    loop, parts, cancelled = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Event()

    def tell(item: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(parts.put_nowait, item)

    def work() -> Any:
        try:
            return engine.model.answer(asked, prompt, lambda kind, part: tell((kind, part)), cancelled)
        finally:
            tell(None)

    watcher = asyncio.create_task(_watch(request, cancelled))
    try:
        future = loop.run_in_executor(engine.thread, work)
        while (part := await parts.get()) is not None:
            yield part
        yield await future
    finally:
        cancelled.set()
        watcher.cancel()


async def _watch(request: Request, cancelled: threading.Event) -> None:
    """Cancel the work of a client that has gone away."""
    while not await request.is_disconnected():
        await asyncio.sleep(WATCH)
    cancelled.set()


async def _whole(engine: Engine, prompt: Any, parts: AsyncIterator[Any]) -> dict[str, Any]:
    text: dict[str, str] = {}
    async for part in parts:
        if isinstance(part, tuple):
            text[part[0]] = text.get(part[0], "") + part[1]
        else:
            return openai.completion(engine.head(), text, part.finish, len(prompt.ids), part.tokens)
    raise AssertionError("the last part is the Answer")


async def _events(engine: Engine, asked: ChatRequest, prompt: Any, parts: AsyncIterator[Any]) -> AsyncIterator[str]:
    head = engine.head()
    yield openai.event(openai.chunk(head, {"role": "assistant", "content": ""}))
    async for part in parts:
        if isinstance(part, tuple):
            yield openai.event(openai.chunk(head, {part[0]: part[1]}))
            continue
        yield openai.event(openai.chunk(head, {}, part.finish))
        if asked.include_usage:
            counts = openai.usage(len(prompt.ids), part.tokens)
            yield openai.event({**head, "object": "chat.completion.chunk", "choices": [], "usage": counts})
    yield openai.event("[DONE]")


def bind(job: child.Job) -> socket.socket:
    """The job's socket, taken but not listening yet. Raises UnableError."""
    found = socket.socket(socket.AF_UNIX)
    try:
        found.bind(job.socket)
    except OSError as error:
        found.close()
        raise child.UnableError(f"can't listen on `{job.socket}`: {error.strerror}") from error
    return found


def main(argv: list[str]) -> int:
    """Serve until SIGTERM."""
    try:
        job = child.main(argv)
        listener = bind(job)
        from hyb.serving.hf_model import Model

        engine = Engine(job.name, Model(job))
    except child.UnableError as error:
        return child.give_up(error)
    config = uvicorn.Config(
        app(engine),
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
