"""The link stage: bad input said at once, and an artifact that is the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from hyb import stages
from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.stages import link
from hyb.stages.base import Context, referenced
from hyb.store import Store

GOLDEN = Path(__file__).parents[2] / "data" / "link"
GOOD: dict[str, Any] = {"stage": "link", "service": "service", "namespace": "chat", "apps_domain": "apps.example.com"}

LB: dict[str, Any] = {"access": "loadbalancer", "apps_domain": ""}
NODE: dict[str, Any] = {"access": "nodeport", "apps_domain": "", "link_host": "192.0.2.1"}


def mistakes(**given: Any) -> dict[str, str]:
    """Field → message of everything that is wrong."""
    with pytest.raises(ValidationError) as caught:
        link.Spec(**{**GOOD, **given})
    return {str(e["loc"][0] if e["loc"] else ""): e["msg"] for e in caught.value.errors()}


def service(store: Store, **meta: Any) -> Artifact:
    return store.add_artifact("service", [], meta={"name": "bot", "port": 8001, "host": "127.0.0.1", **meta})


def make(root: Path, **given: Any) -> tuple[Store, Artifact]:
    store = Store(root / "störe")
    made = link.run(link.Spec(**{**GOOD, **given}), {"service": service(store)}, Context(store, root / "work"))
    return store, made


def test_the_stage_is_found_by_its_name_and_refers_to_a_service() -> None:
    assert stages.load("link").Spec is link.Spec
    assert referenced(link.Spec(**GOOD)) == ["service"]


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        ({"namespace": "Chat"}, "namespace", "`Chat` is no RFC 1123 label"),
        ({"namespace": "chat_bots"}, "namespace", "is no RFC 1123 label"),
        ({"namespace": "-chat"}, "namespace", "no `-` at either end"),
        ({"namespace": "chät"}, "namespace", "is no RFC 1123 label"),
        ({"namespace": "my.chat"}, "namespace", "is no RFC 1123 label"),
        ({"namespace": ""}, "namespace", "is empty"),
        ({"namespace": "chat\n"}, "namespace", "is no RFC 1123 label"),
        ({"namespace": "n" * 50}, "namespace", "has 67 characters, 63 are the most: shorten `namespace` (50)"),
        ({"apps_domain": ".".join(["d" * 50] * 5)}, "apps_domain", "characters, 253 are the most"),
        ({"apps_domain": ".".join(["d" * 58] * 4)}, "namespace", "shorten the domain by"),
        ({"apps_domain": "Apps.example.com"}, "apps_domain", "is no DNS name"),
        ({"apps_domain": "https://apps.example.com"}, "apps_domain", "is no DNS name"),
        ({"apps_domain": ""}, "apps_domain", "oc get ingresses.config cluster"),
        ({"route_domain": "link.example.com"}, "apps_domain", "both given; keep one"),
        ({"route_domain": "a_b", "apps_domain": ""}, "route_domain", "is no DNS name"),
        ({"port": 70000}, "port", "less than or equal to 65535"),
        ({"port": 0}, "port", "greater than or equal to 1"),
        ({"port": True}, "port", "valid integer"),
        ({"port": "8000"}, "port", "valid integer"),
        ({"cost": 0}, "cost", "greater than or equal to 1"),
        ({"host": "1llm"}, "host", "it must start with a letter"),
        ({"host": "hyb"}, "host", "Skupper makes itself"),
        ({"host": "skupper-router"}, "host", "Skupper makes itself"),
        ({"name": "link_public"}, "name", "is no RFC 1123 label"),
        ({"router_access": "skupper-router"}, "router_access", "is a name of Skupper's own"),
        ({"site": "a.b"}, "site", "is no RFC 1123 label"),
        ({"private_namespace": "X"}, "private_namespace", "is no RFC 1123 label"),
        ({"routing_key": "a b"}, "routing_key", "is no routing key"),
        ({"platform": "k8s"}, "platform", "'podman', 'docker', 'linux' or 'kubernetes'"),
        ({"access": "ingress"}, "access", "'route', 'loadbalancer', 'ingress-nginx', 'nodeport' or 'local'"),
        ({"way": "own"}, "way", "'given', 'issuer', 'token' or 'cli'"),
        ({"apps_domain": "*.apps.example.com"}, "apps_domain", "a wildcard stands for many"),
        ({"apps_domain": "192.0.2.1"}, "apps_domain", "is an IP address, not a DNS name"),
        ({"apps_domain": "2001:db8::1"}, "apps_domain", "is an IP address, not a DNS name"),
        ({"apps_domain": "apps.example.300"}, "apps_domain", "it ends in a number"),
        ({"route_domain": "*.example.com", "apps_domain": ""}, "route_domain", "a wildcard stands for many"),
        ({"apps_domain": "", "access": "ingress-nginx"}, "apps_domain", "SKUPPER_INGRESS_DOMAIN"),
        ({"access": "nodeport", "link_host": "192.0.2.1"}, "apps_domain", "has no use with `access: nodeport`"),
        ({"access": "ingress-nginx", "route_domain": "a.b"}, "route_domain", "has no use with"),
        ({"ingress_class": "nginx"}, "ingress_class", "has no use with `access: route`"),
        ({**LB}, "link_host", "take `way: issuer` or `way: token`"),
        ({**LB, "access": "nodeport"}, "link_host", "no domain gives the router's address"),
        ({**LB, "link_host": "a_b"}, "link_host", "is no DNS name"),
        ({**LB, "link_host": "*.example.com"}, "link_host", "a wildcard"),
        ({**LB, "link_host": {"shop": "192.0.2.1"}}, "link_host", "`shop` is no namespace of this link"),
        ({**LB, "namespace": ["chat", "shop"], "link_host": "192.0.2.1"}, "link_host", "one an address each"),
        ({"link_host": "192.0.2.1"}, "link_host", "the domain says where"),
        ({**LB, "way": "token", "link_host": "192.0.2.1"}, "link_host", "the cluster says where"),
        ({**LB, "link_host": "192.0.2.1", "link_ports": {"edge": 1, "inter-router": 2}}, "link_ports", "has no use"),
        ({**NODE, "link_ports": {"edge": 30001}}, "link_ports", "the port of `inter-router` is missing"),
        ({**NODE, "link_ports": {"edge": 30001, "inter-router": 30001}}, "link_ports", "both roles have one port"),
        ({**NODE, "link_ports": {"edge": "30001", "inter-router": 2}}, "link_ports", "valid integer"),
        ({**LB, "access": "local"}, "platform", "is reached from inside only"),
        ({"namespace": []}, "namespace", "at least 1 item"),
        ({"namespace": ["chat", "chat"]}, "namespace", "is there twice"),
        ({"namespace": ["chat", "n" * 50]}, "namespace", "67 characters"),
        ({"service": []}, "service", "at least 1 item"),
        ({"models": {"other": {}}}, "models", "`other` is no service of this link"),
        ({"models": {"service": {"host": "hyb"}}}, "models", "Skupper makes itself"),
        ({"models": {"service": {"host": "skupper-router"}}}, "models", "Skupper makes itself"),
        ({"models": {"service": {"prot": 1}}}, "models", "Extra inputs"),
        ({"models": {"service": {"port": "8000"}}}, "models", "valid integer"),
        ({"observer": "grpc"}, "observer", "'http1' or 'http2'"),
        ({"private_sites": ["A"]}, "private_sites", "is no RFC 1123 label"),
        ({"private_sites": {"a": {"cost": 0}}}, "private_sites", "greater than or equal to 1"),
        ({"private_sites": {"a": {"services": ["x"]}}}, "private_sites", "a: `x` is no service of this link"),
        ({"private_sites": ["a", "b"], "private_site": "c"}, "private_sites", "`private_site` is for one"),
        ({"private_sites": {"a": {"namespace": "X"}}}, "private_sites", "is no RFC 1123 label"),
        ({"private_sites": {"a": {"platform": "k8s"}}}, "private_sites", "'kubernetes'"),
        ({"selector": "app in (llm)"}, "selector", "selects no pods"),
        ({"target_host": "my_llm"}, "target_host", "is no DNS name"),
        ({"way": "token", "grant_window": "1d"}, "grant_window", "is no duration"),
        ({"weights": {"a": -1}}, "weights", "greater than or equal to 0"),
        ({"credentials": "../../etc"}, "credentials", "is no folder name"),
        ({"days": 0}, "days", "greater than or equal to 1"),
        ({"tokn": "x"}, "tokn", "Extra inputs are not permitted"),
    ],
)
def test_bad_input_is_refused_at_its_own_field(given: dict[str, Any], field: str, expected: str) -> None:
    found = mistakes(**given)
    assert list(found) == [field] and expected in found[field], found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"namespace": "default"}, "namespace `default` is the private side's own"),
        ({"private_namespace": "chat"}, "namespace `chat` is the private side's own"),
        ({"private_sites": {"a": {"namespace": "chat"}}}, "namespace `chat` is the private side's own"),
        (
            {**NODE, "namespace": ["chat", "shop"], "link_host": {"chat": "192.0.2.1", "shop": "192.0.2.1"}},
            "a link for each",
        ),
        ({"selector": "app=llm"}, "there are none on platform `podman`"),
        ({"platform": "kubernetes", "selector": "app=llm", "target_host": "llm"}, "both given; keep one"),
        ({"private_sites": {"a": {"selector": "app=llm"}}}, "a: `selector` means pods"),
        ({"strategy": "priority"}, "chooses among several private sites or services, and there is one"),
        ({"weights": {"a": 1}}, "`weights` are for `strategy: weighted`"),
        (
            {"private_sites": ["a", "b"], "strategy": "weighted", "weights": {"c": 1}},
            "names `c`, which is none of a, b",
        ),
        ({"private_sites": ["a", "b"], "strategy": "weighted", "weights": {"a": 0, "b": 0}}, "every weight is 0"),
        ({"way": "cli", "access": "local", "apps_domain": ""}, "can't do `access: local`"),
        ({"way": "cli", "observer": "none"}, "has no option for `observer`"),
        ({"way": "cli", "private_sites": ["a", "b"], "strategy": "priority"}, "has no option for `strategy`"),
        ({"namespace": ["chat", "shop"], "name": "n" * 60}, "63 are the most"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], expected: str) -> None:
    found = mistakes(**given)
    assert expected in " ".join(found.values()), found


def test_all_mistakes_are_reported_at_once() -> None:
    found = mistakes(namespace="N" * 60, port=70000, host="hyb", apps_domain="", cost=-1, name="A")
    assert set(found) == {"namespace", "port", "host", "apps_domain", "cost", "name"}
    assert "is no RFC 1123 label" in found["namespace"] and "77 characters" in found["namespace"]


def test_the_artifact_is_the_golden_documents_and_names_no_secret_value(tmp_path: Path) -> None:
    store, made = make(tmp_path, port=8000)
    written = {f.path: store.read(f.blob.digest).decode() for f in made.files}
    golden = {p.relative_to(GOLDEN).as_posix(): p.read_text() for p in GOLDEN.rglob("*") if p.is_file()}
    assert written == golden
    assert made.kind == "link" and made.needs == (store.artifacts()[0].digest,)
    assert {k: made.meta[k] for k in ("routing_key", "namespace", "port", "host")} == {
        "routing_key": "llm", "namespace": "chat", "port": 8000, "host": "llm",
    }  # fmt: skip
    assert made.meta["hosts"] == ["hyb-inter-router-chat.apps.example.com", "hyb-edge-chat.apps.example.com"]


def test_the_same_spec_gives_the_same_digest_on_another_path(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "zwei ü"):
        (tmp_path / name).mkdir()
        store, made = make(tmp_path / name)
        digests.append(made.digest)
        assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in store.blobs.iterdir())
    assert digests[0] == digests[1]


def test_the_port_is_the_services_when_none_is_given(tmp_path: Path) -> None:
    _, made = make(tmp_path)
    assert made.meta["port"] == 8001


@pytest.mark.parametrize(
    ("listens", "dialled"), [("127.0.0.2", "127.0.0.2"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("", "127.0.0.1")]
)
def test_the_connector_dials_where_the_service_listens(tmp_path: Path, listens: str, dialled: str) -> None:
    store = Store(tmp_path / "s")
    made = link.run(link.Spec(**GOOD), {"service": service(store, host=listens)}, Context(store, tmp_path))
    connector = yaml.safe_load(store.read(made.file("private/Connector-llm.yaml").blob.digest))
    assert connector["spec"]["host"] == dialled


@pytest.mark.parametrize("port", [None, "8000", 0, 70000])
def test_a_service_without_a_port_is_an_error(tmp_path: Path, port: Any) -> None:
    store = Store(tmp_path / "s")
    with pytest.raises(HybError, match="service `service`: its port"):
        link.run(link.Spec(**GOOD), {"service": service(store, port=port)}, Context(store, tmp_path))


def test_the_plan_says_where_it_goes_and_opens_nothing(tmp_path: Path) -> None:
    spec = link.Spec(**GOOD)
    before = link.plan(spec, {"service": None})
    assert "`llm:the port of its service` in namespace `chat`" in before.makes and before.opens == ()
    assert "hyb-edge-chat.apps.example.com" in before.makes
    assert "`llm:8001`" in link.plan(spec, {"service": service(Store(tmp_path / "s"))}).makes


def test_the_meta_is_plain_json_and_says_what_readers_need(tmp_path: Path) -> None:
    _, made = make(tmp_path, route_domain="link.example.com", apps_domain="", platform="docker", credentials="shared")
    meta = json.loads(json.dumps(dict(made.meta)))
    assert meta["credentials"] == "shared" and meta["platform"] == "docker"
    assert meta["hosts"][1] == "hyb-edge.chat.link.example.com" and meta["client"] == "link-private"
    assert meta["secrets"]["openshift"] == {"name": "hyb-link-server", "namespace": "chat"}
    assert {k: meta[k] for k in ("way", "access", "router_access", "apps_domain", "pending", "namespaces")} == {
        "way": "given", "access": "route", "router_access": "hyb", "apps_domain": "link.example.com",
        "pending": False, "namespaces": ["chat"],
    }  # fmt: skip
    assert meta["to_make"] == [
        {"of": "client", "for": "private", "folder": "private", "name": "link-public", "namespace": "default"},
        {"of": "server", "for": "chat", "folder": "openshift", "name": "hyb-link-server", "namespace": "chat"},
    ]


# -- several ---------------------------------------------------------------------------------------------------------


def several(root: Path, services: dict[str, dict[str, Any]], **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Path → document (or text) of a link over these services, and its meta."""
    store = Store(root / "s")
    inputs = {name: service(store, **{"name": name, **meta}) for name, meta in services.items()}
    spec = link.Spec(**{**GOOD, "service": list(services), **given})
    made = link.run(spec, inputs, Context(store, root / "work"))
    texts = {f.path: store.read(f.blob.digest).decode() for f in made.files}
    return {p: yaml.safe_load(t) if p.endswith(".yaml") else t for p, t in texts.items()}, dict(made.meta)


