"""The gateway's HTTP edge: OpenAI's API and Ollama's in front of one service's engines. Plain ASGI.

    POST /v1/chat/completions, /v1/completions, /v1/embeddings    GET /v1/models, /v1/models/ID
    POST /api/chat, /api/generate, /api/embed, /api/embeddings, /api/show    GET /api/tags, /api/ps, /api/version
    GET  /health (the gateway lives), /ready (the model answers): these two need no key    GET /metrics

A request passes: key in the URL, Host, key, route, limits of the key, body, fields, model, queue, engine. A stream's
bytes are passed on as they come (see `stream`). When the client goes away, the engine's connection is closed at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from hyb.serving import keys
from hyb.serving.choice import VLLM
from hyb.serving.gateway import ollama, ollama_answer, openai_api, settings, stream
from hyb.serving.gateway.door import OPEN, Door
from hyb.serving.gateway.engines import Engines
from hyb.serving.gateway.errors import GatewayError, from_engine, refusal, shaped
from hyb.serving.gateway.exchange import LINES, SSE, ClientGoneError, Exchange, compact, printable
from hyb.serving.gateway.limits import SAVE, Limits, Line
from hyb.serving.gateway.metrics import CONTENT_TYPE, Metrics
from hyb.serving.gateway.settings import Settings
from hyb.serving.gateway.types import EngineAnswer, EngineLostError, GatewayJob, Model, Pick, UnknownModelError
from hyb.serving.openai import ApiError

Handler = Callable[[Exchange], Awaitable[None]]
Reduce = Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[str]]]

GONE = 499  # what metrics and log call an answer that nobody was there for
MODELS = "/v1/models/"
MODEL = MODELS + "ID"


def build(job: GatewayJob, engines: Engines, options: Settings | None = None) -> Gateway:
    """The application of a service. `options`: from the environment when not given."""
    return Gateway(job, engines, settings.from_environ(os.environ) if options is None else options)


class Gateway:
    """An ASGI application. `close` at the end writes the tokens of the day."""

    def __init__(self, job: GatewayJob, engines: Engines, options: Settings) -> None:
        self._job, self._engines, self._options = job, engines, options
        hashed = Path(job.keys_path) if job.keys_path else None
        self._door = Door(job, options)
        self._limits = Limits(keys.usage_path(hashed) if hashed else None)
        self._line = Line(job.parallel, options.waiting)
        self._metrics = Metrics(
            lambda: self._line.waiting, lambda: self._line.running, lambda: engines.restarts, lambda: engines.ready
        )
        self._vllm = job.engine == VLLM
        self._props: tuple[str, dict[str, Any]] = ("", {})
        self._saving: asyncio.Handle | None = None
        post, get = "POST", "GET"
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": (post, lambda x: self._openai(x, openai_api.chat)),
            "/v1/completions": (post, lambda x: self._openai(x, openai_api.completion)),
            "/v1/embeddings": (post, lambda x: self._openai(x, openai_api.embedding)),
            "/v1/models": (get, lambda x: x.json(openai_api.listing(engines.models()))),
            MODEL: (get, self._model),
            "/api/chat": (post, lambda x: self._ollama(x, ollama.chat)),
            "/api/generate": (post, lambda x: self._ollama(x, ollama.generate)),
            "/api/embed": (post, lambda x: self._embed(x, old=False)),
            "/api/embeddings": (post, lambda x: self._embed(x, old=True)),
            "/api/show": (post, self._show),
            "/api/tags": (get, lambda x: x.json(ollama_answer.tags(engines.models(), *self._of_model()))),
            "/api/ps": (get, lambda x: x.json(ollama_answer.ps(engines.models(), *self._of_model()))),
            "/api/version": (get, lambda x: x.json({"version": ollama_answer.VERSION})),
            "/metrics": (get, lambda x: x.data(self._metrics.text(), CONTENT_TYPE.encode())),
            "/health": (get, lambda x: x.json({"status": "ok"})),
            "/ready": (get, self._ready),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        x = Exchange(scope, receive, send)
        try:
            await self._handler(x)(x)
        except ClientGoneError:
            x.status = GONE
        except Exception as error:
            told = refusal(error)
            if x.status:  # in the middle of an answer: the connection ends
                x.status = 500
                raise
            await self._refuse(x, told or GatewayError(500, "the gateway failed; its log says why"))
            if told is None:
                raise
        finally:
            self._metrics.request(x.model, x.route, x.status)
            if self._options.log and x.route not in OPEN:
                self._note(x)

    def close(self) -> None:
        """Write what the keys have used."""
        self._limits.save()

    # -- the way to a handler

    def _handler(self, x: Exchange) -> Handler:
        """Raises GatewayError for a request that gets no further."""
        self._door.check(x)
        if self._door.asks_first(x):
            return self._door.allow
        route = MODEL if x.path.startswith(MODELS) else x.path
        if route not in self._routes:
            raise GatewayError(404, f"there is nothing at {x.method} {printable(x.path)}", code="unknown_url")
        x.route = route
        method, handler = self._routes[route]
        if x.method != method and not (x.method == "HEAD" and method == "GET"):
            raise GatewayError(
                405, f"`{route}` takes {method}, not {x.method}", code="method_not_allowed", allow=method
            )  # fmt: skip
        return handler

    async def _refuse(self, x: Exchange, error: ApiError) -> None:
        more = error.headers() if isinstance(error, GatewayError) else []
        await x.json(shaped(error, x.ollama), error.status, more)

    # -- what needs no engine

    async def _ready(self, x: Exchange) -> None:
        if self._engines.ready:
            await x.json({"status": "ready"})
        else:
            await x.json({"status": "not ready"}, 503, ((b"retry-after", b"1"),))

    async def _model(self, x: Exchange) -> None:
        await x.json(openai_api.entry(*self._named(x.path.removeprefix(MODELS))))

    async def _show(self, x: Exchange) -> None:
        name = ollama.plain(ollama.name_of(openai_api.parse(await x.body(self._options.body))))
        model, base = self._named(name)
        await x.json(ollama_answer.show(model, base, self._of_model()[0], await self._engine_says()))

    def _named(self, name: str) -> tuple[Model, str]:
        """(the model of that name, the base's name). Raises UnknownModelError."""
        every = self._engines.models()
        found = next((model for model in every if model.id == name), None)
        if found is None:
            raise UnknownModelError(name, [model.id for model in every])
        return found, every[0].id

    def _of_model(self) -> tuple[Mapping[str, Any], int]:
        """The facts of the model that is served now, and its bytes."""
        job = self._engines.job
        return job.model_meta, _size(Path(job.model))

    async def _engine_says(self) -> dict[str, Any]:
        """What llama.cpp says of the model's template; {} of other engines. Asked once a model."""
        digest = self._engines.job.digest or "-"
        if self._props[0] != digest:
            async with self._engines.send("GET", "/props") as answer:
                data = b"".join([part async for part in answer.chunks()])
                self._props = digest, openai_api.parse(data) if answer.status == 200 else {}
        return self._props[1]

    async def _check_tools(self, request: dict[str, Any]) -> None:
        """Refuse tools when the model's template has none: llama.cpp would leave them out in silence."""
        if not request.get("tools") or request.get("tool_choice") == "none" or self._job.engine != "llama.cpp":
            return
        caps = (await self._engine_says()).get("chat_template_caps")
        if isinstance(caps, dict) and caps.get("supports_tools") is False:
            raise GatewayError(
                400, "the model's chat template has no tools", param="tools", code="unsupported_by_model"
            )  # fmt: skip
        openai_api.one_tool(request)

    # -- OpenAI's API

    async def _openai(self, x: Exchange, reduce: Reduce) -> None:
        self._limits.admit(x.key)
        request, left = reduce(openai_api.parse(await x.body(self._options.body)))
        if left:
            x.extra.append(
                (b"x-hyb-ignored", ", ".join(printable(name) for name in left[:20]).encode("ascii", "replace"))
            )
        await self._check_tools(request)
        asked = request.get("model", "")
        name = asked or self._job.name
        streams = request.get("stream") is True
        counts = (request.get("stream_options") or {}).get("include_usage") is True
        async with self._answer(x, x.path, request, asked) as (answer, meter):
            if not streams:
                await x.data(stream.renamed(await _whole(answer, meter), name, vllm=self._vllm))
                return
            await x.stream(SSE)
            relay = stream.Relay(meter, name, counts, vllm=self._vllm)
            try:
                async for chunk in answer.chunks():
                    if data := relay.push(chunk, time.perf_counter()):
                        await x.write(data)
            except EngineLostError as error:
                relay.failed = GatewayError(503, str(error), code="engine_lost")
                await x.write(stream.error_event(relay.failed))
            if relay.failed:
                x.status = relay.failed.status
            await x.write(b"", more=False)

    @asynccontextmanager
    async def _answer(
        self, x: Exchange, path: str, request: dict[str, Any], asked: str
    ) -> AsyncIterator[tuple[EngineAnswer, stream.Meter]]:
        """The engine's answer, when it is no refusal, and its meter. Waits in the queue.

        Raises GatewayError, EngineLostError, UnknownModelError, ClientGoneError.
        """
        x.model = self._engines.pick(asked).id
        if request.get("stream") is True:
            request["stream_options"] = {**(request.get("stream_options") or {}), "include_usage": True}
        async with x.watched(), self._line.turn():
            pick = self._engines.pick(asked)  # again: adapters may have changed while it waited
            x.model = pick.id
            x.extra.append((b"x-hyb-model", pick.id.encode()))
            body = openai_api.dump({**request, "model": pick.id, **pick.patch})
            meter = stream.Meter(self._metrics.of(pick.id), x.began)
            async with self._sent(path, body, pick) as answer:
                try:
                    yield answer, meter
                finally:
                    self._spend(x, meter, len(body))

    @asynccontextmanager
    async def _sent(self, path: str, body: bytes, pick: Pick) -> AsyncIterator[EngineAnswer]:
        async with self._engines.send("POST", path, body, pick=pick) as answer:
            if answer.status != 200:
                raise from_engine(answer.status, b"".join([part async for part in answer.chunks()]))
            yield answer

    def _spend(self, x: Exchange, meter: stream.Meter, asked: int) -> None:
        x.tokens = meter.close(asked)
        if self._limits.spend(x.key, sum(x.tokens)) and self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE, self._save)

    def _save(self) -> None:
        self._saving = None
        asyncio.get_running_loop().run_in_executor(None, self._limits.save)

    # -- Ollama's API

    async def _ollama(self, x: Exchange, read: Callable[[Mapping[str, Any]], ollama.Asked]) -> None:
        self._limits.admit(x.key)
        asked = read(openai_api.parse(await x.body(self._options.body)))
        name = ollama.plain(asked.model)
        if not asked.body:
            x.model = self._engines.pick(name).id
            await x.json(ollama_answer.loaded(asked, ollama_answer.now()))
            return
        reduce = openai_api.completion if asked.raw else openai_api.chat
        request, _ = reduce({**asked.body, "model": name, "stream": asked.stream})
        await self._check_tools(request)
        path = "/v1/completions" if asked.raw else "/v1/chat/completions"
        async with self._answer(x, path, request, name) as (answer, meter):
            made = ollama_answer.Answer(asked, ollama_answer.now(), x.began)
            if asked.stream:
                await self._lines(x, answer, meter, made)
            else:
                whole = openai_api.parse(await _whole(answer, meter))
                await x.json(made.whole(whole, time.perf_counter()))

    async def _lines(self, x: Exchange, answer: EngineAnswer, meter: stream.Meter, made: ollama_answer.Answer) -> None:
        await x.stream(LINES)
        events = stream.Events()
        try:
            async for chunk in answer.chunks():
                for event in events.push(chunk):
                    if "error" in event:
                        raise stream.failure(event)
                    meter.usage(event.get("usage"))
                    now = time.perf_counter()
                    line, more = made.chunk(event, now)
                    if more:
                        meter.tick(1, now)
                    if line:
                        await x.write(compact(line) + b"\n")
            lines = made.last(time.perf_counter())
        except (EngineLostError, ApiError) as error:
            x.status = error.status if isinstance(error, ApiError) else 503
            lines = [{"error": str(error)}]
        await x.write(b"".join(compact(line) + b"\n" for line in lines), more=False)

    async def _embed(self, x: Exchange, *, old: bool) -> None:
        self._limits.admit(x.key)
        body = openai_api.parse(await x.body(self._options.body))
        asked = ollama.name_of(body)
        name = ollama.plain(asked)
        request, _ = openai_api.embedding({**ollama.embed(body, old=old), "model": name})
        async with self._answer(x, "/v1/embeddings", request, name) as (answer, meter):
            whole = openai_api.parse(await _whole(answer, meter))
            await x.json(ollama_answer.embedded(whole, asked, time.perf_counter() - x.began, old=old))

    # -- the log

    def _note(self, x: Exchange) -> None:
        """A line a request: who, what, how long; nothing of what was asked or answered."""
        if x.route in (*OPEN, "/metrics") and x.status < 400:  # they come every few seconds, and say nothing
            return
        prompt, completion = x.tokens
        sys.stderr.write(
            f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {x.method} {x.route} {x.status}"
            f" model={x.model or '-'} key={x.key.id or '-'} tokens={prompt}+{completion}"
            f" s={time.perf_counter() - x.began:.3f} id={x.id.decode()}\n"
        )


async def _whole(answer: EngineAnswer, meter: stream.Meter) -> bytes:
    """An answer that is not streamed, counted."""
    data = b"".join([part async for part in answer.chunks()])
    try:
        meter.usage(openai_api.parse(data).get("usage"))
    except GatewayError as error:
        raise GatewayError(502, "the engine's answer is no JSON object", code="engine_error") from error
    return data


def _size(path: Path) -> int:
    """Bytes of a model: a file, or the files of a folder; 0 when it can't be seen from here."""
    try:
        return sum(p.stat().st_size for p in path.iterdir() if p.is_file()) if path.is_dir() else path.stat().st_size
    except OSError:
        return 0
