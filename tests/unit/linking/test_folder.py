"""The two folders that a person applies: whole or absent, private, never over somebody's work."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyb.artifact import Artifact
from hyb.errors import Exit, HybError
from hyb.linking import folder as linking
from hyb.stages import link
from hyb.stages.base import Context
from hyb.store import Store
from tests.killing import killed_at

NOW = datetime.now(UTC)
SECRETS = {"private/Secret-link-public.yaml", "openshift/Secret-hyb-link-server.yaml"}
FILES = {
    "APPLY.md", "private/Site-private.yaml", "private/Link-link-public.yaml", "private/Connector-llm.yaml",
    "openshift/Site-public.yaml", "openshift/RouterAccess-hyb.yaml", "openshift/Listener-llm.yaml", *SECRETS,
}  # fmt: skip


def make_link(store: Store, work: Path, domain: str = "apps.example.com", **given: Any) -> Artifact:
    service = store.add_artifact("service", [], meta={"name": "bot", "port": 8000, "host": "127.0.0.1"})
    spec = link.Spec(**{"service": "service", "namespace": "chat", "apps_domain": domain, **given})
    return link.run(spec, {"service": service}, Context(store, work))


class Place:
    """A store, a link in it, and somewhere to write; all paths have a space and a letter beyond ASCII."""

    def __init__(self, root: Path) -> None:
        root = root / "a b é"
        root.mkdir()
        self.root, self.out = root, root / "öut put"
        self.store = Store(root / "store")
        self.artifact = make_link(self.store, root / "work")
        self.environ = {"HOME": str(root / "home")}
        self.said: list[object] = []

    def write(self, artifact: Artifact | None = None, *, now: datetime = NOW, **more: Any) -> list[Path]:
        return linking.materialise(
            self.store, artifact or self.artifact, self.out, self.environ, say=self.said.append, now=now, **more
        )

    def link(self, **given: Any) -> Artifact:
        return make_link(self.store, self.root / "work", **given)

    def there(self) -> dict[str, bytes]:
        return {p.relative_to(self.out).as_posix(): p.read_bytes() for p in self.out.rglob("*") if p.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_both_sides_are_written_with_their_secrets_and_pass_the_check(place: Place) -> None:
    paths = place.write()
    assert {p.relative_to(place.out).as_posix() for p in paths} == FILES
    assert set(place.there()) == {*FILES, linking.MARKER}
    assert linking.check_folder(place.out, now=NOW) == []
    assert place.said == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_folders_are_0700_and_secrets_0600_whatever_the_umask(place: Place, umask: int) -> None:
    before = os.umask(umask)
    try:
        place.write()
    finally:
        os.umask(before)
    modes = {p.relative_to(place.out).as_posix(): stat.S_IMODE(p.stat().st_mode) for p in place.out.rglob("*")}
    assert stat.S_IMODE(place.out.stat().st_mode) == 0o700
    assert modes.pop("private") == modes.pop("openshift") == 0o700
    assert {p for p, m in modes.items() if m == 0o600} == {*SECRETS, linking.MARKER}
    assert {m for p, m in modes.items() if p not in SECRETS | {linking.MARKER}} == {0o644}


def test_no_secret_value_is_in_the_store(place: Place) -> None:
    place.write()
    values = []
    for path in SECRETS:
        data = yaml.safe_load(place.there()[path])["data"]
        values += [data["tls.key"].encode(), base64.b64decode(data["tls.key"]).split(b"\n")[1]]
    marks = [b"-----BEGIN", base64.b64encode(b"-----BEGIN")[:12], *values]
    blobs = [p.read_bytes() for p in place.store.root.rglob("*") if p.is_file()]
    assert len(blobs) > 8
    assert not [mark for blob in blobs for mark in marks if mark in blob]
    assert any(mark in place.there()[path] for path in SECRETS for mark in marks)  # the search does find them


def test_the_cas_key_is_in_neither_folder(place: Place) -> None:
    place.write()
    ca = Path(place.environ["HOME"], ".local/share/hyb/credentials/link/link-public.chat/ca.pem").read_bytes()
    key_line = ca.split(b"\n")[1]
    for content in place.there().values():
        decoded = (
            [base64.b64decode(v) for d in yaml.safe_load_all(content) for v in d["data"].values()]
            if b"kind: Secret" in content
            else []
        )
        assert not any(key_line in text for text in (content, *decoded))


def test_the_guides_commands_put_the_private_side_where_skupper_reads_it_and_close_it(place: Place) -> None:
    place.write()
    lines = (place.out / "APPLY.md").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith('    base="'))
    end = next(n for n, line in enumerate(lines) if "export SKUPPER_PLATFORM" in line)
    home = place.root / "another home"
    script = "set -eu\numask 000\n" + "\n".join(lines[start:end])
    subprocess.run(
        ["bash", "-c", script], cwd=place.out, env={"HOME": str(home), "PATH": os.environ["PATH"]}, check=True
    )
    base = home / ".local/share/skupper"
    resources = base / "namespaces/default/input/resources"
    assert [stat.S_IMODE(p.stat().st_mode) for p in (base, resources)] == [0o700, 0o700]
    assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in resources.iterdir()} == {
        Path(f).name: 0o600 for f in FILES if f.startswith("private/")
    }


def test_writing_again_changes_nothing(place: Place) -> None:
    place.write()
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (place.out, *place.out.rglob("*"))}
    place.write(now=NOW + timedelta(days=50))
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (place.out, *place.out.rglob("*"))} == before


def test_a_secret_that_became_readable_is_refused_and_written_anew_only_by_force(place: Place) -> None:
    place.write()
    secret = place.out / "private/Secret-link-public.yaml"
    secret.chmod(0o644)
    assert any("other users can read this key" in text for text in linking.check_folder(place.out))
    with pytest.raises(HybError, match="other users can read keys") as told:
        place.write()
    assert list(told.value.details) == ["`private/Secret-link-public.yaml`"]
    assert stat.S_IMODE(secret.stat().st_mode) == 0o644, "nothing was changed"
    place.write(force=True)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_an_empty_folder_is_taken_and_hybs_own_is_replaced(place: Place) -> None:
    place.out.mkdir()
    place.write()
    place.write(make_link(place.store, place.root / "work", "apps.example.org"))
    assert b"hyb-edge-chat.apps.example.org" in place.there()["private/Link-link-public.yaml"]
    assert linking.check_folder(place.out) == []
    assert any("hosts changed" in str(text) for text in place.said)
    assert sorted(p.name for p in place.root.iterdir()) == ["home", "store", "öut put"]


def test_renewing_writes_new_certificates_that_still_fit(place: Place) -> None:
    place.write()
    before = place.there()
    place.write(renew=True)
    after = place.there()
    assert {p for p in FILES if before[p] != after[p]} == SECRETS
    assert linking.check_folder(place.out) == []


def _stranger(out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")


def _edited(out: Path) -> None:
    (out / "private/Connector-llm.yaml").write_text("mine")


def _added(out: Path) -> None:
    (out / "openshift/NetworkPolicy.yaml").write_text("mine")


def _removed(out: Path) -> None:
    (out / "APPLY.md").unlink()


def _foreign_marker(out: Path) -> None:
    (out / linking.MARKER).write_text(json.dumps({"hyb-link": 99, "files": {}}))


@pytest.mark.parametrize(
    ("written", "change", "expected"),
    [
        (False, _stranger, "was not written by hyb"),
        (True, _edited, "`private/Connector-llm.yaml` was edited"),
        (True, _added, "`openshift/NetworkPolicy.yaml` was added"),
        (True, _removed, "`APPLY.md` was taken away"),
        (True, _foreign_marker, "was not written by hyb"),
    ],
)
def test_what_hyb_did_not_write_is_never_overwritten(
    place: Place, written: bool, change: Callable[[Path], None], expected: str
) -> None:
    if written:
        place.write()
    change(place.out)
    before = place.there()
    with pytest.raises(HybError) as caught:
        place.write(make_link(place.store, place.root / "work", "apps.example.org"))
    assert expected in " ".join((caught.value.message, *caught.value.details))
    assert caught.value.code == Exit.INPUT and place.there() == before


def test_a_file_in_the_place_of_the_folder_is_refused(place: Place) -> None:
    place.out.write_text("x")
    with pytest.raises(HybError, match="is a file"):
        place.write()
    assert place.out.read_text() == "x"


def test_another_kind_of_artifact_is_refused(place: Place) -> None:
    with pytest.raises(HybError, match="is a service, not a link"):
        place.write(place.store.artifact(place.artifact.needs[0]))


def test_expired_credentials_are_an_error_and_the_folder_stays(place: Place) -> None:
    place.write()
    before = place.there()
    with pytest.raises(HybError) as caught:
        place.write(now=NOW + timedelta(days=366))
    assert caught.value.code == Exit.CHECK and place.there() == before


def test_a_disk_that_is_full_leaves_the_old_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write()
    before, other = place.there(), make_link(place.store, place.root / "work", "apps.example.org")
    real = linking.fs.write_atomic

    def full(path: Path, data: bytes, mode: int = 0o644) -> None:
        if path.name.startswith("Listener"):
            raise OSError(28, "No space left on device")
        real(path, data, mode)

    monkeypatch.setattr(linking.fs, "write_atomic", full)
    with pytest.raises(HybError, match="no space left"):
        place.write(other)
    assert place.there() == before and not list(place.root.glob(".*"))


@pytest.mark.parametrize("again", [False, True])
def test_killed_anywhere_the_folder_is_whole_or_absent_and_the_next_call_ends_well(place: Place, again: bool) -> None:
    artifact, home = place.artifact, Path(place.environ["HOME"])
    home.mkdir()
    before = place.root / "before"
    before.mkdir()
    if again:
        place.write()
        artifact = make_link(place.store, place.root / "work", "apps.example.org")
        shutil.copytree(place.out, before / "out")
    shutil.copytree(home, before / "home")
    points = 0
    for number in range(1 + again, 400, 3):  # every third: with renames and openings in turn, both are hit
        for made in (home, place.out):
            shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(before / "home", home)
        if again:
            shutil.copytree(before / "out", place.out)
        if not killed_at(number, lambda: place.write(artifact, renew=again)):
            break
        points += 1
        if place.out.exists():
            assert linking.check_folder(place.out) == []
        place.write(artifact)
        assert linking.check_folder(place.out) == []
        assert sorted(p.name for p in place.root.iterdir()) == ["before", "home", "store", "öut put"]
        folder = home / ".local/share/hyb/credentials/link/link-public.chat"
        files = [".lock", "ca.pem", "client-private.pem", "server-chat.pem", "state.json"]
        assert sorted(p.name for p in folder.iterdir()) == files
    assert points > 15, "the child was to be killed at many points"


def test_the_check_of_a_folder_reports_every_kind_of_mistake_at_once(place: Place) -> None:
    place.write()
    documents = place.out / "private/Link-link-public.yaml"
    documents.write_text(documents.read_text().replace('"443"', "443"))
    (place.out / "private/broken.yaml").write_text("a: [\n")
    (place.out / "private/latin.yml").write_bytes(b"a: \xe9\n")
    secret = place.out / "openshift/Secret-hyb-link-server.yaml"
    content = yaml.safe_load(secret.read_text())
    private = yaml.safe_load((place.out / "private/Secret-link-public.yaml").read_text())
    content["data"]["tls.key"] = private["data"]["tls.key"]
    secret.write_text(yaml.safe_dump(content))
    texts = "\n".join(linking.check_folder(place.out))
    for expected in ("port is `443`, it must be a text", "private/broken.yaml: is no YAML", "latin.yml: is not UTF-8",
                     "tls.key is not the key of tls.crt"):  # fmt: skip
        assert expected in texts


def test_the_check_of_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(HybError, match="no such file"):
        linking.check_folder(tmp_path)


# -- another link, and force ---------------------------------------------------------------------------------------


def test_another_links_folder_is_replaced_only_when_forced(place: Place) -> None:
    place.write()
    before, other = place.there(), place.link(namespace="shop")
    with pytest.raises(
        HybError, match="is about link `link-public` of `chat`, not link `link-public` of `shop`"
    ) as caught:
        place.write(other)
    assert "--force" in caught.value.hint and place.there() == before
    place.write(other, force=True)
    assert b"hyb-edge-shop" in place.there()["private/Link-link-public.yaml"]
    assert linking.check_folder(place.out) == []


def test_an_edited_folder_is_replaced_when_forced_and_somebody_elses_never_is(place: Place) -> None:
    place.write()
    _edited(place.out)
    _added(place.out)
    place.write(force=True)
    assert set(place.there()) == {*FILES, linking.MARKER} and linking.check_folder(place.out) == []
    (place.out / linking.MARKER).unlink()
    with pytest.raises(HybError, match="was not written by hyb"):
        place.write(force=True)


def test_a_flipped_bit_in_any_file_of_the_folder_is_found_before_anything_is_written(place: Place) -> None:
    place.write()
    for path in sorted(p for p in place.out.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        path.write_bytes(bytes([*whole[:-9], whole[-9] ^ 4, *whole[-8:]]))
        with pytest.raises(HybError, match=r"was edited since hyb wrote it|was not written by hyb|is about"):
            place.write()
        path.write_bytes(whole)
    place.write()


def test_a_folder_of_a_hyb_that_told_no_name_is_taken_as_it_is(place: Place) -> None:
    place.write()
    marker = json.loads((place.out / linking.MARKER).read_bytes())
    del marker["of"]
    (place.out / linking.MARKER).write_text(json.dumps(marker))
    place.write(place.link(domain="apps.example.org"))
    assert "of" in json.loads((place.out / linking.MARKER).read_bytes())


def test_a_link_of_an_older_hyb_is_made_again(place: Place) -> None:
    old = place.store.add_artifact("link", [], meta={"name": "link-public", "namespace": "chat"})
    with pytest.raises(HybError, match="was made by an older hyb"):
        place.write(old)


# -- ways, accesses, several sides ---------------------------------------------------------------------------------

LB: dict[str, Any] = {"access": "loadbalancer", "domain": ""}
KINDS: dict[str, dict[str, Any]] = {
    "issuer": {"way": "issuer"},
    "load balancer by address": {**LB, "link_host": "192.0.2.7"},
    "load balancer by address of IPv6": {**LB, "link_host": "2001:db8::7"},
    "load balancer by name": {**LB, "link_host": "lb.example.com"},
    "ports of the nodes": {
        "access": "nodeport", "domain": "", "link_host": "192.0.2.7",
        "link_ports": {"inter-router": 30001, "edge": 30002},
    },
    "ingress": {"access": "ingress-nginx", "domain": "in.example.com", "ingress_class": "public"},
    "inside a cluster": {"access": "local", "domain": "", "platform": "kubernetes"},
    "a forwarded port": {
        "access": "local", "domain": "", "link_host": "127.0.0.1",
        "link_ports": {"inter-router": 15671, "edge": 14567},
    },
    "several hosts": {"private_sites": {"alpha": {}, "beta": {"cost": 10}}},
    "several namespaces": {"namespace": ["chat", "shop"]},
    "several of both": {"namespace": ["chat", "shop"], "private_sites": ["alpha", "beta"], "strategy": "weighted"},
    "several namespaces by address": {
        **LB, "namespace": ["chat", "shop"], "link_host": {"chat": "192.0.2.7", "shop": "192.0.2.8"},
    },
    "several namespaces and an issuer": {"way": "issuer", "namespace": ["chat", "shop"], "private_sites": ["a", "b"]},
    "a private cluster": {"platform": "kubernetes", "selector": "app=llm"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_link_is_written_whole_and_passes_the_check(place: Place, kind: str) -> None:
    artifact = place.link(**KINDS[kind])
    place.write(artifact)
    assert linking.check_folder(place.out, now=NOW) == []
    secrets = {p for p in place.there() if p.rpartition("/")[2].startswith("Secret-")}
    assert secrets == {f"{t['folder']}/Secret-{t['name']}.yaml" for t in artifact.meta["to_make"]}
    before = place.there()
    place.write(artifact)
    assert place.there() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_stranger_ca_in_any_side_is_found(place: Place, kind: str) -> None:
    place.write(place.link(**KINDS[kind]))
    stranger = Place(place.root)
    stranger.write(stranger.link(**KINDS[kind]))
    secret = next(p for p in place.there() if p.startswith("openshift") and "Secret-" in p)
    (place.out / secret).write_bytes(stranger.there()[secret])
    (place.out / secret).chmod(0o600)
    assert linking.check_folder(place.out, now=NOW), kind


@pytest.mark.parametrize("way", ["token", "cli"])
def test_ways_that_need_no_credentials_mint_none(place: Place, way: str) -> None:
    place.write(place.link(way=way))
    assert not Path(place.environ["HOME"]).exists()
    assert linking.check_folder(place.out, now=NOW) == []


def test_the_cas_key_is_in_the_cluster_folder_only_where_it_was_asked_for(place: Place) -> None:
    place.write(place.link(way="issuer"))
    keys = {
        path for path, content in place.there().items() if b"kind: Secret" in content
        and b"BEGIN RSA PRIVATE KEY" in base64.b64decode(yaml.safe_load(content)["data"]["tls.key"])
    }  # fmt: skip
    assert keys == {"openshift/Secret-hyb-link-ca.yaml"}


def test_without_an_address_the_cluster_side_is_written_and_the_rest_when_it_is_known(place: Place) -> None:
    place.write(place.link(**LB, way="issuer"))
    assert {p.split("/")[0] for p in place.there()} == {"APPLY.md", "openshift", linking.MARKER}
    assert linking.check_folder(place.out, now=NOW) == []
    before = {p: t for p, t in place.there().items() if p.startswith("openshift/")}
    place.write(place.link(**LB, way="issuer", link_host="192.0.2.7"))
    assert {p: t for p, t in place.there().items() if p.startswith("openshift/")} == before
    assert "private/Link-link-public.yaml" in place.there() and linking.check_folder(place.out, now=NOW) == []


def test_each_host_has_a_certificate_of_its_own_and_a_shared_one_is_found(place: Place) -> None:
    place.write(place.link(private_sites=["alpha", "beta"]))
    alpha, beta = (place.out / f"private-{n}/Secret-link-public.yaml" for n in ("alpha", "beta"))
    one, two = (yaml.safe_load(p.read_text())["data"]["tls.crt"] for p in (alpha, beta))
    assert one != two
    for document in (alpha, beta):
        namespaced = yaml.safe_load(document.read_text())
        assert namespaced["metadata"]["namespace"] == "default"
    beta.write_bytes(alpha.read_bytes())
    assert any("neither can be revoked alone" in t for t in linking.check_folder(place.out, now=NOW))


def test_the_two_sides_namespaces_may_not_be_swapped_nor_another_be_given(place: Place) -> None:
    place.write()
    for path in (place.out / "openshift").glob("*.yaml"):
        path.write_text(path.read_text().replace("namespace: chat", "namespace: default"))
    assert any("namespace `default` is that of both sides" in t for t in linking.check_folder(place.out))
    place.write(force=True)
    texts = linking.check_folder(place.out, namespace="shop")
    assert any("the documents are for `chat`, not for namespace `shop`" in t for t in texts)


@pytest.mark.parametrize("gone", ["private", "openshift"])
def test_a_side_that_is_gone_is_an_error(place: Place, gone: str) -> None:
    place.write()
    shutil.rmtree(place.out / gone)
    with pytest.raises(HybError, match=f"{gone}`: no such file"):
        linking.check_folder(place.out)
