"""Credentials of a link: minted once, private, whole after any kill."""

from __future__ import annotations

import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyb import certificates as cs
from hyb import fs
from hyb.credentials import Order, link_folder, mint
from hyb.credentials.order import client_name
from hyb.errors import Exit, HybError
from hyb.render import names
from tests.handshake import HOST, handshake, works

NOW = datetime.now(UTC)
HOSTS = ("hyb-inter-router-chat.apps.example.com", "hyb-edge-chat.apps.example.com")
ORDER = Order("link-public.chat", {"chat": HOSTS})
SERVER, CLIENT = "server-chat.pem", "client-private.pem"
FILES = {"ca.pem", SERVER, CLIENT}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return link_folder({"HOME": str(tmp_path / "with space é")}, ORDER.name)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_under_the_data_home_or_where_the_environment_says(tmp_path: Path) -> None:
    assert link_folder({"HOME": "/h"}, "a.b") == Path("/h/.local/share/hyb/credentials/link/a.b")
    assert link_folder({"HOME": "/h", "XDG_DATA_HOME": "/x"}, "a") == Path("/x/hyb/credentials/link/a")
    assert link_folder({"HYB_CREDENTIALS": "/c"}, "a") == Path("/c/link/a")
    with pytest.raises(HybError) as caught:
        link_folder({}, "a")
    assert "HYB_CREDENTIALS" in caught.value.hint


def test_a_second_call_returns_the_same_and_writes_nothing(folder: Path) -> None:
    first = mint(folder, ORDER, NOW)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.iterdir()}
    assert mint(folder, ORDER, NOW + timedelta(days=100)) == first
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.iterdir()} == before
    assert first.notes == ()
    assert cs.mistakes(first.client_data(), first.server_data(), HOSTS, NOW) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
def test_folders_are_0700_and_keys_0600_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "credentials" / "link" / "x"
    before = os.umask(umask)
    try:
        mint(folder, ORDER, NOW)
    finally:
        os.umask(before)
    assert [mode(p) for p in (folder, folder.parent, folder.parent.parent)] == [0o700] * 3
    assert {p.name: mode(p) for p in folder.glob("*.pem")} == dict.fromkeys(FILES, 0o600)


def test_the_cas_key_is_in_no_data_for_the_two_sides(folder: Path) -> None:
    made = mint(folder, ORDER, NOW)
    ca_key = (folder / "ca.pem").read_bytes().split(b"-----BEGIN CERTIFICATE")[0]
    assert b"PRIVATE KEY" in ca_key
    given = b"".join((*made.client_data().values(), *made.server_data().values()))
    assert ca_key not in given and given.count(b"BEGIN PRIVATE KEY") == 2
    assert "PRIVATE KEY" not in repr(made)


def test_other_hosts_give_a_new_server_certificate_of_the_same_ca(folder: Path) -> None:
    old = mint(folder, ORDER, NOW)
    new = mint(folder, Order(ORDER.name, {"chat": ("a.example.org", "b.example.org")}), NOW)
    assert new.ca == old.ca and new.clients == old.clients and new.servers != old.servers
    assert cs.dns_names(cs.load(new.servers["chat"].certificate)[0]) == ("a.example.org", "b.example.org")
    assert any("apply `openshift/` again" in note for note in new.notes)


def test_the_old_server_certificate_stays_when_the_new_one_can_not_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = mint(folder, ORDER, NOW)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "write_atomic", full)
        with pytest.raises(HybError, match="no space left on device"):
            mint(folder, Order(ORDER.name, {"chat": ("a.example.org",)}), NOW)
    assert mint(folder, ORDER, NOW) == old


