"""Skupper documents: golden texts, the CRDs, and every silent failure said aloud."""

from __future__ import annotations

import base64
import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.render.dump import dump
from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.render.skupper.guide import guide
from tests.need import crds, need

GOLDEN = Path(__file__).parents[3] / "data" / "link"
FACTS = sk.LinkFacts(namespace="chat", apps_domain="apps.example.com", port=8000, target_port=8001)
DATA = {
    "ca.crt": b"-----BEGIN CERTIFICATE-----\nca\n",
    "tls.crt": b"-----BEGIN CERTIFICATE-----\nleaf\n",
    "tls.key": b"-----BEGIN PRIVATE KEY-----\nkey\n",
}
Docs = dict[str, dict[str, Any]]


def sides(facts: sk.LinkFacts = FACTS) -> tuple[Docs, Docs]:
    """Both sides by kind, whole, as hyb writes them."""
    private = [*sk.private_documents(facts), sk.client_secret(facts, DATA)]
    openshift = [*sk.openshift_documents(facts), sk.server_secret(facts, DATA)]
    return {d["kind"]: d for d in copy.deepcopy(private)}, {d["kind"]: d for d in copy.deepcopy(openshift)}


def found(private: Docs, openshift: Docs) -> list[str]:
    return skupper_check.check(list(private.values()), list(openshift.values()))


def test_what_hyb_renders_has_no_mistake() -> None:
    assert found(*sides()) == []
    assert (
        found(*sides(sk.LinkFacts("chat", "", 80, 8000, route_domain="link.example.com", private_namespace="llm")))
        == []
    )


@pytest.mark.parametrize("side", ["private", "openshift"])
def test_the_documents_are_the_golden_ones(side: str) -> None:
    documents = sk.private_documents(FACTS) if side == "private" else sk.openshift_documents(FACTS)
    written = {sk.file_name(d): dump(d) for d in documents}
    assert written == {p.name: p.read_text() for p in sorted((GOLDEN / side).glob("*.yaml"))}


def test_the_guide_is_the_golden_one() -> None:
    assert guide(FACTS) == (GOLDEN / "APPLY.md").read_text()


def test_the_guide_follows_platform_and_namespace() -> None:
    text = guide(sk.LinkFacts("chat", "apps.example.com", 80, 8000, private_namespace="llm"), "linux")
    assert "SKUPPER_PLATFORM=linux" in text and "skupper system start -n llm" in text
    assert "system install" not in text and "skrouterd" in text
    assert "namespaces/llm/input/resources" in text


def test_text_reads_back_as_the_same_documents() -> None:
    private, openshift = sides()
    documents = [*private.values(), *openshift.values()]
    assert list(yaml.safe_load_all(dump(documents))) == documents


@pytest.mark.parametrize("word", ["1e3", "0x10", "y", "n", "on", "null", "12", "007", "1-2", "true", "443"])
def test_a_name_that_a_yaml_reader_takes_for_a_number_is_quoted(word: str) -> None:
    text = dump({"namespace": word})
    assert text.strip().removeprefix("namespace: ") in (f'"{word}"', f"'{word}'")
    assert yaml.safe_load(text) == {"namespace": word}


def test_the_route_hosts_follow_openshifts_rule_and_the_controllers() -> None:
    assert sk.route_hosts(FACTS) == ("hyb-inter-router-chat.apps.example.com", "hyb-edge-chat.apps.example.com")
    other = sk.LinkFacts("chat", "", 1, 1, route_domain="link.example.com", router_access="van")
    assert sk.route_hosts(other) == ("van-inter-router.chat.link.example.com", "van-edge.chat.link.example.com")


