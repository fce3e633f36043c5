"""Moving a link's traffic: what is written works, what does not answer gets nothing, what fails is put back."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.artifact import Artifact
from hyb.cli.link_route import place_of, weights_of
from hyb.errors import Exit, HybError
from hyb.linking import folder, routed, routes
from hyb.linking import route as moving
from hyb.linking.route import Done, Request
from hyb.stages import link
from hyb.stages.base import Context
from hyb.store import Store
from tests.killing import killed_at
from tests.need import need
from tests.parrot import Parrot
from tests.skupper_docs import crd_mistakes

pytestmark = pytest.mark.socket

SKUPPER = """#!/bin/sh
# Stands for the `skupper` program: records its calls; fails while the file `broken` is there.
echo "$SKUPPER_PLATFORM $*" >> "{0}/calls"
case "$1 $2" in
"version "*) printf 'COMPONENT\\tVERSION\\ncli\\t2.2.1\\n';;
"system reload") [ ! -f "{0}/broken" ] || {{ echo "router configuration is not valid" >&2; exit 1; }}; echo reloaded;;
esac
"""


class Place:
    """A home, a link in it, and two models on this host, blue and green."""

    def __init__(self, root: Path, blue: Parrot, green: Parrot, **spec: Any) -> None:
        self.root = root / "a b é"
        self.root.mkdir(parents=True)
        self.out = self.root / "the link"
        self.environ = {"HOME": str(self.root / "home"), "XDG_DATA_HOME": str(self.root / "data"),
                        "SKUPPER_PLATFORM": "linux"}  # fmt: skip
        self.blue, self.green = blue, green
        self.said: list[str] = []
        self.store = Store(self.root / "store")
        self.artifact = self.make(**spec)
        self.write(self.artifact)

    def make(self, **spec: Any) -> Artifact:
        """The artifact of a link to blue."""
        meta = {"name": "bot", "port": port(self.blue), "host": "127.0.0.1"}
        service = self.store.add_artifact("service", [], meta=meta)
        given = {"namespace": "chat", "apps_domain": "apps.example.com", **spec}
        made = link.Spec.model_validate({"service": "service", **given})
        return link.run(made, {"service": service}, Context(self.store, self.root / "work"))

    def write(self, artifact: Artifact, **more: Any) -> None:
        folder.materialise(self.store, artifact, self.out, self.environ, say=self.say, **more)

    def say(self, said: object) -> None:
        self.said.append(str(said))

    def route(self, service: str = "", *, dry_run: bool = False, offline: bool = False, **more: Any) -> Done:
        new = "green" in (service, *more.get("weights", {})) and not self.knows("green")
        at = {"green": ("127.0.0.1", port(self.green))} if new else {}
        request = Request(self.out, service, at=at, **more)
        return moving.route(request, self.store, self.environ, self.say, dry_run=dry_run, offline=offline)

    def knows(self, name: str) -> bool:
        return moving.board(self.out).named(name) is not None

    def shares(self) -> dict[str, float]:
        return {s.name: round(s.share, 2) for s in moving.board(self.out).services if s.active}

    def documents(self) -> dict[str, Any]:
        """Path → document, without Secrets."""
        found = {p.relative_to(self.out).as_posix(): p for p in self.out.rglob("*.yaml") if "Secret" not in p.name}
        return {name: yaml.safe_load(p.read_text()) for name, p in found.items()}

    def there(self) -> dict[str, bytes]:
        return {p.relative_to(self.out).as_posix(): p.read_bytes() for p in self.out.rglob("*") if p.is_file()}


def port(bird: Parrot) -> int:
    return int(bird.server.server_address[1])


@pytest.fixture
def birds() -> Iterator[tuple[Parrot, Parrot]]:
    with Parrot() as blue, Parrot() as green:
        yield blue, green


@pytest.fixture
def place(tmp_path: Path, birds: tuple[Parrot, Parrot]) -> Place:
    return Place(tmp_path, *birds)


@pytest.fixture
def two_hosts(tmp_path: Path, birds: tuple[Parrot, Parrot]) -> Place:
    return Place(tmp_path, *birds, private_sites=["north", "south"])


def spec(place: Place, path: str) -> dict[str, Any]:
    found: dict[str, Any] = place.documents()[path]["spec"]
    return found


# -- a private site in Kubernetes ------------------------------------------------------------------------------------


def in_cluster(place: Place) -> Done:
    """All traffic to a Service beside."""
    request = Request(place.out, "green", at={"green": ("green.models.svc", 8001)}, unchecked=True)
    return moving.route(request, place.store, place.environ, place.say)


def test_a_site_in_kubernetes_is_applied_there_and_the_new_connector_comes_first(
    tmp_path: Path, birds: tuple[Parrot, Parrot]
) -> None:
    place = Place(tmp_path, *birds, platform="kubernetes", target_host="llm.models.svc")
    done = in_cluster(place)
    assert done.todo == (
        f"kubectl apply -f {place.out}/private/ -n default", "kubectl delete connector llm -n default",
    )  # fmt: skip


def test_a_service_with_an_address_can_stand_beside_one_that_is_chosen_by_pods(
    tmp_path: Path, birds: tuple[Parrot, Parrot]
) -> None:
    place = Place(tmp_path, *birds, platform="kubernetes", selector="app=llm")
    (found,) = moving.board(place.out).services
    assert moving.service_dict(found)["host"] == "" and found.selector == "app=llm"
    in_cluster(place)
    assert "selector" not in spec(place, "private/Connector-green.yaml") and place.shares() == {"green": 100}
    place.route(back=True, unchecked=True)
    assert spec(place, "private/Connector-llm.yaml")["selector"] == "app=llm"


# -- one host --------------------------------------------------------------------------------------------------------


def test_on_one_host_the_connector_of_the_active_one_is_there_and_the_others_is_kept_aside(place: Place) -> None:
    before = place.there()
    assert place.shares() == {"llm": 100}
    done = place.route("green")
    assert done.asked["green"] < 60 and place.shares() == {"green": 100}
    assert spec(place, "private/Connector-green.yaml") == {
        "routingKey": "llm", "host": "127.0.0.1", "port": port(place.green), "type": "tcp",
    }  # fmt: skip
    assert "private/Connector-llm.yaml" not in place.documents()
    assert folder.check_folder(place.out) == []
    assert done.todo == (f"hyb link reload {place.out / 'private'}",), "nothing for the namespace to do"
    assert place.route("llm").changed and place.shares() == {"llm": 100}
    assert {p: d for p, d in place.there().items() if not p.startswith(".hyb-")} == {
        p: d for p, d in before.items() if not p.startswith(".hyb-")
    }
    assert [s.name for s in moving.board(place.out).services] == ["green", "llm"], "green is known now"


def test_the_folder_stays_hybs_own_with_its_modes(place: Place) -> None:
    place.route("green")
    folder.check_target(place.out)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in place.out.rglob("*")}
    assert modes["Secret-link-public.yaml"] == modes[folder.MARKER] == 0o600 and modes["Connector-green.yaml"] == 0o644
    assert "PRIVATE" not in (place.out / routed.FILE).read_text()
    with pytest.raises(HybError, match="was edited"):
        (place.out / "private/Connector-green.yaml").write_text("mine")
        place.route("llm")


def test_back_undoes_the_last_move_and_again_redoes_it(place: Place) -> None:
    with pytest.raises(HybError, match="nothing was moved here yet"):
        place.route(back=True)
    first = place.documents()
    place.route("green")
    second = place.documents()
    place.route(weights={"llm": 90, "green": 10})
    third = place.documents()
    place.route(back=True)
    assert place.documents() == second
    place.route(back=True)
    assert place.documents() == third
    place.route(back=True)
    place.route("llm")
    assert place.documents() == first


def test_the_same_again_changes_nothing(place: Place) -> None:
    place.route("green")
    before = {p: p.stat().st_ino for p in place.out.rglob("*")}
    assert not place.route("green").changed
    assert {p: p.stat().st_ino for p in place.out.rglob("*")} == before


def test_a_dry_run_shows_the_diff_asks_nobody_and_writes_nothing(place: Place) -> None:
    before, place.green.mode = place.there(), "close"
    done = place.route("green", dry_run=True)
    assert "+++ b/private/Connector-green.yaml" in done.diff() and f"+  port: {port(place.green)}" in done.diff()
    assert place.there() == before and not done.asked
    assert sorted(p.name for p in place.root.iterdir() if "the link" in p.name) == ["the link"]


# -- weights ---------------------------------------------------------------------------------------------------------


def test_weights_are_a_multi_key_listener_and_each_connector_has_its_own_key(place: Place) -> None:
    done = place.route(weights={"llm": 90, "green": 10})
    strategy = {"weighted": {"routingKeys": {"llm": 90, "llm-green": 10}}}
    assert spec(place, "openshift/MultiKeyListener-llm.yaml") == {
        "host": "llm", "port": port(place.blue), "strategy": strategy,
    }  # fmt: skip
    assert "openshift/Listener-llm.yaml" not in place.documents()
    assert spec(place, "private/Connector-green.yaml")["routingKey"] == "llm-green"
    assert set(done.asked) == {"llm", "green"} and place.shares() == {"llm": 90, "green": 10}
    assert done.todo == (
        f"hyb link reload {place.out / 'private'}", "oc delete listener llm -n chat",
        f"oc apply -f {place.out}/openshift/ -n chat",
    )  # fmt: skip
    assert folder.check_folder(place.out) == []
    again = place.route(weights={"llm": 1, "green": 3})
    assert set(again.changed) == {"openshift/MultiKeyListener-llm.yaml"} and place.shares() == {"llm": 25, "green": 75}
    assert again.todo == (f"oc apply -f {place.out}/openshift/ -n chat",)


def test_a_service_without_a_weight_keeps_its_connector_and_is_still_known(place: Place) -> None:
    place.route(weights={"llm": 1, "green": 1})
    place.route("green")
    assert spec(place, "openshift/MultiKeyListener-llm.yaml")["strategy"] == {
        "weighted": {"routingKeys": {"llm-green": 100}}
    }
    assert place.shares() == {"llm": 0, "green": 100}
    place.route("llm")
    assert place.shares() == {"llm": 100, "green": 0}


def cel(old: dict[str, Any] | None, new: dict[str, Any]) -> list[str]:
    """The two rules of a MultiKeyListener's strategy, as the API server would apply them."""
    kinds = {"priority", "weighted"} & set(new)
    wrong = [] if len(kinds) == 1 else ["exactly one of the fields in [priority weighted] must be set"]
    if old and any(kind in old and kind not in new for kind in ("priority", "weighted")):
        wrong.append("strategy is immutable")
    return wrong


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_moves_each_folder_works_each_document_is_valid_and_back_returns(place: Place, seed: int) -> None:
    need("crds", "jsonschema")
    chance = random.Random(seed)
    for name in ("two", "three"):
        moving.route(
            Request(place.out, name, at={name: ("127.0.0.1", 20000 + len(name))}, unchecked=True),
            place.store, place.environ, place.say,
        )  # fmt: skip
    for _ in range(12):
        before = place.documents()
        if chance.random() < 0.5:
            place.route(chance.choice(["llm", "two", "three"]), unchecked=True)
        else:
            weights = {n: chance.randint(0, 9) for n in chance.sample(["llm", "two", "three"], 2)}
            if not any(weights.values()):
                continue
            place.route(weights=weights, unchecked=True)
            total = sum(weights.values())
            want = {n: round(100 * w / total, 2) for n, w in weights.items() if w}
            assert {n: x for n, x in place.shares().items() if x} == want
        after = place.documents()
        assert folder.check_folder(place.out) == []
        assert sum(place.shares().values()) == pytest.approx(100, abs=0.1)
        for path, document in after.items():
            assert crd_mistakes(document) == [], path
            if document["kind"] == "MultiKeyListener":
                old = before.get(path, {}).get("spec", {}).get("strategy")
                assert cel(old, document["spec"]["strategy"]) == []
        if before != after:
            place.route(back=True, unchecked=True)
            assert place.documents() == before
            place.route(back=True, unchecked=True)
            assert place.documents() == after


