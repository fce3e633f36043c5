"""What every command owes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hyb.cli import COMMANDS, function, help_text, reference, table
from hyb.cli.commands import build
from hyb.cli.session import COMMON

NAMES = list(table())
HEAVY = (
    "torch",
    "transformers",
    "huggingface_hub",
    "pydantic",
    "podman",
    "rich",
    "yaml",
    "numpy",
    "cryptography",
    "httpx",
)


def hyb(*arguments: str, store: Path | None = None) -> subprocess.CompletedProcess[str]:
    where = ["--store", str(store)] if store else []
    return subprocess.run(
        [sys.executable, "-m", "hyb", *arguments, *where], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example_and_explains_each_option(name: str) -> None:
    text, example = reference._help(name)
    assert text
    assert example.startswith("hyb ")
    assert all(o["help"] for o in reference._options(name)), "an option without help"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_the_common_options(name: str) -> None:
    flags = {p.name: p.opts for p in build(name).params}
    assert set(COMMON) <= set(flags)
    assert "--dry-run" in flags["dry_run"]
    assert {"-q", "--quiet"} == set(flags["quiet"])


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_command_parses(name: str) -> None:
    _, example = reference._help(name)
    import shlex

    for part in example.split(" && "):
        words = shlex.split(part.split(" > ")[0].split(" | ")[0])
        called = ["hyb", *name.split()]
        if words[: len(called)] == called:
            build(name).make_context(f"hyb {name}", words[len(called) :], resilient_parsing=False)


def test_the_reference_is_current() -> None:
    path = Path(__file__).parents[2] / "docs" / "commands.md"
    assert path.read_text() == reference.markdown(), "run `make docs`"


@pytest.mark.parametrize("name", ["", *NAMES])
def test_every_command_has_a_man_page(name: str) -> None:
    page = reference.man_page(name)
    title = "-".join(["HYB", *name.upper().split()])
    assert page.startswith(f'.TH "{title}" "1"')
    assert ".SH SYNOPSIS" in page


def imported(arguments: list[str], heavy: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run hyb in a fresh interpreter and fail when one of `heavy` was imported."""
    code = f"""
import sys
sys.argv = ["hyb", *{arguments!r}]
from hyb.cli import main
try:
    main()
except SystemExit:
    pass
bad = [m for m in {heavy!r} if m in sys.modules]
assert not bad, bad
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["version"], []])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    done = imported(arguments, (*HEAVY, "typer"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    done = imported([*name.split(), "--help"], HEAVY)
    assert done.returncode == 0, done.stderr
    assert "Example:" in done.stdout


def test_hyb_alone_is_a_usage_error_and_help_is_not() -> None:
    assert (hyb().returncode, hyb("--help").returncode) == (2, 0)
    assert hyb("--help").stdout == help_text()


def test_the_help_lists_every_command_once() -> None:
    assert [n for g in COMMANDS.values() for n in g] == [n for n in NAMES if " " not in n]
    for name in NAMES:
        assert callable(function(name))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["lss"], 2, "did you mean `hyb ls`?"),
        (["ls", "--jsn"], 2, "no such option: --jsn"),
        (["show"], 2, "missing argument"),
        (["show", "nothing"], 3, "nothing in the store is called `nothing`"),
        (["run", "/nonexistent"], 3, "no recipe"),
        (["rm", "x"], 3, "called `x`"),
        (["doctor", "--network", "--offline"], 2, "exclude each other"),
    ],
)
def test_a_mistake_has_its_code_and_words_for_people_and_programs(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    for_people = hyb(*arguments, store=tmp_path / "s")
    assert (for_people.returncode, for_people.stdout) == (code, "")
    assert said in for_people.stderr.lower() or said in for_people.stderr
    assert "Traceback" not in for_people.stderr
    for_programs = hyb(*arguments, "--json", store=tmp_path / "s")
    assert for_programs.returncode == code
    error = json.loads(for_programs.stdout)["error"]
    assert error["code"] == code
    assert said in error["message"].lower() + error["hint"] or said in error["message"] + error["hint"]


@pytest.mark.parametrize(
    "arguments", [["ls"], ["log"], ["gc"], ["doctor"], ["version"], ["ps"], ["completion"], ["man"], ["verify"]]
)
def test_json_is_one_document_and_an_empty_store_is_left_alone(tmp_path: Path, arguments: list[str]) -> None:
    done = hyb(*arguments, "--json", store=tmp_path / "s")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert not (tmp_path / "s").exists()


def test_completion_knows_the_commands() -> None:
    import os

    env = {**os.environ, "_HYB_COMPLETE": "complete_bash", "COMP_WORDS": "hyb ve", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "hyb"], env=env, capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) == {"verify", "version"}


def test_no_home_is_a_clear_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hyb", "ls"], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "HOME" in done.stderr