def test_a_host_label_that_is_too_long_says_what_to_shorten() -> None:
    fits = sk.LinkFacts("n" * 46, "apps.example.com", 1, 1)
    assert len(sk.route_host(fits, "inter-router").split(".")[0]) == 63
    assert sk.route_problem(fits) == ""
    problem = sk.route_problem(sk.LinkFacts("n" * 50, "apps.example.com", 1, 1))
    assert "has 67 characters, 63 are the most: shorten `namespace` (50) or `router_access` (3) by 4" in problem
    assert "shorten the domain by" in sk.route_problem(sk.LinkFacts("chat", ".".join(["d" * 50] * 5), 1, 1))
    assert "`router_access`" in sk.route_problem(
        sk.LinkFacts("chat", "", 1, 1, router_access="r" * 60, route_domain="a.b")
    )


# -- the CRDs ------------------------------------------------------------------------------------------------------


def _closed(schema: Any) -> Any:
    """The schema with objects that take no unknown field, as a typo is one."""
    if isinstance(schema, list):
        return [_closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    result = {k: v if k in ("oneOf", "anyOf", "allOf") else _closed(v) for k, v in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        result["additionalProperties"] = False
    return result


def crd_mistakes(document: dict[str, Any]) -> list[str]:
    from jsonschema import Draft202012Validator

    folder = crds()
    assert folder
    for path in folder.glob("*_crd.yaml"):
        crd = yaml.safe_load(path.read_text())
        if crd["spec"]["names"]["kind"] != document["kind"]:
            continue
        (version,) = [v for v in crd["spec"]["versions"] if f"{crd['spec']['group']}/{v['name']}" == sk.API]
        schema = _closed(version["schema"]["openAPIV3Schema"])
        schema["properties"] |= {
            "apiVersion": {"const": sk.API},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
        }
        return [e.message for e in Draft202012Validator(schema).iter_errors(document)]
    raise AssertionError(f"no CRD for {document['kind']}")


@pytest.mark.parametrize("facts", [FACTS, sk.LinkFacts("chat", "", 80, 8000, route_domain="link.example.com", cost=7)])
def test_every_document_is_valid_against_its_crd(facts: sk.LinkFacts) -> None:
    need("crds", "jsonschema")
    for document in [*sk.private_documents(facts), *sk.openshift_documents(facts)]:
        assert crd_mistakes(document) == []


def test_the_secrets_are_valid_for_kubernetes() -> None:
    need("kubernetes_validate")
    import kubernetes_validate

    for side in sides():
        kubernetes_validate.validate(side["Secret"], "1.31", strict=True)
        broken = {**side["Secret"], "data": {"tls.key": 1}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, "1.31", strict=True)


def test_the_closed_crds_do_see_a_typo_and_a_wrong_type() -> None:
    need("crds", "jsonschema")
    private, _ = sides()
    link = private["Link"]
    link["spec"]["tlsCredential"] = link["spec"].pop("tlsCredentials")
    link["spec"]["endpoints"][0]["port"] = 443
    assert len(crd_mistakes(link)) == 2


def test_the_checks_know_exactly_the_fields_of_the_crds() -> None:
    need("crds")
    names = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}
    folder = crds()
    assert folder
    seen = set()
    for path in folder.glob("*_crd.yaml"):
        crd = yaml.safe_load(path.read_text())
        kind = crd["spec"]["names"]["kind"]
        if kind in skupper_check._FIELDS:
            spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            assert {k: names[v["type"]] for k, v in spec.items()} == dict(skupper_check._FIELDS[kind]), kind
            seen.add(kind)
    assert seen == set(skupper_check._FIELDS)


# -- silent failures -----------------------------------------------------------------------------------------------


def _secret_as_text(p: Docs, o: Docs) -> None:
    p["Secret"]["stringData"] = {k: v.decode() for k, v in DATA.items()}
    del p["Secret"]["data"]


def _endpoint(key: str, value: Any) -> Callable[[Docs, Docs], None]:
    def change(p: Docs, o: Docs) -> None:
        p["Link"]["spec"]["endpoints"][0][key] = value

    return change


def _no_name(p: Docs, o: Docs) -> None:
    for endpoint in p["Link"]["spec"]["endpoints"]:
        del endpoint["name"]


def _spec(side: int, kind: str, **values: Any) -> Callable[[Docs, Docs], None]:
    """Set fields of a spec; None takes one away."""

    def change(*both: Docs) -> None:
        spec = both[side][kind].setdefault("spec", {})
        for key, value in values.items():
            if value is None:
                spec.pop(key, None)
            else:
                spec[key] = value

    return change


def _meta(side: int, kind: str, **values: Any) -> Callable[[Docs, Docs], None]:
    def change(*both: Docs) -> None:
        both[side][kind]["metadata"].update(values)

    return change


def _extra(side: int, document: dict[str, Any]) -> Callable[[Docs, Docs], None]:
    def change(*both: Docs) -> None:
        both[side][f"extra {len(both[side])}"] = document

    return change


def _without(side: int, kind: str) -> Callable[[Docs, Docs], None]:
    def change(*both: Docs) -> None:
        del both[side][kind]

    return change


def _data(side: int, key: str, value: str | None) -> Callable[[Docs, Docs], None]:
    def change(*both: Docs) -> None:
        if value is None:
            del both[side]["Secret"]["data"][key]
        else:
            both[side]["Secret"]["data"][key] = value

    return change


def _type(side: int, kind: str) -> Callable[[Docs, Docs], None]:
    def change(*both: Docs) -> None:
        both[side]["Secret"]["type"] = kind

    return change


P, C = 0, 1  # the private side, the cluster's
SITE = {"apiVersion": sk.API, "kind": "Site", "metadata": {"name": "second", "namespace": "default"}}
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "llm", "namespace": "chat"}}
CONTROLLED = {"internal.skupper.io/controlled": "true"}
LONG = "n" * 47

