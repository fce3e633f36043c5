"""From a link, by its name or its folder, to the folder of a deployment."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hyb import deploying
from hyb.errors import Exit, HybError
from hyb.render.deploy.kustomize import folder
from hyb.render.skupper import documents as sk
from hyb.render.skupper.facts import Access, LinkFacts, PrivateSite, PublicSite, Service, Target
from hyb.stages import link
from hyb.stages.base import Context
from hyb.store import Store
from tests.deployments import ALL, PLAIN

FACTS = LinkFacts(
    private=(PrivateSite((Target("llm", "llm", 8000),)),), public=(PublicSite("chat"),),
    services=(Service("llm", 8080, ("llm",)),), access=Access(apps_domain="apps.example.com"),
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "store")
    meta = {"name": "bot", "port": 8000, "host": "127.0.0.1", "targets": ["quadlet"]}
    service = found.add_artifact("service", [], meta=meta)
    cluster = found.add_artifact("service", [], meta={**meta, "targets": ["kubernetes"], "secret": "bot-api-key"})
    spec = link.Spec(service="service", namespace="chat", apps_domain="apps.example.com", port=8080)
    made = link.run(spec, {"service": service}, Context(found, tmp_path / "work"))
    for name, artifact in (("service", service), ("cluster", cluster), ("van", made)):
        found.tag(name, artifact.digest)
    found.tag("other", found.add_artifact("report", [], meta={}).digest)
    return found


def write(place: Path, *documents: object) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for number, document in enumerate(documents):
        (place / f"{number}.yaml").write_text(yaml.safe_dump(document))


def test_a_link_says_what_the_page_calls(store: Store) -> None:
    (found,) = deploying.targets("van", store)
    assert (found.namespace, found.host, found.port, found.access) == ("chat", "llm", 8080, "route")
    assert "hyb" in found.taken and not found.in_cluster


def test_the_links_folder_says_the_same_as_the_link(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "link" / "openshift", *sk.public_documents(FACTS, FACTS.public[0]))
    write(tmp_path / "link" / "private", *sk.private_documents(FACTS, FACTS.private[0]))
    assert deploying.targets(str(tmp_path / "link"), store) == deploying.targets("van", store)
    assert deploying.targets(str(tmp_path / "link" / "openshift"), store) == deploying.targets("van", store)


def test_a_link_that_is_made_by_commands_says_it_in_its_description(store: Store) -> None:
    meta = {
        "namespaces": ["a", "b"], "access": "loadbalancer", "router_access": "hyb",
        "models": [{"host": "llm", "port": 8000}, {"host": "llm", "port": 8000}, {"host": "code", "port": 8001}],
    }  # fmt: skip
    store.tag("cli", store.add_artifact("link", [], meta=meta).digest)
    found = deploying.targets("cli", store)
    assert [(t.namespace, t.host, t.port) for t in found] == [
        ("a", "llm", 8000), ("a", "code", 8001), ("b", "llm", 8000), ("b", "code", 8001),
    ]  # fmt: skip
    assert found[0].access == "loadbalancer" and found[0].taken == ("hyb", "llm", "code")


@pytest.mark.parametrize("below", ["", "openshift-chat"])
def test_the_scripts_of_a_link_that_is_made_by_commands_say_it_too(store: Store, tmp_path: Path, below: str) -> None:
    spec = link.Spec(
        service=("a", "b"), models={"a": {"host": "llm"}, "b": {"host": "code", "port": 8001}}, way="cli",
        namespace=("chat", "lab"), apps_domain="apps.example.com",
    )  # fmt: skip
    one = {"port": 8000, "host": "127.0.0.1", "targets": ["quadlet"]}
    services = {n: store.add_artifact("service", [], meta={**one, "name": n}) for n in ("a", "b")}
    made = link.run(spec, services, Context(store, tmp_path / "work"))
    for file in made.files:
        (tmp_path / "link" / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "link" / file.path).write_bytes(store.read(file.blob.digest))
    found = deploying.targets(str(tmp_path / "link" / below), store)
    said = {(t.namespace, t.host, t.port, t.access) for t in found}
    of_chat = {("chat", "llm", 8000, "route"), ("chat", "code", 8001, "route")}
    assert said == (of_chat if below else of_chat | {("lab", h, p, a) for _, h, p, a in of_chat})
    assert all({"llm", "code"} <= set(t.taken) for t in found)


def test_a_name_in_the_store_comes_before_a_folder_of_that_name(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "van", listener("elsewhere", "trap"))
    monkeypatch.chdir(tmp_path)
    assert [t.host for t in deploying.targets("van", store)] == ["llm"]
    assert [t.host for t in deploying.targets("./van", store)] == ["trap"]


def test_a_service_in_the_cluster_is_called_itself(store: Store) -> None:
    (found,) = deploying.targets("cluster", store, "models")
    assert (found.namespace, found.host, found.in_cluster, found.secret) == ("models", "bot", True, "bot-api-key")
    with pytest.raises(HybError, match="says no namespace"):
        deploying.targets("cluster", store)


@pytest.mark.parametrize(
    ("name", "said"),
    [("service", "is not for a cluster"), ("other", "is a report"), ("nothing", "is called `nothing`")],
)
def test_what_no_page_can_call_is_refused(store: Store, name: str, said: str) -> None:
    with pytest.raises(HybError, match=said):
        deploying.targets(name, store)


def listener(namespace: str, host: str, port: object = 8000) -> dict[str, object]:
    metadata = {"name": host, "namespace": namespace}
    return {"kind": "Listener", "metadata": metadata, "spec": {"host": host, "port": port, "routingKey": host}}


def test_of_several_listeners_one_must_be_chosen(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "many", listener("a", "llm"), listener("a", "code"), listener("b", "llm"))
    found = deploying.targets(str(tmp_path / "many"), store)
    assert len(found) == 3
    with pytest.raises(HybError) as caught:
        deploying.choose(found, "many")
    assert caught.value.code == Exit.USAGE and len(caught.value.details) == 3
    assert deploying.choose(found, "many", namespace="b").namespace == "b"
    assert deploying.choose(found, "many", listener="code").taken == ("", "llm", "code")
    with pytest.raises(HybError, match="no such listener"):
        deploying.choose(found, "many", namespace="default")


@pytest.mark.parametrize(
    "text", ["", "kind: [", "- a\n- b\n", "kind: Listener\n", "kind: Listener\nspec: x\nmetadata: {}\n"]
)
def test_a_folder_without_a_listener_is_no_link(store: Store, tmp_path: Path, text: str) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.yaml").write_text(text)
    with pytest.raises(HybError):
        deploying.targets(str(tmp_path / "odd"), store)


def test_a_port_written_as_text_is_told(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "odd", listener("chat", "llm", "8000"))
    (found,) = deploying.targets(str(tmp_path / "odd"), store)
    from dataclasses import replace

    with pytest.raises(HybError) as caught:
        deploying.files_of(replace(PLAIN, model_port=found.port))
    assert caught.value.details == ("the model's port `'8000'` is not a whole number",)


def test_the_keys_of_a_links_folder_are_not_even_read(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "link", *sk.public_documents(FACTS, FACTS.public[0]))
    (tmp_path / "link" / "Secret-hyb-link-server.yaml").write_bytes(b"\xff\xfe not text")
    assert deploying.targets(str(tmp_path / "link"), store)


def test_the_difference_to_the_folder_just_written_is_nothing(tmp_path: Path) -> None:
    files = folder(ALL)
    deploying.write(ALL, files, tmp_path / "out")
    assert deploying.difference(files, tmp_path / "out") == ""


def test_the_difference_names_what_is_edited_added_and_taken_away(tmp_path: Path) -> None:
    files = folder(PLAIN)
    out = tmp_path / "out"
    deploying.write(PLAIN, files, out)
    (out / "base/service.yaml").write_text((out / "base/service.yaml").read_text().replace("port: 80\n", "port: 81\n"))
    (out / "mine.yaml").write_text("mine")
    (out / "APPLY.md").unlink()
    text = deploying.difference(files, out)
    assert "--- base/service.yaml\n+++ base/service.yaml\n" in text
    assert "-    port: 81\n+    port: 80\n" in text
    assert "--- mine.yaml\n+++ /dev/null\n" in text and "-mine\n\\ no newline at the end\n" in text
    assert "--- /dev/null\n+++ APPLY.md\n" in text


def test_the_difference_to_no_folder_is_everything(tmp_path: Path) -> None:
    text = deploying.difference(folder(PLAIN), tmp_path / "absent")
    assert text.count("--- /dev/null") == len(folder(PLAIN))
    (tmp_path / "file").write_text("")
    with pytest.raises(HybError, match="is no folder"):
        deploying.difference({}, tmp_path / "file")