TWO = {"small": {"port": 8001}, "large": {"port": 8002}}


def test_several_models_go_over_one_link_each_by_its_own_name(tmp_path: Path) -> None:
    files, meta = several(tmp_path, TWO)
    assert sum(path.startswith("private/Link-") for path in files) == 1
    for name, port in (("small", 8001), ("large", 8002)):
        connector, listener = files[f"private/Connector-{name}.yaml"], files[f"openshift/Listener-{name}.yaml"]
        assert connector["spec"]["routingKey"] == listener["spec"]["routingKey"] == name
        assert (connector["spec"]["port"], listener["spec"]["port"]) == (port, port)
    assert [m["host"] for m in meta["models"]] == ["small", "large"]


def test_a_model_may_have_a_host_port_and_key_of_its_own(tmp_path: Path) -> None:
    files, _ = several(tmp_path, TWO, models={"large": {"host": "big", "port": 80, "routing_key": "models/big"}})
    assert files["openshift/Listener-big.yaml"]["spec"] == {
        "routingKey": "models/big", "host": "big", "port": 80, "type": "tcp",
    }  # fmt: skip


def test_two_models_of_one_service_need_different_ports_or_a_strategy(tmp_path: Path) -> None:
    both = {name: {"host": "llm"} for name in TWO}
    files, _ = several(tmp_path, TWO, models=both)
    assert {p for p in files if "Listener" in p} == {
        "openshift/Listener-llm-8001.yaml",
        "openshift/Listener-llm-8002.yaml",
    }
    with pytest.raises(HybError, match="are both `llm:8000`: give them different hosts or ports, one routing key"):
        several(tmp_path, TWO, models=both, port=8000)
    files, _ = several(tmp_path, TWO, models=both, port=8000, strategy="weighted", weights={"small": 90, "large": 10})
    (path,) = [p for p in files if "Listener" in p]
    assert path == "openshift/MultiKeyListener-llm.yaml"
    assert files[path]["spec"]["strategy"] == {"weighted": {"routingKeys": {"small": 90, "large": 10}}}


