"""Renewing without an outage: whatever each side has of two states next to each other, they make a session."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyb import certificates as cs
from hyb.credentials import Change, Credentials, Order, mint, renew, survey
from hyb.credentials.rotate import RELOAD
from hyb.errors import Exit, HybError
from tests.handshake import HOST, works
from tests.killing import killed_at
from tests.unprivileged import unprivileged

NOW = datetime.now(UTC)
ORDER = Order("van", {"chat": (HOST,)}, clients=("one", "two"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "credentials" / "link" / "van"


def changed(folder: Path, **more: object) -> Credentials:
    return renew(folder, "van", NOW, **more).credentials  # type: ignore[arg-type]


def all_work(place: Path, *made: Credentials) -> bool:
    """True when every private site of any of them and the server of any of them make a session."""
    return all(
        works(place, private.client_data(site), public.server_data())
        for private, public in itertools.product(made, made) for site in private.clients
    )  # fmt: skip


def test_new_certificates_of_the_same_ca_work_with_old_ones_in_every_combination(folder: Path, tmp_path: Path) -> None:
    old = mint(folder, ORDER, NOW)
    new = changed(folder)
    assert new.ca == old.ca
    assert not set(p.key for p in (*old.servers.values(), *old.clients.values())) & set(
        p.key for p in (*new.servers.values(), *new.clients.values())
    )
    assert all_work(tmp_path, old, new)
    for pair in (*old.servers.values(), *old.clients.values()):  # they overlap: the old ones last until their own end
        assert cs.lasting("", pair.certificate, NOW).state == "ok"


@pytest.mark.parametrize("passphrase", [None, b"horse"])
def test_a_new_ca_takes_three_steps_and_neighbours_always_understand_each_other(
    folder: Path, tmp_path: Path, passphrase: bytes | None
) -> None:
    states = [mint(folder, ORDER, NOW, passphrase=passphrase)]
    states.append(changed(folder, change_ca=True, passphrase=passphrase))
    states.append(changed(folder, passphrase=passphrase))  # a renewal in between goes no step further
    states.append(changed(folder, applied=True, passphrase=passphrase))
    states.append(mint(folder, ORDER, NOW))
    states.append(changed(folder, applied=True, passphrase=passphrase))
    for before, after in itertools.pairwise(states):
        assert all_work(tmp_path, before, after)
    steady, trust, _, switch, _, last = states
    assert [len(cs.load(made.ca)) for made in states] == [1, 2, 2, 2, 2, 1]
    assert last.ca != steady.ca and set(cs.load(trust.ca)) == set(cs.load(switch.ca))
    assert not works(tmp_path, steady.client_data("one"), switch.server_data()), "then no step would be needed"
    assert not works(tmp_path, last.client_data("one"), trust.server_data())
    assert (b"ENCRYPTED" in (folder / "ca.pem").read_bytes()) == bool(passphrase)
    assert {p.name for p in folder.glob("ca*")} == {"ca.pem"}


def test_each_step_says_where_it_is_and_what_comes_next(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    first = renew(folder, "van", NOW, change_ca=True)
    second = renew(folder, "van", NOW, applied=True)
    third = renew(folder, "van", NOW, applied=True)
    assert [made.phase for made in (first, second, third)] == ["trust", "switch", "steady"]
    assert all(made.done.startswith(f"step {n} of 3") for n, made in enumerate((first, second, third), 1))
    assert all("OpenShift" in made.steps[0] and "private" in made.steps[1] for made in (first, second, third))
    assert "`hyb link renew van --applied` makes certificates of the new CA" in first.then
    assert "`hyb link renew van --applied` takes the old CA away" in second.then
    with pytest.raises(HybError, match="is not being changed") as caught:
        renew(folder, "van", NOW, applied=True)
    assert caught.value.code == Exit.INPUT


def test_where_skuppers_controller_signs_neighbours_understand_each_other_too(folder: Path, tmp_path: Path) -> None:
    order = Order("van", {}, clients=("one",), issuer=True)
    changes = [{"change_ca": True}, {"applied": True}, {"applied": True}]
    states = [mint(folder, order, NOW), *(changed(folder, **more) for more in changes)]
    for before, after in itertools.pairwise(states):
        for private, public in itertools.product((before, after), repeat=2):
            assert works(tmp_path, private.client_data("one"), as_the_controller(public.issuer_data()))
    assert renew(folder, "van", NOW).steps == (RELOAD,), "the cluster's certificate is of the same CA still"
    assert any("oc delete secret" in step for step in renew(folder, "van", NOW, change_ca=True).steps)


def as_the_controller(issuer: dict[str, bytes]) -> dict[str, bytes]:
    """What Skupper's controller makes of an issuer: signed with the first certificate, all of them handed on."""
    ca = cs.Pair(issuer["tls.crt"], issuer["tls.key"])
    server = cs.make_leaf(ca, "hyb", 1800, NOW, hosts=(HOST,))
    return {"ca.crt": issuer["tls.crt"], "tls.crt": server.certificate, "tls.key": server.key}