SILENT: dict[str, tuple[Callable[[Docs, Docs], None], str]] = {
    "stringData on the private side": (_secret_as_text, "`stringData` is not read"),
    "unnamed endpoints": (_no_name, "else no connector is made"),
    "an endpoint with another name": (_endpoint("name", "interior"), "must be `inter-router` or `edge`"),
    "a link port as a number": (_endpoint("port", 443), "it must be a text (quote it)"),
    "a link port out of range": (_endpoint("port", "70000"), "is no port"),
    "a link port that is a word": (_endpoint("port", "https"), "is no port"),
    "an endpoint host with a capital": (_endpoint("host", "Hyb.example.com"), "is no DNS name"),
    "an endpoint host with an underscore": (_endpoint("host", "hyb_1.example.com"), "is no DNS name"),
    "an endpoint that is not the Route": (_endpoint("host", "other.apps.example.com"), "but the Route will be"),
    "no endpoint at all": (_spec(P, "Link", endpoints=[]), "spec.endpoints is missing"),
    "a link without credentials": (_spec(P, "Link", tlsCredentials=None), "spec.tlsCredentials is missing"),
    "a link with unknown credentials": (_spec(P, "Link", tlsCredentials="lost"), "which is not there"),
    "a link of cost 0": (_spec(P, "Link", cost=0), "spec.cost is 0"),
    "an Opaque Secret on OpenShift": (_type(C, "Opaque"), "only `kubernetes.io/tls` is delivered"),
    "an Opaque Secret on the private side": (_type(P, "Opaque"), "only `kubernetes.io/tls` is delivered"),
    "a Secret without its key": (_data(C, "tls.key", None), "data[tls.key] is missing"),
    "a Secret without its CA": (_data(C, "ca.crt", ""), "data[ca.crt] is missing"),
    "a Secret with plain PEM in data": (_data(P, "tls.crt", "-----BEGIN CERTIFICATE-----"), "is not base64"),
    "a Secret with something else": (_data(P, "tls.crt", base64.b64encode(b"der").decode()), "is not PEM"),
    "the controlled annotation": (_meta(C, "Secret", annotations=CONTROLLED), "lets the controller overwrite it"),
    "a Secret with the name of Skupper's CA": (_meta(C, "Secret", name="skupper-site-ca"), "are Skupper's own"),
    "the RouterAccess that linkAccess makes": (_meta(C, "RouterAccess", name="skupper-router"), "are Skupper's own"),
    "a host label that is too long": (_meta(C, "RouterAccess", name="r" * 60), "63 are the most"),
    "a namespace with a capital": (_meta(C, "Site", namespace="Chat"), "metadata.namespace `Chat` is no RFC"),
    "a namespace with an underscore": (_meta(C, "Site", namespace="chat_1"), "is no RFC 1123 label"),
    "a name with a dot": (_meta(P, "Connector", name="llm.v1"), "metadata.name `llm.v1` is no RFC 1123 label"),
    "a name with a capital": (_meta(P, "Site", name="Private"), "metadata.name `Private`"),
    "a name that is missing": (_meta(P, "Site", name=""), "metadata.name is empty"),
    "mixed namespaces on the private side": (_meta(P, "Connector", namespace="other"), "in several namespaces"),
    "mixed namespaces on OpenShift": (_meta(C, "Listener", namespace="other"), "resources in several namespaces"),
    "selector and host": (_spec(P, "Connector", selector="app=llm"), "exactly one of `host` and `selector`"),
    "selector only": (_spec(P, "Connector", selector="app=llm", host=None), "there are none on the private host"),
    "neither selector nor host": (_spec(P, "Connector", host=None), "exactly one of `host` and `selector`"),
    "a connector port out of range": (_spec(P, "Connector", port=70000), "70000 is out of range"),
    "a connector port as text": (_spec(P, "Connector", port="8000"), "it must be a whole number"),
    "a connector host with an underscore": (_spec(P, "Connector", host="my_llm"), "spec.host `my_llm` is no DNS name"),
    "a listener port out of range": (_spec(C, "Listener", port=0), "0 is out of range"),
    "a listener port that is a truth value": (_spec(C, "Listener", port=True), "it must be a whole number"),
    "a listener host that starts with a digit": (_spec(C, "Listener", host="1llm"), "it must start with a letter"),
    "a listener host that is a Service": (_extra(C, SERVICE), "is the name of a Service in this folder"),
    "a listener host that is the RouterAccess": (_spec(C, "Listener", host="hyb"), "makes for the RouterAccess"),
    "a listener host that is Skupper's": (_spec(C, "Listener", host="skupper-router"), "a Service of Skupper itself"),
    "an observer that is none": (_spec(C, "Listener", observer="grpc"), "spec.observer is `grpc`"),
    "another protocol": (_spec(C, "Listener", type="http"), "knows `tcp` only"),
    "routing keys that differ": (_spec(C, "Listener", routingKey="llama"), "no routing key in common"),
    "two Sites": (_extra(P, SITE), "2 Sites, there must be exactly one"),
    "no Site": (_without(P, "Site"), "no Site"),
    "no Link": (_without(P, "Link"), "no Link"),
    "no Connector": (_without(P, "Connector"), "no Connector"),
    "no Listener": (_without(C, "Listener"), "no Listener"),
    "no RouterAccess": (_without(C, "RouterAccess"), "no RouterAccess"),
    "no Secret": (_without(C, "Secret"), "names the Secret `hyb-link-server`, which is not there"),
    "linkAccess beside a RouterAccess": (_spec(C, "Site", linkAccess="route"), "both take the same router ports"),
    "an edge site that is to accept": (_spec(C, "Site", edge=True), "an edge site accepts no link"),
    "edge and ha": (_spec(P, "Site", edge=True, ha=True), "can't have two routers"),
    "defaultIssuer": (_spec(C, "Site", defaultIssuer="my-ca"), "spec.defaultIssuer signs clients only"),
    "generated credentials": (_spec(C, "RouterAccess", generateTlsCredentials=True), "must be false"),
    "generateTlsCredentials left out": (_spec(C, "RouterAccess", generateTlsCredentials=None), "must be false"),
    "an issuer without effect": (_spec(C, "RouterAccess", issuer="my-ca"), "spec.issuer has no effect"),
    "another access type": (_spec(C, "RouterAccess", accessType="loadbalancer"), "it must be `route`"),
    "one role only": (_spec(C, "RouterAccess", roles=[{"name": "edge", "port": 45671}]), "no role `inter-router`"),
    "roles on one port": (
        _spec(C, "RouterAccess", roles=[{"name": "edge", "port": 55671}, {"name": "inter-router", "port": 55671}]),
        "two roles have the same port",
    ),
    "a typo in a field": (_spec(C, "RouterAccess", tlsCredential="x"), "unknown field spec.tlsCredential"),
    "a typo in an endpoint": (_endpoint("hostname", "x"), "unknown field spec.endpoints[0].hostname"),
    "a setting that is a number": (_spec(C, "RouterAccess", settings={"domain": 1}), "every value must be a text"),
    "a kind that is ignored": (_extra(P, SERVICE), "Skupper ignores this kind outside Kubernetes"),
    "Skupper 1's API": (lambda p, o: p["Site"].update(apiVersion="skupper.io/v1alpha1"), "not `skupper.io/v2alpha1`"),
    "a document twice": (lambda p, o: p.update(again=copy.deepcopy(p["Connector"])), "is there 2 times"),
    "a spec that is a list": (lambda p, o: p["Link"].update(spec=[]), "`spec` is no map"),
    "no metadata": (lambda p, o: p["Link"].pop("metadata"), "no `metadata`"),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_hyb_refuses_what_skupper_takes_without_a_word(name: str) -> None:
    change, expected = SILENT[name]
    private, openshift = sides()
    change(private, openshift)
    assert any(expected in text for text in found(private, openshift)), found(private, openshift)


def test_a_cluster_namespace_that_makes_the_host_too_long_is_refused() -> None:
    texts = found(*sides(sk.LinkFacts(LONG, "apps.example.com", 80, 8000)))
    assert any("`hyb-inter-router-" in t and "has 64 characters" in t for t in texts)


def test_all_mistakes_are_reported_at_once() -> None:
    private, openshift = sides()
    for name in ("unnamed endpoints", "a connector port out of range", "an Opaque Secret on OpenShift", "two Sites"):
        SILENT[name][0](private, openshift)
    texts = "\n".join(found(private, openshift))
    for name in ("unnamed endpoints", "a connector port out of range", "an Opaque Secret on OpenShift", "two Sites"):
        assert SILENT[name][1] in texts


def test_a_namespace_given_to_oc_stands_in_for_one_that_documents_leave_out() -> None:
    private, openshift = sides()
    for document in openshift.values():
        del document["metadata"]["namespace"]
    both = list(private.values()), list(openshift.values())
    assert skupper_check.check(*both, namespace="chat") == []
    assert any("but the Route will be" in t for t in skupper_check.check(*both, namespace="chat2"))


def test_no_shape_of_document_makes_the_check_raise() -> None:
    rng = random.Random(7)
    junk: list[Any] = [None, True, 0, -1, 1.5, "", "x", [], [1], {}, {"a": {"b": []}}, ["x", {}], "\x00", "é" * 70]

    def spoil(value: Any) -> Any:
        if rng.random() < 0.12:
            return rng.choice(junk)
        if isinstance(value, dict):
            return {k: spoil(v) for k, v in value.items() if rng.random() > 0.05}
        return [spoil(v) for v in value] if isinstance(value, list) else value

    for _ in range(3000):
        private, openshift = ([spoil(d) for d in side.values()] for side in sides())
        for text in skupper_check.check(private, openshift):
            assert "\n" not in text