def test_a_link_whose_listener_is_one_by_priority_is_moved_by_the_order_of_its_keys(
    tmp_path: Path, birds: tuple[Parrot, Parrot]
) -> None:
    place = Place(tmp_path, *birds, private_sites=["north", "south"], strategy="priority")
    path = next(p for p in place.documents() if "MultiKeyListener" in p)
    first = spec(place, path)["strategy"]["priority"]["routingKeys"]
    assert place.shares()["north"] == 100
    done = place.route("south", unchecked=True)
    assert spec(place, path)["strategy"]["priority"]["routingKeys"] == first[::-1] and set(done.changed) == {path}
    assert place.shares()["south"] == 100 and folder.check_folder(place.out) == []


# -- several hosts ---------------------------------------------------------------------------------------------------


def test_on_several_hosts_the_costs_of_the_links_prefer_the_target(two_hosts: Place) -> None:
    place = two_hosts
    assert place.shares() == {"north": 50, "south": 50}
    done = place.route("south", unchecked=True)
    costs = {p.split("/")[0]: d["spec"]["cost"] for p, d in place.documents().items() if d["kind"] == "Link"}
    assert costs == {"private-north": 1000, "private-south": 1}
    assert place.shares() == {"north": 0, "south": 100}
    assert "on the host of `north`" in done.todo[0] and folder.check_folder(place.out) == []
    assert any("take over" in note for note in done.notes)
    place.route(back=True, unchecked=True)
    assert place.shares() == {"north": 50, "south": 50}


