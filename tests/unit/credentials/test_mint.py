"""Credentials of a link: minted once, private, whole after any kill."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyb import certificates as cs
from hyb import fs
from hyb.credentials import Order, link_folder, mint
from hyb.errors import Exit, HybError

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
