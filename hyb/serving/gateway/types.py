"""What the parts of the gateway agree on. Plain data and two errors; the standard library alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hyb import fs


@dataclass(frozen=True)
class AdapterSpec:
    """A LoRA adapter to serve beside the base."""

    name: str
    """Its id in the API."""
    path: str
    """A GGUF file (llama.cpp), or a PEFT folder (transformers, vLLM)."""
    digest: str = ""
    weight: float = 0
    """Percent of the requests for the service's own name that it answers."""


@dataclass(frozen=True)
class GatewayJob:
    """What a gateway is to do. Paths are absolute. A file, so that nothing of it shows in the list of processes."""

    name: str
    """The base model's id in the API; adapters have ids of their own."""
    engine: str
    """`llama.cpp`, `transformers` or `vllm`."""
    model: str
    """A GGUF file (llama.cpp), or a folder with safetensors."""
    run: str
    """A private folder (mode 0700) for sockets; its path is short, for a socket's may have 107 bytes."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: one that is free. -1: no TCP port at all (then `unix_socket` is needed)."""
    unix_socket: str = ""
    """Listen here, too."""
    admin_socket: str = ""
    """Where the owner's door is; "" for RUN/NAME.admin.sock."""
    tls_cert: str = ""
    tls_key: str = ""
    key_path: str = ""
    """A file with the service's own API key."""
    keys_path: str = ""
    """Hashed keys with labels and limits; may be absent."""
    ready_path: str = ""
    """Written when the service answers: {"port"}, -1 for none. "": it is not written."""
    log: str = ""
    """The file that stdout and stderr go to, kept from growing without bound; "" where somebody else keeps it."""
    where: str = "process"
    """`process` or `podman`: where the engine runs."""
    adapter: str = ""
    """A PEFT folder that is part of the base; "" for none. transformers and vLLM only."""
    adapters: tuple[AdapterSpec, ...] = ()
    context: int = 4096
    """Tokens of prompt and answer together, a request."""
    parallel: int = 1
    """Requests that the engine answers at the same time."""
    grace: float = 10
    """Seconds that running requests have to end after SIGTERM."""
    leash: bool = False
    """Stdin is a pipe: end when it closes."""
    digest: str = ""
    """The model artifact's digest."""
    model_meta: Mapping[str, Any] = field(default_factory=dict)
    """The model artifact's meta."""
    container: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the engine's container, when `where` is `podman`."""
    unsealed: str = ""
    """The private folder that holds what a sealed image was taken out into; removed at the end."""

    def write(self, path: Path) -> None:
        """Write the job, readable by its owner alone. Raises OSError."""
        fs.write_atomic(path, json.dumps(asdict(self), indent=1).encode(), mode=0o600)

    @staticmethod
    def read(path: Path) -> GatewayJob:
        """The job in a file. Raises OSError, ValueError, TypeError."""
        fields = json.loads(path.read_bytes())
        fields["adapters"] = tuple(AdapterSpec(**a) for a in fields.get("adapters", ()))
        return GatewayJob(**fields)


@dataclass(frozen=True)
class Model:
    """A model that requests may name."""

    id: str
    kind: str
    """`base` or `adapter`."""
    digest: str
    context: int
    """Tokens a request."""
    weight: float
    """Percent of the requests for the service's own name; of the base: what the adapters leave."""
    created: int = 0
    """Always 0: an artifact has no time."""


@dataclass(frozen=True)
class Pick:
    """Who answers a request."""

    id: str
    """The model's id, for the answer and the metrics: the base's, or an adapter's."""
    adapter: str
    """The adapter's name; "" for the base."""
    patch: Mapping[str, Any]
    """To be merged into the request's JSON body."""
    generation: int = 0
    """Which set of adapters the patch is for. Give the Pick to `send`."""


class EngineAnswer(Protocol):
    """An engine's answer, as it comes. Leaving its context before the end frees the engine's slot."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises EngineLostError when the engine dies in the middle."""
        ...


class UnknownModelError(Exception):
    """A request names a model that is not here. `known`: those that are."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"there is no model `{name}`")
        self.name, self.known = name, tuple(known)


class EngineLostError(Exception):
    """The engine died, or is not there. Its text is fit for a client."""


class EngineDrainingError(EngineLostError):
    """The service is ending and takes no new request."""
