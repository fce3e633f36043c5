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


def mistakes(**given: Any) -> dict[str, str]:
    """Field → message of everything that is wrong."""
    with pytest.raises(ValidationError) as caught:
        link.Spec(**{**GOOD, **given})
    return {str(e["loc"][0]): e["msg"] for e in caught.value.errors()}


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
        ({"platform": "kubernetes"}, "platform", "'podman', 'docker' or 'linux'"),
        ({"access": "loadbalancer"}, "access", "'route'"),
        ({"credentials": "../../etc"}, "credentials", "is no folder name"),
        ({"days": 0}, "days", "greater than or equal to 1"),
        ({"tokn": "x"}, "tokn", "Extra inputs are not permitted"),
    ],
)
def test_bad_input_is_refused_at_its_own_field(given: dict[str, Any], field: str, expected: str) -> None:
    found = mistakes(**given)
    assert list(found) == [field] and expected in found[field], found


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
    assert "`llm:the service's port` in namespace `chat`" in before.makes and before.opens == ()
    assert "hyb-edge-chat.apps.example.com" in before.makes
    assert "`llm:8001`" in link.plan(spec, {"service": service(Store(tmp_path / "s"))}).makes


def test_the_meta_is_plain_json(tmp_path: Path) -> None:
    _, made = make(tmp_path, route_domain="link.example.com", apps_domain="", platform="docker", credentials="shared")
    meta = json.loads(json.dumps(dict(made.meta)))
    assert meta["credentials"] == "shared" and meta["platform"] == "docker"
    assert meta["hosts"][1] == "hyb-edge.chat.link.example.com"
    assert meta["secrets"]["openshift"] == {"name": "hyb-link-server", "namespace": "chat"}
