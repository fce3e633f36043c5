"""What `hyb link list` and `hyb doctor` see: all that is there, whatever its state, and never a secret."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyb.credentials import Order, Surveyed, known, mint, renew, revoke, survey
from hyb.errors import HybError
from tests.handshake import HOST
from tests.unprivileged import unprivileged

NOW = datetime.now(UTC)
ORDER = Order("van", {"chat": (HOST,)})


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HYB_CREDENTIALS": str(tmp_path / "credentials")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "credentials" / "link" / "van"


def one(environ: dict[str, str], now: datetime = NOW) -> Surveyed:
    found = survey(environ, now)
    assert len(found) == 1
    return found[0]


def states(found: Surveyed) -> dict[str, str]:
    return {f"{c.what} {c.name}".strip(): c.state for c in found.certificates}


def test_nothing_is_there_before_the_first_link(environ: dict[str, str], tmp_path: Path) -> None:
    assert survey(environ, NOW) == [] and known(environ) == []
    assert not (tmp_path / "credentials").exists()
    with pytest.raises(HybError, match="no place for credentials"):
        survey({}, NOW)


def test_every_certificate_is_listed_with_its_end_and_no_secret(environ: dict[str, str], folder: Path) -> None:
    mint(folder, ORDER, NOW)
    mint(folder.with_name("abc"), Order("abc", {"lab": (HOST,)}, clients=("one", "two")), NOW)
    first, second = survey(environ, NOW)
    assert (first.name, second.name) == ("abc", "van") and known(environ) == ["abc", "van"]
    assert states(first) == {"CA": "ok", "server lab": "ok", "client one": "ok", "client two": "ok"}
    ca, server, client = second.certificates
    assert ca.ends == NOW.replace(microsecond=0) + timedelta(days=1826) and server.hosts == (HOST,)
    assert client.days == 364 and second.problems == () and not second.encrypted
    assert "PRIVATE" not in repr(second) and "BEGIN" not in repr(second)


def test_it_changes_nothing_not_even_a_lock(environ: dict[str, str], folder: Path) -> None:
    mint(folder, ORDER, NOW)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_atime_ns and p.read_bytes()) for p in folder.iterdir()}
    survey(environ, NOW)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_atime_ns and p.read_bytes()) for p in folder.iterdir()} == before


def test_soon_expired_and_not_yet(environ: dict[str, str], folder: Path) -> None:
    mint(folder, ORDER, NOW)
    assert set(states(one(environ, NOW + timedelta(days=336))).values()) == {"ok", "soon"}
    assert states(one(environ, NOW + timedelta(days=400)))["client private"] == "expired"
    assert set(states(one(environ, NOW - timedelta(days=1))).values()) == {"not yet"}


def test_a_change_of_the_ca_is_seen(environ: dict[str, str], folder: Path) -> None:
    mint(folder, ORDER, NOW, passphrase=b"horse")
    renew(folder, "van", NOW, change_ca=True, passphrase=b"horse")
    found = one(environ)
    assert found.phase == "trust" and found.encrypted
    assert states(found) == {"CA": "ok", "new CA": "ok", "server chat": "ok", "client private": "ok"}
    renew(folder, "van", NOW, applied=True, passphrase=b"horse")
    found = one(environ)
    assert found.phase == "switch" and "old CA" in states(found)


def test_revoked_sites_are_named(environ: dict[str, str], folder: Path) -> None:
    mint(folder, ORDER, NOW)
    revoke(folder, "van", NOW, site="private")
    found = one(environ)
    assert found.revoked == ("private",) and set(states(found)) == {"CA", "server chat"}


@pytest.mark.parametrize("name", ["ca.pem", "server-chat.pem", "client-private.pem"])
@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff\xfe"])
def test_a_damaged_file_is_a_line_and_not_an_error(
    environ: dict[str, str], folder: Path, name: str, data: bytes
) -> None:
    mint(folder, ORDER, NOW)
    (folder / name).write_bytes(data)
    assert list(states(one(environ)).values()).count("damaged") == 1


def test_a_certificate_of_another_ca_is_told(environ: dict[str, str], folder: Path) -> None:
    mint(folder, ORDER, NOW)
    other = folder.with_name("other")
    mint(other, Order("other", {"chat": (HOST,)}), NOW)
    (other / "client-private.pem").replace(folder / "client-private.pem")
    found = next(f for f in survey(environ, NOW) if f.name == "van")
    assert states(found)["client private"] == "not of this CA"


def test_what_else_is_wrong_with_a_folder_is_told(environ: dict[str, str], folder: Path, tmp_path: Path) -> None:
    mint(folder, ORDER, NOW)
    (folder / "ca.pem").chmod(0o644)
    (folder / "state.json").write_text("{")
    folder.with_name("empty").mkdir()
    folder.with_name("link").symlink_to(tmp_path)
    folder.with_name("a file").write_text("")
    problems = {f.name: "; ".join(f.problems) for f in survey(environ, NOW)}
    assert "there is no CA" in problems["empty"] and "symbolic link" in problems["link"]
    assert "open to other users" in problems["van"] and "is damaged" in problems["van"]
    assert "a file" not in problems


def test_a_folder_that_can_not_be_read_is_told(environ: dict[str, str], folder: Path) -> None:
    mint(folder, ORDER, NOW)
    folder.chmod(0)
    try:
        assert unprivileged(lambda: one(environ).problems) == '("the folder can\'t be read",)'
    finally:
        folder.chmod(0o700)