def test_two_services_of_one_routing_key_are_balanced_behind_one_listener(tmp_path: Path) -> None:
    models = {name: {"routing_key": "llm", "port": 80} for name in TWO}
    files, _ = several(tmp_path, TWO, models=models)
    assert [p for p in files if "Listener" in p] == ["openshift/Listener-llm.yaml"]
    assert {files[f"private/Connector-{n}.yaml"]["spec"]["routingKey"] for n in TWO} == {"llm"}


def test_two_services_with_one_routing_key_and_different_protocols_are_refused(tmp_path: Path) -> None:
    models = {"small": {"routing_key": "llm"}, "large": {"routing_key": "llm", "observer": "http2"}}
    with pytest.raises(ValidationError, match="one routing key `llm` and different observers: one key, one protocol"):
        several(tmp_path, TWO, models=models)  # before anything of the chain is made


def test_several_hosts_serve_one_routing_key_by_cost(tmp_path: Path) -> None:
    files, meta = several(tmp_path, {"bot": {}}, private_sites={"alpha": {}, "beta": {"cost": 10, "target_port": 9000}})
    assert {p.split("/")[0] for p in files if "/" in p} == {"private-alpha", "private-beta", "openshift"}
    assert [files[f"private-{n}/Link-link-public.yaml"]["spec"]["cost"] for n in ("alpha", "beta")] == [1, 10]
    keys = [files[f"private-{n}/Connector-llm.yaml"]["spec"] for n in ("alpha", "beta")]
    assert [k["routingKey"] for k in keys] == ["llm", "llm"] and [k["port"] for k in keys] == [8001, 9000]
    assert files["private-beta/Site-beta.yaml"]["metadata"]["name"] == "beta"
    assert [s["folder"] for s in meta["sites"]] == ["private-alpha", "private-beta"]
    assert [t["for"] for t in meta["to_make"] if t["of"] == "client"] == ["alpha", "beta"]


