"""Files that a person brings: the passphrase of the CA's key, and a CA of their own."""

from __future__ import annotations

import itertools
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyb import certificates as cs
from hyb.credentials import Order, change_passphrase, mint, read_authority, read_passphrase, renew
from hyb.errors import Exit, HybError
from tests.handshake import HOST
from tests.killing import killed_at

NOW = datetime.now(UTC)
ORDER = Order("van", {"chat": (HOST,)})
CA = cs.make_ca("lab root", 400, NOW)


def private(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


# -- the passphrase ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"horse", b"horse\n", b"horse\r\n", b"horse\nsecond line\n"])
def test_the_first_line_is_the_passphrase(tmp_path: Path, data: bytes) -> None:
    assert read_passphrase(private(tmp_path / "p", data)) == b"horse"


def test_blanks_and_letters_beyond_ascii_belong_to_it(tmp_path: Path) -> None:
    assert read_passphrase(private(tmp_path / "p", " zwölf horses \n".encode())) == " zwölf horses ".encode()


def test_a_pipe_will_do(tmp_path: Path) -> None:
    inward, outward = os.pipe()
    os.write(outward, b"horse\n")
    os.close(outward)
    try:
        assert read_passphrase(Path(f"/dev/fd/{inward}")) == b"horse"
    finally:
        os.close(inward)


@pytest.mark.parametrize(
    ("data", "mode", "expected"),
    [
        (b"", 0o600, "is empty"),
        (b"\nhorse\n", 0o600, "is empty"),
        (b"  \n", 0o600, "is empty"),
        (b"x" * 1024, 0o600, "1023 are the most"),
        (b"x" * (1 << 21), 0o600, "more than 1 MB"),
        (b"horse", 0o644, "other users can get at"),
        (b"horse", 0o620, "other users can get at"),
    ],
)
def test_a_file_that_will_not_do_is_refused_and_left_as_it_is(
    tmp_path: Path, data: bytes, mode: int, expected: str
) -> None:
    path = private(tmp_path / "p", data, mode)
    with pytest.raises(HybError, match=expected) as caught:
        read_passphrase(path)
    assert caught.value.code == Exit.INPUT
    assert path.stat().st_mode & 0o777 == mode


def test_a_file_that_is_not_there_or_is_a_folder_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(HybError, match="no such file"):
        read_passphrase(tmp_path / "p")
    (tmp_path / "d").mkdir(mode=0o700)
    with pytest.raises(HybError, match="is a directory"):
        read_passphrase(tmp_path / "d")


def test_it_can_be_given_changed_and_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "credentials" / "link" / "van"
    made = mint(folder, ORDER, NOW)
    key = cs.private_key(cs.split_pem((folder / "ca.pem").read_bytes()).key).private_numbers()
    for old, new in ((None, b"horse"), (b"horse", b"donkey"), (b"donkey", None), (b"any", b"horse")):
        change_passphrase(folder, "van", old, new)
        pair = cs.split_pem((folder / "ca.pem").read_bytes())
        assert cs.is_encrypted(pair.key) == bool(new) and (folder / "ca.pem").stat().st_mode & 0o777 == 0o600
        assert cs.private_key(pair.key, new).private_numbers() == key
        assert mint(folder, ORDER, NOW) == made


@pytest.mark.parametrize("old", [None, b"donkey"])
def test_changing_it_without_the_old_one_changes_nothing(tmp_path: Path, old: bytes | None) -> None:
    folder = tmp_path / "credentials" / "link" / "van"
    mint(folder, ORDER, NOW, passphrase=b"horse")
    before = (folder / "ca.pem").read_bytes()
    for new in (None, b"new"):
        with pytest.raises(HybError, match="passphrase"):
            change_passphrase(folder, "van", old, new)
    assert (folder / "ca.pem").read_bytes() == before


def test_both_cas_of_a_change_get_it_and_a_killed_call_is_ended_by_the_same_call(tmp_path: Path) -> None:
    folder = tmp_path / "credentials" / "link" / "van"
    mint(folder, ORDER, NOW, passphrase=b"horse")
    renew(folder, "van", NOW, change_ca=True, passphrase=b"horse")
    shutil.copytree(folder, tmp_path / "kept")
    for number in itertools.count(1):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)
        if not killed_at(number, lambda: change_passphrase(folder, "van", b"horse", b"donkey")):
            break
        change_passphrase(folder, "van", b"horse", b"donkey")
        assert renew(folder, "van", NOW, applied=True, passphrase=b"donkey").phase == "switch"
    assert number > 3


