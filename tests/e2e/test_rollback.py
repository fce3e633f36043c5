"""`hyb rollback` as a person has it: a real model that is being served changes over while it is asked."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hyb.errors import HybError
from hyb.serving import client, live, manager
from hyb.serving.service import Service
from tests.hyb import Hyb
from tests.need import need

RECIPE = """\
hyb: 1
name: lab
stages:
  base:    {stage: pull, source: "file:model"}
  gguf:    {stage: export, model: base, format: gguf, quantize: f16}
  service: {stage: serve, image: gguf, name: bot, model_image: registry.example.com/lab/bot, target: quadlet}
  van:     {stage: link, service: service, namespace: chat, apps_domain: apps.example.com}
"""


@pytest.fixture(scope="module")
def hyb(tmp_path_factory: pytest.TempPathFactory) -> Hyb:
    need("torch", "transformers", "xllamacpp")
    found = Hyb(tmp_path_factory.mktemp("rollback") / "hóme")
    found.home.mkdir()
    return found


@pytest.fixture(scope="module")
def recipe(hyb: Hyb) -> Path:
    """Two generations of a recipe, each with its own random model."""
    from tests.tiny import tiny_model

    folder = hyb.home / "lab"
    folder.mkdir()
    for seed, port in ((1, 8000), (2, 8123)):
        tiny_model(folder / "model", "llama", seed=seed, pad_is_eos=True)
        (folder / "hyb.yaml").write_text(RECIPE.replace("target:", f"port: {port}, target:"))
        hyb.ok("run", str(folder), "--offline")
    hyb.ok("link", "lab/van", cwd=hyb.home)
    return folder


def served(hyb: Hyb, name: str) -> Service:
    return next(s for s in manager.ps(hyb.env) if s.name == name)


def answer(found: Service) -> str:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    with client.Client(live.address(found, found.key)) as one:
        return json.dumps(one.json("POST", "chat/completions", body)["choices"][0]["message"])


def test_a_service_changes_over_without_one_failed_request_and_comes_back(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("serve", "lab/gguf", "--name", "bot", "--port", "0", "--context", "256", "--detach")
    try:
        before = served(hyb, "bot")
        second = answer(before)
        answers: list[tuple[float, str]] = []
        failed: list[Exception] = []
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                try:
                    answers.append((time.monotonic(), answer(before)))
                except (HybError, OSError) as error:
                    failed.append(error)

        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        done = hyb.json("rollback", str(recipe), cwd=hyb.home)
        time.sleep(1)
        over.set()
        for thread in asking:
            thread.join()
        assert not failed, failed[:3]
        first = answer(before)
        assert first != second
        assert {text for _, text in answers} == {first, second}, "each answer is of one model, whole"
        after = served(hyb, "bot")
        assert (after.pid, after.port, after.key) == (before.pid, before.port, before.key)
        assert after.artifact != before.artifact
        assert done["from"] == 2 and done["to"] == 1
        assert {c["what"] for c in done["changes"]} == {"name", "lock", "service", "link"}
        connector = (hyb.home / "link/private/Connector-llm.yaml").read_text()
        assert "port: 8000" in connector
        assert manager.owner(after, "GET", "/state")["restarts"] == 0

        assert "would bring back generation 2" in hyb.fails(4, "run", str(recipe), "--offline")
        assert "a run is refused" in hyb("plan", str(recipe), "--offline").stderr
        hyb.ok("rollback", str(recipe), "--to", "2", cwd=hyb.home)
        assert answer(before) == second
        assert "port: 8123" in (hyb.home / "link/private/Connector-llm.yaml").read_text()
    finally:
        hyb("stop", "bot")


def test_a_model_that_does_not_answer_is_not_taken_and_nothing_else_moves(hyb: Hyb, recipe: Path) -> None:
    hyb.ok("rollback", str(recipe), "--to", "2", cwd=hyb.home)
    hyb.ok("serve", "lab/gguf", "--name", "bot", "--port", "0", "--context", "256", "--detach")
    try:
        found = served(hyb, "bot")
        before, lock = answer(found), (recipe / "hyb.lock").read_bytes()
        tags = {a["digest"]: a["names"] for a in hyb.json("ls")}
        (old,) = [g for g in hyb.json("rollback", str(recipe), "--list")["generations"] if g["number"] == 1]
        view = hyb.store / "views" / old["outputs"]["gguf"].removeprefix("sha256:")
        (weights,) = view.glob("*.gguf") if view.exists() else (None,)
        link = {p.name: p.read_bytes() for p in (hyb.home / "link").rglob("*") if p.is_file()}
        job = hyb.store.parent / "run" / "bot.job.json"
        whole = job.read_text()
        job.write_text(whole.replace('"context": 256', '"context": -5'))  # an engine that can't start with that
        said = hyb.fails(5, "rollback", str(recipe), cwd=hyb.home)
        assert "goes on as it was" in said
        job.write_text(whole)
        assert answer(found) == before
        assert (recipe / "hyb.lock").read_bytes() == lock
        assert {a["digest"]: a["names"] for a in hyb.json("ls")} == tags
        assert {p.name: p.read_bytes() for p in (hyb.home / "link").rglob("*") if p.is_file()} == link
        listed = hyb.json("rollback", str(recipe), "--list")
        assert listed["current"] == 2 and listed["on_it"]
        assert weights is None or weights.exists()
    finally:
        hyb("stop", "bot")


def test_the_list_says_what_changed_and_which_is_current(hyb: Hyb, recipe: Path) -> None:
    listed = hyb.json("rollback", str(recipe), "--list")
    assert [(g["number"], g["after"], g["current"]) for g in listed["generations"]] == [(2, 1, True), (1, None, False)]
    text = hyb.ok("rollback", str(recipe), "--list")
    assert text.splitlines()[0].split() == ["GENERATION", "MADE", "AFTER", "CHANGED"]
    assert text.splitlines()[1].startswith("2*") and "van " in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--to", "1", "--list"), 2, "one of `--to`, `--list` and `--keep N` at a time"),
        (("--to", "-1"), 2, "a number from 1"),
        (("--keep", "-1"), 2, "one of"),
        (("--to", "x"), 2, "not a valid"),
        (("--to", "77"), 3, "has no generation 77"),
        (("--out", "/nonexistent/link"), 3, "holds no link of `lab`"),
        (("--units", "/nonexistent"), 3, "holds no unit"),
    ],
)
def test_bad_input_is_told_and_changes_nothing(
    hyb: Hyb, recipe: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    before: Any = hyb.json("rollback", str(recipe), "--list")
    assert said in hyb.fails(code, "rollback", str(recipe), *arguments)
    assert hyb.json("rollback", str(recipe), "--list") == before
    hyb.fails(code, "rollback", str(recipe), *arguments, "--dry-run")