def test_it_warns_thirty_days_before_the_end_and_refuses_after_it(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    assert mint(folder, ORDER, NOW + timedelta(days=334)).notes == ()
    notes = mint(folder, ORDER, NOW + timedelta(days=336)).notes
    assert len(notes) == 2 and all("expires on" in n and "`hyb link renew link-public.chat`" in n for n in notes)
    with pytest.raises(HybError) as caught:
        mint(folder, ORDER, NOW + timedelta(days=366))
    assert caught.value.code == Exit.CHECK and len(caught.value.details) == 2 and "hyb link renew" in caught.value.hint


def test_renewing_keeps_the_ca_as_long_as_it_outlives_the_new_certificates(folder: Path) -> None:
    old = mint(folder, ORDER, NOW)
    later = NOW + timedelta(days=400)
    new = mint(folder, ORDER, later, renew=True)
    assert new.ca == old.ca and new.servers != old.servers and new.clients != old.clients and new.notes == ()
    last = NOW + timedelta(days=1700)
    newest = mint(folder, ORDER, last, renew=True)
    assert newest.ca.startswith(old.ca) and len(cs.load(newest.ca)) == 2
    assert any("a change of it begins" in note for note in newest.notes)
    assert cs.mistakes(newest.client_data(), newest.server_data(), HOSTS, last) == []


def test_lifetimes_are_the_ones_that_were_asked_for(folder: Path) -> None:
    made = mint(folder, Order(ORDER.name, {"chat": HOSTS}, days=90, ca_days=200), NOW)
    ends = [
        cs.load(pem)[0].not_valid_after_utc
        for pem in (made.ca, made.servers["chat"].certificate, made.clients["private"].certificate)
    ]
    assert [round((end - NOW) / timedelta(days=1)) for end in ends] == [200, 90, 90]


@pytest.mark.parametrize("lost", sorted(FILES))
def test_what_a_killed_mint_did_not_write_is_made_and_the_rest_kept(folder: Path, lost: str) -> None:
    old = mint(folder, ORDER, NOW)
    (folder / lost).unlink()
    (folder / f".{lost}.0123456789ab.tmp").write_bytes(b"half a key")
    new = mint(folder, ORDER, NOW)
    assert cs.mistakes(new.client_data(), new.server_data(), HOSTS, NOW) == []
    assert {p.name for p in folder.iterdir()} == {*FILES, ".lock", "state.json"}
    if lost != "ca.pem":
        assert new.ca == old.ca
        assert (new.servers == old.servers) == (lost != SERVER)


def test_files_that_others_can_read_are_closed_with_a_word(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    folder.chmod(0o755)
    (folder / "ca.pem").chmod(0o644)
    notes = mint(folder, ORDER, NOW).notes
    assert len(notes) == 2 and all("was open to other users" in note for note in notes)
    assert mode(folder) == 0o700 and mode(folder / "ca.pem") == 0o600


def test_a_symbolic_link_in_their_place_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HybError, match="symbolic link"):
        mint(folder, ORDER, NOW)
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_file_is_an_error_and_not_replaced(folder: Path, damage: bytes | None) -> None:
    mint(folder, ORDER, NOW)
    path = folder / "ca.pem"
    spoiled = path.read_bytes()[:-60] if damage is None else damage
    path.write_bytes(spoiled)
    with pytest.raises(HybError, match="is damaged") as caught:
        mint(folder, ORDER, NOW)
    assert caught.value.code == Exit.CHECK and path.read_bytes() == spoiled


def test_a_key_that_is_not_the_certificates_is_damage(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    server, client = (folder / SERVER).read_bytes(), (folder / CLIENT).read_bytes()
    mark = b"-----BEGIN CERTIFICATE-----"
    (folder / SERVER).write_bytes(client.split(mark)[0] + mark + server.split(mark)[1])
    with pytest.raises(HybError, match="is damaged"):
        mint(folder, ORDER, NOW)


def test_two_processes_at_once_end_with_one_set(folder: Path) -> None:
    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            try:
                mint(folder, ORDER, NOW)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children] == [0] * 4
    made = mint(folder, ORDER, NOW)
    assert made.notes == () and cs.mistakes(made.client_data(), made.server_data(), HOSTS, NOW) == []


def test_a_link_without_hosts_is_refused(folder: Path) -> None:
    with pytest.raises(HybError, match="has no host"):
        mint(folder, Order("x", {"chat": ()}), NOW)


# -- several namespaces and sites ----------------------------------------------------------------------------------

WIDE = Order("wide", {"chat": HOSTS, "lab": ("hyb-inter-router-lab.apps.example.com",)}, clients=("one", "two"))


def test_each_namespace_and_each_site_has_a_certificate_of_its_own_and_all_fit_together(folder: Path) -> None:
    made = mint(folder, WIDE, NOW)
    assert {p.name for p in folder.glob("*.pem")} == {
        "ca.pem", "server-chat.pem", "server-lab.pem", "client-one.pem", "client-two.pem"
    }  # fmt: skip
    for namespace, hosts in WIDE.servers.items():
        for site in WIDE.clients:
            assert cs.mistakes(made.client_data(site), made.server_data(namespace), hosts, NOW) == []
    names = [cs.common_name(cs.load(made.client_data(site)["tls.crt"])[0]) for site in WIDE.clients]
    assert names == ["link-one", "link-two"]
    assert len({pair.key for pair in (*made.servers.values(), *made.clients.values())}) == 4


def test_links_that_share_credentials_keep_each_others_certificates(folder: Path) -> None:
    first = mint(folder, Order("shared", {"chat": HOSTS}), NOW)
    second = mint(folder, Order("shared", {"lab": ("a.example.org",)}, clients=("other",)), NOW)
    assert second.ca == first.ca and second.notes == ()
    assert mint(folder, Order("shared", {"chat": HOSTS}), NOW) == first


def test_a_site_that_joins_later_changes_nobody_elses_certificate(folder: Path) -> None:
    first = mint(folder, ORDER, NOW)
    more = mint(folder, Order(ORDER.name, ORDER.servers, clients=("private", "second")), NOW)
    assert more.servers == first.servers and more.clients["private"] == first.clients["private"]
    assert more.client_data("second")["ca.crt"] == first.ca and more.notes == ()


def test_files_of_a_link_with_one_site_and_one_namespace_are_found_under_their_old_names(folder: Path) -> None:
    old = mint(folder, ORDER, NOW)
    (folder / SERVER).rename(folder / "server.pem")
    (folder / CLIENT).rename(folder / "client.pem")
    assert mint(folder, ORDER, NOW) == old
    assert {p.name for p in folder.glob("*.pem")} == FILES


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order("x", {}), "has no host"),
        (Order("x", {"a": HOSTS, "b": ()}), "has no host"),
        (Order("x", {"Chat": HOSTS}), "namespace `Chat` is no RFC 1123 label"),
        (Order("x", {"chat": HOSTS}, clients=("../../evil",)), "private site `../../evil` is no RFC 1123 label"),
        (Order("x", {"chat": HOSTS}, clients=("",)), "private site is empty"),
        (Order("x", {"chat": ("*.apps.example.com",)}), "is no DNS name"),
        (Order("x", {"chat": ("ünï.example.com",)}), "is no DNS name"),
        (Order("x", {"chat": HOSTS}, days=0), "a day at least"),
    ],
)
def test_an_order_that_nobody_could_use_is_refused_before_a_file_is_written(
    folder: Path, order: Order, expected: str
) -> None:
    with pytest.raises(HybError) as caught:
        mint(folder, order, NOW)
    assert expected in caught.value.message
    assert not folder.exists()


