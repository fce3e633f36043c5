"""Skupper documents: golden texts, every combination against the CRDs, and the hosts that come of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.render.dump import dump
from hyb.render.skupper import check as skupper_check
from hyb.render.skupper import documents as sk
from hyb.render.skupper import facts as f
from hyb.render.skupper.fields import FIELDS
from tests.need import crds, need
from tests.skupper_docs import ACCESSES, both, crd_mistakes, link_facts, sides_of

GOLDEN = Path(__file__).parents[3] / "data" / "link"
SIMPLE = f.LinkFacts(
    (f.PrivateSite((f.Target("llm", "llm", 8001),)),), (f.PublicSite("chat"),), (f.Service("llm", 8000, ("llm",)),),
    f.Access(apps_domain="apps.example.com"),
)  # fmt: skip
SERVICES = {
    "one": (f.Service("llm", 8000, ("llm",)),),
    "two": (f.Service("small", 8000, ("small",), observer="http1"), f.Service("large", 80, ("large",))),
    "priority": (f.Service("llm", 8000, ("blue", "green"), strategy="priority"),),
    "weighted": (f.Service("llm", 8000, ("blue", "green"), strategy="weighted", weights=(90, 10), observer="none"),),
}
COMBINATIONS = [
    (way, access, platform, private, public, services)
    for way, access, platform in itertools.product(("given", "issuer", "token"), ACCESSES, f.PLATFORMS)
    for private, public, services in (
        (("private",), ("chat",), "one"),
        (("alpha", "beta"), ("chat",), "two"),
        (("private",), ("chat", "shop"), "priority"),
        (("alpha", "beta"), ("chat", "shop"), "weighted"),
    )
]


def made(way: str, access: str, platform: str, private: Any, public: Any, services: str) -> f.LinkFacts:
    return link_facts(way, access, platform, private=private, public=public, services=SERVICES[services])


@pytest.mark.parametrize("side", ["private", "openshift"])
def test_the_documents_of_the_simplest_link_are_the_golden_ones(side: str) -> None:
    private, public = SIMPLE.private[0], SIMPLE.public[0]
    documents = sk.private_documents(SIMPLE, private) if side == "private" else sk.public_documents(SIMPLE, public)
    written = {sk.file_name(d): dump(d) for d in documents}
    assert written == {p.name: p.read_text() for p in sorted((GOLDEN / side).glob("*.yaml"))}


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: "-".join(map(str, c)))
def test_every_combination_is_valid_against_the_crds_and_has_no_mistake(combination: Any) -> None:
    facts = made(*combination)
    assert not facts.pending
    sides = sides_of(facts)
    assert skupper_check.check_sides(sides) == []
    need("crds", "jsonschema")
    for side in sides:
        for document in side.documents:
            if document["kind"] != "Secret":
                assert crd_mistakes(document) == [], document


def test_there_are_all_ways_accesses_and_platforms_among_the_combinations() -> None:
    kinds = {ACCESSES[c[1]].kind for c in COMBINATIONS}
    assert kinds == set(f.ACCESS) and {c[2] for c in COMBINATIONS} == set(f.PLATFORMS)
    assert {c[0] for c in COMBINATIONS} == set(f.WAYS) - {"cli"}


def test_the_secrets_are_valid_for_kubernetes() -> None:
    need("kubernetes_validate")
    import kubernetes_validate

    for side in both(link_facts()):
        kubernetes_validate.validate(side["Secret"], "1.31", strict=True)
        broken = {**side["Secret"], "data": {"tls.key": 1}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, "1.31", strict=True)


def test_the_closed_crds_do_see_a_typo_and_a_wrong_type() -> None:
    need("crds", "jsonschema")
    private, _ = both(link_facts())
    link = private["Link"]
    link["spec"]["tlsCredential"] = link["spec"].pop("tlsCredentials")
    link["spec"]["endpoints"][0]["port"] = 443
    assert len(crd_mistakes(link)) == 2


def test_the_checks_know_exactly_the_kinds_and_fields_of_the_crds() -> None:
    need("crds")
    names = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}
    folder = crds()
    assert folder
    seen = {}
    for path in folder.glob("*_crd.yaml"):
        crd = yaml.safe_load(path.read_text())
        spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        seen[crd["spec"]["names"]["kind"]] = {k: names[v["type"]] for k, v in spec.items()}
    assert seen == {kind: dict(fields) for kind, fields in FIELDS.items()}


def test_text_reads_back_as_the_same_documents() -> None:
    documents = [d for side in sides_of(made(*COMBINATIONS[-1])) for d in side.documents]
    assert list(yaml.safe_load_all(dump(documents))) == documents


@pytest.mark.parametrize("word", ["1e3", "0x10", "y", "n", "on", "null", "12", "007", "1-2", "true", "443"])
def test_a_name_that_a_yaml_reader_takes_for_a_number_is_quoted(word: str) -> None:
    text = dump({"namespace": word})
    assert text.strip().removeprefix("namespace: ") in (f'"{word}"', f"'{word}'")
    assert yaml.safe_load(text) == {"namespace": word}


# -- where a router is reached --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        ("route", ["hyb-inter-router-chat.apps.example.com:443", "hyb-edge-chat.apps.example.com:443"]),
        ("route, own domain", ["van-inter-router.chat.link.example.com:443", "van-edge.chat.link.example.com:443"]),
        ("loadbalancer", ["192.0.2.7:55671", "192.0.2.7:45671"]),
        ("ingress-nginx", ["inter-router.chat.in.example.com:443", "edge.chat.in.example.com:443"]),
        ("nodeport", ["192.0.2.7:30671", "192.0.2.7:30672"]),
        ("local", ["hyb.chat:55671", "hyb.chat:45671"]),
    ],
)
def test_the_endpoints_follow_the_rule_of_the_access_type(access: str, expected: list[str]) -> None:
    found = f.endpoints(ACCESSES[access], "chat")
    assert [f"{e.host}:{e.port}" for e in found] == expected
    assert [e.role for e in found] == ["inter-router", "edge"]
    assert set(f.server_names(ACCESSES[access], "chat")) >= {e.host for e in found}


def test_a_service_in_the_cluster_is_named_in_all_its_forms() -> None:
    names = f.server_names(ACCESSES["local"], "chat")
    assert names == ("hyb.chat", "hyb.chat.svc", "hyb.chat.svc.cluster.local")


@pytest.mark.parametrize("access", [f.Access("loadbalancer"), f.Access("nodeport", hosts={"chat": "192.0.2.7"})])
@pytest.mark.parametrize(("way", "pending"), [("given", True), ("issuer", True), ("token", False)])
def test_without_an_address_the_private_side_waits_unless_a_token_brings_it(
    access: f.Access, way: str, pending: bool
) -> None:
    facts = f.LinkFacts(SIMPLE.private, SIMPLE.public, SIMPLE.services, access, way=way)
    assert facts.pending is pending


def test_a_host_label_that_is_too_long_says_what_to_shorten() -> None:
    access = f.Access(apps_domain="apps.example.com")
    assert len(f.access_host(access, "n" * 46, "inter-router").split(".")[0]) == 63
    assert f.host_problem(access, "n" * 46) == ""
    problem = f.host_problem(access, "n" * 50)
    assert "has 67 characters, 63 are the most: shorten `namespace` (50) or `router_access` (3) by 4" in problem
    long = ".".join(["d" * 50] * 5)
    assert "shorten the domain by" in f.host_problem(f.Access(apps_domain=long), "chat")
    assert "the Ingress's host" in f.host_problem(f.Access("ingress-nginx", apps_domain=long), "chat")
    assert "`router_access`" in f.host_problem(f.Access(name="r" * 60, route_domain="a.b"), "chat")
    assert f.host_problem(f.Access("loadbalancer", name="r" * 60), "n" * 63) == ""


def test_several_namespaces_have_a_link_each_and_several_hosts_a_site_each_of_its_own_cost() -> None:
    facts = made("given", "route", "podman", ("alpha", "beta"), ("chat", "shop"), "one")
    links = [d for d in sk.private_documents(facts, facts.private[1]) if d["kind"] == "Link"]
    assert [d["metadata"]["name"] for d in links] == ["link-public-chat", "link-public-shop"]
    assert {d["spec"]["tlsCredentials"] for d in links} == {"link-public"} and {d["spec"]["cost"] for d in links} == {
        10
    }
    assert [d["metadata"]["name"] for d in sk.public_documents(facts, facts.public[1])][:2] == ["public-shop", "hyb"]


def test_each_host_has_a_grant_of_its_own_and_a_cost_that_its_link_will_have() -> None:
    facts = made("token", "route", "podman", ("alpha", "beta"), ("chat",), "one")
    grants = [d for d in sk.public_documents(facts, facts.public[0]) if d["kind"] == "AccessGrant"]
    assert {d["metadata"]["name"]: d["spec"] for d in grants} == {
        name: {"redemptionsAllowed": 1, "expirationWindow": "15m"} for name in ("hyb-alpha", "hyb-beta")
    }
    site = sk.private_documents(facts, facts.private[1])[0]
    assert site["metadata"]["annotations"] == {"io.hyb.link-cost": "10"}