def test_a_strategy_gives_each_host_a_routing_key_of_its_own(tmp_path: Path) -> None:
    files, _ = several(tmp_path, {"bot": {}}, private_sites=["alpha", "beta"], strategy="priority")
    listener = files["openshift/MultiKeyListener-llm.yaml"]["spec"]
    assert listener["strategy"] == {"priority": {"routingKeys": ["llm-alpha", "llm-beta"]}}
    assert files["private-beta/Connector-llm.yaml"]["spec"]["routingKey"] == "llm-beta"


def test_a_host_may_have_some_of_the_models_only(tmp_path: Path) -> None:
    sites = {"alpha": {"services": ["small"]}, "beta": {}}
    files, _ = several(tmp_path, TWO, private_sites=sites, strategy="priority")
    assert {p for p in files if p.startswith("private-alpha/Conn")} == {"private-alpha/Connector-small.yaml"}
    large = files["openshift/MultiKeyListener-large.yaml"]["spec"]["strategy"]
    assert large == {"priority": {"routingKeys": ["large-beta"]}}


def test_several_namespaces_use_one_model_over_a_link_each(tmp_path: Path) -> None:
    files, meta = several(tmp_path, {"bot": {}}, namespace=["chat", "shop"])
    assert {p for p in files if "/Link-" in p} == {
        "private/Link-link-public-chat.yaml",
        "private/Link-link-public-shop.yaml",
    }
    assert meta["servers"]["shop"] == ["hyb-inter-router-shop.apps.example.com", "hyb-edge-shop.apps.example.com"]
    assert [(t["of"], t["for"], t["folder"]) for t in meta["to_make"]] == [
        ("client", "private", "private"), ("server", "chat", "openshift-chat"), ("server", "shop", "openshift-shop"),
    ]  # fmt: skip


