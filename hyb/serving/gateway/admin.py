"""The owner's door: a second listener, on a Unix socket of mode 0600. There is no key: the file's mode is the lock.

GET    /state                   what `Engines.state` says, and more from the edge
POST   /adapters                {"name", "path", "digest", "weight"}: serve an adapter, too
DELETE /adapters/NAME           serve it no more
PUT    /model                   the fields in MODEL: another model, with its adapters, once it has answered
PUT    /adapters/NAME/weight    {"weight"}: its percent of the requests for the service's own name
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hyb.errors import HybError
from hyb.serving.gateway.engines import Engines
from hyb.serving.gateway.types import AdapterSpec

Fields = Mapping[str, type | tuple[type, ...]]

FIELDS: Fields = {"name": str, "path": str, "digest": str, "weight": (int, float)}
MODEL: Fields = {
    "model": str, "adapter": str, "adapters": list, "context": int, "digest": str, "model_meta": dict,
    "container": dict,
}  # fmt: skip
"""What of a job another model may change; engine, address, keys and the number of answers at once stay."""


def build(engines: Engines, more: Callable[[], Mapping[str, Any]] = dict) -> Starlette:
    """The application; `more` is added to the state."""

    async def state(_: Request) -> Response:
        return JSONResponse({**engines.state(), **more()})

    async def load(request: Request) -> Response:
        given = await _fields(request)
        spec = AdapterSpec(given["name"], given["path"], given.get("digest", ""), given.get("weight", 0))
        await engines.load(spec)
        return JSONResponse(engines.state())

    async def drop(request: Request) -> Response:
        await engines.drop(request.path_params["name"])
        return JSONResponse(engines.state())

    async def model(request: Request) -> Response:
        given = await _fields(request, MODEL)
        given["adapters"] = tuple(AdapterSpec(**a) for a in given["adapters"])
        await engines.swap(replace(engines.job, **given))
        return JSONResponse(engines.state())

    async def weight(request: Request) -> Response:
        given = await _fields(request)
        engines.weigh(request.path_params["name"], given["weight"])
        return JSONResponse(engines.state())

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HybError)
        return JSONResponse(error.as_dict(), 409)

    async def unfit(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        detail = error.detail if isinstance(error, HTTPException) else f"the body is not what it should be: {error}"
        return JSONResponse(HybError(detail).as_dict(), status)

    routes = [
        Route("/state", state),
        Route("/model", model, methods=["PUT"]),
        Route("/adapters", load, methods=["POST"]),
        Route("/adapters/{name}", drop, methods=["DELETE"]),
        Route("/adapters/{name}/weight", weight, methods=["PUT"]),
    ]
    handlers: dict[Any, Any] = {
        HybError: refused,
        HTTPException: unfit,
        KeyError: unfit,
        ValueError: unfit,
        TypeError: unfit,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


async def _fields(request: Request, known: Fields = FIELDS) -> dict[str, Any]:
    """The body's fields. Raises ValueError."""
    given = await request.json()
    if not isinstance(given, dict) or any(not isinstance(v, known.get(k, ())) for k, v in given.items()):
        raise ValueError(f"wanted: {', '.join(known)}")
    return given
