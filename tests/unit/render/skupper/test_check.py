"""Every silent failure of Skupper's, said aloud: in one document, among those of a side, between the sides."""

from __future__ import annotations

import base64
import copy
import random
from collections.abc import Callable
from typing import Any

import pytest

from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.render.skupper import facts as f
from tests.skupper_docs import DATA, Docs, both, link_facts, sides_of


def sides(*given: Any, **more: Any) -> tuple[Docs, Docs]:
    """Both sides by kind, whole, as hyb writes them."""
    return both(link_facts(*given, **more))


def found(private: Docs, openshift: Docs, platform: str = "podman") -> list[str]:
    return skupper_check.check(list(private.values()), list(openshift.values()), platform=platform)


def test_what_hyb_renders_has_no_mistake() -> None:
    for way in ("given", "issuer", "token"):
        assert found(*sides(way)) == []


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
SITE = {"apiVersion": sk.API, "kind": "Site", "metadata": {"name": "second", "namespace": "skupper-private"}}
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "llm", "namespace": "chat"}}
CONTROLLED = {"internal.skupper.io/controlled": "true"}
LONG = "n" * 47

TOKEN = {"url": "https://grants.example.com/uid", "code": "c", "ca": "-----BEGIN CERTIFICATE-----"}


def _strategy(strategy: dict[str, Any]) -> Callable[[Docs, Docs], None]:
    """A MultiKeyListener instead of the Listener."""

    def change(*both: Docs) -> None:
        old = both[C].pop("Listener")
        spec = {"host": "llm", "port": 8000, "strategy": strategy}
        both[C]["MultiKeyListener"] = {**old, "kind": "MultiKeyListener", "spec": spec}

    return change


