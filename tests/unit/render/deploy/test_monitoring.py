"""Monitoring: rules that Prometheus' own tool takes and that fire when they should, panels that ask what there is."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.render.deploy import alerts, dashboard, monitoring
from hyb.render.deploy.check import mistakes
from hyb.render.deploy.kustomize import folder
from tests.deployments import ALL, IN_CLUSTER, PLAIN
from tests.need import kustomize, need

FACTS = replace(PLAIN, monitoring="openshift-user-workload-monitoring", title="Ask the lab")
PAGE = 'namespace="chat",job="chat"'
ROUTER = {  # what skupper-router 3.5 writes at :9090/metrics, of which the dashboard asks some
    "qdr_connections_total", "qdr_links_total", "qdr_addresses_total", "qdr_routers_total",
    "qdr_deliveries_ingress_total", "qdr_deliveries_egress_total", "qdr_deliveries_transit_total",
    "qdr_deliveries_delayed_1sec_total", "qdr_deliveries_delayed_10sec_total", "qdr_deliveries_stuck_total",
    "qdr_links_blocked_total", "qdr_router_vmsize_bytes", "qdr_router_rss_bytes",
}  # fmt: skip
OBSERVER = {
    "skupper_site_info", "skupper_routers_total", "skupper_site_links_total", "skupper_site_link_errors_total",
    "skupper_sent_bytes_total", "skupper_received_bytes_total", "skupper_connections_opened_total",
    "skupper_connections_closed_total", "skupper_requests_total",
}  # fmt: skip
EXPORTERS = {
    "x509_cert_not_after", "probe_ssl_earliest_cert_expiry", "node_textfile_mtime_seconds", "up", alerts.EXPIRY,
}  # fmt: skip


def promtool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    need("promtool")
    return subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def groups() -> dict[str, list[dict[str, Any]]]:
    return {"cluster": alerts.cluster(FACTS), "in-cluster": alerts.cluster(IN_CLUSTER), "private": alerts.private()}


@pytest.mark.parametrize("where", ["cluster", "in-cluster", "private"])
def test_prometheus_takes_the_rules(tmp_path: Path, where: str) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups()[where]}))
    done = promtool("check", "rules", "--lint-fatal", "rules.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("where", ["cluster", "in-cluster", "private"])
def test_every_alert_says_how_bad_it_is_and_what_to_do(where: str) -> None:
    for group in groups()[where]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert len(rule["annotations"]["summary"]) > 20, rule["alert"]
            assert rule["annotations"]["description"]


# -- they fire when they should ------------------------------------------------------------------------------------


def series(name: str, values: str, labels: str = PAGE) -> dict[str, str]:
    return {"series": f"{name}{{{labels}}}", "values": values}


def fired(tmp_path: Path, where: str, given: list[dict[str, str]], at: str) -> set[tuple[str, str]]:
    """(alert, severity) that fire `at` a time, as promtool's own evaluation has it."""
    rules = groups()[where]
    names = sorted({r["alert"] for g in rules for r in g["rules"]})
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": rules}))
    wanted = [{"eval_time": at, "alertname": name} for name in names]  # that nothing fires: what does is told
    test = {"interval": "1m", "input_series": given, "alert_rule_test": wanted}
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]})
    )
    done = promtool("test", "rules", "test.yml", cwd=tmp_path)
    found: set[tuple[str, str]] = set()
    for part in re.split(r"alertname: ?", done.stdout + done.stderr)[1:]:
        found |= {
            (re.split(r"\W", part, maxsplit=1)[0], severity) for severity in re.findall(r'severity=\\?"(\w+)', part)
        }
    assert bool(found) == bool(done.returncode), done.stdout + done.stderr
    return found


def buckets(name: str, fast: int, slow: int, labels: str = PAGE) -> list[dict[str, str]]:
    """A histogram whose answers come at these rates a minute: within 0.5 s, and within 30 s."""
    rates = {"0.5": fast, "10": fast, "30": fast + slow, "+Inf": fast + slow}
    return [series(f"{name}_bucket", f"0+{rate}x120", f'{labels},le="{le}"') for le, rate in rates.items()]


FINE = [
    series("hyb_chat_model_up", "1x120"), series("hyb_chat_model_reachable", "1x120"),
    series("hyb_chat_breaker_opened_total", "0x120"),
    series("hyb_chat_answers_total", "0+60x120", f'{PAGE},outcome="ok",way="page"'),
    series("hyb_chat_answers_total", "0+20x120", f'{PAGE},outcome="gone",way="page"'),
    series("hyb_chat_refused_total", "0+3x120", f'{PAGE},code="limited"'),
    *buckets("hyb_chat_first_token_seconds", 60, 1),
    series(alerts.EXPIRY, "7776000x120", 'link="l",certificate="ca"'),
    series("x509_cert_not_after", "7776000x120", 'secret_namespace="chat",secret_name="s",secret_key="tls.crt"'),
    series("probe_ssl_earliest_cert_expiry", "7776000x120", 'instance="https://chat.example.com/"'),
    series("skupper_site_links_total", "1x120", 'site_id="a",role="inter-router",status="up"'),
]  # fmt: skip