def test_a_model_of_another_host_can_not_be_asked_from_here_and_is_not_taken_on_trust(two_hosts: Place) -> None:
    before = two_hosts.there()
    with pytest.raises(HybError, match="`south` is on another host") as caught:
        two_hosts.route("south")
    assert "--unchecked" in caught.value.hint and two_hosts.there() == before


def test_several_hosts_share_by_weights_with_a_key_a_host(two_hosts: Place) -> None:
    place = two_hosts
    place.route(weights={"north": 80, "south": 20}, unchecked=True)
    keys = {p.split("/")[0]: d["spec"]["routingKey"] for p, d in place.documents().items() if d["kind"] == "Connector"}
    assert len(set(keys.values())) == 2 and place.shares() == {"north": 80, "south": 20}
    assert folder.check_folder(place.out) == []


def test_several_models_over_one_link_need_a_routing_key(tmp_path: Path, birds: tuple[Parrot, Parrot]) -> None:
    place = Place(tmp_path, *birds)
    extra = yaml.safe_load((place.out / "openshift/Listener-llm.yaml").read_text())
    extra["metadata"]["name"] = extra["spec"]["host"] = extra["spec"]["routingKey"] = "other"
    connector = yaml.safe_load((place.out / "private/Connector-llm.yaml").read_text())
    connector["metadata"]["name"] = connector["spec"]["routingKey"] = "other"
    files = folder.read(place.out)
    files["openshift/Listener-other.yaml"] = yaml.safe_dump(extra).encode()
    files["private/Connector-other.yaml"] = yaml.safe_dump(connector).encode()
    folder.write(place.out, files)
    with pytest.raises(HybError, match="the link has several Listeners") as caught:
        place.route("llm")
    assert "`llm`, `other`" in caught.value.hint
    place.route(weights={"other": 1}, key="other")
    assert "openshift/Listener-llm.yaml" in place.documents()
    assert "openshift/MultiKeyListener-other.yaml" in place.documents()
    with pytest.raises(HybError, match="no Listener with the routing key `none`"):
        place.route("llm", key="none")