def _long_strategy(*both: Docs) -> None:
    _strategy({"priority": {"routingKeys": ["llm"]}})(*both)
    both[C]["MultiKeyListener"]["metadata"] = {"name": "m" * 51, "namespace": "chat"}


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
    "an endpoint with a zone": (_endpoint("host", "fe80::1%eth0"), "is no DNS name"),
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
    "generated credentials over given ones": (
        _spec(C, "RouterAccess", generateTlsCredentials=True), "won't touch one that is there already",
    ),
    "generateTlsCredentials left out": (_spec(C, "RouterAccess", generateTlsCredentials=None), "must be false"),
    "an issuer without effect": (_spec(C, "RouterAccess", issuer="my-ca"), "spec.issuer has no effect"),
    "an access type that is none": (_spec(C, "RouterAccess", accessType="clusterip"), "it must be one of `route`"),
    "no access type": (_spec(C, "RouterAccess", accessType=None), "it must be one of `route`"),
    "a domain that is an address": (
        _spec(C, "RouterAccess", settings={"domain": "192.0.2.1"}), "spec.settings.domain `192.0.2.1` is an IP address",
    ),
    "an IngressClass with Routes": (
        _spec(C, "RouterAccess", settings={"ingressClassName": "nginx"}), "has no effect with accessType `route`",
    ),
    "names for a router on a host": (
        _spec(C, "RouterAccess", subjectAlternativeNames=["a.example.com"]), "has no effect in a cluster",
    ),
    "an address to bind in a cluster": (_spec(C, "RouterAccess", bindHost="0.0.0.0"), "has no effect in a cluster"),
    "a Route on another port": (_endpoint("port", "55671"), "a Route or Ingress is reached on 443"),
    "a host with two hyphens": (_spec(P, "Connector", host="my--llm"), "two `-` in a row"),
    "a token among a host's resources": (
        _extra(P, sk.token("t", "skupper-private", TOKEN)), "redeems it anew at every `skupper system reload`",
    ),
    "a grant on a host": (_extra(P, sk.grant("g", "skupper-private", 1, "15m")), "nobody outside a cluster redeems"),
    "a grant beside given credentials": (
        _extra(C, sk.grant("g", "chat", 1, "15m")), "which this router won't trust",
    ),
    "a grant of days": (_extra(C, sk.grant("g", "chat", 1, "1d")), "`1d` is no duration"),
    "a grant that is over at once": (_extra(C, sk.grant("g", "chat", 1, "0m")), "is over before it begins"),
    "a grant for nobody": (_extra(C, sk.grant("g", "chat", 0, "15m")), "redemptionsAllowed is 0"),
    "a grant with its code": (
        _extra(C, {**sk.grant("g", "chat", 1, "15m"), "spec": {"code": "hunter2"}}), "a secret in plain text",
    ),
    "a kind of a newer Skupper": (
        _extra(C, {**SITE, "kind": "Tunnel"}), "Skupper has no such kind (a typo, or from a newer Skupper?)",
    ),
    "a newer API": (lambda p, o: o["Listener"].update(apiVersion="skupper.io/v2beta1"), "from a newer Skupper?"),
    "a field of a newer Skupper": (_spec(C, "Listener", tlsMode="strict"), "or from a newer Skupper?"),
    "a token of Skupper 1": (_meta(P, "Secret", labels={"skupper.io/type": "token-claim"}), "it is of Skupper 1"),
    "a site of Skupper 1": (
        _extra(C, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "skupper-site"}}), "of Skupper 1",
    ),
    "the other side's namespace": (
        lambda p, o: [d["metadata"].update(namespace="chat") for d in p.values()], "is that of both sides",
    ),
    "the namespace of a namespace": (
        lambda p, o: [d["metadata"].update(namespace="skupper-private") for d in o.values()], "is that of both sides",
    ),
    "one key, two observers": (
        _extra(C, {"apiVersion": sk.API, "kind": "Listener", "metadata": {"name": "two", "namespace": "chat"},
                   "spec": {"routingKey": "llm", "host": "two", "port": 80, "observer": "http2"}}),
        "one key, one protocol",
    ),
    "a listener that nobody answers": (
        _extra(C, {"apiVersion": sk.API, "kind": "Listener", "metadata": {"name": "two", "namespace": "chat"},
                   "spec": {"routingKey": "two", "host": "two", "port": 80}}),
        "Listener `two`: no Connector has its routing key `two`",
    ),
    "two listeners in one place": (
        _extra(C, {"apiVersion": sk.API, "kind": "Listener", "metadata": {"name": "two", "namespace": "chat"},
                   "spec": {"routingKey": "llm", "host": "llm", "port": 8000}}),
        "2 Listeners on `llm:8000`",
    ),
    "a strategy of two kinds": (
        _strategy({"priority": {"routingKeys": ["llm"]}, "weighted": {"routingKeys": {"llm": 1}}}),
        "exactly one of `priority` and `weighted`",
    ),
    "a strategy whose port could have no name": (_long_strategy, "metadata.name is too long by 1"),
    "a strategy of no kind": (_strategy({}), "spec.strategy is missing"),
    "a strategy that is a typo": (
        _strategy({"prority": {"routingKeys": ["llm"]}}), "unknown field spec.strategy.prority",
    ),
    "a strategy without keys": (_strategy({"priority": {"routingKeys": []}}), "0 keys: 1 to 256"),
    "too many keys": (_strategy({"priority": {"routingKeys": [f"k{n}" for n in range(257)]}}), "257 keys"),
    "a key twice": (_strategy({"priority": {"routingKeys": ["llm", "llm"]}}), "a routing key is there twice"),
    "keys as a map for a list": (_strategy({"priority": {"routingKeys": {"llm": 1}}}), "must be a list"),
    "keys as a list for a map": (_strategy({"weighted": {"routingKeys": ["llm"]}}), "must be a map"),
    "a weight as text": (_strategy({"weighted": {"routingKeys": {"llm": "1"}}}), "every weight must be a whole number"),
    "a weight below nothing": (_strategy({"weighted": {"routingKeys": {"llm": -1}}}), "a whole number, 0 or more"),
    "no weight at all": (_strategy({"weighted": {"routingKeys": {"llm": 0, "b": 0}}}), "every weight is 0"),
    "keys that nobody has": (_strategy({"priority": {"routingKeys": ["a", "b"]}}), "no routing key in common"),
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
    texts = found(*sides(public=(LONG,)))
    assert any("`hyb-inter-router-" in t and "has 64 characters" in t for t in texts)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("the router's own loopback", _spec(P, "Connector", selector=None, host="127.0.0.1"), "the router's own pod"),
        ("localhost", _spec(P, "Connector", selector=None, host="localhost"), "the router's own pod"),
        ("a selector that is none", _spec(P, "Connector", selector="app in (llm)"), "selects no pods"),
        ("a selector with a blank", _spec(P, "Connector", selector="app=llm, tier=gpu"), "selects no pods"),
    ],
)
def test_a_private_cluster_has_rules_of_its_own(name: str, change: Any, expected: str) -> None:
    private, openshift = sides(platform="kubernetes")
    assert found(private, openshift, "kubernetes") == []
    change(private, openshift)
    assert any(expected in t for t in found(private, openshift, "kubernetes")), name