def without(*names: str) -> list[dict[str, str]]:
    return [s for s in FINE if s["series"].partition("{")[0].removesuffix("_bucket") not in names]


CLUSTER: dict[str, tuple[list[dict[str, str]], set[tuple[str, str]]]] = {
    "nothing wrong": (FINE, set()),
    "the link is down": (
        [*without("hyb_chat_model_up", "hyb_chat_model_reachable"), series("hyb_chat_model_up", "1x40 0x80"),
         series("hyb_chat_model_reachable", "1x40 0x80")],
        {("HybLinkDown", "critical")},
    ),
    "the model is down behind a live link": (
        [*without("hyb_chat_model_up"), series("hyb_chat_model_up", "1x40 0x80")], {("HybModelDown", "critical")},
    ),
    "one of two pods does not see the model": (
        [*FINE, series("hyb_chat_model_up", "0x120", f'{PAGE},pod="b"'),
         series("hyb_chat_model_reachable", "0x120", f'{PAGE},pod="b"')], set(),
    ),
    "no pod at all": (
        without("hyb_chat_model_up", "hyb_chat_model_reachable"), {("HybPageDown", "critical")},
    ),
    "slow first tokens": (
        [*without("hyb_chat_first_token_seconds"), *buckets("hyb_chat_first_token_seconds", 60, 10)],
        {("HybFirstTokenSlow", "warning")},
    ),
    "nobody asks": (without("hyb_chat_first_token_seconds", "hyb_chat_answers_total"), set()),
    "a full queue": (
        [*FINE, series("hyb_chat_refused_total", "0+1x120", f'{PAGE},code="full"')], {("HybQueueFull", "warning")},
    ),
    "answers fail": (
        [*FINE, series("hyb_chat_answers_total", "0+20x120", f'{PAGE},outcome="cut",way="page"')],
        {("HybAnswersFail", "critical")},
    ),
    "another page's answers fail": (
        [*FINE, series("hyb_chat_answers_total", "0+900x120", 'namespace="chat",job="b",outcome="cut",way="page"')],
        set(),
    ),
    "the model comes and goes": (
        [*without("hyb_chat_breaker_opened_total"), series("hyb_chat_breaker_opened_total", "0+1x120")],
        {("HybModelUnsteady", "warning")},
    ),
    "a link's certificate ends in 20 days": (
        [*without(alerts.EXPIRY), series(alerts.EXPIRY, "1728000x120", 'link="l",certificate="client"')],
        {("HybCertificateSoonOut", "warning")},
    ),
    "a Secret's certificate ends in 3 days": (
        [*without("x509_cert_not_after"),
         series("x509_cert_not_after", "259200x120", 'secret_namespace="chat",secret_name="s",secret_key="tls.crt"')],
        {("HybCertificateSoonOut", "warning"), ("HybCertificateSoonOut", "critical")},
    ),
    "another namespace's certificate": (
        [*FINE, series("x509_cert_not_after", "60x120", 'secret_namespace="b",secret_name="s",secret_key="tls.crt"'),
         series("probe_ssl_earliest_cert_expiry", "60x120", 'instance="https://chatXexample.com"')], set(),
    ),
    "the page's certificate is out": (
        [*without("probe_ssl_earliest_cert_expiry"),
         series("probe_ssl_earliest_cert_expiry", "60x120", 'instance="chat.example.com:443"')],
        {("HybCertificateSoonOut", "warning"), ("HybCertificateSoonOut", "critical")},
    ),
    "a second link is down": (
        [*FINE, series("skupper_site_links_total", "1x120", 'site_id="b",role="inter-router",status="down"')],
        {("HybLinkOfSiteDown", "warning")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CLUSTER)
def test_the_cluster_s_alerts_fire_for_what_they_are_for_and_nothing_else(tmp_path: Path, case: str) -> None:
    given, expected = CLUSTER[case]
    assert fired(tmp_path, "cluster", given, "100m") == expected


JOB = f'job="{alerts.PRIVATE_JOB}",instance="127.0.0.1:8000"'
WELL = [
    series("up", "1x120", JOB), series("hyb_up", "1x120", JOB), series("hyb_engine_restarts_total", "0x120", JOB),
    series("hyb_requests_total", "0+60x120", f'{JOB},model="m",path="/v1/chat/completions",status="200"'),
    series("hyb_requests_total", "0+60x120", f'{JOB},model="m",path="/v1/chat/completions",status="401"'),
    *buckets("hyb_ttft_seconds", 60, 1, f'{JOB},model="m"'),
    series(alerts.EXPIRY, "7776000x120", 'link="l",certificate="ca"'),
    series("node_textfile_mtime_seconds", "0x120", 'file="hyb_link.prom"'),
]  # fmt: skip
PRIVATE: dict[str, tuple[list[dict[str, str]], set[tuple[str, str]]]] = {
    "nothing wrong": (WELL, set()),
    "the gateway is gone": ([*WELL[1:], series("up", "0x120", JOB)], {("HybServiceDown", "critical")}),
    "the engine is down": (
        [WELL[0], *WELL[2:], series("hyb_up", "1x40 0x80", JOB)], {("HybModelDown", "critical")},
    ),
    "the engine crashes": (
        [*WELL[:2], *WELL[3:], series("hyb_engine_restarts_total", "0x90 1 2 3x30", JOB)],
        {("HybEngineCrashes", "warning")},
    ),
    "requests fail": (
        [*WELL, series("hyb_requests_total", "0+30x120", f'{JOB},model="m",path="/v1/models",status="503"')],
        {("HybAnswersFail", "critical")},
    ),
    "slow": (
        [*WELL, *buckets("hyb_ttft_seconds", 0, 60, f'{JOB},model="n"')], {("HybFirstTokenSlow", "warning")},
    ),
    "nobody measures the certificates": (
        [*WELL[:-1], series("node_textfile_mtime_seconds", "-172801x120", 'file="/a/hyb_link.prom"')],
        {("HybCertificatesNotMeasured", "warning")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PRIVATE)
def test_the_private_host_s_alerts_fire_for_what_they_are_for(tmp_path: Path, case: str) -> None:
    given, expected = PRIVATE[case]
    assert fired(tmp_path, "private", given, "100m") == expected


# -- what is asked is what there is --------------------------------------------------------------------------------


def exported() -> set[str]:
    """Every name that hyb's own metrics have, from their expositions."""
    from hyb.chat.metrics import Metrics as Chat
    from hyb.serving.gateway.metrics import Metrics as Gateway

    chat, gateway = Chat(), Gateway(lambda: 0, lambda: 0, lambda: 0, lambda: True)
    chat.answered("page", "ok", 0.1, 1, 1, 1)
    chat.requests.labels("page", 200).inc()
    chat.refused.labels("full").inc()
    gateway.of("m").ttft.observe(1)
    gateway.of("m").gap.observe(1)
    gateway.request("m", "/", 200)
    text = chat.text().decode() + gateway.text().decode()
    return set(re.findall(r"(?m)^([a-z_:]+)(?:\{| )", text))


WORDS = {"sum", "by", "le", "max", "min", "rate", "increase", "absent", "time", "histogram_quantile", "and"}


def asked(expression: str) -> set[str]:
    """The metrics of an expression: words that are followed by a selector, or stand alone."""
    plain = re.sub(r"\{[^}]*\}", "{}", expression)
    plain = re.sub(r"\b(?:by|without)\s*\([^)]*\)", "", plain)
    plain = re.sub(r"\[[^\]]*\]", "", plain)
    return set(re.findall(r"[a-z_][a-z_0-9]*", plain)) - WORDS


def expressions() -> list[str]:
    rules = [r["expr"] for found in groups().values() for g in found for r in g["rules"]]
    return [*rules, *(e for f in (FACTS, IN_CLUSTER) for e in dashboard.expressions(dashboard.dashboard(f)))]


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_every_expression_names_metrics_that_somebody_exports(expression: str) -> None:
    names = asked(expression)
    assert names
    assert names <= exported() | ROUTER | OBSERVER | EXPORTERS


def test_the_labels_that_are_asked_for_are_those_that_hyb_s_metrics_have(tmp_path: Path) -> None:
    """A label that no metric has would match nothing, without a word."""
    from hyb.chat.errors import MESSAGES

    codes = set(re.findall(r'code=~"([a-z_|]+)"', " ".join(expressions())).pop().split("|"))
    assert codes <= set(MESSAGES)
    outcomes = set(re.findall(r'outcome!~"([a-z_|]+)"', " ".join(expressions())).pop().split("|"))
    assert outcomes <= {*MESSAGES, "ok", "gone", "bad_request"}


def test_every_panel_s_expression_is_promql(tmp_path: Path) -> None:
    found = [e.replace("$__rate_interval", "5m") for e in dashboard.expressions(dashboard.dashboard(FACTS))]
    rules = [{"record": f"panel:n{n}", "expr": e} for n, e in enumerate(found)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", "panels.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(found)} rules found" in done.stdout


def test_the_tool_would_see_a_broken_expression(tmp_path: Path) -> None:
    rule = {"record": "a:b", "expr": "sum by le (rate(x[5m]))"}
    (tmp_path / "x.yml").write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": [rule]}]}))
    assert promtool("check", "rules", "x.yml", cwd=tmp_path).returncode


def test_panels_lie_side_by_side_and_have_ids_of_their_own() -> None:
    board = dashboard.dashboard(FACTS)
    ids = [p["id"] for p in board["panels"]]
    assert len(set(ids)) == len(ids) > 20
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells
        assert place["x"] + place["w"] <= 24
        cells |= own
    assert "Ask the lab" in board["title"]


# -- the documents -------------------------------------------------------------------------------------------------


def test_prometheus_takes_the_private_host_s_configuration(tmp_path: Path) -> None:
    files = monitoring.files(FACTS)
    (tmp_path / "hyb.key").write_text("k")
    config = files["monitoring/private-host/prometheus.yml"].replace("/etc/prometheus/hyb.key", "hyb.key")
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "hyb.rules.yml").write_text(files["monitoring/private-host/hyb.rules.yml"])
    done = promtool("check", "config", "prometheus.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def operator_mistakes(document: dict[str, Any]) -> str:
    """What the Prometheus operator's models say of it. They drop what they don't know: so it is compared afterwards."""
    import importlib

    models = importlib.import_module("cloudcoil.models.prometheus_operator.v1")
    model = getattr(models, document["kind"]).model_validate(document)
    kept = model.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    return "" if kept == document else f"{kept} is not {document}"


@pytest.mark.parametrize("name", ["servicemonitor.yaml", "podmonitor.yaml", "prometheusrule.yaml"])
def test_the_operator_s_kinds_have_only_fields_that_they_know(name: str) -> None:
    need("cloudcoil.models.prometheus_operator")
    document = json.loads(json.dumps(monitoring.documents(FACTS)[name]))
    assert operator_mistakes(document) == ""
    document["spec"]["selektor"] = {}
    assert operator_mistakes(document)


def test_the_other_documents_are_valid_kubernetes() -> None:
    need("kubernetes_validate")
    import kubernetes_validate

    for document in monitoring.documents(FACTS).values():
        if not document["apiVersion"].startswith("monitoring."):
            for version in ("1.31", "1.37"):
                kubernetes_validate.validate(document, version, strict=True)


def test_the_monitors_pick_what_the_base_and_skupper_make() -> None:
    files = folder(FACTS)
    service = yaml.safe_load(files["base/service.yaml"])
    monitor = monitoring.service_monitor(FACTS)
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in [p["name"] for p in service["spec"]["ports"]]


def test_only_prometheus_reaches_the_metrics() -> None:
    for name in ("networkpolicy-metrics.yaml", "networkpolicy-router-metrics.yaml"):
        (rule,) = monitoring.documents(FACTS)[name]["spec"]["ingress"]
        (source,) = rule["from"]
        assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": FACTS.monitoring}
        assert [p["port"] for p in rule["ports"]] == [9090]


@pytest.mark.parametrize("overlay", ["openshift", "nginx", "gateway", "loadbalancer"])
def test_each_overlay_takes_the_component(tmp_path: Path, overlay: str) -> None:
    need("kustomize")
    for path, text in folder(replace(ALL, monitoring="monitoring")).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    done = subprocess.run(
        [*kustomize(), f"overlays/{overlay}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    kinds = [d["kind"] for d in yaml.safe_load_all(done.stdout)]
    assert {"ServiceMonitor", "PodMonitor", "PrometheusRule"} <= set(kinds)


def test_a_model_in_the_cluster_has_no_router_to_be_measured() -> None:
    found = monitoring.documents(replace(IN_CLUSTER, monitoring="monitoring"))
    assert "podmonitor.yaml" not in found
    assert "HybLinkDown" not in json.dumps(found)


def test_two_runs_give_the_same_bytes_and_without_monitoring_there_is_nothing_of_it() -> None:
    assert folder(FACTS) == folder(FACTS)
    assert not [p for p in folder(PLAIN) if "monitoring" in p]


def test_the_observer_is_behind_a_sign_in() -> None:
    assert monitoring.observer(FACTS)["spec"]["auth"] == {"strategy": "openshift"}
    values = monitoring.observer_values(FACTS, openshift=False)
    assert values["auth"] == {"strategy": "basic", "basic": {"create": False, "secretName": "chat-observer"}}
    assert not values["ingress"]["enabled"]


def test_a_namespace_of_prometheus_that_is_none_is_a_mistake() -> None:
    (found,) = mistakes(replace(PLAIN, monitoring="User Workload"))
    assert "namespace of Prometheus" in found