# -- before it moves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["close", "overloaded", "wrong_key"])
def test_what_does_not_answer_gets_no_traffic_and_nothing_is_written(place: Place, mode: str) -> None:
    before, place.green.mode = place.there(), mode
    with pytest.raises(HybError, match="`green` does not answer, so nothing was moved") as caught:
        place.route("green")
    assert caught.value.code is Exit.CHECK and place.there() == before
    assert place.route("green", unchecked=True).changed


def test_an_empty_completion_is_no_answer() -> None:
    with pytest.raises(HybError, match="empty"):
        moving._said({"choices": [{"message": {"content": "  "}}]})
    with pytest.raises(HybError, match="no chat completion"):
        moving._said({"choices": []})
    moving._said({"choices": [{"message": {"content": "", "reasoning_content": "well"}}]})


def test_offline_asks_loopback_and_nobody_else(place: Place) -> None:
    assert place.route("green", offline=True).asked
    request = Request(place.out, "far", at={"far": ("192.0.2.1", 8000)})
    with pytest.raises(HybError) as caught:
        moving.route(request, place.store, place.environ, place.say, offline=True)
    assert caught.value.code is Exit.OFFLINE


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (("Green", "127.0.0.1", 1), "RFC 1123 label"),
        (("green", "no host", 1), "DNS name"),
        (("green", "127.0.0.1", 0), "out of range"),
        (("llm", "127.0.0.1", 1), "there is a service `llm` already"),
    ],
)
def test_a_service_that_is_none_is_refused(place: Place, at: tuple[str, str, int], said: str) -> None:
    before = place.there()
    with pytest.raises(HybError) as caught:
        moving.route(Request(place.out, at[0], at={at[0]: at[1:]}), place.store, place.environ, place.say)
    assert said in caught.value.message + " ".join(caught.value.details) and place.there() == before


