"""A link's folder after a change of its credentials: only its Secrets differ, and only in a folder of this link."""

from __future__ import annotations

import base64
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb import digest as dg
from hyb.credentials import Change, Credentials, Order, change_passphrase, link_folder, mint, renew, revoke
from hyb.errors import HybError
from hyb.linking import folder as linking
from hyb.linking.refresh import Refreshed, change_in, renewed
from hyb.render.dump import dump
from hyb.render.skupper import documents as sk
from hyb.stages import link
from hyb.stages.base import Context
from hyb.store import Store
from tests.handshake import works

NOW = datetime.now(UTC)
SECRETS = {"private/Secret-link-public.yaml", "openshift/Secret-hyb-link-server.yaml"}


class Place:
    """A link's folder and its credentials."""

    def __init__(self, root: Path, **spec: Any) -> None:
        self.out, self.store = root / "öut put", Store(root / "store")
        service = self.store.add_artifact("service", [], meta={"name": "bot", "port": 8000, "host": "127.0.0.1"})
        wanted = link.Spec(service="service", namespace="chat", apps_domain="apps.example.com", **spec)
        self.artifact = link.run(wanted, {"service": service}, Context(self.store, root / "work"))
        self.environ = {"HYB_CREDENTIALS": str(root / "credentials")}
        self.folder = link_folder(self.environ, "link-public.chat")
        self.write()

    def write(self) -> None:
        linking.materialise(self.store, self.artifact, self.out, self.environ, now=NOW)

    def renew(self, **more: Any) -> Refreshed:
        return self.change(lambda: renew(self.folder, self.folder.name, NOW, **more))

    def change(self, work: Any, *, given: bool = True) -> Refreshed:
        return change_in(self.folder, self.out, work, given=given, now=NOW)

    def there(self) -> dict[str, bytes]:
        return {p.relative_to(self.out).as_posix(): p.read_bytes() for p in self.out.rglob("*") if p.is_file()}

    def data(self, side: str) -> dict[str, bytes]:
        secret = yaml.safe_load(next((self.out / side).glob("Secret-*")).read_text())
        return {key: base64.b64decode(value) for key, value in secret["data"].items()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_only_the_secrets_are_written_anew_and_they_are_what_hyb_link_would_write(place: Place) -> None:
    before = place.there()
    done = place.renew()
    after = place.there()
    assert {path for path in after if after[path] != before[path]} == {*SECRETS, linking.MARKER}
    assert {p.relative_to(place.out).as_posix() for p in done.written} == SECRETS and done.gone == ()
    assert linking.check_folder(place.out, now=NOW) == []
    place.write()
    assert place.there() == after


def test_every_step_of_a_new_ca_reaches_the_folder(place: Place, tmp_path: Path) -> None:
    states = [(place.data("private"), place.data("openshift"))]
    for more in ({"change_ca": True}, {"applied": True}, {"applied": True}):
        place.renew(**more)
        states.append((place.data("private"), place.data("openshift")))
        assert linking.check_folder(place.out, now=NOW) == []
    for before, after in itertools.pairwise(states):
        assert all(works(tmp_path, client[0], server[1]) for client in (before, after) for server in (before, after))


def test_what_was_changed_in_the_folder_by_hyb_itself_stays(place: Place) -> None:
    """As when traffic was moved: a document and the marker say something else than the artifact."""
    path = place.out / "private/Link-link-public.yaml"
    path.write_text(path.read_text().replace("cost: 1", "cost: 7"))
    marker = json.loads((place.out / linking.MARKER).read_bytes())
    marker["files"]["private/Link-link-public.yaml"] = dg.of_file(path)[0]
    (place.out / linking.MARKER).write_text(json.dumps(marker))
    place.renew()
    assert "cost: 7" in path.read_text()


def test_after_a_revocation_the_sites_files_are_gone_and_the_server_closes_old_connections(place: Place) -> None:
    done = place.change(lambda: revoke(place.folder, place.folder.name, NOW, site="private"))
    assert not (place.out / "private").exists() and len(done.gone) == 4
    secret = yaml.safe_load((place.out / "openshift/Secret-hyb-link-server.yaml").read_text())
    assert secret["metadata"]["annotations"] == {"skupper.io/tls-prior-valid-revisions": "0"}
    place.renew(applied=True)
    secret = yaml.safe_load((place.out / "openshift/Secret-hyb-link-server.yaml").read_text())
    assert "annotations" not in secret["metadata"]


def test_a_revocation_of_everything_leaves_the_sites_and_says_so_to_skupper(place: Place) -> None:
    place.change(lambda: revoke(place.folder, place.folder.name, NOW))
    assert linking.check_folder(place.out, now=NOW) == []
    place.write()
    assert b"tls-prior-valid-revisions" in place.there()["openshift/Secret-hyb-link-server.yaml"]
    assert b"tls-prior-valid-revisions" not in place.there()["private/Secret-link-public.yaml"]


def never() -> Change:
    raise AssertionError("the credentials must not be touched")


def test_a_folder_that_was_edited_is_refused_before_anything_is_changed(place: Place) -> None:
    (place.out / "private/Connector-llm.yaml").write_text("mine")
    for given in (True, False):
        with pytest.raises(HybError, match="was edited since"):
            place.change(never, given=given)


@pytest.mark.parametrize("kind", ["absent", "empty", "stranger", "file", "other link", "broken marker"])
def test_a_folder_of_something_else_is_left_alone_and_refused_when_it_was_asked_for(
    place: Place, tmp_path: Path, kind: str
) -> None:
    if kind == "other link":
        (tmp_path / "other").mkdir()
        other = Place(tmp_path / "other")
        place.out = other.out
    else:
        place.out = tmp_path / kind
        if kind == "file":
            place.out.write_text("x")
        elif kind != "absent":
            place.out.mkdir()
        if kind == "stranger":
            (place.out / "thesis.txt").write_text("years of work")
        if kind == "broken marker":
            (place.out / linking.MARKER).write_text('{"files": [1]}')
    before = place.there() if place.out.is_dir() else {}
    with pytest.raises(HybError, match="is no folder of the link") as caught:
        place.change(never)
    assert "nothing was changed" in caught.value.hint
    done = place.change(lambda: renew(place.folder, place.folder.name, NOW), given=False)
    assert done.written == () and (place.there() if place.out.is_dir() else {}) == before


def test_a_new_passphrase_leaves_the_folder_as_it_is(place: Place) -> None:
    before = place.there()
    change_passphrase(place.folder, place.folder.name, None, b"horse")
    place.write()
    assert place.there() == before


# -- several namespaces, several sites, an issuer ------------------------------------------------------------------


def files_of(made: Credentials) -> dict[str, bytes]:
    """A folder of several sides, as `hyb link` lays it out."""
    files = {"APPLY.md": b"read me", "private-one/Site-one.yaml": b"kind: Site\n"}
    for site in made.clients:
        files[f"private-{site}/Secret-van.yaml"] = dump(sk.secret("van", "default", made.client_data(site))).encode()
    for namespace in made.servers:
        data = made.server_data(namespace)
        files[f"openshift-{namespace}/Secret-hyb.yaml"] = dump(sk.secret("hyb", namespace, data)).encode()
    if made.issuer:
        files["openshift/Secret-ca.yaml"] = dump(sk.secret("ca", "chat", made.issuer_data())).encode()
    return files


@pytest.mark.parametrize("issuer", [False, True])
def test_each_secret_gets_its_own_certificate_again(tmp_path: Path, issuer: bool) -> None:
    folder = tmp_path / "credentials" / "link" / "van"
    servers = {} if issuer else {"chat": ("a.example.org",), "lab": ("b.example.org",)}
    order = Order("van", servers, clients=("one", "two"), issuer=issuer)
    before = files_of(mint(folder, order, NOW))
    made = renew(folder, "van", NOW).credentials
    assert renewed(before, made, NOW) == files_of(made)
    made = revoke(folder, "van", NOW, site="two").credentials
    after = renewed(before, made, NOW)
    assert not [path for path in after if path.startswith("private-two/")] and "private-one/Secret-van.yaml" in after
    marked = [path for path, text in after.items() if b"tls-prior-valid-revisions" in text]
    assert marked == ([] if issuer else ["openshift-chat/Secret-hyb.yaml", "openshift-lab/Secret-hyb.yaml"])


def test_a_secret_of_a_namespace_that_has_no_certificate_is_an_error(tmp_path: Path) -> None:
    made = mint(tmp_path / "c/link/van", Order("van", {"chat": ("a.example.org",)}), NOW)
    other = mint(tmp_path / "d/link/van", Order("van", {"lab": ("b.example.org",)}), NOW)
    with pytest.raises(HybError, match="no server certificate for the namespace `lab`"):
        renewed(files_of(other), made, NOW)


def test_a_file_that_only_looks_like_a_secret_is_left_as_it_is(tmp_path: Path) -> None:
    made = mint(tmp_path / "c/link/van", Order("van", {"chat": ("a.example.org",)}), NOW)
    odd = {
        "a.yaml": b"kind: Secret\n", "b.yaml": b"kind: Secret\ndata: 7\n", "c.yaml": b"Secret: [\n",
        "d.yaml": b"kind: Secret\ndata: {tls.crt: '!', tls.key: eA==}\n", "e.md": b"a Secret", "f.yaml": b"- Secret\n",
    }  # fmt: skip
    assert renewed(odd, made, NOW) == odd


def test_a_site_with_the_longest_name_keeps_its_certificate(tmp_path: Path) -> None:
    place = Place(tmp_path, private_site="p" * 63)
    place.renew()
    assert (place.out / "private/Secret-link-public.yaml").exists() and linking.check_folder(place.out, now=NOW) == []
