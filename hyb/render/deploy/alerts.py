"""Alerts as rule groups of Prometheus: what a person should be woken for, what to do, and how one knows.

    link down            nobody takes connections at the model's address: Skupper's listener is there with the link only
    model down           somebody takes them, and the model does not answer
    slow first token     people wait; the queue is full; answers fail
    certificate soon out from what measures it: hyb's own file for node_exporter (the private host, where all
                         certificates of a link lie), x509-certificate-exporter (the cluster's Secrets), the blackbox
                         exporter (the page's address). Who has none of them is not warned; see docs/monitoring.md.

Source: https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/
"""

from __future__ import annotations

from typing import Any

from hyb.render.deploy.facts import DeployFacts

Rule = dict[str, Any]
SLOW = 10
"""Seconds to the first token that most people would call broken."""
FAILING = 0.1
"""The part of answers that may fail."""
SOON, NOW = 30, 7
"""Days before a certificate's end: a warning, and an alarm."""
DAY = 86400
EXPIRY = "hyb_link_certificate_expiry_timestamp_seconds"
"""What `hyb link metrics` writes: {link, certificate}, seconds since 1970."""
PRIVATE_JOB = "hyb-serve"


def cluster(facts: DeployFacts) -> list[dict[str, Any]]:
    """The groups for the public side's Prometheus."""
    these = selector(facts)
    return [
        {"name": f"{facts.name}.model", "rules": _model(facts, these)},
        {"name": f"{facts.name}.answers", "rules": _answers(these)},
        {"name": f"{facts.name}.certificates", "rules": _cluster_certificates(facts)},
    ]


def private() -> list[dict[str, Any]]:
    """The groups for a Prometheus on the private host."""
    return [
        {"name": "hyb.service", "rules": _service(f'job="{PRIVATE_JOB}"')},
        {"name": "hyb.certificates", "rules": [*_certificates(EXPIRY, "link, certificate", "hyb", _LINK), _stale()]},
    ]


def selector(facts: DeployFacts) -> str:
    """Labels of the page's series: what the ServiceMonitor gives them."""
    return f'namespace="{facts.namespace}",job="{facts.name}"'


def _rule(name: str, expr: str, wait: str, severity: str, summary: str, action: str) -> Rule:
    return {
        "alert": name,
        "expr": expr,
        "for": wait,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": action},
    }


def _model(facts: DeployFacts, these: str) -> list[Rule]:
    up, reachable = f"max(hyb_chat_model_up{{{these}}})", f"max(hyb_chat_model_reachable{{{these}}})"
    gone = _rule(
        "HybPageDown", f"absent(hyb_chat_model_up{{{these}}})", "5m", "critical", "no pod of the chat page is measured",
        f"See `kubectl get pods -n {facts.namespace}`; if they run, see why Prometheus does not reach their port 9090.",
    )  # fmt: skip
    unsteady = _rule(
        "HybModelUnsteady", f"sum(increase(hyb_chat_breaker_opened_total{{{these}}}[30m])) > 5", "0m", "warning",
        "the model goes away and comes back again and again", "The chat's log says why each time (`event: model`).",
    )  # fmt: skip
    if facts.model_in_cluster:
        down = _rule(
            "HybModelDown", f"{up} == 0", "2m", "critical", "the model does not answer",
            f"See the pods of `{facts.model_host}` in `{facts.namespace}`.",
        )  # fmt: skip
        return [gone, down, unsteady]
    link = _rule(
        "HybLinkDown", f"{reachable} == 0", "1m", "critical", "the link to the private host is down",
        f"Nobody takes connections at `{facts.model_host}:{facts.model_port}`. `hyb link check` says which side must "
        "act; on the private host: is the router running, can it dial out, is its certificate still good?",
    )  # fmt: skip
    model = _rule(
        "HybModelDown", f"{up} == 0 and {reachable} == 1", "2m", "critical", "the link is up, the model is down",
        "The private host must act: `hyb ps` and `hyb logs` there; does the service listen where the Connector says?",
    )  # fmt: skip
    lost = _rule(
        "HybLinkOfSiteDown", 'sum by (site_id, role) (skupper_site_links_total{status="down"}) > 0', "5m", "warning",
        "a link of site {{ $labels.site_id }} is down", "Seen by the network observer; others may still carry.",
    )  # fmt: skip
    return [gone, link, model, unsteady, lost]


