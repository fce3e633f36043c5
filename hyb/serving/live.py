"""What a running service tells of itself: its owner's door, its metrics, its memory; and what two looks give together.

Everything is asked for and nothing is relied on: a service that is just starting, or ending, has less to tell.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hyb.errors import HybError
from hyb.serving import bandwidth, client
from hyb.serving.client import Address, Client
from hyb.serving.service import Service

PATIENCE = 3.0  # seconds
_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")


@dataclass(frozen=True)
class Look:
    """One look at a service."""

    at: float
    """Seconds of the monotonic clock."""
    state: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(name, labels as they are written) → value."""
    memory: int = 0

    def total(self, name: str, label: str = "") -> float | None:
        """The sum of a metric's series whose labels hold `label`; None when there is none.

        What no model answers (a look at the metrics, as this one) is not in it.
        """
        values = [
            v for (n, labels), v in self.metrics.items() if n == name and label in labels and 'model=""' not in labels
        ]
        return sum(values) if values else None


@dataclass(frozen=True)
class Figures:
    """What a person sees of a service. None: it does not say."""

    running: float | None
    waiting: float | None
    requests: float | None
    """Since it was started."""
    errors: float | None
    """Of those, answered with a status of 400 or more."""
    tokens_per_s: float | None
    """Of answers, between the two looks; so are the next two."""
    prompt_tokens_per_s: float | None
    ttft_s: float | None
    """The mean; None when no answer began."""
    inter_token_s: float | None
    memory_bytes: int
    restarts: int
    up_s: float | None
    ready: bool | None


def look(service: Service) -> Look:
    """Ask a service all there is. Never raises: what does not answer is left out."""
    state, metrics = ask_owner(service), {}
    with contextlib.suppress(HybError, OSError):
        status, data = _public(service, "metrics")
        metrics = parse(data.decode(errors="replace")) if status == 200 else {}
    return Look(time.monotonic(), state, metrics, _memory(service, state))


def figures(before: Look | None, now: Look) -> Figures:
    """Two looks put together; without the first one, all rates are None."""

    def grown(name: str, label: str = "") -> float | None:
        new, old = now.total(name, label), before.total(name, label) if before else None
        return None if new is None or before is None else max(0.0, new - (old or 0.0))

    def mean(name: str) -> float | None:
        count, total = grown(f"{name}_count"), grown(f"{name}_sum")
        return total / count if count and total is not None else None

    def rate(*counts: float | None) -> float | None:
        known = [c for c in counts if c is not None]
        return max(known) / (now.at - before.at) if before and known and now.at > before.at else None

    begun, gaps = grown("hyb_ttft_seconds_count"), grown("hyb_inter_token_seconds_count")
    streamed = None if begun is None and gaps is None else (begun or 0.0) + (gaps or 0.0)
    failed = [now.total("hyb_requests_total", f'status="{first}') for first in (4, 5)]
    state = now.state
    return Figures(
        running=now.total("hyb_running") if now.metrics else state.get("running"),
        waiting=now.total("hyb_queue_depth"),
        requests=now.total("hyb_requests_total") if now.metrics else None,
        errors=sum(f or 0.0 for f in failed) if now.metrics else None,
        # whole answers are counted when they end, streams token by token: the larger is nearer
        tokens_per_s=rate(grown("hyb_tokens_total", 'kind="completion"'), streamed),
        prompt_tokens_per_s=rate(grown("hyb_tokens_total", 'kind="prompt"')),
        ttft_s=mean("hyb_ttft_seconds"),
        inter_token_s=mean("hyb_inter_token_seconds"),
        memory_bytes=now.memory,
        restarts=int(state.get("restarts", 0)),
        up_s=state.get("since"),
        ready=state.get("ready"),
    )


def parse(text: str) -> dict[tuple[str, str], float]:
    """Prometheus' text format; a line that is none is left out."""
    found = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            with contextlib.suppress(ValueError):
                found[match[1], match[2] or ""] = float(match[3])
    return found


def address(service: Service, key: str) -> Address:
    """Where it is asked: over TLS it shows a certificate of its own, without a port it has a Unix socket only."""
    if service.port < 0:
        return Address("http://localhost/v1", key, socket=service.unix_socket)
    return Address(service.url, key, ca=service.tls_cert)


def job(service: Service) -> Mapping[str, Any]:
    """What the service was told; empty when that can't be read."""
    try:
        found = json.loads((Path(service.log).parent / f"{service.name}.job.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def ask_owner(service: Service) -> Mapping[str, Any]:
    """The state that the owner's socket tells; empty without one."""
    with contextlib.suppress(HybError, ValueError):
        status, data = client.over_socket(service.admin_socket, "GET", "/state", timeout=PATIENCE)
        state = json.loads(data) if status == 200 else {}
        return state if isinstance(state, dict) else {}
    return {}


def memory(service: Service) -> int:
    """Bytes of memory that the service holds, its engine's included; 0 when that can't be seen."""
    return _memory(service, ask_owner(service))


def weights(service: Service) -> int:
    """Bytes that a token of its GGUF reads; 0 when it serves something else."""
    model = str(job(service).get("model", ""))
    return bandwidth.weights(Path(model)) if model.endswith(".gguf") else 0


def _memory(service: Service, state: Mapping[str, Any]) -> int:
    """The engine's as the gateway sees it, and the gateway's own; without its word, all processes below the service."""
    if engine := state.get("rss_bytes"):
        return int(engine) + resident([service.pid])
    return resident(below(service.pid))


def below(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def resident(pids: Sequence[int]) -> int:
    """Bytes in memory of some processes together; a page that two share counts twice."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += 1024 * int(next(x for x in lines if x.startswith("VmRSS:")).split()[1])
    return total


def _public(service: Service, path: str) -> tuple[int, bytes]:
    """GET a path beside the API."""
    found = address(service, service.key)
    with Client(replace(found, url=found.url.removesuffix("/v1")), timeout=PATIENCE) as one:
        return one.request("GET", path)
