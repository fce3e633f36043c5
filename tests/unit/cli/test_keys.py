"""`hyb key` from its command line to its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyb.cli.commands import run_command
from hyb.serving import keys

Key = Callable[..., tuple[int, str, str]]


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Key:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def run(*arguments: str) -> tuple[int, str, str]:
        status = run_command("key", list(arguments))
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_a_key_is_printed_once_and_alone_on_stdout(key: Key, tmp_path: Path) -> None:
    status, out, err = key("add", "bot", "--label", "web", "--rpm", "3")
    plain = out.strip()
    assert (status, plain.count("\n")) == (0, 0)
    assert plain.startswith(keys.PREFIX)
    assert "once" in err
    assert plain not in "".join(p.read_text() for p in tmp_path.rglob("*.json"))


def test_the_list_has_all_services_or_one(key: Key) -> None:
    assert "no keys" in key("list")[1]
    key("add", "bot", "--label", "web", "--tokens-per-day", "9")
    key("add", "cat", "--label", "app")
    assert [k["label"] for k in json.loads(key("list", "--json")[1])] == ["web", "app"]
    one: list[dict[str, Any]] = json.loads(key("list", "bot", "--json")[1])
    assert [(k["tokens_per_day"], k["tokens_today"]) for k in one] == [(9, 0)]
    assert not any("sha256" in k for k in one)


def test_a_key_is_revoked_by_its_id_or_label(key: Key) -> None:
    for which in ("id", "label"):
        made = json.loads(key("add", "bot", "--label", which, "--json")[1])
        assert key("revoke", "bot", made[which])[0] == 0
    assert all(k["revoked"] for k in json.loads(key("list", "bot", "--json")[1]))


def test_a_dry_run_does_nothing(key: Key, tmp_path: Path) -> None:
    assert "would add" in key("add", "bot", "--label", "web", "--dry-run")[1]
    assert not list(tmp_path.rglob("*.keys.json"))
    key("add", "bot", "--label", "web")
    assert "would revoke" in key("revoke", "bot", "web", "--dry-run")[1]
    assert not json.loads(key("list", "--json")[1])[0]["revoked"]


@pytest.mark.parametrize(("arguments", "status", "hint"), [
    (("make", "bot"), 2, "--help"), (("add",), 2, "name"), (("add", "../bot", "--label", "x"), 3, ""),
    (("add", "bot"), 3, ""), (("revoke", "bot"), 2, "hyb key list bot"), (("revoke", "bot", "nix"), 3, "none"),
])  # fmt: skip
def test_mistakes_say_what_to_do(key: Key, arguments: tuple[str, ...], status: int, hint: str) -> None:
    found, _, err = key(*arguments)
    assert found == status
    assert err.startswith("error: ")
    assert hint in err
