"""hyb init: the folder that it makes is a recipe, and its Makefile's targets are commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

from hyb.cli import table
from tests.hyb import Hyb


def test_init_makes_a_recipe_that_can_be_planned(tmp_path: Path) -> None:
    hyb = Hyb(tmp_path / "home")
    hyb.ok("init", str(tmp_path / "My Bot"))
    plan = hyb.json("plan", str(tmp_path / "My Bot"), "--offline")
    assert plan["recipe"] == "my-bot"
    assert [s["stage"] for s in plan["steps"]] == ["pull", "data", "tune", "eval", "export", "pack", "serve", "link"]


def test_every_target_is_one_line_of_commands_that_exist(tmp_path: Path) -> None:
    Hyb(tmp_path / "home").ok("init", str(tmp_path / "r"))
    text = (tmp_path / "r" / "Makefile").read_text()
    for target in ["pull", "tune", "eval", "export", "pack", "serve", "link", "verify", "clean"]:
        recipe = re.search(rf"^{target}:\n\t(.+)\n", text, re.MULTILINE)
        assert recipe, target
        assert set(re.findall(r"\bhyb (\w+)", recipe[1])) <= set(table())


def test_init_never_overwrites(tmp_path: Path) -> None:
    hyb = Hyb(tmp_path / "home")
    hyb.ok("init", str(tmp_path / "r"))
    (tmp_path / "r" / "hyb.yaml").write_text("mine")
    assert "has a recipe already" in hyb.fails(3, "init", str(tmp_path / "r"))
    assert (tmp_path / "r" / "hyb.yaml").read_text() == "mine"


def test_a_dry_run_of_init_makes_nothing(tmp_path: Path) -> None:
    Hyb(tmp_path / "home").ok("init", str(tmp_path / "r"), "--dry-run")
    assert not (tmp_path / "r").exists()
