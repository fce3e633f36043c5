"""The engines of a service: one that answers, and while adapters change a second one that takes over."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from hyb.serving.gateway.types import AdapterSpec, EngineAnswer, GatewayJob, Model, Pick


class Engines:
    """The interface that the gateway's edge builds on."""

    ready: bool
    """The present engine has answered with one real token, and the service is not ending."""
    restarts: int
    """Engines started again after a crash."""

    def __init__(self, job: GatewayJob) -> None:
        raise NotImplementedError

    async def run(self) -> None:
        """Start the engine and watch it until `aclose`. Raises UnableError when the first start fails."""
        raise NotImplementedError

    async def aclose(self, grace: float) -> None:
        """Take no new request, let those that run end for `grace` seconds, end the engines."""
        raise NotImplementedError

    def models(self) -> tuple[Model, ...]:
        """The base first, then the adapters."""
        raise NotImplementedError

    def pick(self, model: str = "") -> Pick:
        """Who answers a request for `model`; "" or the service's name: the base, or an adapter by its weight.

        Raises UnknownModelError.
        """
        raise NotImplementedError

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None,
        *, pick: Pick | None = None,
    ) -> AbstractAsyncContextManager[EngineAnswer]:  # fmt: skip
        """Ask the engine; waits up to 30 s for one that is being restarted. With `pick`: the engine that it is for.

        Raises EngineLostError on entering the context and from `chunks`.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """engine, pid, restarts, rss_bytes, adapters, ready, since (seconds), running."""
        raise NotImplementedError

    async def load(self, adapter: AdapterSpec) -> None:
        """Serve an adapter, too. Raises HybError."""
        raise NotImplementedError

    async def drop(self, name: str) -> None:
        """Serve an adapter no more. Raises HybError."""
        raise NotImplementedError

    def weigh(self, name: str, percent: float) -> None:
        """Set an adapter's share of the requests for the service's own name. Raises HybError."""
        raise NotImplementedError
