"""Prometheus metrics of the chat app. No label has a person's text, address or name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = of = CollectorRegistry()
        self.requests = Counter("hyb_chat_requests", "HTTP requests", ["path", "status"], registry=of)
        self.answers = Counter("hyb_chat_answers", "Questions by way and outcome", ["way", "outcome"], registry=of)
        self.refused = Counter("hyb_chat_refused", "Questions that were refused, by reason", ["code"], registry=of)
        self.tokens = Counter("hyb_chat_tokens", "Tokens", ["kind"], registry=of)
        self.first = Histogram(
            "hyb_chat_first_token_seconds", "From question to first token", buckets=SECONDS, registry=of
        )
        self.seconds = Histogram("hyb_chat_answer_seconds", "From question to the end", buckets=SECONDS, registry=of)
        self.running = Gauge("hyb_chat_running", "Questions that the model works on", registry=of)
        self.waiting = Gauge("hyb_chat_queue_depth", "Questions that wait", registry=of)
        self.up = Gauge("hyb_chat_model_up", "1 when the model answers", registry=of)
        self.reachable = Gauge(
            "hyb_chat_model_reachable", "1 when the model's address takes connections; of a link: when it is up",
            registry=of,
        )  # fmt: skip
        self.opened = Counter("hyb_chat_breaker_opened", "Times that the model was found gone", registry=of)

    def answered(self, way: str, outcome: str, first: float, seconds: float, prompt: int, completion: int) -> None:
        """An answer has ended, one way or another."""
        self.answers.labels(way, outcome).inc()
        self.seconds.observe(seconds)
        if first:
            self.first.observe(first)
        self.tokens.labels("prompt").inc(prompt)
        self.tokens.labels("completion").inc(completion)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
