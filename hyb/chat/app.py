"""The web application: which address does what.

GET  /  /*.js  /*.css …      the page                              (anybody)
GET  /api/config             title, sign-in, what the page must know (anybody)
GET  /api/status             {"model": true|false}                 (anybody)
POST /api/sign-in            {"code": …} → a cookie;  POST /api/sign-out
POST /api/chat               {"messages": […]} → server-sent events (signed in)
GET  /v1/models, POST /v1/chat/completions   OpenAI's API, when `openai` is on (signed in, or the code as Bearer)
GET  /health  /ready         this process lives; the model answers
GET  /metrics                Prometheus: on `metrics_port`, else to loopback only
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hyb.chat import guard, page
from hyb.chat import messages as msgs
from hyb.chat.answer import Answers
from hyb.chat.errors import ChatError
from hyb.chat.limits import Buckets
from hyb.chat.metrics import CONTENT_TYPE, Metrics
from hyb.chat.settings import Settings
from hyb.chat.signin import SignIn
from hyb.chat.stream import Stream

Endpoint = Callable[[Request], Awaitable[Response]]
SMALL = 4096  # bytes of a sign-in


@dataclass
class Chat:
    """What the endpoints share."""

    settings: Settings
    answers: Answers
    metrics: Metrics
    signin: SignIn
    buckets: Buckets
    label: Callable[[str], str]
    """A client's address as the log may have it."""

    # -- who asks ------------------------------------------------------------------------------------------------

    def client(self, request: Request) -> str:
        """Whom the limits count: the user whom the proxy names, else the address. Raises ChatError `sign_in`."""
        address = guard.client_of(request, self.settings)
        if self.settings.sign_in == "proxy":
            peer = request.client.host if request.client else ""
            users = request.headers.getlist(self.settings.user_header)
            user = users[0].strip() if len(users) == 1 else ""  # two: one of them is somebody's own word
            if not user or not guard.is_trusted(peer, self.settings.trusted_proxies):
                raise ChatError("sign_in", "this page must be reached through its sign-in proxy")
            return f"user {user[:200]}"
        return address

    def signed_in(self, request: Request) -> bool:
        """True when nothing more is needed to ask."""
        if self.settings.sign_in == "code":
            return self.signin.valid(request.cookies.get(self.cookie_name(request), ""))
        if self.settings.sign_in == "proxy":
            try:
                self.client(request)
            except ChatError:
                return False
        return True

    def cookie_name(self, request: Request) -> str:
        """Over https the browser sees to it that no neighbour's name has set it; else the port tells it from others."""
        if guard.is_https(request.scope, self.settings):
            return "__Host-hyb"
        return f"hyb-{(request.scope.get('server') or ('', 0))[1]}"

    def allowed(self, request: Request) -> str:
        """The client, when it may ask now. Raises ChatError."""
        client = self.client(request)
        if not self.signed_in(request):
            raise ChatError("sign_in")
        return client

    def within_rate(self, client: str) -> None:
        """Count a question. Raises ChatError `limited`."""
        if wait := self.buckets.take(client):
            raise ChatError("limited", retry_after=wait)

    # -- the page's API ------------------------------------------------------------------------------------------

    async def config(self, request: Request) -> Response:
        s = self.settings
        return JSONResponse(
            {
                "title": s.title, "note": s.note, "sign_in": s.sign_in, "signed_in": self.signed_in(request),
                "model": self.answers.model.breaker.closed, "messages": s.messages, "bytes": s.body_bytes,
            }
        )  # fmt: skip

    async def status(self, _: Request) -> Response:
        return JSONResponse({"model": self.answers.model.breaker.closed and not self.answers.stopping})

    async def sign_in(self, request: Request) -> Response:
        if self.settings.sign_in != "code":
            raise ChatError("not_found")
        data = await guard.body_of(request, SMALL)
        try:
            code = json.loads(data)["code"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ChatError("bad_request", "`code` must be text") from error
        if not isinstance(code, str):
            raise ChatError("bad_request", "`code` must be text")
        self.signin.check_code(code.strip(), guard.client_of(request, self.settings))
        answer = JSONResponse({"signed_in": True})
        self._set_cookie(request, answer, self.signin.cookie(), int(self.settings.session_hours * 3600))
        return answer

    async def sign_out(self, request: Request) -> Response:
        answer = JSONResponse({"signed_in": False})
        self._set_cookie(request, answer, "", 0)
        return answer

    def _set_cookie(self, request: Request, answer: Response, value: str, seconds: int) -> None:
        answer.set_cookie(
            self.cookie_name(request), value, max_age=seconds, path="/", httponly=True, samesite="strict",
            secure=guard.is_https(request.scope, self.settings),
        )  # fmt: skip

    async def chat(self, request: Request) -> Response:
        client = self.allowed(request)
        asked = msgs.page_question(await guard.body_of(request, self.settings.body_bytes), self.settings)
        self.within_rate(client)
        place = self.answers.enter(client)
        return self._stream(place, lambda: self.answers.for_page(place, asked, self.label(client)))

    def _stream(self, place: Any, make: Any) -> Stream:
        s = self.settings
        return Stream(
            make, heartbeat=s.heartbeat_seconds, slow=s.slow_seconds, leave=lambda: self.answers.queue.leave(place)
        )

    # -- OpenAI's API --------------------------------------------------------------------------------------------

    def api_client(self, request: Request) -> str:
        """As `allowed`, but a program gives the access code as its API key. Raises ChatError."""
        bearer = request.headers.get("authorization", "")
        if self.settings.sign_in == "code" and bearer.lower().startswith("bearer "):
            client = guard.client_of(request, self.settings)
            self.signin.check_bearer(bearer[7:].strip(), client)
            return client
        return self.allowed(request)

    async def models(self, request: Request) -> Response:
        self.api_client(request)
        self.answers.model.check()
        entry = {"id": self.answers.model.name, "object": "model", "created": 0, "owned_by": "hyb"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def completions(self, request: Request) -> Response:
        client = self.api_client(request)
        data = await guard.body_of(request, self.settings.body_bytes)
        body = msgs.openai_body(data, self.answers.model.name, self.settings)
        self.within_rate(client)
        place = self.answers.enter(client)
        if body.get("stream"):
            return self._stream(place, lambda: self.answers.relayed(place, body, self.label(client)))
        return Response(await self.answers.whole(place, body, self.label(client)), media_type="application/json")

    # -- for the cluster -----------------------------------------------------------------------------------------

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        breaker = self.answers.model.breaker
        if breaker.closed and not self.answers.stopping:
            return JSONResponse({"ready": True})
        why = "stopping" if self.answers.stopping else breaker.why if self._inside(request) else "model"
        return JSONResponse({"ready": False, "why": why}, 503, headers={"Retry-After": "2"})

    def _inside(self, request: Request) -> bool:
        """True for who may know more: on the cluster's port, or where there is none, on this machine itself."""
        if port := self.settings.metrics_port:
            return bool((request.scope.get("server") or ("", 0))[1] == port)
        near = request.client is not None and guard.is_loopback(request.client.host)
        return near and "x-forwarded-for" not in request.headers

    async def show_metrics(self, request: Request) -> Response:
        if not self._inside(request):
            raise ChatError("not_found")
        m, queue = self.metrics, self.answers.queue
        m.running.set(queue.running)
        m.waiting.set(len(queue.waiting))
        m.up.set(self.answers.model.breaker.closed)
        return Response(m.text(), headers={"Content-Type": CONTENT_TYPE})


def build(chat: Chat, done: Callable[[str, str, int, float], None]) -> Starlette:
    """The application. `done` hears of each request."""
    routes = [
        Route("/api/config", chat.config),
        Route("/api/status", chat.status),
        Route("/api/sign-in", chat.sign_in, methods=["POST"]),
        Route("/api/sign-out", chat.sign_out, methods=["POST"]),
        Route("/api/chat", chat.chat, methods=["POST"]),
        Route("/health", chat.health),
        Route("/ready", chat.ready),
        Route("/metrics", chat.show_metrics),
        *(Route(path, _file(file)) for path, file in page.load().items()),
    ]
    if chat.settings.openai:
        routes.append(Route("/v1/models", chat.models))
        routes.append(Route("/v1/chat/completions", chat.completions, methods=["POST"]))

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ChatError)
        chat.metrics.refused.labels(error.code).inc()
        return JSONResponse(error.body(), error.status, headers=error.headers())

    async def no_such(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answer = await refused(request, ChatError("method" if error.status_code == 405 else "not_found"))
        answer.headers.update(error.headers or {})
        return answer

    found = Starlette(
        routes=routes,
        middleware=[Middleware(guard.Guard, settings=chat.settings, done=done)],
        exception_handlers={ChatError: refused, HTTPException: no_such},
    )
    found.router.redirect_slashes = False  # a redirect would name the Host that somebody sent
    return found


def _file(file: page.File) -> Endpoint:
    async def found(request: Request) -> Response:
        return page.answer(file, request)

    return found
