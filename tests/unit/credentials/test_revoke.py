"""Revoking: what was given to a site is refused by a real handshake, and everybody else goes on."""

from __future__ import annotations

import itertools
import shutil
import ssl
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hyb import certificates as cs
from hyb.credentials import Order, mint, readmit, renew, revoke, survey
from hyb.errors import Exit, HybError
from tests.handshake import HOST, handshake, works
from tests.killing import killed_at

NOW = datetime.now(UTC)
ORDER = Order("van", {"chat": (HOST,)}, clients=("one", "two", "three"))
REST = replace(ORDER, clients=("one", "three"))
CUT = {"skupper.io/tls-prior-valid-revisions": "0"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "credentials" / "link" / "van"


def test_a_revoked_site_is_refused_and_the_others_pass(folder: Path, tmp_path: Path) -> None:
    old = mint(folder, ORDER, NOW)
    made = revoke(folder, "van", NOW, site="two").credentials
    assert set(made.clients) == {"one", "three"} and not (folder / "client-two.pem").exists()
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, old.client_data("two"), made.server_data())
    with pytest.raises(ssl.SSLError):  # it may trust the new CA, and is refused all the same
        handshake(tmp_path, {**old.client_data("two"), "ca.crt": made.ca}, made.server_data())
    assert works(tmp_path, made.client_data("one"), made.server_data())
    assert works(tmp_path, made.client_data("three"), made.server_data())
    assert mint(folder, REST, NOW) == replace(made, notes=())


def test_openshift_closes_what_the_old_certificates_opened_until_all_is_applied(folder: Path) -> None:
    assert mint(folder, ORDER, NOW).annotations == {}
    change = revoke(folder, "van", NOW, site="two")
    assert change.credentials.annotations == CUT
    first, second, third = change.steps
    assert "don't reload yet" in first and "OpenShift" in second and "reload" in third
    again = renew(folder, "van", NOW).credentials  # nobody has said that the revocation was applied
    assert again.annotations == CUT and any("--applied" in note for note in again.notes)
    said = renew(folder, "van", NOW, applied=True)
    assert said.steps == () and said.credentials.annotations == {} and said.credentials.servers == again.servers
    assert mint(folder, REST, NOW).annotations == {}


def test_where_skuppers_controller_signs_its_router_is_restarted_as_the_word_would_be_lost(folder: Path) -> None:
    mint(folder, Order("van", {}, clients=("one", "two"), issuer=True), NOW)
    made = revoke(folder, "van", NOW, site="two")
    assert cs.is_rsa(made.credentials.ca) and made.credentials.issuer
    order = ["private host", "oc apply", "oc delete secret", "oc rollout restart deployment/skupper-router", "reload"]
    assert len(made.steps) == 5 and all(word in step for word, step in zip(order, made.steps, strict=True))
    with pytest.raises(HybError, match="RSA only"):
        revoke(folder, "van", NOW, site="one", authority=cs.make_ca("own", 100, NOW))


def test_a_revoked_site_gets_no_new_certificate_until_it_is_let_in_again(folder: Path, tmp_path: Path) -> None:
    old = mint(folder, ORDER, NOW)
    revoke(folder, "van", NOW, site="two")
    with pytest.raises(HybError, match="`two` of `van` was revoked") as caught:
        mint(folder, ORDER, NOW)
    assert caught.value.code == Exit.CHECK and "--undo" in caught.value.hint
    assert not (folder / "client-two.pem").exists()
    readmit(folder, "van", "two")
    made = mint(folder, ORDER, NOW)
    assert works(tmp_path, made.client_data("two"), made.server_data())
    assert not works(tmp_path, {**old.client_data("two"), "ca.crt": made.ca}, made.server_data())
    with pytest.raises(HybError, match="is not revoked"):
        readmit(folder, "van", "two")


def test_without_a_site_every_certificate_that_was_ever_made_is_worthless(folder: Path, tmp_path: Path) -> None:
    old = mint(folder, ORDER, NOW)
    made = revoke(folder, "van", NOW).credentials
    assert set(made.clients) == set(ORDER.clients)
    for site in ORDER.clients:
        assert not works(tmp_path, {**old.client_data(site), "ca.crt": made.ca}, made.server_data())
        assert works(tmp_path, made.client_data(site), made.server_data())


