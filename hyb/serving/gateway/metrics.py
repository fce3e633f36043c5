"""What Prometheus sees of a service. Labels are bounded: models that are served, routes that there are, statuses.

hyb_requests_total{model,path,status}      requests answered
hyb_queue_depth, hyb_running               waiting for the engine, being answered by it
hyb_ttft_seconds{model}                    from the request's arrival to its first token (streams)
hyb_inter_token_seconds{model}             between two tokens of a stream
hyb_tokens_total{model,kind}               tokens of prompts and of answers
hyb_engine_restarts_total, hyb_up          engines started again after a crash; 1 when the model answers
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
TTFT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
GAP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


@dataclass(frozen=True)
class ModelMetrics:
    """The series of one model."""

    ttft: Histogram
    gap: Histogram
    prompt: Counter
    completion: Counter


class _Restarts(Collector):
    """A counter that somebody else counts."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> list[CounterMetricFamily]:
        """The counter as it is now."""
        found = CounterMetricFamily("hyb_engine_restarts", "Engines started again after a crash.")
        found.add_metric([], self._count())
        return [found]


class Metrics:
    """The series of one service, in a registry of their own."""

    def __init__(
        self,
        waiting: Callable[[], int],
        running: Callable[[], int],
        restarts: Callable[[], int],
        ready: Callable[[], bool],
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each one
        self.registry = CollectorRegistry()
        own = self.registry
        self._requests = Counter("hyb_requests", "Requests answered.", ("model", "path", "status"), registry=own)
        Gauge("hyb_queue_depth", "Requests that wait for the engine.", registry=own).set_function(waiting)
        Gauge("hyb_running", "Requests that the engine works on.", registry=own).set_function(running)
        Gauge("hyb_up", "1 when the model answers.", registry=own).set_function(lambda: float(ready()))
        self._ttft = Histogram("hyb_ttft_seconds", "To the first token.", ("model",), buckets=TTFT, registry=own)
        self._gap = Histogram("hyb_inter_token_seconds", "Between two tokens.", ("model",), buckets=GAP, registry=own)
        self._tokens = Counter("hyb_tokens", "Tokens.", ("model", "kind"), registry=own)
        self.registry.register(_Restarts(restarts))
        self._models: dict[str, ModelMetrics] = {}

    def of(self, model: str) -> ModelMetrics:
        """The series of a model that is served."""
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = ModelMetrics(
                self._ttft.labels(model),
                self._gap.labels(model),
                self._tokens.labels(model, "prompt"),
                self._tokens.labels(model, "completion"),
            )
        return found

    def request(self, model: str, path: str, status: int) -> None:
        """Count an answer."""
        self._requests.labels(model, path, str(status)).inc()

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
