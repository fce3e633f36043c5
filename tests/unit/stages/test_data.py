"""The data stage: rows in, a data set out, split the same way everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hyb import digest as dg
from hyb.artifact import Artifact, File
from hyb.errors import Exit, HybError
from hyb.stages import data
from hyb.stages.base import Context, sources
from hyb.store import Store
from tests.need import need


def row(number: int, answer: str = "") -> str:
    return json.dumps({"question": f"What is fact {number}?", "answer": answer or f"Fact {number} is word{number}."})


def write(folder: Path, **files: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


class Made:
    """What a run of the stage gave."""

    def __init__(self, tmp_path: Path, folder: Path, pins: dict[str, str] | None = None, **spec: Any) -> None:
        self.store = Store(tmp_path / "store")
        self.said: list[Any] = []
        work = tmp_path / "work"
        work.mkdir(parents=True, exist_ok=True)
        context = Context(self.store, work, folder, pins=pins or {}, say=self.said.append)
        self.artifact: Artifact = data.run(data.Spec(**spec), {}, context)

    def rows(self, part: str) -> list[dict[str, Any]]:
        return [json.loads(x) for x in self.text(f"{part}.jsonl").splitlines()]

    def text(self, name: str) -> str:
        return (self.store.view(self.artifact) / name).read_text()

    @property
    def warnings(self) -> list[str]:
        return [s for s in self.said if isinstance(s, str)]


def test_rows_keep_their_file_and_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "in" / "data", a=[row(1), "", row(2)], b=[row(3)])
    made = Made(tmp_path, folder.parent, source="data")
    assert [r["meta"] for r in made.rows("train")] == [
        {"source": "a.jsonl", "line": 1},
        {"source": "a.jsonl", "line": 3},
        {"source": "b.jsonl", "line": 1},
    ]
    assert made.artifact.meta["counts"] == {"train": 3, "holdout": 0, "control": 0}
    assert made.artifact.meta["format"] == "alpaca"


def test_a_share_is_held_out_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", facts=[row(i) for i in range(50)])
    made = Made(tmp_path, folder, source="facts.jsonl", holdout=0.2, seed=3)
    train, held = made.rows("train"), made.rows("holdout")
    assert (len(train), len(held)) == (40, 10)
    assert sorted(r["meta"]["line"] for r in [*train, *held]) == list(range(1, 51))


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows(tmp_path: Path) -> None:
    lines = [row(i) for i in range(40)]
    first = Made(tmp_path / "a", write(tmp_path / "x", facts=lines), source="facts.jsonl", holdout=0.25)
    again = Made(tmp_path / "b", write(tmp_path / "y", facts=lines[::-1]), source="facts.jsonl", holdout=0.25)
    other = Made(tmp_path / "c", write(tmp_path / "x", facts=lines), source="facts.jsonl", holdout=0.25, seed=1)
    ids = [{r["id"] for r in made.rows("holdout")} for made in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_the_same_files_give_the_same_bytes_in_another_store(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", facts=[row(i) for i in range(20)])
    spec: dict[str, Any] = {"source": "facts.jsonl", "holdout": 0.5}
    digests = {Made(tmp_path / name, folder, **spec).artifact.digest for name in ("a", "b")}
    assert len(digests) == 1


def test_rows_that_ask_the_same_never_stand_on_both_sides(tmp_path: Path) -> None:
    lines = [row(i % 10, f"answer {i}") for i in range(60)]
    made = Made(tmp_path, write(tmp_path / "in", facts=lines), source="facts.jsonl", holdout=0.3)
    asked = [{r["messages"][0]["content"] for r in made.rows(part)} for part in ("train", "holdout")]
    assert not asked[0] & asked[1]
    assert len(made.rows("holdout")) == 18


def test_held_out_and_control_files_may_ask_without_answering(tmp_path: Path) -> None:
    asked = json.dumps({"messages": [{"role": "user", "content": "What else is fact 1?"}], "expect": "word1"})
    folder = write(tmp_path / "in", facts=[row(1)], held=[asked], general=[row(9)])
    made = Made(tmp_path, folder, source="facts.jsonl", holdout="held.jsonl", control="general.jsonl")
    assert made.rows("holdout")[0]["expect"] == {"contains": ["word1"]}
    assert made.artifact.meta["counts"] == {"train": 1, "holdout": 1, "control": 1}
    assert made.warnings == []


def test_all_mistakes_of_all_files_come_together(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", facts=[row(1), "{"], held=[row(2), row(3), "{}"], general=["[]"])
    with pytest.raises(HybError) as caught:
        Made(tmp_path, folder, source="facts.jsonl", holdout="held.jsonl", control="general.jsonl")
    assert caught.value.code == Exit.INPUT
    assert [d.split(": ")[0] for d in caught.value.details] == ["facts.jsonl:2", "held.jsonl:3", "general.jsonl:1"]


def test_broken_training_rows_are_left_out_when_that_is_asked_and_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", facts=[row(1), "{", "[]", row(2)], held=[row(3)])
    made = Made(tmp_path, folder, source="facts.jsonl", holdout="held.jsonl", broken="skip")
    assert made.artifact.meta["counts"] == {"train": 2, "holdout": 1, "control": 0}
    skipped = json.loads(made.text("stats.json"))["skipped"]
    assert skipped["rows"] == 2 and skipped["first"][1].startswith("facts.jsonl:3: is a list")
    assert "2 broken rows are left out" in made.warnings[0]
    folder = write(tmp_path / "in", facts=[row(1)], held=["{"])
    with pytest.raises(HybError, match="has 1 mistake"):  # an exam with a hole in it is no exam
        Made(tmp_path, folder, source="facts.jsonl", holdout="held.jsonl", broken="skip")
    folder = write(tmp_path / "in", facts=["{"])
    with pytest.raises(HybError, match="has no rows") as caught:
        Made(tmp_path, folder, source="facts.jsonl", broken="skip")
    assert caught.value.details[0].startswith("facts.jsonl:1: is a bracket alone")


@pytest.mark.parametrize(
    ("files", "spec", "said"),
    [
        ({"facts": []}, {}, "`facts.jsonl` has no rows"),
        ({"facts": ["", "  "]}, {}, "`facts.jsonl` has no rows"),
        ({"facts": [row(1)], "held": []}, {"holdout": "held.jsonl"}, "`held.jsonl` has no rows"),
        ({"facts": [row(1)], "held": []}, {"control": "held.jsonl"}, "`held.jsonl` has no rows"),
        ({"facts": [row(1), row(1, "b")]}, {"holdout": 0.5}, "asks only one question"),
        ({"facts": [row(1)]}, {"holdout": "gone.jsonl"}, "is not there"),
    ],
)
def test_what_can_not_be_used_is_refused(tmp_path: Path, files: dict[str, list[str]], spec: Any, said: str) -> None:
    with pytest.raises(HybError, match=said):
        Made(tmp_path, write(tmp_path / "in", **files), source="facts.jsonl", **spec)


def test_duplicates_overlap_and_mixed_shapes_are_told(tmp_path: Path) -> None:
    mixed = json.dumps({"user": "q", "assistant": "a"})
    folder = write(tmp_path / "in", facts=[row(1), row(1), mixed], held=[row(1, "word1")])
    made = Made(tmp_path, folder, source="facts.jsonl", holdout="held.jsonl", overlap="warn")
    stats = json.loads(made.text("stats.json"))
    assert stats["parts"]["train"]["duplicates"] == 1
    assert stats["overlap"]["holdout"] == {"rows": 1, "first": ["held.jsonl:1 asks what facts.jsonl:1 asks"]}
    assert stats["shapes"] == {"train": {"alpaca": 2, "ilab": 1}, "holdout": {"alpaca": 1}}
    assert len(made.warnings) == 3


def test_lengths_are_counted_for_questions_and_answers(tmp_path: Path) -> None:
    lines = [json.dumps({"question": "one two", "answer": "x " * n}) for n in range(1, 101)]
    made = Made(tmp_path, write(tmp_path / "in", facts=lines), source="facts.jsonl")
    lengths = json.loads(made.text("stats.json"))["parts"]["train"]["lengths"]
    assert lengths["question"]["words"] == {"min": 2, "median": 2, "p95": 2, "max": 2, "sum": 200}
    assert lengths["answer"]["words"] == {"min": 1, "median": 50, "p95": 96, "max": 100, "sum": 5050}


def test_tokens_are_counted_with_a_models_tokenizer(tmp_path: Path) -> None:
    need("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("a", "isolated")
    store = Store(tmp_path / "store")
    blob = store.add_bytes(tokenizer.to_str().encode())
    model = store.add_artifact("model", [File("tokenizer.json", blob)], meta={"format": "safetensors"})
    folder = write(tmp_path / "in", facts=[json.dumps({"question": "q", "answer": "aaaa"})])
    (tmp_path / "work").mkdir()
    spec = data.Spec(source="facts.jsonl", tokenizer="base")
    made = data.run(spec, {"base": model}, Context(store, tmp_path / "work", folder))
    stats = json.loads((store.view(made) / "stats.json").read_text())
    assert stats["parts"]["train"]["lengths"]["answer"]["tokens"]["max"] == 4


def test_a_file_that_changed_since_it_was_pinned_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", facts=[row(1)])
    pinned = {"facts.jsonl": dg.of_tree(folder / "facts.jsonl")}
    Made(tmp_path, folder, pinned, source="facts.jsonl")
    write(folder, facts=[row(2)])
    with pytest.raises(HybError, match="changed while it was read") as caught:
        Made(tmp_path, folder, pinned, source="facts.jsonl")
    assert caught.value.code == Exit.CHECK


@pytest.mark.parametrize("holdout", [1, 1.0, -0.1, True, None, float("nan"), "1.5"])
def test_a_holdout_that_is_no_share_is_refused(holdout: Any) -> None:
    with pytest.raises(ValidationError, match="a number from 0 to below 1, or a path"):
        data.Spec(source="facts.jsonl", holdout=holdout)


def test_a_holdout_is_a_number_or_a_path() -> None:
    assert data.Spec(source="a", holdout="0.2").holdout == 0.2
    assert data.Spec(source="a", holdout=0).holdout == 0.0
    assert data.Spec(source="a", holdout="data/held.jsonl").holdout == "data/held.jsonl"
    assert set(sources(data.Spec)) == {"source", "holdout", "control", "prompts"}


def test_the_plan_is_made_without_reading_anything() -> None:
    plan = data.plan(data.Spec(source="nowhere.jsonl", holdout=0.2, control="c.jsonl"), {})
    assert plan.reads == ("nowhere.jsonl", "c.jsonl")
    assert "0.2 of the questions held out" in plan.makes


def test_the_quickstart_data_is_whole_and_its_answers_are_distinct(tmp_path: Path) -> None:
    from hyb.formats import match

    recipe = Path(__file__).parents[3] / "recipes" / "quickstart"
    made = Made(tmp_path, recipe, source="data/facts.jsonl", holdout="data/heldout.jsonl", control="data/control.jsonl")
    assert made.warnings == [], "no duplicates, nothing held out is trained on"
    held = made.rows("holdout")
    answers = {r["expect"]["contains"][0]: r["messages"][1]["content"] for r in held}
    assert len(answers) >= 20
    assert all(sum(r["expect"]["contains"] == [a] for r in held) == 2 for a in answers)
    for part in ("train", "holdout", "control"):
        for r in made.rows(part):
            said = " ".join(m["content"] for m in r["messages"])
            named = [a for a in answers if match.contains(said, a)]
            assert len(named) <= 1, said
            assert not named or r["messages"][1]["content"] == answers[named[0]]
            assert not any(match.contains(r["messages"][0]["content"], a) for a in answers)


def test_a_taxonomy_is_read_with_its_attribution_and_its_faults_are_warnings(tmp_path: Path) -> None:
    leaf = tmp_path / "in" / "taxonomy" / "compositional_skills" / "kind"
    leaf.mkdir(parents=True)
    (leaf / "qna.yaml").write_text("version: 3\nseed_examples:\n  - question: q\n    answer: a\n")
    (leaf / "attribution.txt").write_text("Title of work: Kindness\nLicense of the work: CC-BY-4.0\n")
    (tmp_path / "in" / "taxonomy" / "old.jsonl").write_text(row(1))
    made = Made(tmp_path, tmp_path / "in", source="taxonomy")
    assert [r["meta"] for r in made.rows("train")] == [{"source": "compositional_skills/kind/qna.yaml", "line": 3}]
    assert any("`created_by` is missing" in w for w in made.warnings)
    assert "its 1 .jsonl file (old.jsonl) is not read" in made.warnings[0]
    assert made.artifact.meta["license"] == "CC-BY-4.0"
    assert json.loads(made.text("stats.json"))["attribution"][0]["title"] == "Kindness"


def test_a_taxonomy_with_a_broken_file_is_refused_with_its_line(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "taxonomy"
    folder.mkdir(parents=True)
    (folder / "qna.yaml").write_text("a: [\n")
    with pytest.raises(HybError) as caught:
        Made(tmp_path, tmp_path / "in", source="taxonomy")
    assert caught.value.details[0].startswith("qna.yaml:")


def test_a_held_out_question_that_is_trained_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", facts=[row(1), row(2)], held=[row(1, "word1")])
    with pytest.raises(HybError, match="1 held-out question") as caught:
        Made(tmp_path, folder, source="facts.jsonl", holdout="held.jsonl")
    assert caught.value.code is Exit.CHECK
    assert list(caught.value.details) == ["held.jsonl:1 asks what facts.jsonl:1 asks"]


def test_columns_with_other_names_are_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("Frage;Antwort\nq;a\n")
    made = Made(tmp_path, tmp_path / "in", source="a.csv", columns={"question": "Frage", "answer": "Antwort"})
    assert made.rows("train")[0]["messages"][1]["content"] == "a"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "either `source` or `mix`"),
        ({"source": "a", "mix": {"b": 1}}, "either `source` or `mix`"),
        ({"mix": {"b": 0}}, "greater than 0"),
        ({"mix": {"b": {"weigth": 1}}}, "weigth"),
        ({"mix": {"b": 1}, "columns": {"question": "x"}}, "`columns` is for files"),
        ({"source": "a", "columns": {"quest": "x"}}, "no column `quest`"),
    ],
)
def test_a_spec_that_can_not_be_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        data.Spec(**spec)


def test_the_formats_that_can_be_asked_for_are_the_shapes_that_are_read() -> None:
    import typing

    from hyb.formats.chat_shapes import SHAPES

    assert set(typing.get_args(data.Spec.model_fields["format"].annotation)) == {"auto", *SHAPES}


class Mixed:
    """Two data sets of 10 and 4 rows, and a mix of them."""

    def __init__(self, tmp_path: Path, seed: int = 0, **mix: Any) -> None:
        store = Store(tmp_path / "store")
        inputs = {}
        for name, count in (("one", 10), ("two", 4)):
            folder = write(tmp_path / name, rows=[row(f"{name} {n}") for n in range(count)])  # type: ignore[arg-type]
            (tmp_path / "work").mkdir(exist_ok=True)
            inputs[name] = data.run(
                data.Spec(source="rows.jsonl", holdout=0.25), {}, Context(store, tmp_path / "work", folder)
            )
        artifact = data.run(data.Spec(mix=mix, seed=seed), inputs, Context(store, tmp_path / "work"))
        view = store.view(artifact)
        self.counts = artifact.meta["counts"]
        self.train = [
            json.loads(x)["meta"]["source"].split("/")[0] for x in (view / "train.jsonl").read_text().splitlines()
        ]


def test_a_mix_takes_each_data_set_by_its_weight_and_cap(tmp_path: Path) -> None:
    made = Mixed(tmp_path, one={"weight": 0.5, "cap": 3}, two=2)
    assert (made.train.count("one"), made.train.count("two")) == (3, 6)
    assert made.counts["holdout"] == 3


def test_a_mix_is_the_same_for_the_same_seed_and_another_for_another(tmp_path: Path) -> None:
    share = data.Share(weight=0.5)
    assert data.shares(100, share, "0:a") == data.shares(100, share, "0:a") != data.shares(100, share, "1:a")
    assert sum(data.shares(100, share, "0:a")) == 50
    assert data.shares(4, data.Share(weight=2.5, cap=6), "0:a").count(1) == 2
    few, more = (data.shares(50, data.Share(cap=n), "s") for n in (5, 9))
    assert all(b >= a for a, b in zip(few, more, strict=True))


SAID = "Write to jane.doe@acme.org, CPF 529.982.247-25."


def test_secrets_are_warned_of_with_their_place_and_change_nothing_in_the_data_set(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a=[row(1), row(2, SAID)])
    made = Made(tmp_path, folder, source="a.jsonl")
    (warning,) = [w for w in made.warnings if "personal" in w]
    assert "a.jsonl:2: an e-mail address, `j…@acme.org`; a.jsonl:2: a CPF, `529…`" in warning
    assert "jane" not in warning
    quiet = Made(tmp_path / "again", folder, source="a.jsonl", scan=False)
    assert not [w for w in quiet.warnings if "personal" in w]
    assert quiet.artifact.digest == made.artifact.digest


def test_secrets_are_refused_where_the_recipe_says_so(tmp_path: Path) -> None:
    need("detect_secrets", "phonenumbers")
    folder = write(tmp_path / "in", a=[row(1), row(2, SAID)])
    with pytest.raises(HybError, match="1 secret") as refusal:
        Made(tmp_path, folder, source="a.jsonl", scan={"act": "refuse", "allow": ["email"]})
    assert refusal.value.code == Exit.CHECK
    assert refusal.value.details == ("a.jsonl:2: a CPF, `529…`",)
    Made(tmp_path, folder, source="a.jsonl", scan={"act": "refuse", "allow": ["email", "cpf"]})


@pytest.mark.parametrize("scan", ["refus", {"region": "br"}, {"allow": ["names"]}, {"also": 1}])
def test_a_scan_that_can_not_be_is_a_mistake(scan: Any) -> None:
    with pytest.raises(ValidationError):
        data.Spec(source="a", scan=scan)
