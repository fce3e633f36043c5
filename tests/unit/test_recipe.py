"""hyb.recipe: every mistake at once, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyb import recipe
from hyb.errors import Exit, HybError

GOOD = """\
hyb: 1
name: r
stages:
  base: {stage: pull, source: smollm2-135m}
  facts: {stage: data, source: facts.jsonl}
  bot: {stage: tune, model: base, data: facts}
"""


def read(tmp_path: Path, text: str) -> recipe.Recipe:
    path = tmp_path / "hyb.yaml"
    path.write_text(text)
    return recipe.read(path)


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(HybError) as caught:
        read(tmp_path, text)
    assert caught.value.code is Exit.INPUT
    found = caught.value.details or (caught.value.message,)
    return [x.replace(f"{tmp_path}/hyb.yaml:", "") for x in found]


def test_a_recipe_is_its_stages_in_file_order(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    assert [(e.name, e.stage, e.line) for e in found.entries] == [
        ("base", "pull", 4),
        ("facts", "data", 5),
        ("bot", "tune", 6),
    ]
    assert found.folder == tmp_path


def test_up_to_a_stage_is_what_that_stage_needs(tmp_path: Path) -> None:
    text = GOOD + "  other: {stage: pull, source: deepseek-r1-1.5b}\n"
    assert [e.name for e in read(tmp_path, text).upto("bot").entries] == ["base", "facts", "bot"]
    with pytest.raises(HybError, match="no stage `bott`") as caught:
        read(tmp_path, text).upto("bott")
    assert "did you mean `bot`" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("stage: tune", "stage: tuna"), "6: bot: unknown stage `tuna` (did you mean `tune`?)"),
        (("data: facts}", "data: facts, rnak: 8}"), "6: bot: unknown key `rnak` (did you mean `rank`?)"),
        (
            ("data: facts}", "data: facts, speed: {fuzed: true}}"),
            "6: bot: unknown key `speed.fuzed` (did you mean `fused`?); `speed` takes fused, kernels,",
        ),
        (("model: base", "model: gguf"), "6: bot: `model` names `gguf`, which is no stage above"),
        (("model: base", "model: facts"), "6: bot: `model` names `facts`, which is a dataset; it takes a model"),
        (("data: facts}", "data: facts, rank: 0}"), "6: bot: `rank`: "),
        (("data: facts}", "data: facts, lr: .nan}"), "6: bot: `lr`: "),
        (("hyb: 1", "hyb: 2"), "1: `hyb: 2` is not known to this hyb"),
        (("name: r", "name: R R"), "2: the recipe's name `R R`"),
        (("  base:", "  Base_:"), "4: the name `Base_`"),
        (("  facts: {stage", "  base: {stage"), "5: key `base` for the second time (first in line 4)"),
        ((", data: facts}", "}"), "6: bot: `data` is missing"),
        (("{stage: data, source: facts.jsonl}", "facts.jsonl"), "5: facts: a stage is a mapping"),
        (("stage: data, ", ""), "5: facts: `stage` is missing"),
        (("hyb: 1\n", "hyb: 1\nstagse: 2\n"), "2: unknown key `stagse` (did you mean `stages`?)"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    assert change[0] in GOOD
    assert any(m.startswith(said) for m in mistakes(tmp_path, GOOD.replace(*change)))


def test_a_forward_reference_says_so(tmp_path: Path) -> None:
    text = "hyb: 1\nname: r\nstages:\n  bot: {stage: eval, model: base, data: base}\n  base: {stage: pull, source: x}\n"
    assert mistakes(tmp_path, text)[0] == (
        "4: bot: `model` names `base`, which stands below; a stage names only stages above it"
    )


def test_two_mistakes_are_reported_together(tmp_path: Path) -> None:
    text = GOOD.replace("stage: data", "stage: dta").replace("model: base", "model: bass")
    found = mistakes(tmp_path, text)
    assert len(found) == 2
    assert found[0].startswith("5:")
    assert found[1].startswith("6:")


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"a: \xff", "not UTF-8"), (b"a: [", "1:"), (b"", "a recipe is a mapping"), (b"- 1", "a recipe is a mapping"),
     (b"hyb: 1\nstages: {}", "`stages` is a mapping of at least one")],
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "hyb.yaml"
    path.write_bytes(data)
    with pytest.raises(HybError) as caught:
        recipe.read(path)
    assert said in "\n".join([caught.value.message, *caught.value.details])


def test_no_recipe_names_the_place_and_init(tmp_path: Path) -> None:
    with pytest.raises(HybError, match=r"no recipe") as caught:
        recipe.find(tmp_path)
    assert "hyb init" in caught.value.hint


def test_a_boundary_is_read_and_is_part_of_no_step_s_key(tmp_path: Path) -> None:
    from hyb.formats.boundary import Boundary
    from hyb.plan import key_of

    plain, bounded = read(tmp_path, GOOD), read(tmp_path, GOOD + "boundary: {data: never, prompts: not stored}\n")
    assert (plain.boundary, bounded.boundary) == (None, Boundary())
    assert bounded.upto("facts").boundary == Boundary()
    pins = {"facts.jsonl": "sha256:" + "0" * 64}
    keys = [key_of(r.entries[1].spec, pins, {}) for r in (plain, bounded)]
    assert keys[0] == keys[1]


def test_mistakes_of_a_boundary_have_their_lines(tmp_path: Path) -> None:
    text = GOOD + "boundary:\n  data: nver\n  wieghts: never\nboundery: {}\n"
    assert mistakes(tmp_path, text) == [
        "8: boundary: `data` is one of never, allowed, not `nver`",
        "9: boundary: unknown class `wieghts` (did you mean `weights`?); classes are data, weights, adapter, prompts",
        "10: unknown key `boundery` (did you mean `boundary`?)",
    ]


def test_licences_are_read_are_part_of_no_steps_key_and_have_lines(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD + "licences: [Apache-2.0, mit]\n")
    assert found.licences == ("apache-2.0", "mit")
    assert found.upto("facts").licences == found.licences
    assert read(tmp_path, GOOD).licences is None
    text = GOOD + "licences:\n  - mit\n  - MIT OR GPL-3.0\n  - unknown\nlicenses: [mit]\n"
    assert mistakes(tmp_path, text) == [
        "9: licences: `MIT OR GPL-3.0` is no licence's name, such as `apache-2.0`; one an item",
        "10: licences: `unknown` names no licence, so it can't be allowed",
        "11: unknown key `licenses` (did you mean `licences`?)",
    ]