def test_an_unknown_service_and_the_same_twice_are_told(place: Place) -> None:
    with pytest.raises(HybError, match="no service `red` in this link"):
        place.route("red")
    place.route("green")
    with pytest.raises(HybError, match="give nobody anything"):
        place.route(weights={"llm": 0, "green": 0})


def test_the_words_of_the_command_are_read_strictly() -> None:
    assert weights_of("blue=90, green=10") == {"blue": 90, "green": 10}
    assert place_of("green=[::1]:8001") == ("green", ("::1", 8001))
    for bad in ("blue", "blue=-1", "blue=1.5", "blue=1,blue=2", "=3", "blue=٣"):
        with pytest.raises(HybError, match="is no weight") as caught:
            weights_of(bad)
        assert caught.value.code is Exit.USAGE
    for bad in ("green", "green=8001", "green=host", "=host:1", "green=host:x"):
        with pytest.raises(HybError, match="is no service"):
            place_of(bad)


def test_a_certificate_that_has_expired_stops_the_move(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "check_folder", lambda *_: ["openshift: tls.crt has expired"])
    before = place.there()
    with pytest.raises(HybError, match="would not work so; nothing was moved") as caught:
        place.route("green")
    assert caught.value.code is Exit.CHECK and place.there() == before


# -- the folder is written anew --------------------------------------------------------------------------------------


def test_new_certificates_keep_the_route(place: Place) -> None:
    place.route(weights={"llm": 90, "green": 10})
    before = place.documents()
    secret = (place.out / "private/Secret-link-public.yaml").read_bytes()
    place.write(place.artifact, renew=True)
    assert place.documents() == before and (place.out / "private/Secret-link-public.yaml").read_bytes() != secret
    place.route(back=True)
    assert place.shares() == {"llm": 100}


def test_a_link_that_says_something_else_where_traffic_was_moved_loses_the_route_aloud(place: Place) -> None:
    place.route("green")
    other = place.make(port=9999)
    place.write(other)
    assert place.shares() == {"green": 100}, "another Listener port touches nothing that was moved"
    meta = {"name": "bot", "port": 12345, "host": "127.0.0.1"}
    service = place.store.add_artifact("service", [], meta=meta)
    made = link.Spec.model_validate({"service": "service", "namespace": "chat", "apps_domain": "apps.example.com"})
    place.write(link.run(made, {"service": service}, Context(place.store, place.root / "work")))
    assert place.shares() == {"llm": 100} and spec(place, "private/Connector-llm.yaml")["port"] == 12345
    assert any("says something else now where traffic was moved" in text for text in place.said)
    assert folder.holds(place.out, place.artifact) is False


def test_a_routed_folder_is_still_known_as_that_of_its_link(place: Place) -> None:
    place.route(weights={"llm": 1, "green": 1})
    assert folder.holds(place.out, place.artifact)
    assert not folder.holds(place.out, place.make(port=9999))