def test_in_the_middle_of_a_change_of_the_ca_neither_of_the_two_is_trusted_any_more(
    folder: Path, tmp_path: Path
) -> None:
    states = [mint(folder, ORDER, NOW), renew(folder, "van", NOW, change_ca=True).credentials]
    states.append(renew(folder, "van", NOW, applied=True).credentials)
    made = revoke(folder, "van", NOW, site="two").credentials
    assert len(cs.load(made.ca)) == 1 and {p.name for p in folder.glob("ca*")} == {"ca.pem"}
    for old in states:
        assert not works(tmp_path, {**old.client_data("two"), "ca.crt": made.ca}, made.server_data())
    assert works(tmp_path, made.client_data("one"), made.server_data())


def test_the_only_site_can_be_revoked_and_its_server_still_refuses_it(folder: Path, tmp_path: Path) -> None:
    old = mint(folder, Order("van", {"chat": (HOST,)}), NOW)
    made = revoke(folder, "van", NOW, site="private").credentials
    assert made.clients == {}
    assert not works(tmp_path, {**old.client_data(), "ca.crt": made.ca}, made.server_data())


def test_two_sites_can_be_revoked_one_after_the_other(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    revoke(folder, "van", NOW, site="two")
    made = revoke(folder, "van", NOW, site="one").credentials
    assert set(made.clients) == {"three"}
    found = survey({"HYB_CREDENTIALS": str(folder.parent.parent)}, NOW)[0]
    assert found.revoked == ("two", "one")


@pytest.mark.parametrize(
    ("site", "expected"), [("four", "no certificate of a private site `four`"), ("../ca", "no certificate of a")]
)
def test_a_site_that_is_not_there_changes_nothing(folder: Path, site: str, expected: str) -> None:
    old = mint(folder, ORDER, NOW)
    with pytest.raises(HybError, match=expected) as caught:
        revoke(folder, "van", NOW, site=site)
    assert "`one`, `three`, `two`" in caught.value.hint
    assert mint(folder, ORDER, NOW) == old


def test_a_second_revocation_of_a_site_says_so_and_changes_nothing(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    revoke(folder, "van", NOW, site="two")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(HybError, match="is revoked already"):
        revoke(folder, "van", NOW, site="two")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_an_encrypted_ca_stays_encrypted_and_a_wrong_passphrase_changes_nothing(folder: Path) -> None:
    mint(folder, ORDER, NOW, passphrase=b"horse")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for wrong in (None, b"donkey"):
        with pytest.raises(HybError, match=r"is encrypted|does not open"):
            revoke(folder, "van", NOW, site="two", passphrase=wrong)
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    revoke(folder, "van", NOW, site="two", passphrase=b"horse")
    assert (folder / "ca.pem").read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_killed_at_any_change_it_is_either_not_begun_or_nothing_is_given_out_until_it_is_ended(
    folder: Path, tmp_path: Path
) -> None:
    old = mint(folder, ORDER, NOW)
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    refused = 0
    for number in itertools.count(1):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        if not killed_at(number, lambda: revoke(folder, "van", NOW, site="two")):
            break
        found = survey({"HYB_CREDENTIALS": str(folder.parent.parent)}, NOW)[0]
        if not found.revoked:  # not begun
            assert mint(folder, ORDER, NOW) == old
            continue
        unfinished = any("was cut short" in problem for problem in found.problems)
        if unfinished:
            refused += 1
            for work in (lambda: mint(folder, REST, NOW), lambda: renew(folder, "van", NOW)):
                with pytest.raises(HybError, match="was cut short") as caught:
                    work()
                assert caught.value.code == Exit.CHECK and "`hyb link revoke van`" in caught.value.hint
            revoke(folder, "van", NOW)
        made = mint(folder, REST, NOW)
        assert made.annotations == CUT
        assert not works(tmp_path, {**old.client_data("two"), "ca.crt": made.ca}, made.server_data()), number
        assert works(tmp_path, made.client_data("one"), made.server_data()), number
        assert not (folder / "client-two.pem").exists()
    assert refused > 5