def test_a_controller_in_a_private_cluster_redeems_a_token_and_a_host_does_not() -> None:
    private, openshift = sides("token", host="llm.models")
    private["AccessToken"] = sk.token("link-public", "skupper-private", TOKEN)
    assert any("redeems it anew" in t for t in found(private, openshift))
    assert not found(private, openshift, "kubernetes")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"url": "http://grants.example.com/uid"}, "is not https"),
        ({"url": "https://grants.example.com"}, "has no path"),
        ({"url": "https://grants.example.com/uid?a=b"}, "is no URL of a cluster"),
        ({"url": "https://me@grants.example.com/uid"}, "is no URL of a cluster"),
        ({"url": "https://grants.example.com:99999/uid"}, "is no URL"),
        ({"url": "https://[::1/uid"}, "is no URL"),
        ({"url": ""}, "spec.url is missing"),
        ({"code": ""}, "spec.code is missing"),
        ({"code": "a\nb"}, "spec.code has blanks or line ends"),
        ({"ca": "garbage"}, "spec.ca is no certificate"),
        ({"ca": 7}, "spec.ca is `7`, it must be a text"),
        ({"linkCost": 0}, "spec.linkCost is 0"),
        ({"linkCost": "1"}, "it must be a whole number"),
        ({"linkcost": 1}, "unknown field spec.linkcost"),
    ],
)
def test_a_token_that_cannot_be_redeemed_is_refused(changed: dict[str, Any], expected: str) -> None:
    private, openshift = sides("token")
    private["AccessToken"] = sk.token("link-public", "skupper-private", {**TOKEN, **changed})
    assert any(expected in t for t in found(private, openshift, "kubernetes")), found(private, openshift)


def test_an_issuer_must_be_there_and_have_the_one_form_that_the_controller_reads() -> None:
    private, openshift = sides("issuer")
    pkcs8 = base64.b64encode(DATA["tls.key"]).decode()
    openshift["Secret"]["data"]["tls.key"] = pkcs8
    assert any("must be RSA in PKCS#1" in t for t in found(private, openshift))
    openshift["Secret"]["type"] = "Opaque"
    assert any("only `kubernetes.io/tls`" in t for t in found(private, openshift))
    del openshift["Secret"]
    assert any("spec.issuer names the Secret `hyb-link-ca`, which is not there" in t for t in found(private, openshift))
    openshift["RouterAccess"]["spec"]["issuer"] = "skupper-site-ca"
    assert not [t for t in found(private, openshift) if "is not there" in t]