def test_a_link_without_credentials_has_no_passphrase(tmp_path: Path) -> None:
    with pytest.raises(HybError, match="no credentials of a link"):
        change_passphrase(tmp_path / "credentials" / "link" / "van", "van", None, b"x")


# -- a CA of one's own ---------------------------------------------------------------------------------------------


def test_a_ca_in_one_file_or_in_two(tmp_path: Path) -> None:
    both = private(tmp_path / "both.pem", CA.certificate + CA.key)
    certificate, key = private(tmp_path / "ca.crt", CA.certificate, 0o644), private(tmp_path / "ca.key", CA.key)
    assert read_authority(both, None, NOW) == read_authority(certificate, key, NOW) == CA


def test_the_key_may_be_in_openssls_older_forms(tmp_path: Path) -> None:
    rsa_ca = cs.make_ca("lab root", 400, NOW, for_skupper=True)
    path = private(tmp_path / "ca.pem", cs.in_pkcs1(rsa_ca.key) + rsa_ca.certificate)
    assert read_authority(path, None, NOW, for_skupper=True) == rsa_ca


def test_an_encrypted_key_needs_the_passphrase(tmp_path: Path) -> None:
    locked = cs.encrypted(CA, b"horse")
    path = private(tmp_path / "ca.pem", locked.certificate + locked.key)
    assert read_authority(path, None, NOW, passphrase=b"horse") == CA
    for wrong, expected in ((None, "give `--ca-passphrase-file FILE`"), (b"donkey", "isn't opened by this passphrase")):
        with pytest.raises(HybError) as caught:
            read_authority(path, None, NOW, passphrase=wrong)
        assert expected in caught.value.details[0]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660])
def test_a_key_that_others_can_read_is_refused_and_not_closed(tmp_path: Path, mode: int) -> None:
    both = private(tmp_path / "both.pem", CA.certificate + CA.key, mode)
    certificate, key = private(tmp_path / "ca.crt", CA.certificate), private(tmp_path / "ca.key", CA.key, mode)
    for paths in ((both, None), (certificate, key)):
        with pytest.raises(HybError, match="other users can get at the key") as caught:
            read_authority(*paths, NOW)
        assert "chmod 0600" in caught.value.hint
    assert both.stat().st_mode & 0o777 == key.stat().st_mode & 0o777 == mode


def test_everything_that_is_wrong_is_told_together(tmp_path: Path) -> None:
    other = cs.make_ca("other", 400, NOW)
    path = private(tmp_path / "ca.pem", CA.certificate + other.key)
    with pytest.raises(HybError, match="can't be the CA of a link") as caught:
        read_authority(path, None, NOW + timedelta(days=500))
    assert caught.value.code == Exit.INPUT
    assert ["expired" in caught.value.details[0], "another CA's" in caught.value.details[1]] == [True, True]


@pytest.mark.parametrize("data", [b"", b"hello", b"\x30\x82\x01\x0a" * 9, CA.certificate])
def test_a_file_that_holds_no_ca_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(HybError, match="can't be the CA"):
        read_authority(private(tmp_path / "ca.pem", data), None, NOW)


def test_two_keys_are_one_too_many(tmp_path: Path) -> None:
    both, key = private(tmp_path / "both.pem", CA.certificate + CA.key), private(tmp_path / "ca.key", CA.key)
    with pytest.raises(HybError) as caught:
        read_authority(both, key, NOW)
    assert "more than one private key" in caught.value.details[0]
