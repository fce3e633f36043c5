"""`hyb link list`, `renew`, `revoke`, `passphrase`: as a person meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyb.certificates import make_ca
from hyb.stages import link
from hyb.stages.base import Context
from hyb.store import Store
from tests.hyb import Hyb

NAME = "link-public.chat"


@pytest.fixture
def home(tmp_path: Path) -> Hyb:
    """A store with one link, `van`, and its folder written beside."""
    hyb = Hyb(tmp_path)
    store = Store(hyb.store)
    service = store.add_artifact("service", [], meta={"name": "bot", "port": 8000, "host": "127.0.0.1"})
    spec = link.Spec(service="service", namespace="chat", apps_domain="apps.example.com")
    store.tag("van", link.run(spec, {"service": service}, Context(store, tmp_path / "work")).digest)
    return hyb


def run(home: Hyb, *arguments: str, **more: str) -> str:
    return home.ok("link", *arguments, cwd=home.home, env=more)


def fails(home: Hyb, code: int, *arguments: str) -> str:
    return home.fails(code, "link", *arguments, cwd=home.home)


def secret_file(home: Hyb, name: str, text: str, mode: int = 0o600) -> str:
    path = home.home / name
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_before_the_first_link_there_is_nothing_and_each_command_says_so(home: Hyb) -> None:
    assert "no credentials of a link" in run(home, "list")
    assert home.json("link", "list", cwd=home.home) == []
    for words in (("renew",), ("revoke", "--site", "private"), ("passphrase", "--remove")):
        assert "no link has credentials yet" in fails(home, 3, *words)
    assert "no link `nobody` has credentials" in fails(home, 3, "renew", "nobody")


def test_a_link_from_its_first_certificates_over_a_new_ca_to_a_revocation(home: Hyb) -> None:
    run(home, "van")
    assert run(home, "list").count(" ok") == 3
    for words, step in ((("--new-ca",), 1), (("--applied",), 2), (("--applied",), 3)):
        told = run(home, "renew", *words)
        assert f"{NAME}: step {step} of 3" in told and "wrote link/openshift/Secret-hyb-link-server.yaml" in told
        assert told.index("1. OpenShift") < told.index("2. each private host")
    assert "is not being changed" in fails(home, 3, "renew", "--applied")
    assert "would revoke the site `private`" in run(home, "revoke", "--site", "private", "--dry-run")
    assert "say which link" in fails(home, 2, "revoke")
    assert (home.home / "link/private").exists()
    told = run(home, "revoke", "van", "--site", "private")
    assert f"{NAME}: revoked `private`" in told and not (home.home / "link/private").exists()
    assert f"{NAME}: revoked: private" in run(home, "list")
    assert "was revoked" in fails(home, 4, "van")
    run(home, "revoke", "--site", "private", "--undo")
    run(home, "van")
    assert (home.home / "link/private").exists()


def test_the_list_as_json_holds_ends_and_states_and_no_secret(home: Hyb) -> None:
    run(home, "van")
    text = home.ok("link", "list", "--json", cwd=home.home)
    assert "PRIVATE" not in text and "BEGIN" not in text
    (one,) = home.json("link", "list", cwd=home.home)
    assert (one["name"], one["phase"], one["encrypted"], one["revoked"], one["problems"]) == (
        NAME, "steady", False, [], []
    )  # fmt: skip
    assert [(c["what"], c["for"], c["state"]) for c in one["certificates"]] == [
        ("CA", "", "ok"), ("server", "chat", "ok"), ("client", "private", "ok")
    ]  # fmt: skip
    assert all(c["not_after"].endswith("+00:00") and c["days"] > 300 for c in one["certificates"])


def test_the_key_of_the_ca_behind_a_passphrase_file(home: Hyb) -> None:
    horse, donkey = (secret_file(home, name, f"{name}\n") for name in ("horse", "donkey"))
    run(home, "van", "--ca-passphrase-file", horse)
    assert "the CA's key is encrypted" in run(home, "list")
    run(home, "van")  # the certificates are there: nothing is signed, nothing is asked
    assert "is encrypted" in fails(home, 3, "renew")
    assert "does not open" in fails(home, 3, "renew", "--ca-passphrase-file", donkey)
    run(home, "renew", HYB_LINK_CA_PASSPHRASE_FILE=horse)
    run(home, "passphrase", "--ca-passphrase-file", horse, "--new", donkey)
    run(home, "renew", "--ca-passphrase-file", donkey)
    run(home, "passphrase", "--ca-passphrase-file", donkey, "--remove")
    run(home, "renew")
    shown = secret_file(home, "shown", "x\n", 0o644)
    assert "other users can get at" in fails(home, 3, "renew", "--ca-passphrase-file", shown)
    assert "either `--new FILE` or `--remove`" in fails(home, 2, "passphrase")


def test_a_ca_of_ones_own_for_a_new_link_and_for_one_that_runs(home: Hyb) -> None:
    from datetime import UTC, datetime

    first, second = (make_ca("lab root", 1000, datetime.now(UTC)) for _ in "12")
    one = secret_file(home, "one.pem", (first.certificate + first.key).decode())
    certificate = secret_file(home, "two.crt", second.certificate.decode(), 0o644)
    key = secret_file(home, "two.key", second.key.decode())
    run(home, "van", "--ca", one)
    assert "has another CA already" in fails(home, 3, "van", "--ca", certificate, "--ca-key", key)
    run(home, "renew", "--ca", certificate, "--ca-key", key)
    run(home, "renew", "--applied")
    run(home, "renew", "--applied")
    run(home, "van", "--ca", certificate, "--ca-key", key)
    Path(key).chmod(0o640)
    assert "other users can get at the key of the CA" in fails(home, 3, "van", "--ca", certificate, "--ca-key", key)
    assert "there is no private key" in fails(home, 3, "van", "--ca", certificate)
    assert "`--ca-key` needs `--ca`" in fails(home, 2, "van", "--ca-key", key)


def test_with_several_links_a_name_is_needed(home: Hyb) -> None:
    run(home, "van")
    folder = home.home / "data/hyb/credentials/link"
    (folder / "other").mkdir()
    told = fails(home, 2, "renew")
    assert "which link?" in told and f"`{NAME}`, `other`" in told
    assert "no credentials of a link `other`" in fails(home, 3, "renew", "other")
    assert "made new certificates" in run(home, "renew", NAME)


def test_a_folder_that_is_not_here_has_to_be_written_later(home: Hyb, tmp_path: Path) -> None:
    run(home, "van", "--out", "elsewhere")
    assert "first write the link's folder again" in run(home, "renew")
    assert "wrote elsewhere/private/" in run(home, "renew", "--out", "elsewhere")
    assert "is no folder of the link" in fails(home, 3, "renew", "--out", "nowhere")


def test_doctor_speaks_of_what_ends_soon(home: Hyb) -> None:
    run(home, "van")
    assert not [f for f in home.json("doctor") if f["name"].startswith("link")]
    run(home, "renew", "--days", "20")
    told = [f["found"] for f in home.json("doctor") if f["name"] == f"link {NAME}"]
    assert len(told) == 2 and all("expires on" in text and "in 19 days" in text for text in told)
    assert run(home, "list").count(" soon") == 2