@pytest.mark.parametrize(
    ("access", "change", "expected"),
    [
        ("loadbalancer", _endpoint("port", "443"), "the router listens for it on 55671"),
        ("loadbalancer", _endpoint("port", "45671"), "the router listens for it on 55671"),
        (
            "ingress-nginx",
            _endpoint("host", "inter-router.other.in.example.com"),
            "the Ingress will be `inter-router.chat.",
        ),
        ("ingress-nginx", _spec(C, "RouterAccess", settings={"domain": "a.b"}), "has no effect with accessType"),
        ("local", _spec(C, "Listener", host="hyb"), "makes for the RouterAccess"),
    ],
)
def test_each_access_type_has_rules_of_its_own(access: str, change: Any, expected: str) -> None:
    private, openshift = sides(access=access, platform="kubernetes")
    change(private, openshift)
    assert any(expected in t for t in found(private, openshift, "kubernetes"))


# -- several sides ---------------------------------------------------------------------------------------------------


def _several(change: Callable[[dict[str, skupper_check.Side]], object], **more: Any) -> list[str]:
    found = sides_of(link_facts(private=("alpha", "beta"), public=("chat", "shop"), **more))
    assert skupper_check.check_sides(found) == []
    change({side.name: side for side in found})
    return skupper_check.check_sides(found)


def _of(side: skupper_check.Side, kind: str) -> dict[str, Any]:
    return next(d for d in side.documents if d["kind"] == kind)


def test_two_private_sites_of_one_name_are_refused() -> None:
    texts = _several(lambda s: _of(s["private-beta"], "Site")["metadata"].update(name="alpha"))
    assert "2 private sites are called `alpha`: each needs its own name" in texts


def test_two_folders_for_one_namespace_are_refused() -> None:
    texts = _several(lambda s: [d["metadata"].update(namespace="chat") for d in s["openshift-shop"].documents])
    assert any("both for namespace `chat`" in t for t in texts)


def test_a_namespace_that_no_link_dials_is_refused() -> None:
    def change(s: dict[str, skupper_check.Side]) -> None:
        for side in (s["private-alpha"], s["private-beta"]):
            side.documents.remove(next(d for d in side.documents if d["metadata"]["name"] == "link-public-shop"))  # type: ignore[attr-defined]

    assert "openshift-shop: no Link dials it" in _several(change)


def test_a_link_to_nowhere_says_whose_it_is() -> None:
    texts = _several(lambda s: _of(s["private-beta"], "Link")["spec"]["endpoints"][0].update(host="other.example.com"))
    assert any(t.startswith("private-beta: Link `link-public-chat`: ") and "but the Route will be" in t for t in texts)


def test_a_namespace_without_a_listener_is_refused() -> None:
    texts = _several(lambda s: s["openshift-shop"].documents.remove(_of(s["openshift-shop"], "Listener")))  # type: ignore[attr-defined]
    assert "openshift-shop: no Listener: its pods would reach nothing" in texts


def test_hosts_that_wait_for_their_tokens_are_no_mistake() -> None:
    assert skupper_check.check_sides(sides_of(link_facts("token", private=("a", "b"), public=("chat", "shop")))) == []


def test_the_public_side_alone_is_judged_alone() -> None:
    facts = link_facts("issuer")
    waiting = f.LinkFacts(facts.private, facts.public, facts.services, f.Access("loadbalancer"), way="issuer")
    sides = sides_of(waiting)
    assert [side.name for side in sides] == ["openshift"] and skupper_check.check_sides(sides) == []


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

    kinds = [sides("given"), sides("issuer", "ingress-nginx"), sides("token", "loadbalancer")]
    kinds[2][0]["AccessToken"] = sk.token("t", "skupper-private", TOKEN)
    _strategy({"weighted": {"routingKeys": {"llm": 1}}})(*kinds[1])
    for _ in range(4000):
        kind = rng.choice(kinds)
        private, openshift = ([spoil(d) for d in side.values()] for side in kind)
        for text in skupper_check.check(private, openshift, platform=rng.choice(["podman", "kubernetes"])):
            assert "\n" not in text
