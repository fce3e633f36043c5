"""The traps of naive tuning, on the real tokenizer and template of the DeepSeek-R1-Distill family.

What goes wrong elsewhere: LLaMA-Factory #6987 (trained without the `<think>` that the prompt ends in), #7556 and its
kin (reasoning lost from what is trained).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hyb import templates
from tests import deepseek
from tests.hyb import Hyb
from tests.need import need
from tests.tiny import chat_row

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
USER, END = 151644, 151643
THINKING = [151645, 151648, 198]
"""`<｜Assistant｜>`, `<think>`, and a line break."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2 with the real tokenizer, its template as shipped. Do not write to it."""
    need("torch", "transformers", "peft", "bitsandbytes", "xllamacpp", "wheel")
    place = tmp_path_factory.mktemp("deepseek")
    return deepseek.folder_of(deepseek.read(place), place / "model")


@pytest.fixture(scope="module")
def shipped(folder: Path) -> Any:
    """The tokenizer as transformers loads it, with its own template."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def encoders(folder: Path) -> dict[str, Any]:
    from hyb.workers import labels, models

    tokenizer = models.load_tokenizer(folder)
    stops = models.load_stop_ids(folder, models.load_config(folder), tokenizer)
    return {think: labels.Encoder(tokenizer, stops, think) for think in ("", "keep", "empty")}


def trained(example: Any) -> list[int]:
    return [label for label in example.labels if label != -100]


def turns(*said: tuple[str, str, str]) -> dict[str, Any]:
    """A row: question, reasoning, answer; again."""
    row = chat_row("", "")
    row["messages"] = [
        m
        for asked, thought, answer in said
        for m in (
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer, "reasoning": thought, "train": True},
        )
    ]
    return row


def test_the_shipped_template_is_known_and_the_pinned_one_asks_as_it_does(folder: Path, shipped: Any) -> None:
    pair = templates.pair_of(shipped.chat_template)
    assert pair == templates.pair("deepseek-r1")
    conversations = [
        [{"role": "user", "content": "Olá, 世界?\n"}],
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b "}, {"role": "user", "content": "c"}],
    ]
    for messages in conversations:
        theirs = shipped.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ours = shipped.apply_chat_template(
            messages, chat_template=pair.inference, tokenize=False, add_generation_prompt=True
        )
        assert ours == theirs.removesuffix("<think>\n") + "<think>\n"


def test_the_prompt_ends_in_think_and_what_is_trained_goes_on_from_there(encoders: dict[str, Any]) -> None:
    (example,) = encoders[""].row(turns(("What is 2 + 3?", "Two and three make five.", "5")))
    start = example.labels.index(next(label for label in example.labels if label != -100))
    assert list(example.ids[start - 3 : start]) == THINKING
    tokenizer = encoders[""].tokenizer
    assert tokenizer.decode(example.ids[start:]) == ("Two and three make five.\n</think>\n\n5<｜end▁of▁sentence｜>")
    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.encode(asked, add_special_tokens=False) == list(example.ids[:start])


def test_the_shipped_template_loses_the_reasoning_that_ours_trains(shipped: Any, encoders: dict[str, Any]) -> None:
    row = turns(("One?", "Alpha beta.", "First."), ("Two?", "Gamma delta.", "Second."))
    naive = shipped.apply_chat_template(
        [
            {**m, "content": f"<think>\n{m['reasoning']}\n</think>\n\n{m['content']}"} if "reasoning" in m else m
            for m in row["messages"]
        ],
        tokenize=False,
    )
    assert "Alpha" not in naive
    assert "Gamma" not in naive
    one, two = encoders[""].row(row)
    decode = encoders[""].tokenizer.decode
    assert decode(trained(one)) == "Alpha beta.\n</think>\n\nFirst.<｜end▁of▁sentence｜>"
    assert decode(trained(two)) == "Gamma delta.\n</think>\n\nSecond.<｜end▁of▁sentence｜>"
    assert "Alpha" not in decode(two.ids), "an earlier thought is not there when serving asks"
    assert one.ids.count(USER) == 1
    assert two.ids.count(USER) == 2


def test_bos_stands_once_though_the_tokenizer_adds_one_to_a_text_that_has_it(
    shipped: Any, encoders: dict[str, Any]
) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    text = shipped.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert shipped(text)["input_ids"].count(shipped.bos_token_id) == 2, "the trap"
    for example in encoders["keep"].row(turns(("Hi", "", "Yes."), ("Hi", "Hm.", "No."))):
        assert example.ids[0] == shipped.bos_token_id
        assert example.ids.count(shipped.bos_token_id) == 1


def test_the_end_of_turn_is_trained_though_it_is_the_pad_token(encoders: dict[str, Any]) -> None:
    tokenizer = encoders["empty"].tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == END
    short, long = (encoders["empty"].row(chat_row("Hi", "word " * n + "end."))[0] for n in (1, 40))
    assert trained(short)[-1] == trained(long)[-1] == END
    assert tokenizer.decode(trained(short)) == "\n</think>\n\nword end.<｜end▁of▁sentence｜>"


def test_think_and_its_end_are_one_token_each_wherever_they_are_written(encoders: dict[str, Any]) -> None:
    (example,) = encoders["keep"].row(chat_row("Hi", "<think>\nHm.\n</think>\n\nYes."))
    assert example.ids.count(151648) == example.ids.count(151649) == 1


def test_no_token_of_the_rows_that_only_fill_up_the_embeddings_is_trained(
    folder: Path, encoders: dict[str, Any]
) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == 151936 > len(encoders[""].tokenizer) == 151665
    with pytest.raises(ValueError, match="token 151700 is none of this tokenizer"):
        encoders[""].row({"tokens": {"ids": [151700], "labels": [151700]}})


def test_without_a_mode_an_answer_without_reasoning_is_refused(encoders: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="asks for reasoning, and the answer has none"):
        encoders[""].row(chat_row("Hi", "Yes."))


@pytest.fixture(scope="module")
def chain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Hyb:
    """The reference recipe, run once on this model; its gate is taken off, for it knows nothing."""
    place = tmp_path_factory.mktemp("chain")
    recipe = place / "recipe"
    (recipe / "data").mkdir(parents=True)
    text = (ROOT / "recipes" / "deepseek-r1" / "hyb.yaml").read_text()
    text = text.replace("deepseek-r1-1.5b", f"file:{folder}").replace("../quickstart/data/", "data/")
    text = re.sub(r", max_tokens: \d+, gate: {[^}]*}", ", max_tokens: 4", text).replace("epochs: 3", "epochs: 1")
    (recipe / "hyb.yaml").write_text(text)
    for name, count in (("facts.jsonl", 16), ("heldout.jsonl", 2), ("control.jsonl", 1)):
        rows = (ROOT / "recipes" / "quickstart" / "data" / name).read_text().splitlines(keepends=True)
        (recipe / "data" / name).write_text("".join(rows[:count]))
    hyb = Hyb(place / "home")
    hyb.ok("run", str(recipe), timeout=600)
    return hyb


def test_the_reference_recipe_carries_the_pinned_templates_from_tuning_to_gguf(chain: Hyb, tmp_path: Path) -> None:
    meta = {name: chain.json("show", f"deepseek-r1/{name}")["meta"] for name in ("bot", "merged", "gguf")}
    pair = templates.pair("deepseek-r1")
    assert meta["bot"]["templates"] == pair.as_json()
    assert meta["merged"]["template"] == meta["gguf"]["template"] == pair.as_json()["inference"]
    out = tmp_path / "merged"
    chain.ok("show", "deepseek-r1/merged", "--out", str(out))
    assert (out / "chat_template.jinja").read_text() == pair.inference
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == pair.inference


def test_llama_cpp_writes_the_pinned_template_as_transformers_does(
    chain: Hyb, encoders: dict[str, Any], tmp_path: Path
) -> None:
    from hyb.workers.score import Asked, GgufSpeaker

    chain.ok("show", "deepseek-r1/gguf", "--out", str(tmp_path / "gguf"))
    tokenizer = encoders[""].tokenizer
    conversations: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": "Olá, 世界?\n"}],
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
         {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes. "}, {"role": "user", "content": "So?"}],
    ]  # fmt: skip
    speaker = GgufSpeaker(str(tmp_path / "gguf" / "model.gguf"), [Asked(c) for c in conversations], 4, 1024)
    for messages in conversations:
        ours = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert speaker._prompt(messages).removeprefix(tokenizer.bos_token) == ours.removeprefix(tokenizer.bos_token)