def test_in_a_private_cluster_the_model_is_its_service_or_its_pods(tmp_path: Path) -> None:
    files, _ = several(tmp_path, {"bot": {}}, platform="kubernetes")
    assert files["private/Connector-llm.yaml"]["spec"]["host"] == "bot"
    files, _ = several(tmp_path, {"bot": {}}, platform="kubernetes", selector="app.kubernetes.io/name=bot")
    spec = files["private/Connector-llm.yaml"]["spec"]
    assert spec["selector"] == "app.kubernetes.io/name=bot" and "host" not in spec


def test_a_link_by_the_program_has_scripts_and_no_secret(tmp_path: Path) -> None:
    files, meta = several(tmp_path, {"bot": {}}, way="cli", apps_domain="")
    assert set(files) == {"APPLY.md", "private/skupper.sh", "openshift/skupper.sh"} and meta["to_make"] == []


def test_a_link_by_token_needs_no_domain_and_has_no_link_yet(tmp_path: Path) -> None:
    files, meta = several(tmp_path, {"bot": {}}, way="token", apps_domain="")
    assert "openshift/AccessGrant-hyb.yaml" in files and not [p for p in files if "Link-" in p]
    assert meta["to_make"] == [] and meta["pending"] is False
    assert "hyb-inter-router" not in files["APPLY.md"] and "hyb link accept token.yaml" in files["APPLY.md"]


def test_a_link_without_an_address_has_no_private_side_yet(tmp_path: Path) -> None:
    files, meta = several(tmp_path, {"bot": {}}, **LB, way="issuer")
    assert meta["pending"] is True and not [p for p in files if p.startswith("private")]
    assert [t["of"] for t in meta["to_make"]] == ["issuer"]
    files, meta = several(tmp_path, {"bot": {}}, **LB, way="issuer", link_host="192.0.2.1")
    assert meta["pending"] is False and "private/Link-link-public.yaml" in files


def test_a_plan_names_the_service_of_each_model() -> None:
    spec = link.Spec(**{**GOOD, "service": ["small", "large"], "models": {"large": {"host": "big", "port": 80}}})
    told = link.plan(spec, {"small": None, "large": None}).makes
    assert "`small:the port of its service`, `big:80`" in told


def test_a_service_whose_name_is_no_host_needs_one() -> None:
    wanted = {**GOOD, "service": ["r/small", "large"]}
    with pytest.raises(ValidationError, match=r"service `r/small`: .* give it a `host` in `models`"):
        link.Spec(**wanted)
    assert link.Spec(**wanted, models={"r/small": {"host": "small"}})
