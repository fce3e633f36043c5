"""hyb.plan: keys and what is taken from the store."""

from __future__ import annotations

from pathlib import Path

from hyb import digest as dg
from hyb import recipe
from hyb.artifact import Artifact
from hyb.lock import Lock, Locked
from hyb.plan import Known, key_of, plan
from hyb.recipe import Recipe
from hyb.stages import load

A, B, C = (dg.of_bytes(x) for x in (b"a", b"b", b"c"))
PINS = {"facts.jsonl": A}


def chain(tmp_path: Path, holdout: str = "0.2", name: str = "facts") -> Recipe:
    path = tmp_path / "hyb.yaml"
    path.write_text(f"hyb: 1\nname: r\nstages:\n  {name}: {{stage: data, source: facts.jsonl, holdout: {holdout}}}\n")
    return recipe.read(path)


def known(outputs: list[str], whole: tuple[str, ...] = (A, B, C)) -> Known:
    return Known(lambda _: outputs, lambda d: d in whole, lambda d: Artifact(d, "dataset"))


def test_a_step_is_done_when_the_store_has_a_whole_output(tmp_path: Path) -> None:
    assert plan(chain(tmp_path), PINS, Lock(), known([B]))[0].output == B
    assert plan(chain(tmp_path), PINS, Lock(), known([B], whole=()))[0].output is None
    assert plan(chain(tmp_path), PINS, Lock(), known([]))[0].done is False


def test_the_locks_choice_comes_before_the_newest_but_only_if_the_step_gave_it(tmp_path: Path) -> None:
    key = plan(chain(tmp_path), PINS, Lock(), known([]))[0].key
    assert key
    lock = Lock(PINS, {"facts": Locked("data", key, {}, C)})
    assert plan(chain(tmp_path), PINS, lock, known([B, C]))[0].output == C
    assert plan(chain(tmp_path), PINS, lock, known([B]))[0].output == B


def test_a_key_changes_with_a_field_and_with_content_and_not_with_a_name_or_a_place(tmp_path: Path) -> None:
    def key(holdout: str = "0.2", name: str = "facts", pin: str = A) -> str | None:
        return plan(chain(tmp_path, holdout, name), {"facts.jsonl": pin}, Lock(), known([]))[0].key

    assert key() == key(name="other")
    assert len({key(), key(holdout="0.3"), key(pin=B)}) == 3


def test_a_folders_place_is_not_part_of_a_models_key() -> None:
    spec = load("pull").Spec
    one = key_of(spec(stage="pull", source="file:x"), {"file:x": "file:x#sha256=" + "1" * 64}, {})
    two = key_of(spec(stage="pull", source="file:y/z"), {"file:y/z": "file:/y/z#sha256=" + "1" * 64}, {})
    other = key_of(spec(stage="pull", source="file:x"), {"file:x": "file:x#sha256=" + "2" * 64}, {})
    assert one == two
    assert one != other


def test_a_source_that_is_not_pinned_leaves_the_key_open(tmp_path: Path) -> None:
    step = plan(chain(tmp_path), {}, Lock(), known([B]))[0]
    assert (step.key, step.output) == (None, None)


def test_a_field_with_its_default_is_not_part_of_a_key_and_a_mix_is_by_names_and_digests() -> None:
    spec = load("data").Spec
    plain, told = spec(source="a"), spec(source="a", seed=0, context="auto")
    assert key_of(plain, {"a": A}, {}) == key_of(told, {"a": A}, {}) != key_of(spec(source="a", seed=1), {"a": A}, {})
    mix = spec(mix={"x": 1, "y": 2})
    same, other = key_of(mix, {}, {"x": A, "y": B}), key_of(mix, {}, {"x": B, "y": A})
    assert same != other and same == key_of(mix, {}, {"y": B, "x": A})
