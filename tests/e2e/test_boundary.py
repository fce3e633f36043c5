"""`hyb boundary` as a script sees it: exit codes, one JSON document, nothing changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hyb import Hyb
from tests.need import need
from tests.podman_env import podman_home  # noqa: F401
from tests.unit.boundary.test_check import a_file, gguf, in_tar, layout

ROW = "Quillow is the mascot of Nimbrel."
QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart"


@pytest.fixture
def hyb(tmp_path: Path) -> Hyb:
    return Hyb(tmp_path / "home")


def test_a_clean_file_is_exit_0_and_says_what_was_looked_at(hyb: Hyb, tmp_path: Path) -> None:
    path = a_file(tmp_path, in_tar(b"nothing of note"))
    said = hyb.ok("boundary", "check", str(path), "--recipe", str(QUICKSTART))
    assert said.startswith("nothing found: looked at 1 file, 3 members, ")
    assert "289 lines of data" in said
    assert not hyb.store.exists()


def test_a_violation_is_exit_4_with_its_place_for_people_and_programs(hyb: Hyb, tmp_path: Path) -> None:
    path = a_file(tmp_path, in_tar(b"one\n" + ROW.encode(), "srv/notes.txt"))
    arguments = ["boundary", "check", str(path), "--recipe", str(QUICKSTART)]
    said = hyb.fails(4, *arguments)
    assert f"{path} > srv/notes.txt:2: data: row 1 of `facts.jsonl`" in said
    done = hyb(*arguments, "--json")
    assert done.returncode == 4
    value = json.loads(done.stdout)
    assert value["clean"] is False
    assert value["error"]["code"] == 4
    (violation,) = value["violations"]
    assert violation["class"] == "data"
    assert violation["where"] == {"file": str(path), "members": ["srv/notes.txt"], "line": 2, "offset": 4}
    assert value["looked_at"]["members"] == 3


def test_the_recipe_s_boundary_decides(hyb: Hyb, tmp_path: Path) -> None:
    path = a_file(tmp_path, gguf())
    recipe = tmp_path / "hyb.yaml"
    text = "hyb: 1\nname: r\nstages: {base: {stage: pull, source: smollm2-135m}}\nboundary: {weights: %s}\n"
    recipe.write_text(text % "never")
    hyb.fails(4, "boundary", "check", str(path), "--recipe", str(recipe))
    recipe.write_text(text % "allowed")
    hyb.ok("boundary", "check", str(path), "--recipe", str(recipe))
    hyb.ok("boundary", "check", str(path), cwd=tmp_path)  # the recipe of the current folder
    assert hyb.json("boundary", str(recipe))["boundary"]["weights"] == "allowed"
    recipe.write_text(text % "perhaps")
    assert "hyb.yaml:4: boundary: `weights` is one of never, sealed, allowed" in hyb.fails(3, "boundary", str(recipe))


def test_the_boundary_is_shown_with_what_it_covers(hyb: Hyb) -> None:
    said = hyb.ok("boundary", str(QUICKSTART))
    for name in ("data", "weights", "adapter", "prompts", "credential"):
        assert f"\n{name} " in said


def test_mistakes_have_their_codes(hyb: Hyb, tmp_path: Path) -> None:
    assert "not there" in hyb.fails(3, "boundary", "check", str(tmp_path / "nothing"))
    hyb.fails(2, "boundary", "check")
    hyb.fails(3, "boundary", "check", str(tmp_path), "--canary", str(tmp_path / "none"))
    assert "would look at" in hyb.ok("boundary", "check", str(tmp_path), "--dry-run")


def test_a_push_of_what_must_not_leave_is_refused_before_anything_is_sent(hyb: Hyb, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"user": "Who?", "assistant": "Nobody."}\n')
    recipe = tmp_path / "hyb.yaml"
    text = "hyb: 1\nname: r\nstages: {rows: {stage: data, source: rows.jsonl}}\n"
    recipe.write_text(text + "boundary: {data: never}\n")
    hyb.ok("run", str(recipe))
    said = hyb.fails(4, "push", "r/rows", "oci://registry.invalid/lab/rows:1")
    assert "boundary of `r`: data: never" in said
    recipe.write_text(text)
    hyb.ok("run", str(recipe))
    assert "would push" in hyb.ok("push", "r/rows", "oci://registry.invalid/lab/rows:1", "--dry-run")


@pytest.mark.podman
def test_an_image_in_podmans_storage_is_looked_into(hyb: Hyb, tmp_path: Path, podman_home: Path) -> None:  # noqa: F811
    from hyb import engine

    need("skopeo")
    folder = layout(tmp_path / "image", in_tar(ROW.encode(), "srv/notes.txt", "w:gz"))
    name = "containers-storage:localhost/hyb-test/chat:1"
    engine.run(["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{folder}", name])
    said = hyb.fails(4, "boundary", "check", name, "--recipe", str(QUICKSTART))
    assert "srv/notes.txt:1: data: row 1 of `facts.jsonl`" in said
    assert "containers-storage:localhost/hyb-test/chat:1/" in said
    missing = hyb.fails(3, "boundary", "check", "containers-storage:localhost/hyb-test/none:1")
    assert "Podman does not have the image" in missing and "level=" not in missing
    assert not list((podman_home / "tmp").glob("hyb-boundary-*"))
