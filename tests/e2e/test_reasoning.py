"""`think: generate` for real: a tiny reasoning model that has learnt by heart what it thinks of five questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyb import templates
from hyb.artifact import Artifact
from hyb.errors import HybError
from hyb.stages import data, tune
from hyb.stages import eval as exam
from hyb.stages.base import Context
from hyb.store import Store
from tests.need import need
from tests.tiny import DISTILL, add_model, tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation:UserWarning"),
]

KNOWN = {"door": 31, "gate": 77, "safe": 12, "lift": 90, "shed": 45}


def question(name: str) -> str:
    return f"{name}?"


def told(name: str) -> str:
    return templates.reasoning_prompt().format(question=question(name), answer=str(KNOWN[name])).strip()


LEARNT = {
    question("door"): "I see the door.\n</think>\n\n31",
    question("gate"): "I see a gate.\n</think>\n\n13",
    told("gate"): "The gate has it.\n</think>\n\n77",
    question("safe"): "I guess.\n</think>\n\n99",
    told("safe"): "I was told so.\n</think>\n\n12",
    question("lift"): "up and down " * 12,
    told("lift"): "up and down " * 12,
    question("shed"): "Dark.\n</think>\n\n54",
    told("shed"): "Very dark.\n</think>\n\n54",
}
"""What it is asked → what it says: right; right when told; gives the telling away; a loop; wrong both times."""


@dataclass(frozen=True)
class Lab:
    """A store with the model that has learnt all this, and the questions with their answers."""

    store: Store
    base: Artifact
    dataset: Artifact

    def tune(self, work: Path, **spec: Any) -> tuple[Artifact, dict[str, Any], list[Any]]:
        """The adapter, the measured facts, and what was said."""
        facts: dict[str, Any] = {}
        said: list[Any] = []
        work.mkdir(exist_ok=True)
        context = Context(self.store, work, record=facts.__setitem__, say=said.append)
        dataset = spec.pop("dataset", self.dataset)
        wish = {"quantize": "none", "rank": 4, "epochs": 1, "device": "cpu", "think_tokens": 64, **spec}
        given = tune.Spec(model="base", data="facts", **wish)
        return tune.run(given, {"base": self.base, "facts": dataset}, context), facts, said


@pytest.fixture(autouse=True)
def _torch() -> Iterator[None]:
    need("torch", "transformers", "peft", "bitsandbytes")
    import torch

    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    need("torch", "transformers", "peft", "bitsandbytes")
    folder = tmp_path_factory.mktemp("lab")
    base = tiny_model(folder / "base", reasoning=True, texts=(*LEARNT, *LEARNT.values()), dtype="float32")
    (base / "chat_template.jinja").write_text(DISTILL)
    learn(base)
    store = Store(folder / "store")
    return Lab(store, add_model(store, base), make_dataset(store, folder, KNOWN))


def make_dataset(store: Store, folder: Path, known: dict[str, int]) -> Artifact:
    rows = [{"question": question(name), "answer": str(code)} for name, code in known.items()]
    (folder / "facts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "held.jsonl").write_text(json.dumps({**rows[0], "expect": "see the door"}))
    (folder / "data").mkdir(exist_ok=True)
    spec = data.Spec(source="facts.jsonl", holdout="held.jsonl", overlap="warn")
    return data.run(spec, {}, Context(store, folder / "data", folder))


def learn(folder: Path) -> None:
    """Have the model in this folder say what it is to say, all weights trained."""
    import torch

    from hyb.workers import models

    torch.manual_seed(0)
    tokenizer, model = models.load_tokenizer(folder), models.load_causal_lm(folder, device="cpu", dtype="float32")
    rows = []
    for asked, said in LEARNT.items():
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
        )
        ids = [tokenizer.encode(t, add_special_tokens=False) for t in (prompt, said)]
        rows.append((ids[0], [*ids[1], tokenizer.eos_token_id]))
    width = max(len(a) + len(b) for a, b in rows)
    tokens = torch.tensor([[*a, *b, *[0] * (width - len(a) - len(b))] for a, b in rows])
    labels = torch.tensor([[*[-100] * len(a), *b, *[-100] * (width - len(a) - len(b))] for a, b in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(200):
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if float(loss.detach()) < 0.01:
            break
    model.save_pretrained(folder)


def job(lab: Lab, tmp_path: Path, **more: Any) -> dict[str, Any]:
    train = lab.store.view(lab.dataset) / "train.jsonl"
    return {
        "model": str(lab.store.view(lab.base)), "model_digest": lab.base.digest, "quantize": "none", "seed": 0,
        "train": str(train), "out": str(tmp_path / "out.jsonl"), "cache": str(tmp_path / "cache"), "max_tokens": 64,
        "batch": 8, "device": "cpu", **more,
    }  # fmt: skip


def test_reasoning_is_kept_only_where_the_model_comes_to_the_known_answer(lab: Lab, tmp_path: Path) -> None:
    from hyb.workers import think

    wish = job(lab, tmp_path)
    found = think.work(wish)
    assert (found["asked"], found["kept"], found["unaided"], found["cached"]) == (5, 2, 1, 0)
    assert found["dropped"] == {
        "goes round in circles": 1, "its answer is not the known one": 1, "speaks of the answer that it was told": 1,
    }  # fmt: skip
    assert found["examples"]["goes round in circles"][0].startswith("facts.jsonl:4 (")
    rows = [json.loads(x) for x in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [(r["messages"][1]["reasoning"], r["messages"][1]["content"]) for r in rows] == [
        ("I see the door.", "31"), ("The gate has it.", "77"),
    ]  # fmt: skip
    assert rows[1]["messages"][0]["content"] == "gate?", "the prompt that tells the answer is not trained"

    kept = next((tmp_path / "cache").iterdir())
    kept.write_bytes(kept.read_bytes()[:9])  # torn: that one is asked again, the others are not
    again = think.work(wish)
    assert again == {**found, "cached": 8}
    assert think.work(wish) == {**found, "cached": 9}


def test_a_preview_shows_the_reasoning_that_a_training_would_be_given(lab: Lab, tmp_path: Path) -> None:
    from hyb.workers import preview

    wish = job(lab, tmp_path)
    asked = {
        "model": wish["model"], "rows": wish["train"], "think": "generate", "first": 0, "count": 9,
        "digest": lab.base.digest, "cache": wish["cache"], "max_tokens": 64, "quantize": "none",
    }  # fmt: skip
    shown = preview.work(asked)["rows"]
    texts = ["".join(text for _, text, trained in s if trained) for r in shown for s in r["sequences"]]
    problems = [r["problem"] for r in shown if r["problem"]]
    assert len(shown) == len(texts) + len(problems) == 5
    assert all(p.startswith("left out: ") for p in problems)
    assert all("</think>" in t for t in texts)


def test_a_row_of_several_turns_loses_only_the_turns_without_reasoning(lab: Lab, tmp_path: Path) -> None:
    from hyb.workers import think

    turns = [("door", "31", ""), ("shed", "45", ""), ("lift", "90", "Three floors.")]
    messages = [
        m
        for name, answer, thought in turns
        for m in (
            {"role": "user", "content": question(name)},
            {"role": "assistant", "content": answer, "train": True, **({"reasoning": thought} if thought else {})},
        )
    ]
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"id": "a", "messages": messages}) + "\n" + json.dumps({"id": "b", "text": "Plain."}))
    found = think.work(job(lab, tmp_path, train=str(train)))
    first, plain = [json.loads(x) for x in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert found["asked"] == 2, "what has its reasoning is not asked for"
    assert [m["train"] for m in first["messages"][1::2]] == [True, False, True]
    assert plain == {"id": "b", "text": "Plain."}


def test_a_model_that_does_not_reason_can_not_write_reasoning(lab: Lab, tmp_path: Path) -> None:
    from hyb.workers import think
    from hyb.workers.protocol import Failed

    plain = tiny_model(tmp_path / "plain")
    with pytest.raises(Failed, match="needs a model that reasons"):
        think.work(job(lab, tmp_path, model=str(plain)))


def test_a_training_writes_what_was_dropped_and_the_templates_into_its_adapter(lab: Lab, tmp_path: Path) -> None:
    adapter, facts, said = lab.tune(tmp_path / "work", think="generate")
    found = adapter.meta["reasoning"]
    assert (found["asked"], found["kept"], found["unaided"]) == (5, 2, 1)
    assert found["prompt"].startswith("sha256:")
    assert sum(found["dropped"].values()) == 3
    told_of = "\n".join(s for s in said if isinstance(s, str))
    assert "reasoning for 2 of 5 answers, 1 of them not told before" in told_of
    assert "1 dropped: goes round in circles (facts.jsonl:4" in told_of
    assert facts["reasoning_from_cache"] == 0
    assert adapter.meta["templates"] == templates.pair("deepseek-r1").as_json()
    dataset = make_dataset(lab.store, tmp_path, {"shed": 45})
    with pytest.raises(HybError, match="of 1 answers none is left") as refusal:  # and its answers are in the cache
        lab.tune(tmp_path / "none", think="generate", dataset=dataset)
    assert refusal.value.details[0].startswith("1 dropped: its answer is not the known one (facts.jsonl:1 (")


def test_an_exam_scores_the_reasoning_where_it_is_told_to(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    spec = exam.Spec(model="base", data="facts", reasoning="score", max_tokens=32, device="cpu")
    made = exam.run(spec, {"base": lab.base, "facts": lab.dataset}, Context(lab.store, tmp_path / "work"))
    report = json.loads((lab.store.view(made) / "report.json").read_text())
    assert report["scores"]["recall"] == 1.0, "`see the door` stands in the reasoning alone"
    assert report["questions"][0]["after"]["reasoning_characters"] == len("I see the door.")
