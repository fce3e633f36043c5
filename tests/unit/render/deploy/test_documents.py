"""The folder of `hyb deploy`: golden, the same each time, valid by every schema, built by the real kustomize."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.chat import settings
from hyb.render.deploy import base, gateway, route
from hyb.render.deploy.facts import DeployFacts
from hyb.render.deploy.kustomize import folder
from tests.deployments import ALL, BUILDS, FACTS, IN_CLUSTER, OIDC, OPENSHIFT, PLAIN, build, built, ordered, pod_of
from tests.need import kubectl, need, oracle, route_crd

ROOT = Path(__file__).parents[4]
DATA = ROOT / "tests" / "data" / "deploy"
each_build = pytest.mark.parametrize(("name", "overlay"), BUILDS)
each_folder = pytest.mark.parametrize("name", FACTS)


@pytest.mark.parametrize("name", ["all", "openshift"])
def test_the_folder_is_the_golden_one(name: str) -> None:
    files = folder(FACTS[name])
    place = DATA / name
    if os.environ.get("HYB_GOLDEN") == "write":
        for path, text in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text)
    assert files == {p.relative_to(place).as_posix(): p.read_text() for p in place.rglob("*") if p.is_file()}


@each_folder
def test_the_same_facts_give_the_same_bytes_in_processes_of_their_own(name: str) -> None:
    code = (
        "import json; from tests.deployments import FACTS; from hyb.render.deploy.kustomize import folder;"
        f"print(json.dumps(folder(FACTS[{name!r}])))"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert texts[0] == texts[1]
    assert json.loads(texts[0]) == folder(FACTS[name])


@each_folder
def test_every_file_is_named_by_its_kustomization_and_every_name_is_a_file(name: str) -> None:
    files = folder(FACTS[name])
    named = set()
    for path, text in files.items():
        if path.endswith("kustomization.yaml"):
            listed = yaml.safe_load(text)
            parts = [*listed["resources"], *(p["path"] for p in listed.get("patches", ()))]
            named |= {path, *(os.path.normpath(f"{path}/../{part}") for part in parts)}
    assert named - {"base"} == {p for p in files if p.startswith(("base/", "overlays/"))}


@each_build
def test_the_real_kustomize_builds_what_our_small_one_does(name: str, overlay: str, tmp_path: Path) -> None:
    need("kustomize")
    for path, text in folder(FACTS[name]).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    done = subprocess.run(
        [kubectl(), "kustomize", f"overlays/{overlay}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ordered(list(yaml.safe_load_all(done.stdout))) == ordered(built(name, overlay))


OF_OTHERS = {"Route": "route.openshift.io/v1", "HTTPRoute": "gateway.networking.k8s.io/v1"}
"""Kinds that core Kubernetes does not know."""


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@each_build
def test_the_documents_are_valid_kubernetes(name: str, overlay: str, version: str) -> None:
    need("kubernetes_validate")
    import kubernetes_validate

    kinds = set()
    for document in built(name, overlay):
        kinds.add(document["kind"])
        if document["kind"] in OF_OTHERS:
            assert document["apiVersion"] == OF_OTHERS[document["kind"]]
        else:
            kubernetes_validate.validate(document, version, strict=True)
    assert kinds >= {
        "Deployment", "Service", "ServiceAccount", "ConfigMap", "HorizontalPodAutoscaler", "PodDisruptionBudget",
        "NetworkPolicy",
    }  # fmt: skip


def test_the_validator_would_see_a_misspelt_key() -> None:
    need("kubernetes_validate")
    import kubernetes_validate

    document: Any = copy.deepcopy(base.budget(PLAIN))
    document["spec"]["maxUnavailible"] = document["spec"].pop("maxUnavailable")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.31", strict=True)


def route_mistakes(document: Any) -> list[str]:
    from jsonschema import Draft7Validator

    crd = yaml.safe_load(route_crd().read_text())  # type: ignore[union-attr]
    schema = _closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    return [e.message for e in Draft7Validator(schema).iter_errors(document)]


def _closed(schema: Any) -> Any:
    """The schema without its empty keys, and with no field beside those that it names."""
    if isinstance(schema, list):
        return [_closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    found = {k: _closed(v) for k, v in schema.items() if v is not None and k not in ("anyOf", "oneOf", "allOf")}
    if isinstance(found.get("properties"), dict) and "metadata" not in found.get("properties", {}):
        found.setdefault("additionalProperties", False)
    return found


@pytest.mark.parametrize("facts", [PLAIN, ALL, OPENSHIFT, OIDC], ids=["plain", "all", "openshift", "oidc"])
def test_the_route_fits_openshifts_own_schema(facts: DeployFacts) -> None:
    need("route_crd", "jsonschema")
    assert route_mistakes(route.route(facts)) == []


def test_that_schema_would_see_a_wrong_termination_and_a_misspelt_key() -> None:
    need("route_crd", "jsonschema")
    document: Any = copy.deepcopy(route.route(PLAIN))
    document["spec"]["tls"]["termination"] = "edges"
    document["spec"]["tls"]["insecureEdgeTerminationPolice"] = "Redirect"
    assert len(route_mistakes(document)) == 2


CHECK = """
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { readFileSync } from "node:fs";
try { new HTTPRoute(JSON.parse(readFileSync(0, "utf8"))).validate(); } catch (error) { console.log(error.message); }
"""


def gateway_mistakes(document: Any, folder: Path) -> str:
    place = folder / "check.mjs"
    place.write_text(CHECK)
    (folder / "node_modules").symlink_to(oracle("gateway_api") / "node_modules")  # type: ignore[operator]
    done = subprocess.run(
        ["node", str(place)], input=json.dumps(document), capture_output=True, text=True, check=True, cwd=folder
    )
    return done.stdout


@pytest.mark.parametrize("change", [None, ("timeouts", "610 seconds"), ("port", "80")], ids=["ours", "time", "port"])
def test_the_httproute_fits_the_gateway_apis_schema(change: tuple[str, str] | None, tmp_path: Path) -> None:
    need("gateway_api", "node")
    document: Any = copy.deepcopy(gateway.documents(ALL)["httproute.yaml"])
    if change and change[0] == "timeouts":
        document["spec"]["rules"][0]["timeouts"]["request"] = change[1]
    elif change:
        document["spec"]["rules"][0]["backendRefs"][0]["port"] = change[1]
    assert bool(gateway_mistakes(document, tmp_path)) == bool(change)


def test_the_httproute_has_only_fields_of_gateway_api_v1() -> None:
    document: Any = gateway.documents(ALL)["httproute.yaml"]
    spec = document["spec"]
    (parent,), (rule,) = spec["parentRefs"], spec["rules"]
    assert set(spec) == {"parentRefs", "hostnames", "rules"}
    assert set(parent) == {"group", "kind", "namespace", "name", "sectionName"}
    assert set(rule) == {"matches", "timeouts", "backendRefs"}
    assert set(rule["timeouts"]) == {"request", "backendRequest"}


# -- what they say -----------------------------------------------------------------------------------------------------


@each_build
def test_the_chat_takes_the_settings_that_it_gets(name: str, overlay: str, tmp_path: Path) -> None:
    """By the chat's own reader; files of secrets are put where the settings say."""
    documents = built(name, overlay)
    (config,) = [d for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"] == FACTS[name].name]
    (chat,) = [c for c in pod_of(documents)["spec"]["containers"] if c["name"] == "chat"]
    environ = {**config["data"], **{e["name"]: e["value"] for e in chat["env"]}}
    mounted = {m["mountPath"] for m in chat["volumeMounts"]}
    for key in [k for k in environ if k.endswith("_FILE")]:
        assert str(Path(environ[key]).parent) in mounted
        place = tmp_path / Path(environ[key]).name
        place.write_text("something secret")
        environ[key] = str(place)
    found = settings.from_environ(environ)
    facts = FACTS[name]
    assert found.model_url == f"http://{facts.model_host}:8000/v1"
    assert (found.port, found.metrics_port, found.host) == (8080, 9090, "0.0.0.0")
    assert found.hosts == (facts.host,)
    assert found.trusted_proxies, "all people would count as one"
    assert found.sign_in == {"openshift": "proxy", "oidc": "proxy"}.get(facts.sign_in, facts.sign_in)
    if found.sign_in == "proxy":
        assert [str(n) for n in found.trusted_proxies] == ["127.0.0.1/32"], "another pod could name anybody"
    end = pod_of(documents)["spec"]["terminationGracePeriodSeconds"]
    assert end > found.drain_seconds + found.grace_seconds + 2


@each_build
def test_every_image_is_named_by_digest(name: str, overlay: str) -> None:
    for container in pod_of(built(name, overlay))["spec"]["containers"]:
        assert container["image"].endswith("@sha256:" + "a" * 64)


@each_build
def test_no_secret_is_written_and_each_that_is_named_is_made_in_the_guide_or_by_the_cluster(
    name: str, overlay: str
) -> None:
    files, facts = folder(FACTS[name]), FACTS[name]
    documents = build(files, overlay)
    assert "Secret" not in {d["kind"] for d in documents}
    named = {v["secret"]["secretName"] for v in pod_of(documents)["spec"]["volumes"] if "secret" in v}
    named |= {t["secretName"] for d in documents if d["kind"] == "Ingress" for t in d["spec"]["tls"]}
    for secret in named:
        asked = any(
            d["metadata"].get("annotations", {}).get("service.beta.openshift.io/serving-cert-secret-name") == secret
            for d in documents
        )
        assert asked or secret == facts.model_secret or f" {secret} -n " in files["APPLY.md"], secret


@each_build
def test_names_and_labels_follow_the_conventions(name: str, overlay: str) -> None:
    documents = built(name, overlay)
    seen = [(d["kind"], d["metadata"]["name"]) for d in documents]
    assert len(seen) == len(set(seen))
    for document in documents:
        metadata = document["metadata"]
        assert metadata["namespace"] == "chat"
        assert metadata["labels"] == {
            "app.kubernetes.io/name": "hyb-chat",
            "app.kubernetes.io/instance": FACTS[name].name,
            "app.kubernetes.io/component": "chat",
            "app.kubernetes.io/part-of": "hyb",
            "app.kubernetes.io/managed-by": "hyb",
        }


@each_build
def test_selectors_ports_and_references_meet(name: str, overlay: str) -> None:
    documents = built(name, overlay)
    template = pod_of(documents)
    labels = template["metadata"]["labels"]
    ports = {p["name"] for c in template["spec"]["containers"] for p in c["ports"]}
    by = {(d["kind"], d["metadata"]["name"]): d for d in documents}
    service = by["Service", FACTS[name].name]
    for document in documents:
        if document["kind"] == "Service":
            assert document["spec"]["selector"].items() <= labels.items()
            assert {p["targetPort"] for p in document["spec"]["ports"]} <= ports
        elif document["kind"] in ("PodDisruptionBudget", "Deployment"):
            assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
        elif document["kind"] == "HorizontalPodAutoscaler":
            target = document["spec"]["scaleTargetRef"]
            assert (target["kind"], target["name"]) in by
        elif document["kind"] == "Route":
            assert document["spec"]["to"]["name"] == service["metadata"]["name"]
            assert document["spec"]["port"]["targetPort"] in {p["name"] for p in service["spec"]["ports"]}
        elif document["kind"] == "Ingress":
            backend = document["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
            assert backend["name"] == service["metadata"]["name"]
            assert backend["port"]["name"] in {p["name"] for p in service["spec"]["ports"]}
        elif document["kind"] == "HTTPRoute":
            (ref,) = document["spec"]["rules"][0]["backendRefs"]
            assert ref["name"] == service["metadata"]["name"]
            assert ref["port"] in {p["port"] for p in service["spec"]["ports"]}
    account = by["ServiceAccount", template["spec"]["serviceAccountName"]]
    assert account["automountServiceAccountToken"] is False


@each_build
def test_where_a_door_stands_the_service_leads_to_it_and_not_past_it(name: str, overlay: str) -> None:
    facts, documents = FACTS[name], built(name, overlay)
    for service in (d for d in documents if d["kind"] == "Service"):
        ways = {p["targetPort"] for p in service["spec"]["ports"]} - {"metrics"}
        assert ways == {"door" if facts.door(overlay) else "web"}


@each_build
def test_a_container_that_asks_for_a_volume_gets_it_and_no_volume_is_left_over(name: str, overlay: str) -> None:
    spec = pod_of(built(name, overlay))["spec"]
    mounted = {m["name"] for c in spec["containers"] for m in c.get("volumeMounts", ())}
    assert mounted == {v["name"] for v in spec["volumes"]}


def test_only_openshifts_proxy_gets_the_accounts_token() -> None:
    for name, overlay in BUILDS:
        for container in pod_of(built(name, overlay))["spec"]["containers"]:
            has = any("serviceaccount" in m["mountPath"] for m in container.get("volumeMounts", ()))
            assert has == (container["name"] == "oauth-proxy")


def test_new_settings_are_new_pods_and_other_words_are_not() -> None:
    def annotation(facts: DeployFacts) -> str:
        return str(pod_of(build(folder(facts), "openshift"))["metadata"]["annotations"][base.CONFIG])

    assert annotation(PLAIN) == annotation(replace(PLAIN, max_replicas=9))
    assert annotation(PLAIN) != annotation(replace(PLAIN, title="Other"))


def test_replicas_are_the_autoscalers_matter_alone() -> None:
    documents = built("plain", "openshift")
    (scaler,) = [d for d in documents if d["kind"] == "HorizontalPodAutoscaler"]
    (deployment,) = [d for d in documents if d["kind"] == "Deployment"]
    assert "replicas" not in deployment["spec"]
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 4)
    assert all(c["resources"]["requests"]["cpu"] for c in deployment["spec"]["template"]["spec"]["containers"])


def test_streams_are_let_through_for_as_long_as_an_answer_may_last() -> None:
    longest = settings.Settings().total_seconds
    by = {d["kind"]: d for o in ALL.overlays for d in built("all", o)}
    seconds = [
        by["Route"]["metadata"]["annotations"]["haproxy.router.openshift.io/timeout"],
        by["Ingress"]["metadata"]["annotations"]["nginx.org/proxy-read-timeout"],
        by["HTTPRoute"]["spec"]["rules"][0]["timeouts"]["request"],
    ]
    assert all(float(text.removesuffix("s")) > longest for text in seconds)
    assert by["Ingress"]["metadata"]["annotations"]["nginx.org/proxy-buffering"] == "False"


def test_ingress_nginxs_annotations_are_written_only_where_asked_for() -> None:
    for name, facts in FACTS.items():
        text = "".join(folder(facts).values())
        assert ("nginx.ingress.kubernetes.io" in text) == facts.legacy_ingress_nginx, name
        if facts.legacy_ingress_nginx:
            assert "nginx.org/" not in text and "no support since March 2026" in text


def test_a_model_in_the_cluster_is_called_with_the_label_that_its_policy_wants() -> None:
    from hyb.render import kubernetes
    from hyb.render.unit import ServiceUnit

    unit = ServiceUnit("bot", "localhost/x", "", "sha256:" + "b" * 64)
    (rule,) = kubernetes.policy(unit, kubernetes.select(unit))["spec"]["ingress"]
    (caller,) = rule["from"]
    labels = pod_of(built("in-cluster", "openshift"))["metadata"]["labels"]
    assert caller["podSelector"]["matchLabels"].items() <= labels.items()
    assert unit.secret == IN_CLUSTER.key_secret


def test_the_argument_lists_hold_no_secret_and_the_proxies_wait_for_an_answer() -> None:
    for name, overlay in BUILDS:
        for container in pod_of(built(name, overlay))["spec"]["containers"]:
            words = " ".join([*container.get("args", ()), *container.get("command", ())])
            assert "secret=" not in words
            if container["name"].startswith("oauth"):
                assert "--upstream-timeout=610s" in words and "--upstream=http://127.0.0.1:8080" in words