# -- skupper's controller signs ------------------------------------------------------------------------------------


def test_an_issuer_gets_an_rsa_ca_whose_certificates_work_with_the_private_sides(folder: Path, tmp_path: Path) -> None:
    made = mint(folder, Order("x", {}, issuer=True), NOW)
    data = made.issuer_data()
    assert data["tls.key"].startswith(b"-----BEGIN RSA PRIVATE KEY-----") and set(data) == {"tls.crt", "tls.key"}
    assert made.servers == {} and not list(folder.glob("server-*"))
    server = cs.make_leaf(cs.Pair(data["tls.crt"], data["tls.key"]), "hyb", 365, NOW, hosts=(HOST,))
    given = {"ca.crt": data["tls.crt"], "tls.crt": server.certificate, "tls.key": server.key}  # as the controller does
    assert works(tmp_path, made.client_data(), given)
    assert "RSA PRIVATE" not in repr(made) and "BEGIN PRIVATE" not in repr(made)


def test_the_cas_key_is_not_given_out_unless_it_was_ordered(folder: Path) -> None:
    made = mint(folder, ORDER, NOW)
    assert made.issuer is None
    with pytest.raises(ValueError, match="no issuer"):
        made.issuer_data()


def test_an_ecdsa_ca_is_no_issuer(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    with pytest.raises(HybError, match="RSA only") as caught:
        mint(folder, Order(ORDER.name, {}, issuer=True), NOW)
    assert "other `credentials`" in caught.value.hint


# -- the CA's key --------------------------------------------------------------------------------------------------


def test_with_a_passphrase_the_cas_key_is_encrypted_and_only_signing_asks_for_it(folder: Path) -> None:
    first = mint(folder, ORDER, NOW, passphrase=b"horse")
    assert (folder / "ca.pem").read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert mode(folder / "ca.pem") == 0o600
    assert mint(folder, ORDER, NOW) == first
    before = {p: p.read_bytes() for p in folder.glob("*.pem")}
    wider = Order(ORDER.name, ORDER.servers, clients=("private", "second"))
    for wrong, expected in ((None, "is encrypted"), (b"donkey", "does not open")):
        with pytest.raises(HybError, match=expected) as caught:
            mint(folder, wider, NOW, passphrase=wrong)
        assert caught.value.code == Exit.INPUT
        assert {p: p.read_bytes() for p in folder.glob("*.pem")} == before
    assert mint(folder, wider, NOW, passphrase=b"horse").clients["private"] == first.clients["private"]


def test_a_passphrase_for_a_key_that_is_open_is_spoken_of(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    notes = mint(folder, ORDER, NOW, passphrase=b"horse").notes
    assert len(notes) == 1 and "hyb link passphrase" in notes[0]


def test_a_ca_of_ones_own_is_kept_and_another_one_later_is_refused(folder: Path) -> None:
    own, other = (cs.make_ca("lab root", 100, NOW) for _ in "12")
    made = mint(folder, ORDER, NOW, authority=own, passphrase=b"horse")
    assert made.ca == own.certificate and b"ENCRYPTED" in (folder / "ca.pem").read_bytes()
    ends = {cs.load(p.certificate)[0].not_valid_after_utc for p in (own, *made.servers.values())}
    assert len(ends) == 1, "a certificate outlived its CA"
    assert mint(folder, ORDER, NOW, authority=own) == made
    with pytest.raises(HybError, match="has another CA already") as caught:
        mint(folder, ORDER, NOW, authority=other)
    assert "--ca FILE" in caught.value.hint


def test_with_a_clock_set_back_nothing_is_signed(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    early = NOW - timedelta(days=30)
    before = {p: p.read_bytes() for p in folder.glob("*.pem")}
    with pytest.raises(HybError, match="is not valid before") as caught:
        mint(folder, ORDER, early, renew=True)
    assert caught.value.code == Exit.CHECK
    assert {p: p.read_bytes() for p in folder.glob("*.pem")} == before
    assert all("check the clock" in note for note in mint(folder, ORDER, early).notes)


def test_a_ca_that_has_ended_signs_nothing(folder: Path) -> None:
    mint(folder, Order(ORDER.name, ORDER.servers, days=5, ca_days=5), NOW)
    wider = Order(ORDER.name, ORDER.servers, days=5, ca_days=5, clients=("private", "second"))
    with pytest.raises(HybError, match="expired on") as caught:
        mint(folder, wider, NOW + timedelta(days=6))
    assert caught.value.code == Exit.CHECK and "hyb link renew" in caught.value.hint


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"hyb-credentials": 1, "revoked": [1]}', '{"hyb-credentials": 1}'])
def test_a_damaged_state_is_an_error(folder: Path, text: str) -> None:
    mint(folder, ORDER, NOW)
    (folder / "state.json").write_text(text)
    with pytest.raises(HybError, match="damaged") as caught:
        mint(folder, ORDER, NOW)
    assert caught.value.code == Exit.CHECK


def test_a_state_of_a_newer_hyb_is_left_alone(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    text = (folder / "state.json").read_text().replace('"hyb-credentials": 1', '"hyb-credentials": 2')
    (folder / "state.json").write_text(text)
    with pytest.raises(HybError, match="newer hyb"):
        mint(folder, ORDER, NOW)
    assert (folder / "state.json").read_text() == text


@pytest.mark.parametrize("site", ["private", "p" * 63])
def test_no_common_name_is_a_host_that_a_router_might_dial(folder: Path, tmp_path: Path, site: str) -> None:
    """The router takes the CN for a name beside the DNS names."""
    made = mint(folder, Order(ORDER.name, ORDER.servers, clients=(site,)), NOW)
    leaf = cs.load(made.servers["chat"].certificate)[0]
    assert names.host_problem(cs.common_name(leaf)) and set(cs.names(leaf)) - {cs.common_name(leaf)} == set(HOSTS)
    given = made.client_data()
    with pytest.raises(ssl.SSLError, match="purpose"):  # whose CN may be a host, but is for clients
        handshake(tmp_path, given, given)


def test_long_names_of_sites_that_begin_alike_have_different_common_names() -> None:
    sites = ("s" * 62 + "a", "s" * 62 + "b", "s" * 59, "s" * 60)
    given = [client_name(site) for site in sites]
    assert len(set(given)) == 4 and max(map(len, given)) <= 64 and given[2] == "link-" + sites[2]