def test_a_change_that_has_begun_is_not_begun_again(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    changed(folder, change_ca=True)
    before = (folder / "ca-next.pem").read_bytes()
    with pytest.raises(HybError, match="already, step 1 of 3") as caught:
        changed(folder, change_ca=True)
    assert "--applied" in caught.value.hint and (folder / "ca-next.pem").read_bytes() == before
    assert any("step 1 of 3" in note for note in mint(folder, ORDER, NOW).notes)


def test_a_change_to_a_ca_of_ones_own(folder: Path, tmp_path: Path) -> None:
    own = cs.make_ca("lab root", 1000, NOW)
    states = [mint(folder, ORDER, NOW), changed(folder, authority=own)]
    states += [changed(folder, applied=True), changed(folder, applied=True)]
    assert states[-1].ca == own.certificate
    assert all(all_work(tmp_path, *pair) for pair in itertools.pairwise(states))


def test_a_site_that_joins_while_the_ca_is_changed_works_at_every_step(folder: Path, tmp_path: Path) -> None:
    states = [mint(folder, ORDER, NOW), changed(folder, change_ca=True)]
    states.append(mint(folder, replace(ORDER, clients=(*ORDER.clients, "three")), NOW))
    states += [changed(folder, applied=True), changed(folder, applied=True)]
    assert "three" in states[-1].clients
    assert all(all_work(tmp_path, *pair) for pair in itertools.pairwise(states))


def test_lifetimes_are_remembered_and_can_be_chosen_anew(folder: Path) -> None:
    mint(folder, replace(ORDER, days=90, ca_days=900), NOW)
    assert days_of(changed(folder)) == {90}
    assert days_of(changed(folder, changed=lambda order: replace(order, days=40))) == {40}
    assert days_of(changed(folder)) == {40}


def days_of(made: Credentials) -> set[int]:
    pairs = (*made.servers.values(), *made.clients.values())
    return {round((cs.load(p.certificate)[0].not_valid_after_utc - NOW) / timedelta(days=1)) for p in pairs}


def test_a_ca_that_would_end_first_begins_to_be_changed(folder: Path, tmp_path: Path) -> None:
    old = mint(folder, replace(ORDER, days=30, ca_days=100), NOW)
    fine, late = NOW + timedelta(days=60), NOW + timedelta(days=80)
    assert renew(folder, "van", fine).phase == "steady"
    begun = renew(folder, "van", late)
    assert begun.phase == "trust" and any("a change of it begins" in note for note in begun.credentials.notes)
    assert renew(folder, "van", late).phase == "trust", "a job that runs every month must not go on by itself"
    end_of_ca = cs.load(old.ca)[0].not_valid_after_utc
    assert cs.lasting("", begun.credentials.server_data()["tls.crt"], late).ends <= end_of_ca
    ended = renew(folder, "van", late, applied=True)
    for private, public in itertools.product((begun.credentials, ended.credentials), repeat=2):
        assert cs.mistakes(private.client_data("one"), public.server_data(), (HOST,), late) == []
    assert renew(folder, "van", late, applied=True).phase == "steady"


@pytest.mark.parametrize("new_lasts", [0, 20, 500])
def test_a_ca_that_has_ended_is_replaced_as_nothing_is_left_to_be_gentle_with(folder: Path, new_lasts: int) -> None:
    old = mint(folder, replace(ORDER, days=10, ca_days=20), NOW)
    if new_lasts:  # in the middle of a change
        changed(folder, change_ca=True, changed=lambda order: replace(order, ca_days=new_lasts))
    later = NOW + timedelta(days=21)
    made = renew(folder, "van", later)
    assert old.ca not in made.credentials.ca or made.phase == "switch"
    data = made.credentials.client_data("one"), made.credentials.server_data()
    assert cs.mistakes(*data, (HOST,), later) == []
    assert (made.phase == "switch") == (new_lasts == 500)


def test_a_wrong_passphrase_changes_nothing_at_any_step(folder: Path) -> None:
    mint(folder, ORDER, NOW, passphrase=b"horse")
    for step in ({}, {"change_ca": True}, {"applied": True}):
        if step.get("applied"):
            changed(folder, change_ca=True, passphrase=b"horse")
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        for wrong in (None, b"donkey"):
            with pytest.raises(HybError, match=r"passphrase|is encrypted"):
                changed(folder, passphrase=wrong, **step)
            assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_link_without_credentials_is_not_renewed(folder: Path) -> None:
    with pytest.raises(HybError, match="no credentials of a link `van`"):
        changed(folder)
    assert not folder.exists()
    folder.mkdir(parents=True)
    with pytest.raises(HybError, match="no credentials of a link `van`"):
        changed(folder)


def test_a_ca_that_is_lost_in_the_middle_of_a_change_is_damage(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    changed(folder, change_ca=True)
    (folder / "ca.pem").unlink()
    with pytest.raises(HybError, match="missing while the CA is being changed") as caught:
        changed(folder)
    assert caught.value.code == Exit.CHECK


# -- killed, and two at once ---------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[Path], Change]] = {
    "renew": lambda folder: renew(folder, "van", NOW),
    "begin": lambda folder: renew(folder, "van", NOW, change_ca=True),
    "switch": lambda folder: renew(folder, "van", NOW, applied=True),
    "end": lambda folder: renew(folder, "van", NOW, applied=True),
}
BEFORE = {"renew": 0, "begin": 0, "switch": 1, "end": 2}


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_change_what_is_left_works_with_what_is_applied_and_the_step_can_be_taken_again(
    folder: Path, tmp_path: Path, step: str
) -> None:
    applied = mint(folder, ORDER, NOW)
    for _ in range(BEFORE[step]):
        applied = changed(folder, **({"applied": True} if (folder / "ca-next.pem").exists() else {"change_ca": True}))
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    points = 0
    for number in itertools.count(1):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        if not killed_at(number, lambda: STEPS[step](folder)):
            break
        points += 1
        left = mint(folder, ORDER, NOW)
        assert all_work(tmp_path, applied, left), number
        found = survey({"HYB_CREDENTIALS": str(folder.parent.parent)}, NOW)[0]
        assert {c.state for c in found.certificates} == {"ok"} and found.problems == ()
        try:
            ended = STEPS[step](folder).credentials
        except HybError as error:  # the step had been taken, and only its files were cleaned up
            assert "already" in error.message or "is not being changed" in error.message
            ended = changed(folder)
        assert all_work(tmp_path, left, ended), number
    assert points > 2
    assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]


def test_two_renewals_at_once_leave_one_set(folder: Path, tmp_path: Path) -> None:
    old = mint(folder, ORDER, NOW)
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            try:
                renew(folder, "van", NOW)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children] == [0, 0, 0]
    assert all_work(tmp_path, old, mint(folder, ORDER, NOW))


def test_a_folder_that_can_not_be_written_is_an_error_in_words(folder: Path) -> None:
    mint(folder, ORDER, NOW)
    folder.chmod(0o500)
    try:
        assert "can't keep credentials" in unprivileged(lambda: changed(folder))
    finally:
        folder.chmod(0o700)


def test_a_full_disk_leaves_every_certificate_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyb import fs

    old = mint(folder, ORDER, NOW)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "write_atomic", full)
        for more in ({}, {"change_ca": True}):
            with pytest.raises(HybError, match="no space left on device"):
                changed(folder, **more)
    assert mint(folder, ORDER, NOW) == old
