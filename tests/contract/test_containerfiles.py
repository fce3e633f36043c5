"""What every Containerfile owes: a base by digest, no network, no root, caches that a stranger can write, labels."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "containers"
FILES = {p.parent.name: p for p in sorted(ROOT.glob("*/Containerfile"))}
FETCHES = re.compile(r"\b(apt|apt-get|dnf|microdnf|yum|apk|curl|wget|git|npm)\b|https?://|--index-url")
WRITERS = [name for name in FILES if name != "chat"]  # the chat page writes no file at all
TORCH_CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR", "HF_HOME", "XDG_CACHE_HOME")


def instructions(path: Path) -> list[tuple[str, str]]:
    """(word, its argument), comments and line ends gone."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = [line.strip().partition(" ") for line in text.splitlines() if line.strip()]
    return [(word.upper(), argument.strip()) for word, _, argument in found]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of the last stage: those that make the image."""
    lines = instructions(FILES[name])
    return lines[max(n for n, (word, _) in enumerate(lines) if word == "FROM") :]


def assignments(name: str, word: str) -> dict[str, str]:
    """What ENV or LABEL of the last stage set."""
    parts = [part for w, a in stage(name) if w == word for part in shlex.split(a)]
    return dict(part.split("=", 1) for part in parts)


def test_there_is_an_image_for_each_part_of_the_chain() -> None:
    assert set(FILES) >= {"serve-cpu", "serve-gpu", "tune", "chat"}


@pytest.mark.parametrize("name", FILES)
def test_the_base_comes_from_whoever_builds_and_has_no_default(name: str) -> None:
    lines = instructions(FILES[name])
    assert ("ARG", "BASE") in lines
    for word, argument in lines:
        if word == "FROM":
            assert argument.split()[0] == "${BASE}", argument


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_fetched_during_a_build(name: str) -> None:
    for word, argument in instructions(FILES[name]):
        assert word != "ADD", "COPY takes no URL and unpacks nothing"
        if word in ("RUN", "COPY"):
            assert not FETCHES.search(argument), argument
        if "pip install" in argument:
            assert "--no-index" in argument and "--find-links" in argument
    assert "--network=none" in FILES[name].read_text(), "the comment's command builds without a network"


@pytest.mark.parametrize("name", FILES)
def test_the_image_runs_as_a_user_that_is_not_root_in_group_0(name: str) -> None:
    users = [argument for word, argument in stage(name) if word == "USER"]
    uid, _, gid = users[-1].partition(":")
    assert int(uid) >= 1000 and gid == "0"
    assert stage(name)[-1][0] in ("ENTRYPOINT", "CMD")


@pytest.mark.parametrize("name", WRITERS)
def test_a_user_id_that_nobody_knows_has_a_home_a_name_and_caches(name: str) -> None:
    env = assignments(name, "ENV")
    home = env["HOME"]
    assert env["USER"], "getpass.getuser and torch ask for a name that no passwd has"
    assert re.search(r"chmod -R g=u [^\n]*/home", FILES[name].read_text())
    for variable, value in env.items():
        if variable.endswith(("_CACHE_DIR", "_CACHE_HOME", "_CACHE_ROOT")) or variable == "HF_HOME":
            assert value.startswith(f"{home}/"), variable
    if name in ("serve-gpu", "tune"):
        assert set(env) >= set(TORCH_CACHES)


@pytest.mark.parametrize("name", FILES)
def test_the_result_is_made_in_another_stage_so_that_no_tool_stays(name: str) -> None:
    assert not [argument for word, argument in stage(name) if word == "RUN"]


@pytest.mark.parametrize("name", FILES)
def test_the_labels_say_what_it_is_and_what_it_was_made_of(name: str) -> None:
    labels = assignments(name, "LABEL")
    for label in ("title", "description", "version", "licenses", "base.digest"):
        assert labels[f"org.opencontainers.image.{label}"], label
    assert labels["org.opencontainers.image.title"] == f"hyb-{name}"
    assert labels["io.hyb.wheels"] == "${WHEELS_DIGEST}"


@pytest.mark.parametrize("name", FILES)
def test_no_secret_and_no_private_host_is_written_into_an_image(name: str) -> None:
    for variable, value in assignments(name, "ENV").items():
        assert not re.search(r"KEY|TOKEN|PASSWORD|SECRET", variable) or value.startswith("/"), variable