def _answers(these: str) -> list[Rule]:
    bad = f'{these},outcome!~"ok|gone|too_long|bad_request"'
    first = f"sum by (le) (rate(hyb_chat_first_token_seconds_bucket{{{these}}}[10m]))"
    part = f"sum(rate(hyb_chat_answers_total{{{bad}}}[10m])) / sum(rate(hyb_chat_answers_total{{{these}}}[10m]))"
    return [
        _rule(
            "HybFirstTokenSlow", f"histogram_quantile(0.95, {first}) > {SLOW}", "10m", "warning",
            f"one answer in twenty begins after more than {SLOW} s",
            "Is the queue long (hyb_chat_queue_depth)? Then the model needs more slots or more hardware. If not, the "
            "model itself is slow: see hyb_ttft_seconds on the private host.",
        ),
        _rule(
            "HybQueueFull", f'sum(increase(hyb_chat_refused_total{{{these},code=~"full|waited"}}[10m])) > 0',
            "5m", "warning", "people are turned away because too many wait",
            "More slots of the model (`hyb serve --parallel`), a second private host, or a longer queue.",
        ),
        _rule(
            "HybAnswersFail", f"{part} > {FAILING}", "10m", "critical", f"more than {FAILING:.0%} of the answers fail",
            "See hyb_chat_answers_total: `unavailable` and `cut` are the link or the model, `late` is load.",
        ),
    ]  # fmt: skip


def _service(these: str) -> list[Rule]:
    first = f"sum by (le) (rate(hyb_ttft_seconds_bucket{{{these}}}[10m]))"
    bad = f'{these},status=~"5.."'
    part = f"sum(rate(hyb_requests_total{{{bad}}}[10m])) / sum(rate(hyb_requests_total{{{these}}}[10m]))"
    return [
        _rule(
            "HybServiceDown", f"up{{{these}}} == 0", "1m", "critical", "the service at {{ $labels.instance }} is gone",
            "`hyb ps`, `hyb logs NAME`, or `systemctl --user status NAME`.",
        ),
        _rule(
            "HybModelDown", f"hyb_up{{{these}}} == 0", "2m", "critical", "the model at {{ $labels.instance }} is down",
            "The gateway runs and its engine does not answer: `hyb logs NAME` says why.",
        ),
        _rule(
            "HybEngineCrashes", f"increase(hyb_engine_restarts_total{{{these}}}[30m]) > 1", "0m", "warning",
            "the engine at {{ $labels.instance }} crashed more than once", "`hyb logs NAME`; often memory.",
        ),
        _rule(
            "HybFirstTokenSlow", f"histogram_quantile(0.95, {first}) > {SLOW}", "10m", "warning",
            f"one answer in twenty begins after more than {SLOW} s",
            "See hyb_queue_depth: more slots, or more hardware.",
        ),
        _rule(
            "HybAnswersFail", f"{part} > {FAILING}", "10m", "critical", f"more than {FAILING:.0%} of the requests fail",
            "`hyb logs NAME` has a line a request, with its status.",
        ),
    ]  # fmt: skip


_LINK = "`hyb link renew`, then apply what it names on both sides"


def _cluster_certificates(facts: DeployFacts) -> list[Rule]:
    secrets = f'x509_cert_not_after{{secret_namespace="{facts.namespace}"}}'
    host = facts.host.replace(".", "[.]")
    page = f'probe_ssl_earliest_cert_expiry{{instance=~"(https://)?{host}(:443)?(/.*)?"}}'
    return [
        *_certificates(EXPIRY, "link, certificate", "hyb", _LINK),
        *_certificates(secrets, "secret_name, secret_key", "secrets", f"Renew what made it; of a link: {_LINK}."),
        *_certificates(page, "instance", "probe", "Renew the certificate of the page's address."),
    ]  # fmt: skip


def _certificates(metric: str, labels: str, by: str, action: str) -> list[Rule]:
    """A warning and an alarm. The same alert has rules for each way to measure, told apart by `measured_by`."""
    which = ", ".join(f"{{{{ $labels.{label} }}}}" for label in labels.split(", "))
    rules = [
        _rule(
            "HybCertificateSoonOut", f"min by ({labels}) ({metric}) - time() < {days} * {DAY}", "1h", severity,
            f"a certificate ends in {{{{ $value | humanizeDuration }}}}: {which}", action,
        )
        for days, severity in ((SOON, "warning"), (NOW, "critical"))
    ]  # fmt: skip
    return [{**rule, "labels": {**rule["labels"], "measured_by": by}} for rule in rules]


def _stale() -> Rule:
    return _rule(
        "HybCertificatesNotMeasured", f'time() - node_textfile_mtime_seconds{{file=~".*hyb_link.prom"}} > {2 * DAY}',
        "1h", "warning", "the ends of the link's certificates have not been written for two days",
        "The timer that runs `hyb link metrics --out …` does not.",
    )  # fmt: skip