# -- this host's router ----------------------------------------------------------------------------------------------


def started(place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `skupper` on PATH, and this link's site running here; its input."""
    for name, value in place.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(moving.os, "geteuid", lambda: 1000)
    bin_ = place.root / "bin"
    bin_.mkdir()
    (bin_ / "skupper").write_text(SKUPPER.format(place.root))
    (bin_ / "skupper").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    base = place.root / "data/skupper/namespaces/default"
    (base / "runtime/resources").mkdir(parents=True)
    from hyb.linking import sides, site

    found = sides.private(sides.read(place.out), place.out)
    site.copy(found, site.of(found, place.environ, 1000), place.environ)
    return base / "input/resources"


def test_the_router_of_this_host_takes_the_change_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = started(place, monkeypatch)
    done = place.route("green")
    assert done.reloaded and done.todo == ()
    assert "linux system reload --namespace default" in (place.root / "calls").read_text()
    assert (resources / "Connector-green.yaml").is_file() and not (resources / "Connector-llm.yaml").exists()
    assert not place.route("llm", reload=False).reloaded
    assert (resources / "Connector-green.yaml").is_file(), "told to leave the router alone"


def test_a_reload_that_fails_puts_back_the_folder_and_skuppers_input(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = started(place, monkeypatch)
    (place.root / "broken").touch()
    before, given = place.there(), {p.name: p.read_bytes() for p in resources.glob("*.yaml")}
    with pytest.raises(HybError, match="`skupper system reload` failed") as caught:
        place.route("green")
    assert caught.value.code is Exit.BELOW and "not valid" in " ".join(caught.value.details)
    assert place.there() == before
    assert {p.name: p.read_bytes() for p in resources.glob("*.yaml")} == given
    (place.root / "broken").unlink()
    assert place.route("green").reloaded


def test_another_site_on_this_host_is_left_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = started(place, monkeypatch)
    (resources / "Site-private.yaml").rename(resources / "Site-somebody.yaml")
    done = place.route("green")
    assert not done.reloaded and done.todo and not (place.root / "calls").exists()


# -- killed, and two at once -----------------------------------------------------------------------------------------


def test_killed_anywhere_the_folder_is_the_one_before_or_the_one_after_and_the_next_move_ends_well(
    place: Place, tmp_path: Path
) -> None:
    first = place.documents()
    shutil.copytree(place.out, tmp_path / "kept")
    points = 0
    for number in range(1, 300, 2):
        shutil.rmtree(place.out, ignore_errors=True)
        shutil.copytree(tmp_path / "kept", place.out)
        request = Request(place.out, "green", at={"green": ("127.0.0.1", port(place.green))}, unchecked=True)
        if not killed_at(number, lambda r=request: moving.route(r, place.store, place.environ, place.say)):  # type: ignore[misc]
            break
        points += 1
        folder.recover(place.out)
        now = place.documents()
        assert now == first or place.shares() == {"green": 100}
        assert folder.check_folder(place.out) == []
        if now == first:
            moving.route(request, place.store, place.environ, place.say)
        assert place.shares() == {"green": 100}
        assert sorted(p.name for p in place.root.iterdir() if "the link" in p.name) == ["the link"]
    assert points > 12, points


def test_moves_at_once_come_one_after_the_other(place: Place) -> None:
    place.route("green", unchecked=True)
    children = []
    for i in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                place.route(("llm", "green")[i % 2], unchecked=True)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children] == [0] * 4
    assert folder.check_folder(place.out) == [] and sum(place.shares().values()) == 100
    folder.check_target(place.out)


def test_a_state_that_is_damaged_is_told(place: Place) -> None:
    place.route("green")
    text = (place.out / routed.FILE).read_text()
    for bad in (text[:30], "[]", json.dumps({"hyb-route": 9})):
        (place.out / routed.FILE).write_text(bad)
        with pytest.raises(HybError, match="is damaged"):
            routed.read(place.out)


def test_a_document_that_is_no_yaml_is_told() -> None:
    with pytest.raises(HybError, match="can't be read as one YAML document"):
        routes.placed({"private/x.yaml": b"a: [\n"})
