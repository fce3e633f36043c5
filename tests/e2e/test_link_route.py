"""`hyb link route` as a program: blue and green, what it prints, its exit codes, its JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyb.store import Store
from tests.hyb import Hyb
from tests.parrot import Parrot


@pytest.fixture
def birds() -> Iterator[tuple[Parrot, Parrot]]:
    with Parrot() as blue, Parrot() as green:
        yield blue, green


@pytest.fixture
def hyb(tmp_path: Path, birds: tuple[Parrot, Parrot]) -> Hyb:
    """A home with a link to blue in `link`."""
    found = Hyb(tmp_path / "hóme")
    found.home.mkdir()
    store = Store(found.store)
    meta = {"name": "bot", "port": port(birds[0]), "host": "127.0.0.1", "targets": ["quadlet"]}
    store.tag("service", store.add_artifact("service", [], meta=meta).digest)
    found.ok("link", "service", "--namespace", "chat", "--apps-domain", "apps.example.com", cwd=found.home)
    return found


def port(bird: Parrot) -> int:
    return int(bird.server.server_address[1])


def test_blue_and_green_change_places_and_back(hyb: Hyb, birds: tuple[Parrot, Parrot]) -> None:
    at = f"green=127.0.0.1:{port(birds[1])}"
    shown = hyb.json("link", "route", "link", "--show", cwd=hyb.home)
    assert [(s["name"], s["percent"], s["active"]) for s in shown["services"]] == [("llm", 100, True)]
    diff = hyb.ok("link", "route", "link", "green", "--at", at, "--dry-run", cwd=hyb.home)
    assert "+++ b/private/Connector-green.yaml" in diff and "would be left to run: hyb link reload" in diff
    assert hyb.json("link", "route", "link", "--show", cwd=hyb.home) == shown
    done = hyb.json("link", "route", "link", "green", "--at", at, "--offline", cwd=hyb.home)
    assert set(done["asked"]) == {"green"} and done["reloaded"] is False
    assert done["changed"]["private/Connector-llm.yaml"]["after"] is None
    assert "already: nothing to do" in hyb.ok("link", "route", "link", "green", cwd=hyb.home)
    text = hyb.ok("link", "route", "link", "--weights", "llm=75,green=25", cwd=hyb.home)
    assert "oc delete listener llm -n chat" in text and "75 %" in text
    hyb.ok("link", "route", "link", "--back", cwd=hyb.home)
    assert hyb.ok("link", "route", "--show", cwd=hyb.home).count("aside") == 1


def test_a_target_that_is_down_is_exit_4_and_nothing_is_written(hyb: Hyb, birds: tuple[Parrot, Parrot]) -> None:
    birds[1].mode = "close"
    before = {p: p.read_bytes() for p in (hyb.home / "link").rglob("*") if p.is_file()}
    at = f"green=127.0.0.1:{port(birds[1])}"
    said = hyb.fails(4, "link", "route", "link", "green", "--at", at, cwd=hyb.home)
    assert "`green` does not answer, so nothing was moved" in said
    assert {p: p.read_bytes() for p in (hyb.home / "link").rglob("*") if p.is_file()} == before
    error = json.loads(hyb("link", "route", "link", "green", "--at", at, "--json", cwd=hyb.home).stdout)["error"]
    assert error["code"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("link",), 2, "give one of SERVICE"),
        (("link", "llm", "--back"), 2, "give one of SERVICE"),
        (("link", "--weights", "llm"), 2, "is no weight"),
        (("link", "--weights", "llm=0"), 2, "give nobody anything"),
        (("link", "x", "--at", "x=1"), 2, "is no service"),
        (("link", "red"), 3, "no service `red` in this link"),
        (("link", "--back"), 3, "nothing was moved here yet"),
        (("elsewhere", "--show"), 3, "no link in `elsewhere`"),
        ((".", "--show"), 3, "was not written by hyb"),
        (("link", "llm", "--key-file", "/nonexistent", "--unchecked"), 0, "nothing to do"),
    ],
)
def test_bad_input_is_told(hyb: Hyb, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = hyb("link", "route", *arguments, cwd=hyb.home)
    assert done.returncode == code and said in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_an_edited_folder_is_left_alone(hyb: Hyb) -> None:
    (hyb.home / "link/private/mine.yaml").write_text("kind: ConfigMap")
    assert "was edited since hyb wrote it" in hyb.fails(3, "link", "route", "link", "llm", cwd=hyb.home)
