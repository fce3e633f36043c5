"""A Grafana dashboard as data: what the page does, what the link and the model do, what is about to end.

Every panel asks Prometheus alone, by the data source that the reader chooses. Grafana's own schema of 11 and newer.
"""

from __future__ import annotations

import json
from typing import Any

from hyb.render.deploy.alerts import DAY, EXPIRY, PRIVATE_JOB, selector
from hyb.render.deploy.facts import DeployFacts

Query = tuple[str, str]
"""(legend, expression)."""
WIDTH = 24
_SOURCES = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(facts: DeployFacts) -> dict[str, Any]:
    """The whole dashboard."""
    panels: list[dict[str, Any]] = []
    at = 0
    for title, row in (
        ("The page", _page(facts)),
        ("The link", _link(facts)),
        ("The model, where it is measured", _service()),
    ):
        panels.append(
            {"type": "row", "title": title, "gridPos": _place(0, at, WIDTH, 1), "panels": [], "collapsed": False}
        )
        at += 1
        for first in range(0, len(row), 4):
            line = row[first : first + 4]
            width = WIDTH // len(line)
            panels += [{**panel, "gridPos": _place(n * width, at, width, 7)} for n, panel in enumerate(line)]
            at += 7
    return {
        "uid": f"hyb-{facts.namespace}-{facts.name}"[:40],
        "title": f"hyb: {facts.title} ({facts.namespace}/{facts.name})",
        "tags": ["hyb"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "templating": {"list": [_SOURCES]},
        "panels": [{**panel, "id": number} for number, panel in enumerate(panels, 1)],
    }  # fmt: skip


def text(facts: DeployFacts) -> str:
    """As JSON, the same bytes each time."""
    return json.dumps(dashboard(facts), indent=1, ensure_ascii=False) + "\n"


def expressions(board: dict[str, Any]) -> list[str]:
    """All that it asks."""
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def _page(facts: DeployFacts) -> list[dict[str, Any]]:
    these = selector(facts)
    rate = "[$__rate_interval]"

    def quantile(metric: str, part: float) -> str:
        return f"histogram_quantile({part}, sum by (le) (rate({metric}_bucket{{{these}}}{rate})))"

    first, whole = "hyb_chat_first_token_seconds", "hyb_chat_answer_seconds"
    return [
        _state("Model", "answers", f"max(hyb_chat_model_up{{{these}}})"),
        _state("Model's address", "takes connections", f"max(hyb_chat_model_reachable{{{these}}})"),
        _graph("Questions by outcome", "reqps",
               ("{{outcome}}", f"sum by (outcome) (rate(hyb_chat_answers_total{{{these}}}{rate}))")),
        _graph("Waiting and under way", "short", ("waiting", f"sum(hyb_chat_queue_depth{{{these}}})"),
               ("under way", f"sum(hyb_chat_running{{{these}}})")),
        _graph("To the first token", "s", ("half", quantile(first, 0.5)), ("19 of 20", quantile(first, 0.95))),
        _graph("To the end of an answer", "s", ("half", quantile(whole, 0.5)), ("19 of 20", quantile(whole, 0.95))),
        _graph("Turned away", "reqps", ("{{code}}", f"sum by (code) (rate(hyb_chat_refused_total{{{these}}}{rate}))")),
        _graph("Tokens", "tokens/s", ("{{kind}}", f"sum by (kind) (rate(hyb_chat_tokens_total{{{these}}}{rate}))")),
        _graph("HTTP by status", "reqps",
               ("{{status}}", f"sum by (status) (rate(hyb_chat_requests_total{{{these}}}{rate}))")),
        _graph("Times that the model went away", "short",
               ("an hour", f"sum(increase(hyb_chat_breaker_opened_total{{{these}}}[1h]))")),
    ]  # fmt: skip


def _link(facts: DeployFacts) -> list[dict[str, Any]]:
    router = f'namespace="{facts.namespace}",pod=~"skupper-router.*"'
    rate = "[$__rate_interval]"
    return [
        _graph("Router: connections", "short", ("{{pod}}", f"sum by (pod) (qdr_connections_total{{{router}}})")),
        _graph("Router: deliveries in and out", "ops",
               ("in", f"sum(rate(qdr_deliveries_ingress_total{{{router}}}{rate}))"),
               ("out", f"sum(rate(qdr_deliveries_egress_total{{{router}}}{rate}))")),
        _graph("Router: stuck or blocked", "short", ("stuck", f"sum(qdr_deliveries_stuck_total{{{router}}})"),
               ("blocked", f"sum(qdr_links_blocked_total{{{router}}})")),
        _graph("Router: memory", "bytes", ("{{pod}}", f"sum by (pod) (qdr_router_rss_bytes{{{router}}})")),
        _graph("Links, as the observer sees them", "short",
               ("{{status}}", "sum by (status) (skupper_site_links_total)")),
        _graph("Bytes through the link", "Bps",
               ("asked", f"sum(rate(skupper_sent_bytes_total{{routing_key=\"{facts.model_host}\"}}{rate}))"),
               ("answered", f"sum(rate(skupper_received_bytes_total{{routing_key=\"{facts.model_host}\"}}{rate}))")),
        _graph("Days to a certificate's end", "d",
               ("{{link}} {{certificate}}", f"min by (link, certificate) ({EXPIRY} - time()) / {DAY}")),
    ]  # fmt: skip


def _service() -> list[dict[str, Any]]:
    these, rate = f'job="{PRIVATE_JOB}"', "[$__rate_interval]"
    buckets = f"sum by (le) (rate(hyb_ttft_seconds_bucket{{{these}}}{rate}))"
    gaps = f"sum by (le) (rate(hyb_inter_token_seconds_bucket{{{these}}}{rate}))"
    return [
        _state("Service", "the model answers", f"min(hyb_up{{{these}}})"),
        _graph("Requests by status", "reqps",
               ("{{status}}", f"sum by (status) (rate(hyb_requests_total{{{these}}}{rate}))")),
        _graph("Waiting and under way", "short", ("waiting", f"sum(hyb_queue_depth{{{these}}})"),
               ("under way", f"sum(hyb_running{{{these}}})")),
        _graph("To the first token", "s", ("half", f"histogram_quantile(0.5, {buckets})"),
               ("19 of 20", f"histogram_quantile(0.95, {buckets})")),
        _graph("Between two tokens", "s", ("half", f"histogram_quantile(0.5, {gaps})"),
               ("19 of 20", f"histogram_quantile(0.95, {gaps})")),
        _graph("Tokens", "tokens/s",
               ("{{model}} {{kind}}", f"sum by (model, kind) (rate(hyb_tokens_total{{{these}}}{rate}))")),
        _graph("Engines started again", "short",
               ("an hour", f"sum(increase(hyb_engine_restarts_total{{{these}}}[1h]))")),
    ]  # fmt: skip


def _graph(title: str, unit: str, *queries: Query) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": _targets(queries),
    }


def _state(title: str, word: str, expression: str) -> dict[str, Any]:
    """1 is good and 0 is bad."""
    shown = {
        "1": {"text": word, "color": "green", "index": 0},
        "0": {"text": "no", "color": "red", "index": 1},
    }
    return {
        "type": "stat",
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {"mappings": [{"type": "value", "options": shown}], "noValue": "not measured"},
            "overrides": [],
        },
        "options": {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": _targets([("", expression)]),
    }


def _targets(queries: Any) -> list[dict[str, Any]]:
    return [
        {"refId": chr(ord("A") + n), "datasource": _SOURCE, "expr": expression, "legendFormat": legend, "range": True}
        for n, (legend, expression) in enumerate(queries)
    ]


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}
